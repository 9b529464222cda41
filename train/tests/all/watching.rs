//! What a run can be watched with: event files, Prometheus text, and the terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::command::{Bench, errors, lines, succeed};

const STEPS: u64 = 400;

/// A run that was killed in the middle, with its last event torn, and resumed to its end.
fn killed_and_resumed(bench: &Bench) {
    let sets = ["train.log_every_steps=1", "checkpoint.every_steps=7"];
    let mut command = bench.start("run", STEPS, &sets);
    let child = command.args(["--prometheus", "run.prom"]).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let metrics = bench.path("run/metrics.jsonl");
    while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 10 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
        sleep(Duration::from_millis(1));
    }
    let frame = watch(bench);
    assert!(frame.starts_with("run  training\n"), "{frame}");
    child.kill().unwrap();
    child.wait().unwrap();
    let frame = watch(bench);
    assert!(frame.contains("train --resume run goes on"), "{frame}");
    assert!(value(bench, "tessera_training") == 1.0, "nobody was there to say that it has ended");

    let [torn] = event_files(bench).try_into().unwrap();
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 5]).unwrap();
    succeed(bench.command(&["--resume", "run", "--prometheus", "run.prom"]));
    assert_eq!(event_files(bench).len(), 2);
}

fn event_files(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.path("run/tensorboard")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// One frame, as a pipe gets it.
fn watch(bench: &Bench) -> String {
    String::from_utf8(succeed(bench.command(&["watch", "run"])).stdout).unwrap()
}

/// A number of the Prometheus file.
fn value(bench: &Bench, name: &str) -> f64 {
    let text = fs::read_to_string(bench.path("run.prom")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect(name);
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_run_is_watched_through_a_kill_to_its_end() {
    let bench = Bench::new();
    killed_and_resumed(&bench);
    let records = lines(&bench.path("run/metrics.jsonl"));
    let last = records.iter().rfind(|record| record["kind"] == "train").unwrap();
    assert_eq!(last["end"], STEPS);
    assert_eq!(last["remaining_s"], 0.0);
    assert!(last["model_tflops"].as_f64().unwrap() > 0.0 && last.get("mfu").is_none(), "{last}");
    assert!(last["time"].as_f64().unwrap() > 1.7e9);
    for (name, key) in
        [("tessera_step", "step"), ("tessera_loss_nats", "loss"), ("tessera_tokens_total", "tokens")]
    {
        assert_eq!(value(&bench, name), last[key].as_f64().unwrap(), "{name}");
    }
    assert_eq!(value(&bench, "tessera_training"), 0.0);
    let frame = watch(&bench);
    for expected in ["run  finished\n", "step 400 of 400", "held out  step 400", "learning rate"] {
        assert!(frame.contains(expected), "{expected:?} is not in\n{frame}");
    }

    match python() {
        Some(python) => read(&python, &bench),
        None => eprintln!(
            "skipped: no Python with tensorboard and prometheus_client; tests/tensorboard/setup.sh sets one up"
        ),
    }
}

#[test]
fn a_finished_run_and_one_without_tensorboard_leave_no_events() {
    let bench = Bench::new();
    let mut command = bench.start("run", 3, &[]);
    succeed({
        command.arg("--no-tensorboard");
        command
    });
    succeed(bench.command(&["--resume", "run"]));
    assert!(!bench.path("run/tensorboard").exists());
    let mut command = bench.start("other", 3, &[]);
    command.args(["--prometheus", "nowhere/run.prom"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(errors(&output).contains("nowhere/run.prom"), "{}", errors(&output));
}

/// The environment in which TensorBoard runs, if there is one.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.python/tensorboard/bin/python");
    let usable = Command::new(&python)
        .args(["-c", "import tensorboard, prometheus_client"])
        .output()
        .is_ok_and(|output| output.status.success());
    usable.then_some(python)
}

/// TensorBoard's library, its server, and Prometheus' own parser read the numbers of `metrics.jsonl`.
fn read(python: &Path, bench: &Bench) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tensorboard/read.py");
    let output =
        Command::new(python).arg(script).args([bench.path("run"), bench.path("run.prom")]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), errors(&output));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}
