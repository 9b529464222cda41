//! `train glue` as a user meets it, on tables of 64 rows that a model can learn by heart.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use model::ModelConfig;
use serde_json::Value;

use crate::command::{errors, fail, succeed};
use crate::pretrained;

/// Rows of every table.
const ROWS: usize = 64;

/// Enough epochs, and a learning rate for weights that begin at random.
const RECIPE: &str = r#"
base = "quick"
seq_len = 32
[tasks.mnli]
epochs = 150
batch_size = 16
lr = 3e-3
seeds = [19]
[tasks.sst2]
epochs = 60
batch_size = 16
lr = 3e-3
seeds = [1, 2]
[tasks.mrpc]
epochs = 150
batch_size = 16
lr = 3e-3
start = "mnli"
[tasks.stsb]
epochs = 150
batch_size = 16
lr = 3e-3
start = "mnli"
"#;

/// A scratch folder with a model, a recipe and tasks, whose development sets are their training sets.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        pretrained::write(&bench.path("model"));
        fs::write(bench.path("recipe.toml"), RECIPE).unwrap();
        let words = ["entailment", "neutral", "contradiction"];
        bench.table("SST-2", &["train", "dev"], "sentence\tlabel", |row| {
            format!("{}\t{}", sentence(row), row % 2)
        });
        bench.table("SST-2", &["test"], "index\tsentence", |row| format!("{row}\t{}", sentence(row)));
        bench.table("MRPC", &["train", "dev"], "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", |row| {
            format!("{}\t1\t2\t{}\t{}", row % 16 % 3 % 2, sentence(row), sentence(row + 7))
        });
        let header = "index\tsentence1\tsentence2\tgold_label";
        bench.table("MNLI", &["train", "dev_matched", "dev_mismatched"], header, |row| {
            format!("{row}\t{}\t{}\t{}", sentence(row), sentence(row + 5), words[row % 16 % 3])
        });
        bench.table("STS-B", &["train", "dev"], "index\tsentence1\tsentence2\tscore", |row| {
            format!("{row}\t{}\t{}\t{:.3}", sentence(row), sentence(row + 3), (row % 16) as f64 * 5.0 / 16.0)
        });
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn table(&self, task: &str, splits: &[&str], header: &str, row: impl Fn(usize) -> String) {
        let dir = self.path("glue").join(task);
        fs::create_dir_all(&dir).unwrap();
        let mut text = format!("{header}\n");
        for number in 0..ROWS {
            let _ = writeln!(text, "{}", row(number));
        }
        for split in splits {
            fs::write(dir.join(format!("{split}.tsv")), &text).unwrap();
        }
    }

    fn glue(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(self.dir.path());
        command.args(["glue", "--data", "glue", "--out", "out"]);
        for (option, value) in [("--from", "model"), ("--recipe", "recipe.toml"), ("--device", "cpu")] {
            if !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        command.args(arguments);
        command
    }
}

/// A few words that no other row has in this order.
fn sentence(row: usize) -> String {
    const WORDS: [&str; 16] = [
        "dog", "cat", "house", "river", "green", "seven", "music", "paper", "stone", "cloud", "train",
        "king", "apple", "north", "glass", "queen",
    ];
    format!("{} {} {}", WORDS[row % 16], WORDS[row / 4 % 16], WORDS[(row / 2 + 3) % 16])
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_kind_of_task_is_learnt_by_heart_and_nothing_is_done_twice() {
    let bench = Bench::new();
    let output = succeed(bench.glue(&["--jobs", "2"]));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let results = json(&bench.path("out/results.json"));
    for task in results["tasks"].as_array().unwrap() {
        let (name, score) = (task["task"].as_str().unwrap(), task["score"]["mean"].as_f64().unwrap());
        let expected = if name == "stsb" { 0.99 } else { 1.0 };
        assert!(score >= expected, "{name} {score}\n{table}{}", errors(&output));
        assert_eq!(task["official"], false);
        let start = if ["mrpc", "stsb"].contains(&name) { "mnli, seed 19" } else { "pretrained" };
        assert_eq!(task["started_from"], start, "{name}");
    }
    let names: Vec<&str> =
        results["tasks"].as_array().unwrap().iter().map(|task| task["task"].as_str().unwrap()).collect();
    assert_eq!(names, ["sst2", "mrpc", "stsb", "mnli"]);
    assert_eq!(results["tasks"][0]["score"]["values"].as_array().unwrap().len(), 2);
    assert_eq!(results["average"]["glue"], Value::Null);
    assert!(
        table.contains("SST-2 *") && table.contains("train.tsv has 64 rows, the official one 67349"),
        "{table}"
    );
    assert!(table.contains("there is no average"), "{table}");
    let page = fs::read_to_string(bench.path("out/report.html")).unwrap();
    assert!(page.contains("SST-2 *") && !page.contains("https://"));
    assert!(fs::read_to_string(bench.path("out/report.md")).unwrap().contains("| MNLI \\* | 100.00 |"));
    let dev = fs::read_to_string(bench.path("out/tasks/mnli/seed-19/dev_mismatched.tsv")).unwrap();
    assert!(dev.starts_with("index\tprediction\tlabel\n0\tentailment\tentailment\n"), "{dev}");
    let submission = fs::read_to_string(bench.path("out/submission/SST-2.tsv")).unwrap();
    assert_eq!(submission.lines().count(), ROWS + 1);
    assert!(submission.starts_with("index\tprediction\n0\t0\n1\t1\n"), "{submission}");

    // Finished ones stay as they are; the one that is missing is done again, and equally.
    let result = bench.path("out/tasks/sst2/seed-2/result.json");
    let before = json(&result);
    fs::remove_file(&result).unwrap();
    let again = errors(&succeed(bench.glue(&[])));
    assert_eq!(again.matches("done in").count(), 1, "{again}");
    assert!(again.contains("SST-2 seed 2"), "{again}");
    assert_eq!(json(&result)["score"], before["score"]);

    // Another recipe does not mix with them.
    fs::write(bench.path("recipe.toml"), RECIPE.replace("lr = 3e-3", "lr = 2e-3")).unwrap();
    let message = fail(bench.glue(&[]));
    assert!(
        message.contains("out holds results of another recipe") && message.contains("another --out"),
        "{message}"
    );
}

#[test]
fn a_task_that_should_start_from_mnli_says_so_without_it() {
    let bench = Bench::new();
    fs::write(bench.path("recipe.toml"), RECIPE.replace("epochs = 150", "epochs = 1")).unwrap();
    let output = succeed(bench.glue(&["--tasks", "stsb", "--order", "file"]));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("not from MNLI") && table.contains("file order"), "{table}");
    let results = json(&bench.path("out/results.json"));
    assert_eq!(results["tasks"][0]["metrics"].as_object().unwrap().len(), 2);
}

#[test]
fn mistakes_are_named_before_anything_is_written() {
    let bench = Bench::new();
    let message = fail(bench.glue(&["--tasks", "sst2,wnli"]));
    assert!(message.contains("no GLUE task \"wnli\"; there are cola"), "{message}");
    let message = fail(bench.glue(&["--tasks", "cola"]));
    assert!(message.contains("no data of CoLA in glue"), "{message}");
    let message = fail(bench.glue(&["--recipe", "slow"]));
    assert!(message.contains("slow: it is no recipe (mosaic, quick) and no file"), "{message}");
    let message = fail(bench.glue(&["--from", "glue"]));
    assert!(message.contains("glue holds no model"), "{message}");
    if !train::device::choose(train::config::DeviceChoice::Auto).unwrap().is_cuda() {
        let message = fail(bench.glue(&["--device", "cuda"]));
        assert!(message.contains("no CUDA device"), "{message}");
    }
    // A model of another vocabulary: fewer rows than its tokenizer has tokens.
    let config = ModelConfig {
        vocab_size: 1000,
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 16,
        ..ModelConfig::mosaic_bert_base()
    };
    pretrained::write_as(&bench.path("other"), &config);
    let message = fail(bench.glue(&["--from", "other"]));
    assert!(message.contains("its tokenizer has 30522 tokens, its model has rows for 1000"), "{message}");
    assert!(!bench.path("out").exists());
}
