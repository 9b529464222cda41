//! A run that was killed and resumed ends exactly as one that was not.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Bench, errors, fail, succeed};

const STEPS: u64 = 60;

/// The records of a run without what depends on the clock.
fn records(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = record.as_object_mut().unwrap();
        for name in ["samples_per_s", "tokens_per_s", "wait_share", "elapsed_s"] {
            fields.shift_remove(name);
        }
        // The sum of a window passes through the checkpoint's JSON, which may cost its last bit.
        if let Some(loss) = fields.get_mut("loss") {
            *loss = format!("{:.12}", loss.as_f64().unwrap()).into();
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

#[test]
fn killed_at_any_moment_and_resumed_ends_with_the_same_bytes() {
    let bench = Bench::new();
    succeed(bench.start("whole", STEPS, &["loader.workers=2"]));

    let mut kills = 0;
    for attempt in 0..4_u64 {
        let run = format!("killed-{attempt}");
        let mut command = bench.start(&run, STEPS, &["loader.workers=2"]);
        // Waits until the run is under way, then a little longer each time: between, at and inside saves.
        for round in 0..4_u64 {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            while !bench.path(&run).join("metrics.jsonl").exists() && child.try_wait().unwrap().is_none() {
                sleep(Duration::from_millis(2));
            }
            sleep(Duration::from_millis(7 + 41 * attempt + 67 * round));
            kills += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            command = bench.command(&["--resume", &run]);
        }
        succeed(command);
        assert_same_end(&bench, "whole", &run);
    }
    assert!(kills > 0, "every run ended before it was killed; the test needs more steps");
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
