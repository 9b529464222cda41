//! Text -> shards -> model -> evaluation -> report, on a corpus whose words predict one another.

use std::fs;

use serde_json::Value;
use tests::{Corpus, program, succeed};

#[test]
fn two_commands_train_a_model_that_uses_context() {
    let corpus = Corpus::sentences(2, 400);
    let shards = corpus.ingest("shards", &["--held-out", "0.1"]);
    succeed(program("ingest").arg("verify").arg(&shards));

    let run = corpus.path().join("run");
    succeed(
        program("train")
            .arg("--shards")
            .arg(&shards)
            .arg("--out")
            .arg(&run)
            .args(["--preset", "tiny", "--device", "cpu"])
            .args(["--set", "train.steps=320", "--set", "train.batch_size=16", "--set", "train.seq_len=64"])
            .args(["--set", "model.num_hidden_layers=2", "--set", "model.hidden_size=128"])
            .args(["--set", "model.num_attention_heads=2", "--set", "model.intermediate_size=256"])
            .args(["--set", "checkpoint.every_steps=160", "--set", "seed=3"]),
    );

    let printed = succeed(
        program("train").arg("eval").arg("--from").arg(&run).arg("--shards").arg(&shards).arg("--json"),
    );
    let start = printed.find('{').expect("a JSON object");
    let evaluation: Value = serde_json::from_str(printed[start..].trim()).expect("valid JSON");
    let (loss, unigram) =
        (evaluation["loss"].as_f64().unwrap(), evaluation["unigram_loss"].as_f64().unwrap());
    assert!(
        loss.is_finite() && loss < 0.8 * unigram,
        "held-out loss {loss}, unigram cross-entropy {unigram}"
    );
    assert!(evaluation["accuracy"].as_f64().unwrap() > 0.2, "{evaluation}");

    let report = corpus.path().join("report.html");
    succeed(program("train").arg("report").arg(&run).arg("--out").arg(&report));
    let html = fs::read_to_string(&report).unwrap();
    assert!(html.contains("<svg") && html.contains("</html>"));
    for outside in ["src=\"http", "href=\"http", "@import"] {
        assert!(!html.contains(outside), "the report must be self-contained, found {outside}");
    }
}

#[test]
fn a_document_can_be_read_back_with_its_origin() {
    let corpus = Corpus::sentences(1, 20);
    let shards = corpus.ingest("shards", &["--held-out", "0"]);
    let printed = succeed(program("ingest").arg("inspect").arg(&shards).args(["--doc", "7"]));
    assert!(printed.contains("page 7 of book 0"), "{printed}");
    assert!(printed.contains("https://example.org/7"), "{printed}");
}
