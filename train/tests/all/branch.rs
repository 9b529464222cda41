//! One long run at the peak of the learning rate, and finished models that branch off it.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use crate::command::{Bench, errors, fail, lines, succeed};

const TRUNK: [&str; 7] = [
    "schedule.shape=wsd",
    "schedule.decay_fraction=0.0",
    "schedule.warmup_fraction=0.2",
    "schedule.final_fraction=0.0",
    "optimizer.lr=1e-2",
    "checkpoint.keep=0",
    "train.log_every_steps=1",
];

#[test]
fn a_branch_decays_goes_on_with_the_order_and_leaves_the_trunk_alone() {
    let bench = Bench::new();
    succeed(bench.start("trunk", 28, &TRUNK));
    let trunk = lines(&bench.path("trunk/metrics.jsonl"));
    let lr = |record: &serde_json::Value| record["lr"].as_f64().unwrap();
    let training = |records: &[serde_json::Value]| -> Vec<serde_json::Value> {
        records.iter().filter(|record| record["kind"] == "train").cloned().collect()
    };
    assert_eq!(lr(training(&trunk).last().unwrap()), 1e-2, "the trunk stays at the peak");

    let from = "trunk/checkpoints/step-000014";
    succeed(bench.command(&["--branch-from", from, "--decay", "14steps", "--out", "branch"]));
    let branch = training(&lines(&bench.path("branch/metrics.jsonl")));
    let steps: Vec<u64> = branch.iter().map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (15..=28).collect::<Vec<_>>());
    for (i, record) in branch.iter().enumerate() {
        assert!((lr(record) - 1e-2 * (1.0 - (i as f64 / 14.0).sqrt())).abs() < 1e-12, "{record}");
    }
    // The first step has the trunk's weights, samples, masks and dropout.
    let same = training(&trunk).into_iter().find(|record| record["step"] == 15).unwrap();
    assert_eq!(branch[0]["loss"], same["loss"]);
    assert_eq!(branch[0]["tokens"], same["tokens"]);
    assert!(bench.checkpoint("trunk", 28).exists() && bench.checkpoint("branch", 28).exists());

    // Killed as soon as it trains, it needs its trunk no more.
    let mut child = bench
        .command(&["--branch-from", from, "--decay", "14steps", "--out", "killed"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !bench.checkpoint("killed", 14).exists() {
        assert!(child.try_wait().unwrap().is_none_or(|status| status.success()));
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_dir_all(bench.path("trunk")).unwrap();
    succeed(bench.command(&["--resume", "killed"]));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [one, other] =
            ["branch", "killed"].map(|run| std::fs::read(bench.checkpoint(run, 28).join(file)).unwrap());
        assert!(one == other, "{file}");
    }
}

#[test]
fn a_decay_begins_at_the_peak_only_and_knows_its_data() {
    let bench = Bench::new();
    succeed(bench.start("trunk", 40, &[&TRUNK[..], &["checkpoint.every_steps=4"]].concat()));
    let branch = |from: &str| bench.command(&["--branch-from", from, "--decay", "5steps", "--out", "branch"]);
    let message = fail(branch("trunk/checkpoints/step-000004"));
    assert!(message.contains("learning rate of 0.5000 times the peak"), "{message}");
    succeed(bench.start("linear", 8, &[]));
    let message = fail(branch("linear"));
    assert!(message.contains("schedule.shape=\"wsd\""), "{message}");

    std::fs::rename(bench.path("trunk/checkpoints/step-000040"), bench.path("alone")).unwrap();
    let message = fail(branch("alone"));
    assert!(message.contains("alone lies in no run"), "{message}");
    assert!(!bench.path("branch").exists());
    let mut command = branch("alone");
    command.args(["--shards", "shards", "--set", "schedule.final_fraction=0.1"]);
    let said = errors(&succeed(command));
    assert!(said.contains("branched from alone at step 40"), "{said}");
    let config = std::fs::read_to_string(bench.path("branch/config.toml")).unwrap();
    assert!(config.contains("final_fraction = 0.1") && config.contains("steps = 45"), "{config}");
}
