//! Several processes that train one model over loopback.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{Bench, errors, fail, succeed};

const STEPS: u64 = 20;

/// Settings of all runs here: without dropout, so that the cut into ranks changes nothing but the order of sums.
const SETS: [&str; 4] =
    ["model.hidden_dropout_prob=0.0", "optimizer.lr=1e-2", "train.log_every_steps=1", "eval.every_steps=10"];

/// The processes of one job.
struct Job {
    ranks: Vec<Child>,
    /// What each says on standard error: files, since a full pipe would stop it.
    errors: Vec<File>,
}

impl Job {
    /// Starts `command` as `world_size` ranks, as torchrun would.
    fn start(world_size: usize, command: impl Fn() -> Command) -> Job {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let errors: Vec<File> = (0..world_size).map(|_| tempfile::tempfile().unwrap()).collect();
        let rank = |rank: usize| {
            let mut command = command();
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            command.env("WORLD_SIZE", world_size.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
            command.stdout(Stdio::piped()).stderr(errors[rank].try_clone().unwrap()).spawn().unwrap()
        };
        Job { ranks: (0..world_size).map(rank).collect(), errors }
    }

    fn signal(&self, rank: usize, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.ranks[rank].id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Exit code and standard error of every rank but `except`, which is killed. All must end within a minute.
    fn end(mut self, except: Option<usize>) -> Vec<(Option<i32>, String)> {
        let begun = Instant::now();
        let waits = |rank: usize| Some(rank) != except;
        let ended = |ranks: &mut Vec<Child>| {
            ranks
                .iter_mut()
                .enumerate()
                .all(|(rank, child)| !waits(rank) || child.try_wait().unwrap().is_some())
        };
        while !ended(&mut self.ranks) && begun.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_millis(10));
        }
        let in_time = ended(&mut self.ranks);
        let ends: Vec<_> = self
            .ranks
            .iter_mut()
            .zip(&mut self.errors)
            .map(|(child, errors)| {
                let _ = child.kill();
                let status = child.wait().unwrap();
                let mut text = String::new();
                errors.rewind().unwrap();
                errors.read_to_string(&mut text).unwrap();
                (status.code(), text)
            })
            .collect();
        assert!(in_time, "not all ranks ended within a minute: {ends:#?}");
        ends
    }

    fn succeed(self) {
        let ends = self.end(None);
        assert!(ends.iter().all(|(code, _)| *code == Some(0)), "{ends:#?}");
        for (_, text) in &ends[1..] {
            assert!(!text.contains("step"), "a rank other than 0 shows progress: {text}");
        }
    }
}

/// The losses of a run by step, of training and of evaluation, and the norms of its gradients.
fn numbers(run: &Path) -> BTreeMap<(String, u64), f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut numbers = BTreeMap::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let step = record["step"].as_u64().unwrap();
        for (name, of) in [("loss", record["kind"].as_str().unwrap()), ("grad_norm", "gradient")] {
            if let Some(number) = record[name].as_f64() {
                numbers.insert((of.to_owned(), step), number);
            }
        }
    }
    numbers
}

/// The same steps with the same losses and gradients, but for the order in which float32 numbers are added.
fn assert_same_numbers(bench: &Bench, one: &str, other: &str) {
    let [expected, found] = [one, other].map(|run| numbers(&bench.path(run)));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{other}");
    for (at, number) in &expected {
        let found = found[at];
        assert!((number - found).abs() < 1e-3 * number, "{other}, {at:?}: {found}, expected {number}");
    }
    // They are losses of a model that moves.
    let held_out = |step| expected[&("eval".to_owned(), step)];
    assert!((held_out(STEPS) - held_out(10)).abs() > 0.01, "{expected:?}");
}

#[test]
fn any_number_of_ranks_trains_as_one_process_does() {
    let bench = Bench::new();
    succeed(bench.start("alone", STEPS, &SETS));
    // A batch of 16 is cut into parts of different sizes by three ranks.
    for (world_size, sharded) in [(1, false), (2, false), (3, true), (4, false)] {
        let run = format!("{world_size}-ranks");
        let shard = format!("train.shard_optimizer={sharded}");
        let sets = [SETS.as_slice(), &[shard.as_str()]].concat();
        Job::start(world_size, || bench.start(&run, STEPS, &sets)).succeed();
        assert_same_numbers(&bench, "alone", &run);
        assert!(bench.checkpoint(&run, STEPS).join("optimizer.safetensors").exists());
    }
}

/// The batch is made of the same samples whatever the number of ranks, so the losses go on as if nothing had happened.
#[test]
fn another_number_of_ranks_continues_the_same_order() {
    let bench = Bench::new();
    let sets = [SETS.as_slice(), &["checkpoint.every_steps=8", "checkpoint.keep=0"]].concat();
    let sharded = [sets.as_slice(), &["train.shard_optimizer=true"]].concat();
    succeed(bench.start("alone", STEPS, &sets));
    for (run, sets, first, then) in [("shared", &sharded, 3, 2), ("whole", &sets, 2, 1)] {
        Job::start(first, || bench.start(run, STEPS, sets)).succeed();
        // As if the job had been killed after step 8.
        for step in [16, STEPS] {
            fs::remove_dir_all(bench.checkpoint(run, step)).unwrap();
        }
        match then {
            1 => drop(succeed(bench.command(&["--resume", run]))),
            _ => Job::start(then, || bench.command(&["--resume", run])).succeed(),
        }
        assert_same_numbers(&bench, "alone", run);
    }
}

/// Waits until the run has made some steps.
fn wait_for_steps(bench: &Bench, run: &str) {
    let metrics = bench.path(run).join("metrics.jsonl");
    let begun = Instant::now();
    while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{run} makes no steps");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_rank_that_dies_or_hangs_ends_the_job_by_name() {
    let bench = Bench::new();
    for (run, victim, signal) in
        [("killed", 1, Signal::KILL), ("stopped", 2, Signal::STOP), ("first", 0, Signal::STOP)]
    {
        let job = Job::start(3, || {
            let mut command = bench.start(run, 1_000_000, &SETS);
            command.args(["--rank-timeout", "4"]);
            command
        });
        wait_for_steps(&bench, run);
        job.signal(victim, signal);
        for (rank, (code, text)) in job.end(Some(victim)).into_iter().enumerate() {
            if rank != victim {
                assert_eq!(code, Some(1), "{run}, rank {rank}: {text}");
                let expected = format!("the job ends, because rank {victim} (");
                assert!(text.contains(&expected), "{run}, rank {rank}: {text}");
            }
        }
    }
}

#[test]
fn an_error_of_one_rank_is_told_by_all() {
    let bench = Bench::new();
    succeed(bench.start("run", 3, &SETS));
    // Rank 0 refuses to overwrite a run; the other has nothing to refuse by itself.
    let ends = Job::start(2, || bench.start("run", 3, &SETS)).end(None);
    assert_eq!([ends[0].0, ends[1].0], [Some(1), Some(1)], "{ends:#?}");
    assert!(ends[0].1.contains("train: rank 0: run holds a run already"), "{ends:#?}");
    assert!(ends[1].1.contains("because rank 0 failed: run holds a run already"), "{ends:#?}");
}

#[test]
fn asked_to_stop_all_ranks_stop_after_the_same_step() {
    let bench = Bench::new();
    let job = Job::start(2, || bench.start("run", 1_000_000, &SETS));
    wait_for_steps(&bench, "run");
    // As a launcher may, it tells one of them only.
    job.signal(1, Signal::TERM);
    let ends = job.end(None);
    assert!(ends.iter().all(|(code, _)| *code == Some(0)), "{ends:#?}");
    assert!(ends[0].1.contains("which is saved; continue with `train --resume run`"), "{ends:#?}");
}

#[test]
fn half_a_launchers_variables_are_refused() {
    let bench = Bench::new();
    let mut command = bench.start("run", 3, &[]);
    command.env("RANK", "0").env("WORLD_SIZE", "2");
    assert!(fail(command).contains("LOCAL_RANK is not set, though RANK, WORLD_SIZE are"));
    let mut command = bench.start("run", 3, &[]);
    command.args(["--join-timeout", "1"]).envs([("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port);
    let message = fail(command);
    assert!(message.contains("of 2 ranks, these have not come within 1 s: 1"), "{message}");
}

#[test]
fn the_bench_counts_all_ranks() {
    let bench = Bench::new();
    let arguments = [
        "bench",
        "--preset",
        "tiny",
        "--device",
        "cpu",
        "--json",
        "--steps",
        "2",
        "--warm-up",
        "1",
        "--batch-size",
        "6",
        "--seq",
        "16",
        "--set",
        "model.num_hidden_layers=1",
        "--set",
        "train.threads=1",
        "--set",
        "model.vocab_size=512",
    ];
    let mut job = Job::start(3, || bench.command(&arguments));
    let mut out = Vec::new();
    for child in &mut job.ranks {
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        out.push(text);
    }
    job.succeed();
    assert_eq!([out[1].as_str(), out[2].as_str()], ["", ""], "rank 0 alone prints");
    let report: serde_json::Value = serde_json::from_str(&out[0]).unwrap();
    assert_eq!((report["world_size"].as_u64(), report["batch_size"].as_u64()), (Some(3), Some(6)));
    let share = report["reduce_wait_share"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{report}");
    let samples = report["samples_per_s"].as_f64().unwrap() * report["step_ms"].as_f64().unwrap() / 1e3;
    assert!((samples - 6.0).abs() < 1e-6, "{samples} samples a step");
}

/// torch's own launcher, where its Python is installed.
#[test]
fn torchrun_starts_the_ranks() {
    let bench = Bench::new();
    let there = Command::new("torchrun").arg("--help").output().is_ok_and(|output| output.status.success());
    if !there {
        return eprintln!("skipped: there is no torchrun");
    }
    let train = bench.start("run", 3, &SETS);
    let mut command = Command::new("torchrun");
    command.current_dir(bench.path("")).args(["--standalone", "--nproc-per-node", "2", "--no-python"]);
    command.arg(train.get_program()).args(train.get_args());
    let output = succeed(command);
    assert!(errors(&output).contains("step 3/3"), "{}", errors(&output));
    assert!(bench.checkpoint("run", 3).exists());
}
