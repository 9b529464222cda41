//! Checkpoints that are damaged, or belong to something else, are refused by name.

use std::fs;

use crate::command::{Bench, fail, succeed};
use crate::corpus;
use crate::hugging_face::tokenizer_json;

/// A finished run of six steps with one checkpoint.
fn finished() -> Bench {
    let bench = Bench::new();
    succeed(bench.start("run", 6, &["checkpoint.every_steps=0"]));
    bench
}

#[test]
fn every_altered_file_is_named() {
    let bench = finished();
    let checkpoint = bench.checkpoint("run", 6);
    for file in ["model.safetensors", "optimizer.safetensors", "config.toml", "state.json"] {
        let path = checkpoint.join(file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        // One bit; in the state, that of the step, which leaves valid JSON behind.
        let step = br#""step": 6"#;
        let at = good
            .windows(step.len())
            .position(|window| window == step)
            .map_or(good.len(), |at| at + step.len());
        bad[at - 1] ^= 1;
        fs::write(&path, &bad).unwrap();
        let message = fail(bench.command(&["--resume", "run"]));
        assert!(message.contains("holds no usable checkpoint"), "{message}");
        assert!(message.contains(&format!("{file} was altered")), "{message}");
        fs::write(&path, good).unwrap();
    }
    succeed(bench.command(&["--resume", "run"]));
}

#[test]
fn a_missing_file_and_a_torn_state_are_named() {
    let bench = finished();
    let checkpoint = bench.checkpoint("run", 6);
    let state = fs::read(checkpoint.join("state.json")).unwrap();
    fs::write(checkpoint.join("state.json"), &state[..state.len() / 2]).unwrap();
    let message = fail(bench.command(&["eval", "--from", "run", "--shards", "shards"]));
    assert!(message.contains("state.json is torn"), "{message}");
    fs::write(checkpoint.join("state.json"), state).unwrap();
    fs::remove_file(checkpoint.join("optimizer.safetensors")).unwrap();
    let message = fail(bench.command(&["--resume", "run"]));
    assert!(message.contains("optimizer.safetensors: No such file"), "{message}");
}

#[test]
fn another_model_another_corpus_and_another_tokenizer_are_told_apart() {
    let bench = finished();
    let config = bench.path("run/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("hidden_size = 32", "hidden_size = 64")).unwrap();
    let message = fail(bench.command(&["--resume", "run"]));
    assert!(
        message.contains("another model: it says hidden_size = 32, this run has hidden_size = 64"),
        "{message}"
    );
    fs::write(&config, text).unwrap();

    corpus::write(&bench.path("more"), 610, &tokenizer_json(corpus::VOCAB as usize));
    let message = fail(bench.command(&["--resume", "run", "--shards", "more"]));
    assert!(message.contains("another data set") && message.contains("unchanged"), "{message}");

    corpus::write(&bench.path("other"), 600, "other words");
    for command in [
        bench.command(&["--resume", "run", "--shards", "other"]),
        bench.command(&["eval", "--from", "run", "--shards", "other"]),
    ] {
        let message = fail(command);
        assert!(message.contains("another tokenizer"), "{message}");
    }
    // Other documents of the same tokenizer are a fair evaluation.
    succeed(bench.command(&["eval", "--from", "run/checkpoints/step-000006", "--shards", "more"]));
}

#[test]
fn what_a_killed_save_left_behind_is_cleared_away() {
    let bench = finished();
    let leftover = bench.path("run/checkpoints/.unfinished-step-000005");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("model.safetensors"), b"half").unwrap();
    succeed(bench.command(&["--resume", "run"]));
    assert!(!leftover.exists());
}
