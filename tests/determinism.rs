//! The same bytes, batches and weights, however the work is cut, killed and resumed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tests::{Corpus, program, succeed};

/// File name -> BLAKE3 of every file directly in a folder.
fn hashes(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, blake3::hash(&fs::read(path).unwrap()).to_hex().to_string())
        })
        .collect()
}

/// A short training of a very small model; two samples a micro-batch, so that gradients are accumulated.
fn training(shards: &Path, run: &Path, steps: u64, more: &[&str]) -> Command {
    let mut command = program("train");
    command.arg("--shards").arg(shards).arg("--out").arg(run).args(["--preset", "tiny", "--device", "cpu"]);
    for setting in [
        format!("train.steps={steps}").as_str(),
        "train.batch_size=8",
        "train.seq_len=48",
        "train.micro_batch_tokens=128",
        "model.hidden_size=64",
        "model.num_attention_heads=2",
        "model.num_hidden_layers=2",
        "model.intermediate_size=96",
        "model.hidden_dropout_prob=0.1",
        "checkpoint.every_steps=4",
    ]
    .iter()
    .chain(more)
    {
        command.arg("--set").arg(setting);
    }
    command
}

/// The weights of a run's last checkpoint.
fn final_weights(run: &Path) -> Vec<u8> {
    let last = checkpoints(run).pop().expect("a checkpoint");
    fs::read(last.join("model.safetensors")).unwrap()
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let mut found: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("state.json").exists()).collect();
    found.sort();
    found
}

#[test]
fn shard_bytes_do_not_depend_on_the_number_of_workers() {
    let corpus = Corpus::sentences(3, 150);
    // Small parts, so that one file gives several.
    let one = corpus.ingest("one", &["--workers", "1", "--shard-tokens", "4000"]);
    let two = corpus.ingest("two", &["--workers", "2", "--shard-tokens", "4000"]);
    let (one, two) = (hashes(&one), hashes(&two));
    assert!(one.len() > 8, "{one:?}");
    assert_eq!(one, two);
}

#[test]
fn weights_do_not_depend_on_the_number_of_loader_threads() {
    let corpus = Corpus::sentences(1, 120);
    let shards = corpus.ingest("shards", &[]);
    let weights: Vec<_> = [1, 4]
        .map(|workers| {
            let run = corpus.path().join(format!("run-{workers}"));
            succeed(&mut training(&shards, &run, 6, &[&format!("loader.workers={workers}")]));
            final_weights(&run)
        })
        .into();
    assert_eq!(weights[0], weights[1]);
}

#[test]
fn a_run_killed_at_a_random_step_resumes_to_the_same_weights() {
    const STEPS: u64 = 24;
    let corpus = Corpus::sentences(1, 120);
    let shards = corpus.ingest("shards", &[]);
    let whole = corpus.path().join("whole");
    let started = Instant::now();
    succeed(&mut training(&shards, &whole, STEPS, &[]));
    let duration = started.elapsed();

    let noise = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    for attempt in 0..3_u32 {
        let run = corpus.path().join(format!("killed-{attempt}"));
        let share = f64::from((noise >> (7 * attempt)) % 100) / 100.0;
        let moment = duration.mul_f64(0.15 + 0.8 * share);
        let mut child =
            training(&shards, &run, STEPS, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while started.elapsed() < moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let survived = checkpoints(&run).len();
        // Killed before the run folder was complete: the same command starts it; later: --resume continues it.
        if run.join("config.toml").exists() {
            succeed(program("train").arg("--resume").arg(&run));
        } else {
            succeed(&mut training(&shards, &run, STEPS, &[]));
        }
        assert_eq!(
            final_weights(&run),
            final_weights(&whole),
            "killed after {moment:?} with {survived} checkpoints on disk"
        );
        let steps: Vec<u64> = fs::read_to_string(run.join("metrics.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|row| row["kind"] == "train")
            .map(|row| row["step"].as_u64().unwrap())
            .collect();
        assert!(steps.is_sorted_by(|a, b| a < b), "a step is logged twice: {steps:?}");
    }
}
