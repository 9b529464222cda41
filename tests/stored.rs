//! Training from an object store: the model is the one that the same shards give from a folder.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::azure;
use tests::s3::{Server, as_google, environment, silent_about};
use tests::{Corpus, fail, program, succeed, text};

/// A short training of a very small model.
fn training(shards: &str, run: &Path, more: &[&str]) -> Command {
    let mut command = program("train");
    command.args(["--shards", shards, "--out"]).arg(run).args(["--preset", "tiny", "--device", "cpu"]);
    for setting in [
        "train.steps=6",
        "train.batch_size=8",
        "train.seq_len=48",
        "train.log_every_steps=1",
        "model.hidden_size=64",
        "model.num_attention_heads=2",
        "model.num_hidden_layers=1",
        "model.intermediate_size=96",
        "checkpoint.every_steps=3",
        "eval.every_steps=3",
    ] {
        command.args(["--set", setting]);
    }
    command.args(more);
    command
}

fn weights(run: &Path, step: u64) -> Vec<u8> {
    fs::read(run.join(format!("checkpoints/step-{step:06}/model.safetensors"))).unwrap()
}

/// What the metrics say of losses, step by step.
fn losses(run: &Path) -> Vec<(Value, Value, Value)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["step"].clone(), line["loss"].clone(), line["unigram_loss"].clone())).collect()
}

/// The files of a folder, in the bucket under `c4`.
fn store(shards: &Path) -> Server {
    filled(Server::start(), shards)
}

fn filled(server: Server, shards: &Path) -> Server {
    for file in fs::read_dir(shards).unwrap().flatten().filter(|file| file.path().is_file()) {
        let name = file.file_name().into_string().unwrap();
        server.put(&format!("c4/{name}"), fs::read(file.path()).unwrap());
    }
    server
}

#[test]
fn a_model_trained_from_a_store_is_the_one_trained_from_the_folder() {
    let corpus = Corpus::sentences(4, 60);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    let server = store(&shards);
    let path = |name: &str| corpus.path().join(name);
    let cache = path("cache");
    let cached = ["--shard-cache", cache.to_str().unwrap(), "--shard-cache-size", "1GiB"];
    let stored = |command: &mut Command| succeed(command.envs(environment(server.address())));

    succeed(&mut training(shards.to_str().unwrap(), &path("here"), &[]));
    let said = stored(&mut training("s3://bucket/c4", &path("there"), &cached));
    assert!(said.contains("4 shards of"), "{said}");
    assert!(weights(&path("here"), 6) == weights(&path("there"), 6), "other weights");
    assert_eq!(losses(&path("here")), losses(&path("there")));
    let kept = fs::read_dir(&cache).unwrap().flatten().filter(|file| file.path().extension().is_some());
    assert!(kept.count() >= 4);

    // Interrupted and resumed, which knows by itself where the shards are.
    fs::remove_dir_all(path("there/checkpoints/step-000006")).unwrap();
    stored(program("train").arg("--resume").arg(path("there")));
    assert!(weights(&path("here"), 6) == weights(&path("there"), 6), "other weights after a resumption");

    let evaluate = |command: &mut Command, shards: &str| {
        let said = stored(
            command.args(["eval", "--json", "--shards", shards, "--from"]).arg(path("here")).args(cached),
        );
        // All but when it was: the last key.
        said[said.find('{').unwrap()..].split(",\"time\":").next().unwrap().to_owned()
    };
    let here = evaluate(&mut program("train"), shards.to_str().unwrap());
    assert_eq!(evaluate(&mut program("train"), "s3://bucket/c4"), here);

    // A shard that is not what it was when it was ingested.
    let damaged = server.path("c4/shard-00002-0000.tokens");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[300] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let empty = path("empty");
    let mut command = training("s3://bucket/c4", &path("bad"), &["--shard-cache", empty.to_str().unwrap()]);
    let said = fail(command.envs(environment(server.address())));
    assert!(said.contains("s3://bucket/c4/shard-00002-0000.tokens is damaged at byte 128"), "{said}");
}

/// Google's own service is not at hand; reading is the same in its protocol and in Amazon's.
#[test]
fn a_model_may_be_trained_from_google() {
    let corpus = Corpus::sentences(2, 60);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    let server = filled(Server::public(), &shards);
    assert_same_model(&corpus, &shards, "gs://bucket/c4", as_google(server.address()));
}

/// From Azurite, Microsoft's emulator of its blob storage, where `make test-azure` has started it.
#[test]
fn a_model_may_be_trained_from_azure() {
    let Some(container) = azure::container() else { return };
    let corpus = Corpus::sentences(2, 60);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    let url = format!("{container}/train-{}", std::process::id());
    succeed(&mut corpus.ingesting(Path::new(&url), &["--held-out", "0.1"]));
    assert_same_model(&corpus, &shards, &url, Vec::new());
}

/// The model trained from the shards at `url` is the one trained from those in the folder `shards`.
fn assert_same_model(corpus: &Corpus, shards: &Path, url: &str, environment: Vec<(&'static str, String)>) {
    let path = |name: &str| corpus.path().join(name);
    succeed(&mut training(shards.to_str().unwrap(), &path("here"), &[]));
    let cache = path("cache");
    let cached = ["--shard-cache", cache.to_str().unwrap()];
    succeed(training(url, &path("there"), &cached).envs(environment));
    assert!(weights(&path("here"), 6) == weights(&path("there"), 6), "other weights");
}

/// Starts a training from a store that never gives a shard, interrupts it while it waits, and gives its end.
#[cfg(unix)]
fn interrupt(command: &mut Command, server: &Server, cache: &Path) -> Output {
    let silent = environment(silent_about(".tokens", server.address()));
    let started = command.envs(silent).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // What is being fetched stands in the cache.
    let is_fetching = || {
        let mut files = fs::read_dir(cache).into_iter().flatten().flatten();
        files.any(|file| file.file_name().to_string_lossy().ends_with(".part"))
    };
    while !is_fetching() {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    succeed(Command::new("kill").args(["-INT", &started.id().to_string()]));
    started.wait_with_output().unwrap()
}

/// Interrupted while the first batch is fetched from a store that never gives it, a training ends and can be continued; before
/// that, where lengths of documents are needed that the store does not give, it ends at once.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_waiting_for_a_store() {
    let corpus = Corpus::sentences(2, 60);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    let server = store(&shards);
    let path = |name: &str| corpus.path().join(name);
    let cache = path("cache");
    let cached = |policy| ["--shard-cache", cache.to_str().unwrap(), "--set", policy];

    let truncate = "loader.policy=truncate";
    let run = path("run");
    let output = interrupt(&mut training("s3://bucket/c4", &run, &cached(truncate)), &server, &cache);
    let said = text(&output);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("stopped after step 0, which is saved; continue with `train --resume"), "{said}");
    succeed(program("train").arg("--resume").arg(&run).envs(environment(server.address())));
    succeed(&mut training(shards.to_str().unwrap(), &path("here"), &["--set", truncate]));
    assert!(weights(&run, 6) == weights(&path("here"), 6), "other weights");

    fs::remove_dir_all(&cache).unwrap();
    let mut command = training("s3://bucket/c4", &path("chunked"), &cached("loader.policy=chunk"));
    assert_eq!(interrupt(&mut command, &server, &cache).status.code(), Some(130));
}
