//! `train finetune` and `train predict` as a user meets them.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::command::{errors, fail, succeed};
use crate::pretrained;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        pretrained::write(&bench.path("model"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn train(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(self.dir.path()).args(arguments).args(["--device", "cpu"]);
        command
    }

    fn finetune(&self, arguments: &[&str]) -> Command {
        let mut command = self.train(&["finetune", "--from", "model", "--out", "tuned", "--seq-len", "32"]);
        for (option, value) in [("--epochs", "12"), ("--lr", "3e-3"), ("--batch-size", "16")] {
            if !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        command.args(arguments);
        command
    }
}

/// 120 rows whose label is in their first word.
fn csv() -> String {
    let mut text = String::from("review,about,stars\n");
    for row in 0..120 {
        let (word, stars) = [("good", "five, really"), ("bad", "one"), ("plain", "three")][row % 3];
        let _ = writeln!(text, "\"{word}, number {row}\",thing {},\"{stars}\"", row % 7);
    }
    text
}

#[test]
fn own_classes_are_learnt_saved_and_predicted() {
    let bench = Bench::new();
    fs::write(bench.path("t.csv"), csv()).unwrap();
    let columns = ["--data", "t.csv", "--text", "review", "--text-pair", "about", "--label", "stars"];
    let output = succeed(bench.finetune(&columns));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let results: Value =
        serde_json::from_slice(&fs::read(bench.path("tuned/results.json")).unwrap()).unwrap();
    assert_eq!(results["metrics"]["accuracy"], 1.0, "{table}{}", errors(&output));
    assert_eq!((&results["train_examples"], &results["dev_examples"]), (&108.into(), &12.into()));
    let hits: u64 = (0..3).map(|class| results["confusion"][class][class].as_u64().unwrap()).sum();
    assert_eq!(hits, 12);
    assert!(table.contains("label \\ predicted") && table.contains("five, really"), "{table}");

    // The same table as JSON lines, without labels, and with other names.
    let mut lines = String::new();
    for (row, word) in ["bad", "good", "plain"].iter().enumerate() {
        let _ = writeln!(lines, "{{\"body\": \"{word}, number {row}\", \"about\": \"thing 3\"}}");
    }
    fs::write(bench.path("new.jsonl"), lines).unwrap();
    let predict = ["predict", "--from", "tuned", "--data", "new.jsonl", "--text", "body", "--out", "p.jsonl"];
    let output = succeed(bench.train(&predict));
    assert!(output.stdout.is_empty() && errors(&output).contains("3 predictions are in p.jsonl"));
    let predictions = fs::read_to_string(bench.path("p.jsonl")).unwrap();
    let classes: Vec<String> = predictions
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["prediction"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(classes, ["one", "five, really", "three"]);

    // With labels there are measures; the model's own folder does as well.
    let output =
        succeed(bench.train(&["predict", "--from", "tuned/model", "--data", "t.csv", "--out", "p.csv"]));
    assert!(String::from_utf8(output.stdout).unwrap().contains("accuracy               1.0000"));

    // It is exported with the names of its classes.
    let mut export = Command::new(env!("CARGO_BIN_EXE_train"));
    export.current_dir(bench.dir.path()).args(["export", "--from", "tuned", "--out", "hf"]);
    succeed(export);
    let config: Value = serde_json::from_slice(&fs::read(bench.path("hf/config.json")).unwrap()).unwrap();
    let mut names: Vec<&str> = (0..3).filter_map(|id| config["id2label"][id.to_string()].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["five, really", "one", "three"], "{config}");

    let message = fail(bench.finetune(&columns));
    assert!(message.contains("tuned is there already"), "{message}");
}

#[test]
fn a_number_is_predicted() {
    let bench = Bench::new();
    let mut text = String::from("text\tvalue\n");
    for row in 0..80 {
        let (word, value) = [("low", -1.5), ("middle", 0.25), ("high", 2.0)][row % 3];
        let _ = writeln!(text, "{word} of {row}\t{value}");
    }
    fs::write(bench.path("t.tsv"), text).unwrap();
    let output =
        succeed(bench.finetune(&[
            "--data", "t.tsv", "--text", "text", "--label", "value", "--epochs", "40", "--json",
        ]));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(results["metrics"]["pearson"].as_f64().unwrap() > 0.95, "{results}");
    assert_eq!(results["task"]["target"], "number");
}

#[test]
fn mistakes_are_named_before_anything_is_written() {
    let bench = Bench::new();
    fs::write(bench.path("t.csv"), csv()).unwrap();
    fs::write(bench.path("empty.csv"), "review,stars\n").unwrap();
    fs::write(bench.path("other.csv"), "review,stars\nfine,two\nbad,one\n").unwrap();
    let from = |arguments: &[&str]| {
        let message = fail(bench.finetune(arguments));
        assert!(!bench.path("tuned").exists(), "{message}");
        message
    };
    let message = from(&["--data", "t.csv", "--text", "body", "--label", "stars"]);
    assert!(message.contains("t.csv has no column \"body\"; it has review, about, stars"), "{message}");
    let good = ["--text", "review", "--label", "stars"];
    let with = |more: &[&'static str]| [more, &good].concat();
    let message = from(&with(&["--data", "t.csv", "--dev", "empty.csv"]));
    assert!(message.contains("empty.csv has no examples: evaluation needs at least 2"), "{message}");
    let message = from(&with(&["--data", "t.csv", "--dev", "other.csv"]));
    assert!(message.contains("other.csv, row 1: stars is two, expected one of"), "{message}");
    let message = from(&with(&["--data", "t.csv", "--task", "regression"]));
    assert!(message.contains("row 1: stars is five, really, expected a number"), "{message}");
    let message = from(&with(&["--data", "t.csv", "--dev-share", "1.5"]));
    assert!(message.contains("--dev-share is 1.5"), "{message}");
    let message = from(&with(&["--data", "t.csv", "--lr", "0"]));
    assert!(message.contains("`lr` is 0, expected a number above 0"), "{message}");
    let message = fail(bench.train(&["predict", "--from", "model", "--data", "t.csv", "--out", "p.csv"]));
    assert!(message.contains("was not fine-tuned by `train finetune`"), "{message}");
    let message = fail(bench.train(&["predict", "--from", "nowhere", "--data", "t.csv", "--out", "p.csv"]));
    assert!(message.contains("nowhere holds no model: there is no such folder"), "{message}");
    let message = fail(bench.train(&["eval", "--from", "nowhere", "--shards", "shards"]));
    assert!(message.contains("nowhere holds no model: there is no such folder"), "{message}");
}
