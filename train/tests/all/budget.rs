//! Runs that end when a budget is used up, with learning rate and mask rate where they belong at the end.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{Bench, fail, lines, succeed};

/// A run with a mask rate that falls over the budget, and a record of every step.
const SETS: [&str; 4] = [
    "train.mask_rate={from=0.4, to=0.2}",
    "train.log_every_steps=1",
    "optimizer.lr=1e-3",
    "eval.max_samples=8",
];

fn start(bench: &Bench, run: &str, budget: &str) -> std::process::Command {
    let mut command = bench.start(run, 1, &SETS);
    command.args(["--budget", budget]);
    command
}

fn steps(bench: &Bench, run: &str) -> Vec<Value> {
    lines(&bench.path(run).join("metrics.jsonl"))
        .into_iter()
        .filter(|record| record["kind"] == "train")
        .collect()
}

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("{key} in {record}"))
}

/// Whether learning rate and mask rate are what the recorded progress makes of them, at every step.
fn assert_follows_progress(records: &[Value]) {
    let mut before = 0.0;
    for record in records {
        let progress = number(record, "progress");
        assert!((before..1.0).contains(&progress), "{record}");
        before = progress;
        // The preset's warm-up of 6 %, then a straight line to 0.02.
        let factor = if progress < 0.06 { progress / 0.06 } else { 1.0 - 0.98 * (progress - 0.06) / 0.94 };
        assert!((number(record, "lr") - 1e-3 * factor).abs() < 1e-12, "{record}");
        assert!((number(record, "mask_rate") - (0.4 - 0.2 * progress)).abs() < 1e-12, "{record}");
    }
}

#[test]
fn steps_samples_and_epochs_are_numbers_of_steps() {
    let bench = Bench::new();
    // 540 training documents, each cut into one or two samples of at most 24 tokens; 16 samples a step.
    for (run, budget, expected) in [("steps", "20steps", 20), ("samples", "0.3ksamples", 19)] {
        succeed(start(&bench, run, budget));
        let records = steps(&bench, run);
        assert_eq!(records.len(), expected, "{budget}");
        assert_follows_progress(&records);
        let progress = number(records.last().unwrap(), "progress");
        assert!((progress - (expected as f64 - 1.0) / expected as f64).abs() < 1e-12, "{budget}: {progress}");
    }
    let mut epochs = start(&bench, "epochs", "0.5epochs");
    epochs.args(["--set", "loader.policy=truncate"]);
    succeed(epochs);
    assert_eq!(steps(&bench, "epochs").len(), 270_usize.div_ceil(16));
    // 8, 9.6, ... 16 samples in five steps, then 16: the loader's own batches.
    let mut growing = start(&bench, "growing", "0.3ksamples");
    growing.args(["--set", "train.batch_warmup_steps=5", "--set", "train.batch_warmup_from=0.5"]);
    succeed(growing);
    let records = steps(&bench, "growing");
    let [.., before, last] = records.as_slice() else { panic!("{records:?}") };
    assert!(number(before, "samples") < 300.0 && number(last, "samples") >= 300.0, "{before} {last}");
    assert_eq!(records.len(), 20);
    let message = fail_usage(start(&bench, "none", "3weeks"));
    assert!(message.contains("there is no unit \"weeks\"") && message.contains("10Msamples"), "{message}");
}

/// What clap refuses has its own exit status.
fn fail_usage(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    crate::command::errors(&output)
}

#[test]
fn a_budget_of_tokens_is_used_up_and_interrupting_the_run_changes_nothing() {
    let bench = Bench::new();
    succeed(start(&bench, "whole", "20ktokens"));
    let records = steps(&bench, "whole");
    assert_follows_progress(&records);
    let used = number(records.last().unwrap(), "tokens");
    let each = used / records.len() as f64;
    assert!((used - 20_000.0).abs() <= 2.0 * each, "{used} tokens, {each} a step");
    // The learning rate of the last step is that of one step before the end.
    assert!(number(records.last().unwrap(), "progress") > 0.9, "{records:?}");

    let child = start(&bench, "stopped", "20ktokens").stderr(Stdio::null()).spawn().unwrap();
    while !bench.path("stopped/metrics.jsonl").exists() {
        sleep(Duration::from_millis(2));
    }
    sleep(Duration::from_millis(20));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    succeed(bench.command(&["--resume", "stopped"]));
    let resumed = steps(&bench, "stopped");
    let rates = |records: &[Value]| -> Vec<[f64; 4]> {
        records
            .iter()
            .map(|record| ["progress", "lr", "mask_rate", "loss"].map(|key| number(record, key)))
            .collect()
    };
    assert_eq!(rates(&records), rates(&resumed));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [one, other] = ["whole", "stopped"]
            .map(|run| std::fs::read(bench.checkpoint(run, records.len() as u64).join(file)).unwrap());
        assert!(one == other, "{file}");
    }
}

/// However fast this machine is, the run has decayed when it ends, and what it recorded is what it did.
#[test]
fn a_budget_of_time_ends_decayed() {
    let bench = Bench::new();
    succeed(start(&bench, "run", "1.5s"));
    let records = steps(&bench, "run");
    assert_follows_progress(&records);
    let last = records.last().unwrap();
    // The run has made as many steps as it could; the last one is within one step's progress of the end.
    let share = 1.0 - number(last, "progress");
    assert!(records.len() >= 8 && share < 0.3, "{} steps, {share} left", records.len());
    let message = fail(bench.command(&["--resume", "run", "--shards", "nowhere"]));
    assert!(message.contains("nowhere"), "{message}");
    let said = succeed(bench.command(&["--resume", "run"]));
    assert!(crate::command::errors(&said).contains("run is finished"));
}
