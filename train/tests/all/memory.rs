//! Micro-batches that memory holds, and those that it does not.

use crate::command::{Bench, succeed};

#[test]
fn auto_writes_what_fits_into_the_resolved_configuration() {
    let bench = Bench::new();
    let mut command = bench.start("run", 3, &["train.micro_batch_tokens=1"]);
    command.args(["--micro-batch-tokens", "auto"]);
    let said = crate::command::errors(&succeed(command));
    // Sixteen samples of at most 24 tokens.
    assert!(said.contains("train.micro_batch_tokens = 512"), "{said}");
    let config = std::fs::read_to_string(bench.path("run/config.toml")).unwrap();
    assert!(config.contains("micro_batch_tokens = 512"), "{config}");
}
