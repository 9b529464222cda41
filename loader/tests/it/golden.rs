//! Batches as text, checked in, so that any change of order, masks or cuts is seen in review.
//!
//! After a change that is meant, write them again as their first line says, and read the difference. The test is also run
//! on a build without vector instructions (`--no-default-features`), which must give the same text.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use loader::{
    Corpus, HeldOutConfig, LinearMaskRate, Loader, LoaderConfig, MaskRate, MicroBatch, SamplePolicy, Split,
    StepBatch, held_out_batches,
};

use crate::fixture::{config, corpus};
use crate::order::two_folders;

/// What each file begins with.
const HOW: &str = "# Written by `UPDATE_GOLDEN=1 cargo test -p loader --test it golden`. INPUT<LABEL is a token to predict.\n";

fn show_step(text: &mut String, batch: &StepBatch) {
    writeln!(
        text,
        "step {} epoch {} samples {} tokens {} masked {}",
        batch.step, batch.epoch, batch.samples, batch.tokens, batch.masked_tokens
    )
    .unwrap();
    batch.micro_batches.iter().for_each(|batch| show(text, batch));
}

fn show(text: &mut String, batch: &MicroBatch) {
    writeln!(text, "  micro-batch: longest {}", batch.max_seqlen).unwrap();
    for ends in batch.cu_seqlens.windows(2) {
        let ids: Vec<String> = (ends[0]..ends[1])
            .map(|at| {
                let id = batch.input_ids[at as usize];
                // The token to predict stands behind what the model sees.
                match batch.masked_positions.binary_search(&at) {
                    Ok(index) => format!("{id}<{}", batch.labels[index]),
                    Err(_) => id.to_string(),
                }
            })
            .collect();
        writeln!(text, "    {}", ids.join(" ")).unwrap();
    }
}

fn check(name: &str, text: &str) {
    let text = &format!("{HOW}{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    for (number, (found, expected)) in (1..).zip(text.lines().zip(golden.lines())) {
        assert_eq!(found, expected, "{name}, line {number}");
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{name}: number of lines");
}

/// Steps at the beginning, and one that holds the end of an epoch and the beginning of the next.
fn training(policy: SamplePolicy) -> String {
    let (_dir, corpus) = corpus(2, 30, 30);
    let config = LoaderConfig { policy, ..config() };
    let samples = corpus.samples(Split::Train, policy, config.seq_len).unwrap().len();
    let across_epochs = samples / config.batch_size as u64;
    let mut text = String::new();
    for step in [0, 1, across_epochs] {
        for batch in Loader::start(Arc::clone(&corpus), &config, 0, 1, step, step + 1).unwrap() {
            show_step(&mut text, &batch.unwrap());
        }
    }
    text
}

#[test]
fn truncated_batches_are_as_they_were() {
    check("truncate.txt", &training(SamplePolicy::Truncate));
}

#[test]
fn chunked_batches_are_as_they_were() {
    check("chunk.txt", &training(SamplePolicy::Chunk));
}

/// Two folders with weights, a batch of tokens that grows, whole words, a falling mask rate, and the second of three ranks.
#[test]
fn mixed_batches_are_as_they_were() {
    let (_dir, corpus): (_, Arc<Corpus>) = two_folders(true);
    let config = LoaderConfig {
        batch_tokens: 200,
        batch_warmup_steps: 10,
        batch_warmup_from: 0.3,
        whole_word_masking: true,
        mask_rate: MaskRate::Linear(LinearMaskRate { from: 0.4, to: 0.2, first_step: 0, steps: 10 }),
        ..config()
    };
    let mut text = String::new();
    for step in [0, 5, 40] {
        for batch in Loader::start(Arc::clone(&corpus), &config, 1, 3, step, step + 1).unwrap() {
            show_step(&mut text, &batch.unwrap());
        }
    }
    check("mixed.txt", &text);
}

#[test]
fn held_out_batches_are_as_they_were() {
    let (_dir, corpus) = corpus(2, 30, 30);
    let config = HeldOutConfig { seq_len: 16, micro_batch_tokens: 50, ..HeldOutConfig::default() };
    let mut text = String::new();
    for batch in held_out_batches(corpus, &config).unwrap() {
        show(&mut text, &batch.unwrap());
    }
    check("held-out.txt", &text);
}
