//! The mean of checkpoints is a checkpoint that can be evaluated and not resumed.

use tch::{Kind, Tensor};

use crate::command::{Bench, fail, succeed};

#[test]
fn the_mean_of_the_last_checkpoints_is_evaluated_and_not_resumed() {
    let bench = Bench::new();
    succeed(bench.start("run", 21, &["checkpoint.every_steps=7", "checkpoint.keep=3", "optimizer.lr=1e-2"]));
    let said = succeed(bench.command(&["average", "run", "--last", "2", "--out", "mean"]));
    assert!(crate::command::errors(&said).contains("wrote the mean of steps 14, 21 to mean"));

    let read = |path: std::path::PathBuf| Tensor::read_safetensors(path.join("model.safetensors")).unwrap();
    let [a, b] = [14, 21].map(|step| read(bench.checkpoint("run", step)));
    let mut differ = 0;
    for (name, mean) in read(bench.path("mean")) {
        let [a, b] = [&a, &b].map(|tensors| &tensors.iter().find(|(n, _)| *n == name).unwrap().1);
        let expected = (a.to_kind(Kind::Double) + b.to_kind(Kind::Double)) / 2.0;
        assert!(mean.equal(&expected.to_kind(Kind::Float)), "{name}");
        differ += i32::from(!mean.equal(b));
    }
    assert!(differ > 0, "the checkpoints are the same");

    succeed(bench.command(&["eval", "--from", "mean", "--shards", "shards", "--max-samples", "16"]));
    let message = fail(bench.command(&[
        "--branch-from",
        "mean",
        "--decay",
        "3steps",
        "--out",
        "on",
        "--shards",
        "shards",
    ]));
    assert!(message.contains("peak") || message.contains("mean of checkpoints"), "{message}");
    let message = fail(bench.command(&["average", "run", "--last", "4", "--out", "more"]));
    assert!(message.contains("run has 3 checkpoints, and the mean of 4 is asked for"), "{message}");
    let message = fail(bench.command(&["average", "run", "--last", "2", "--out", "mean"]));
    assert!(message.contains("mean is there already"), "{message}");
}

#[test]
fn checkpoints_at_an_interval_are_kept_beside_the_newest() {
    let bench = Bench::new();
    let sets = ["checkpoint.every_steps=2", "checkpoint.keep=2", "checkpoint.keep_every_steps=6"];
    succeed(bench.start("run", 20, &sets));
    let mut found: Vec<String> = std::fs::read_dir(bench.path("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["step-000006", "step-000012", "step-000016", "step-000018", "step-000020"]);
}
