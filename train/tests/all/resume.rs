//! A run that was killed and resumed ends exactly as one that was not.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use train::step::step_seed;

use crate::command::{Bench, errors, fail, succeed};

const STEPS: u64 = 60;

/// The records of a run without what depends on the clock.
fn records(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = record.as_object_mut().unwrap();
        let clock = [
            "samples_per_s",
            "tokens_per_s",
            "model_tflops",
            "wait_share",
            "remaining_s",
            "elapsed_s",
            "time",
        ];
        for name in clock {
            fields.shift_remove(name);
        }
        record
    };
    text.lines().map(timeless).collect()
}

fn assert_same_end(bench: &Bench, one: &str, other: &str) {
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let [a, b] = [one, other].map(|run| fs::read(bench.checkpoint(run, STEPS).join(file)).unwrap());
        assert!(a == b, "{file} of {one} and {other} differ");
    }
    assert_eq!(records(&bench.path(one)), records(&bench.path(other)));
}

/// Three dozen kills at random moments of a run's life: while it starts, between saves and inside them.
#[test]
fn killed_at_any_moment_and_resumed_ends_with_the_same_bytes() {
    const KILLS: u32 = 36;
    let bench = Bench::new();
    let begun = Instant::now();
    succeed(bench.start("whole", STEPS, &["loader.workers=2"]));
    let life = begun.elapsed();

    let (mut kills, mut draws) = (0, 0);
    for run in (0..).map(|run| format!("killed-{run}")) {
        let mut command = bench.start(&run, STEPS, &["loader.workers=2"]);
        for _ in 0..KILLS / 3 {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // A share of a whole life, from 0 to 1, the same numbers whenever the test runs.
            sleep(life.mul_f64((step_seed(5, draws) as u64 >> 11) as f64 / 2f64.powi(53)));
            draws += 1;
            let ended = child.try_wait().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            command = match bench.path(&run).join("config.toml").exists() {
                true => bench.command(&["--resume", &run]),
                false => bench.start(&run, STEPS, &["loader.workers=2"]),
            };
            if let Some(status) = ended {
                assert!(status.success());
                break;
            }
            kills += 1;
        }
        succeed(command);
        assert_same_end(&bench, "whole", &run);
        if kills >= KILLS {
            break;
        }
    }
}

#[test]
fn asked_to_stop_it_saves_and_exits_well_and_goes_on_to_the_same_end() {
    let bench = Bench::new();
    succeed(bench.start("whole", STEPS, &[]));
    for signal in [Signal::TERM, Signal::INT] {
        let run = format!("stopped-{}", signal.as_raw());
        // No checkpoint but the one that the signal asks for.
        let mut command = bench.start(&run, STEPS, &["checkpoint.every_steps=0"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while !bench.path(&run).join("metrics.jsonl").exists() {
            sleep(Duration::from_millis(2));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = errors(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(&format!("continue with `train --resume {run}`")), "{said}");
        let said = errors(&succeed(bench.command(&["--resume", &run])));
        assert!(said.contains("resuming from"), "{said}");
        assert_same_end(&bench, "whole", &run);
    }
}

#[test]
fn a_torn_checkpoint_is_named_and_the_one_before_is_used() {
    let bench = Bench::new();
    succeed(bench.start("whole", STEPS, &[]));
    succeed(bench.start("torn", STEPS, &["checkpoint.keep=0"]));
    // As if the run had died at step 56 with a checkpoint that the disk lost half of.
    fs::remove_dir_all(bench.checkpoint("torn", STEPS)).unwrap();
    let weights = bench.checkpoint("torn", 56).join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();

    let said = errors(&succeed(bench.command(&["--resume", "torn"])));
    assert!(said.contains("step-000056 cannot be used: model.safetensors is torn"), "{said}");
    assert!(said.contains("resuming from torn/checkpoints/step-000049"), "{said}");
    assert_same_end(&bench, "whole", "torn");
}

#[test]
fn a_save_that_fails_names_the_last_good_checkpoint_and_leaves_it() {
    let bench = Bench::new();
    succeed(bench.start("whole", STEPS, &[]));
    // A file where the second checkpoint is to be built.
    let obstacle = bench.path("run/checkpoints/.unfinished-step-000014");
    fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    fs::write(&obstacle, b"").unwrap();
    let message = fail(bench.start("run", STEPS, &[]));
    assert!(message.contains("the checkpoint of step 14 could not be saved"), "{message}");
    assert!(message.contains("the last good checkpoint is run/checkpoints/step-000007"), "{message}");
    fs::remove_file(&obstacle).unwrap();
    succeed(bench.command(&["--resume", "run"]));
    assert_same_end(&bench, "whole", "run");
}

/// A limit on the size of files stands for a disk that is full: it can be set without being root.
#[test]
fn a_checkpoint_that_the_disk_does_not_hold_is_an_error_and_the_last_good_one_stays() {
    let bench = Bench::new();
    succeed(bench.start("whole", STEPS, &[]));
    let mut child =
        bench.start("run", STEPS, &["checkpoint.every_steps=7"]).stderr(Stdio::null()).spawn().unwrap();
    while !bench.checkpoint("run", 7).exists() {
        assert!(child.try_wait().unwrap().is_none_or(|status| status.success()));
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Only the first checkpoint is left, so that there is something to lose.
    for step in (14..=STEPS).step_by(7).chain([STEPS]) {
        let _ = fs::remove_dir_all(bench.checkpoint("run", step));
    }
    let mut limited = std::process::Command::new("sh");
    let program = format!("ulimit -f 32; exec '{}' --resume run", env!("CARGO_BIN_EXE_train"));
    limited.current_dir(bench.path("")).args(["-c", &program]);
    let message = fail(limited);
    assert!(message.contains("the checkpoint of step 14 could not be saved"), "{message}");
    assert!(message.contains("the last good checkpoint is run/checkpoints/step-000007"), "{message}");
    assert!(message.contains("File too large"), "{message}");
    assert!(!bench.path("run/checkpoints/.unfinished-step-000014").exists(), "it takes no space");
    succeed(bench.command(&["--resume", "run"]));
    assert_same_end(&bench, "whole", "run");
}

#[test]
fn a_second_process_on_the_same_run_is_refused() {
    let bench = Bench::new();
    let mut first = bench.start("run", 1_000_000, &[]).stderr(Stdio::null()).spawn().unwrap();
    while !bench.path("run/metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first process ended");
        sleep(Duration::from_millis(5));
    }
    let message = fail(bench.command(&["--resume", "run"]));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(message.contains("another process is training in run"), "{message}");
}

#[test]
fn the_number_of_workers_does_not_change_the_run() {
    let bench = Bench::new();
    succeed(bench.start("one", STEPS, &["loader.workers=1"]));
    succeed(bench.start("three", STEPS, &["loader.workers=3", "loader.slots=2"]));
    assert_same_end(&bench, "one", "three");
}
