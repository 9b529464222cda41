//! `train sweep` and `train pareto` as a user meets them.

use std::fs;

use crate::command::{Bench, errors, fail, succeed};
use crate::corpus::VOCAB;

/// Two runs of a few thousand parameters.
fn sweep() -> String {
    format!(
        r#"
preset = "tiny"
shards = ["shards"]
budget = "8steps"
price_per_hour = 3.0
set = [
    "model.vocab_size={VOCAB}", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=32",
    "train.batch_size=16", "train.seq_len=24", "train.log_every_steps=2", "train.threads=1", "eval.every_steps=4",
    "checkpoint.every_steps=4", "checkpoint.keep=0",
]
[[run]]
name = "mosaic"
[[run]]
name = "plain"
set = ["model.feed_forward=gelu"]
"#
    )
}

#[test]
fn a_sweep_trains_all_runs_continues_and_ends_in_a_table_and_a_page() {
    let bench = Bench::new();
    fs::write(bench.path("sweep.toml"), sweep()).unwrap();
    let arguments = ["sweep", "--config", "sweep.toml", "--out", "out", "--device", "cpu"];
    let output = succeed(bench.command(&arguments));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("mosaic") && table.contains("plain") && table.contains("held-out loss"),
        "{table}"
    );
    let markdown = fs::read_to_string(bench.path("out/sweep.md")).unwrap();
    assert!(markdown.contains("| plain | 8 | 128 |"), "{markdown}");
    let page = fs::read_to_string(bench.path("out/pareto-loss.html")).unwrap();
    assert!(page.contains("Held-out loss of 2 runs") && page.matches("<svg").count() >= 4);
    assert!(!page.contains("paper"), "the paper's curves are of GLUE");
    assert!(!page.contains("https://") && !page.contains("NaN"));

    // A run that was lost is trained again, and only that one.
    fs::remove_dir_all(bench.path("out/plain")).unwrap();
    let again = errors(&succeed(bench.command(&arguments)));
    assert!(again.contains("== plain: training") && !again.contains("== mosaic"), "{again}");

    let message = fail(bench.command(&["sweep", "--config", "shards/manifest.json", "--out", "other"]));
    assert!(message.contains("is not valid TOML"), "{message}");
}

#[test]
fn glue_of_checkpoints_is_drawn_beside_the_papers_curves() {
    let bench = Bench::new();
    succeed(bench.start("run", 6, &["checkpoint.every_steps=3"]));
    let pareto = ["pareto", "run", "--out", "page/pareto.html", "--price-per-hour", "2"];
    let message = fail(bench.command(&pareto));
    assert!(
        message.contains("run has no such results in its folder glue; evaluate its checkpoints first"),
        "{message}"
    );

    for (step, score) in [(3, 0.5), (6, 0.75)] {
        let checkpoint = bench.checkpoint("run", step);
        let dir = bench.path(&format!("run/glue/step-{step}"));
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(bench.path("page")).unwrap();
        fs::write(dir.join("results.json"), results(&checkpoint.display().to_string(), step, score)).unwrap();
    }
    succeed(bench.command(&pareto));
    let page = fs::read_to_string(bench.path("page/pareto.html")).unwrap();
    assert!(page.contains("Mean of 1 GLUE tasks") && page.contains("paper: MosaicBERT-base"), "{page}");
    assert!(
        page.contains("their heights do not compare with the paper&#39;s") || page.contains("do not compare")
    );
    assert_eq!(page.matches("<figure>").count(), 4);
    let csv = fs::read_to_string(bench.path("page/pareto.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 + 20);
    assert!(csv.lines().nth(2).unwrap().starts_with("\"run\",6,0.5,"), "{csv}");
    for name in ["pareto.svg", "pareto-samples.svg", "pareto-flops.svg", "pareto-dollars.svg"] {
        let svg = fs::read_to_string(bench.path(&format!("page/{name}"))).unwrap();
        assert!(svg.starts_with("<svg xmlns=") && !svg.contains("NaN"), "{name}");
    }
    let message = fail(bench.command(&["pareto", "run", "--score", "wnli", "--out", "p.html"]));
    assert!(message.contains("no GLUE task \"wnli\""), "{message}");
}

/// What `train glue` would have left of a checkpoint.
fn results(checkpoint: &str, step: u64, score: f64) -> String {
    use train::finetune::Progress;
    use train::glue::metrics::Metric;
    use train::glue::results::{GlueResults, ModelSource, Statistic, TaskResult};
    use train::glue::{Recipe, Task};

    let task = TaskResult {
        task: Task::Rte,
        official: true,
        notes: Vec::new(),
        train_examples: 2490,
        dev_examples: 277,
        started_from: "pretrained".to_owned(),
        seeds: vec![19],
        score: Statistic::of(vec![score]),
        metrics: [(Metric::Accuracy, Statistic::of(vec![score]))].into(),
        seconds: 1.0,
    };
    let model = ModelSource {
        path: checkpoint.into(),
        blake3: String::new(),
        progress: Some(Progress {
            step,
            samples: 16 * step,
            tokens: 200 * step,
            elapsed_s: 300.0 * step as f64,
        }),
        config: model::ModelConfig::mosaic_bert_base(),
    };
    let results = GlueResults::of(model, "quick", Recipe::find("quick").unwrap(), "cpu", vec![task]);
    serde_json::to_string(&results).unwrap()
}
