//! Vocabularies trained on the spot.

use std::fs;

use crate::fixtures::{Corpus, assert_same_content, fail, manifest, program, succeed};

/// Text of a few hundred different words.
fn corpus() -> Corpus {
    let corpus = Corpus::empty();
    for file in 0..3u32 {
        let rows: Vec<String> = (0..400u32)
            .map(|row| {
                let words: Vec<String> = (0..20u32)
                    .map(|word| {
                        let number = (file * 7919 + row * 31 + word * word * 17) % 701;
                        let letter = |shift: u32| char::from(b'a' + ((number >> shift) % 23) as u8);
                        [letter(0), letter(2), letter(4), letter(6), letter(1)].iter().collect()
                    })
                    .collect();
                format!("{{\"text\":\"{}.\"}}\n", words.join(" "))
            })
            .collect();
        corpus.pack(&format!("{file}.json.gz"), rows.concat());
    }
    corpus
}

fn train(corpus: &Corpus, out: &str, options: &[&str]) -> String {
    let mut command = program(&["vocab", "--out"]);
    command.arg(corpus.path(out)).arg(corpus.path("*.json.gz")).args(options);
    succeed(&mut command)
}

#[test]
fn a_trained_vocabulary_is_used_by_both_encoders_alike() {
    let corpus = corpus();
    let said = train(&corpus, "tokenizer.json", &["--size", "256"]);
    assert!(said.contains("256 pieces") && said.contains("the fast WordPiece encoder"), "{said}");
    train(&corpus, "again.json", &["--size", "256"]);
    let read = |name: &str| fs::read(corpus.path(name)).unwrap();
    assert!(read("tokenizer.json") == read("again.json"), "the same sample gives the same file");

    let tokenizer = corpus.path("tokenizer.json");
    let tokenizer = tokenizer.to_str().unwrap();
    let fast = corpus.shards("fast", &["--tokenizer", tokenizer, "--encoder", "fast"]);
    let reference = corpus.shards("reference", &["--tokenizer", tokenizer, "--encoder", "tokenizers"]);
    assert_same_content(&fast, &reference);
    let manifest = manifest(&fast);
    assert_eq!(manifest["tokenizer"]["vocab_size"], 256);
    assert_eq!(manifest["tokenizer"]["model_vocab_size"], 256);
    assert_eq!(manifest["tokenizer"]["special"]["mask"], 4);
}

#[test]
fn sizes_that_cannot_be_had_are_refused() {
    let corpus = corpus();
    let mut command = program(&["vocab", "--out", "unused", "--size", "300"]);
    let said = fail(command.arg(corpus.path("0.json.gz")));
    assert!(said.contains("--size 300 is no multiple of 64") && said.contains("use --size 320"), "{said}");
    let mut command = program(&["vocab", "--out", "unused", "--size", "30528"]);
    let said = fail(command.arg(corpus.path("0.json.gz")));
    assert!(said.contains("fewer than --size 30528; give more text"), "{said}");
}
