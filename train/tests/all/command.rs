//! The program as a user meets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::corpus::{self, VOCAB};
use crate::hugging_face::tokenizer_json;

/// A scratch folder with a corpus, and the program to run in it.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        corpus::write(&dir.path().join("shards"), 600, &tokenizer_json(VOCAB as usize));
        Bench { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `train ARGUMENTS`, in the scratch folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.current_dir(self.dir.path()).args(arguments);
        command
    }

    /// The command that starts a run named `out`: a model of a few thousand parameters, `steps` steps.
    pub(crate) fn start(&self, out: &str, steps: u64, sets: &[&str]) -> Command {
        let mut command =
            self.command(&["--shards", "shards", "--out", out, "--preset", "tiny", "--device", "cpu"]);
        let (vocabulary, steps) = (format!("model.vocab_size={VOCAB}"), format!("train.steps={steps}"));
        let small = [
            vocabulary.as_str(),
            steps.as_str(),
            "model.hidden_size=32",
            "model.num_attention_heads=2",
            "model.intermediate_size=32",
            "model.hidden_dropout_prob=0.1",
            "train.batch_size=16",
            "train.seq_len=24",
            // Several micro-batches a step.
            "train.micro_batch_tokens=150",
            "train.mask_rate=0.3",
            "train.log_every_steps=3",
            "train.threads=1",
            "eval.every_steps=20",
            "checkpoint.every_steps=7",
        ];
        for set in small.iter().chain(sets) {
            command.args(["--set", set]);
        }
        command
    }

    pub(crate) fn checkpoint(&self, run: &str, step: u64) -> PathBuf {
        self.path(run).join(format!("checkpoints/step-{step:06}"))
    }
}

pub(crate) fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", errors(&output));
    output
}

/// Runs a command that must fail, and returns what it says.
pub(crate) fn fail(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{}", errors(&output));
    errors(&output)
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_learns_evaluates_saves_and_reports() {
    let bench = Bench::new();
    succeed(bench.start(
        "run",
        300,
        &["optimizer.lr=1e-2", "checkpoint.every_steps=100", "checkpoint.keep=2"],
    ));
    assert!(!bench.checkpoint("run", 100).exists(), "two checkpoints are kept");
    assert!(bench.checkpoint("run", 200).exists() && bench.checkpoint("run", 300).exists());

    let records = lines(&bench.path("run/metrics.jsonl"));
    let last_eval = records.iter().rfind(|record| record["kind"] == "eval").unwrap();
    let (loss, unigram) = (last_eval["loss"].as_f64().unwrap(), last_eval["unigram_loss"].as_f64().unwrap());
    assert!(loss < 0.7 * unigram, "held-out loss {loss}, unigram {unigram}");

    let evaluated = succeed(bench.command(&["eval", "--from", "run", "--shards", "shards", "--json"]));
    let evaluated: serde_json::Value = serde_json::from_slice(&evaluated.stdout).unwrap();
    for key in ["step", "loss", "accuracy", "masked_tokens", "unigram_loss"] {
        assert_eq!(evaluated[key], last_eval[key], "{key}");
    }

    succeed(bench.command(&["report", "run", "run", "--out", "report.html"]));
    let page = std::fs::read_to_string(bench.path("report.html")).unwrap();
    assert!(page.contains("2 pretraining runs compared") && page.matches("<svg").count() >= 8);
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs nothing but itself");
}

#[test]
fn mistakes_are_named_and_nothing_is_written() {
    let bench = Bench::new();
    for (sets, expected) in [
        (["train.step=3"].as_slice(), "did you mean `train.steps`"),
        (&["loader.policy=cut"], "`loader.policy = \"cut\"` is refused"),
        (&["model.vocab_size=30528"], "add --set model.vocab_size=128"),
        (&["model.num_attention_heads=5"], "model.hidden_size is 32"),
        (&["eval.mask_rate=1.5"], "mask_rate is 1.5"),
    ] {
        let message = fail(bench.start("run", 3, sets));
        assert!(message.contains(expected), "{expected:?} is not in {message}");
        assert!(!bench.path("run").exists(), "{expected}");
    }
    let message = fail(bench.command(&["--shards", "nowhere", "--out", "run", "--preset", "tiny"]));
    assert!(message.contains("nowhere is not there, expected a shard folder"), "{message}");
    let message = fail(bench.command(&["--shards", "shards", "--out", "run", "--preset", "huge"]));
    assert!(message.contains("no preset \"huge\"; there are tiny, mosaic-bert-base"), "{message}");
    let message = fail(bench.command(&["--resume", "nowhere"]));
    assert!(message.contains("nowhere is not the folder of a run"), "{message}");
}

#[test]
fn a_run_is_never_overwritten_and_a_finished_one_has_nothing_to_do() {
    let bench = Bench::new();
    succeed(bench.start("run", 3, &[]));
    let message = fail(bench.start("run", 3, &[]));
    assert!(message.contains("continue it with `train --resume run`"), "{message}");
    let output = succeed(bench.command(&["--resume", "run"]));
    assert!(errors(&output).contains("run is finished: all 3 steps are done"));
}

#[test]
fn presets_are_listed_and_printed() {
    let bench = Bench::new();
    let list = String::from_utf8(succeed(bench.command(&["presets"])).stdout).unwrap();
    assert_eq!(list.lines().count(), 5);
    let preset = String::from_utf8(succeed(bench.command(&["presets", "mosaic-bert-base"])).stdout).unwrap();
    assert!(preset.contains("steps = 70_000"));
}

#[test]
fn a_loss_that_is_not_finite_is_skipped_and_a_streak_names_the_last_checkpoint() {
    let bench = Bench::new();
    // A weight scale at which every sum overflows float32.
    let sets = ["model.initializer_range=1e30", "train.max_skipped_in_a_row=4"];
    let message = fail(bench.start("run", 30, &sets));
    assert_eq!(message.matches("update skipped").count(), 4, "{message}");
    assert!(
        message.contains("4 steps in a row, the last one step 4; there is no earlier checkpoint"),
        "{message}"
    );
}
