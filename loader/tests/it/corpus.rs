//! Folders opened as one corpus, documents and samples by number, and folders that are wrong.

use std::fs;

use loader::shard::{Manifest, ShardWriter};
use loader::{Corpus, Error, SamplePolicy, Split, TokenCounts, unigram_entropy};

use crate::fixture::{Documents, SPECIAL, VOCAB, corpus, some_documents, write_folder, write_sparse_folder};

/// Several shards, some without a document on one of the sides.
fn uneven() -> Vec<Documents> {
    let mut shards = some_documents(5, 30, 50);
    shards[1].held_out.clear();
    shards[2].train.clear();
    shards[3] = Documents::default();
    shards
}

fn side(shards: &[Documents], split: Split) -> Vec<Vec<u32>> {
    shards
        .iter()
        .flat_map(|shard| match split {
            Split::Train => &shard.train,
            Split::HeldOut => &shard.held_out,
        })
        .cloned()
        .collect()
}

#[test]
fn documents_are_numbered_across_shards_and_folders() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shards = uneven();
    write_folder(first.path(), 2, &shards[..2]);
    write_folder(second.path(), 4, &shards[2..]);
    let corpus = Corpus::open(&[first.path(), second.path()]).unwrap();
    assert_eq!((corpus.manifests().len(), corpus.shard_count()), (2, 5));
    for split in [Split::Train, Split::HeldOut] {
        let expected = side(&shards, split);
        assert_eq!(corpus.documents(split), expected.len() as u64);
        for (i, tokens) in expected.iter().enumerate() {
            assert_eq!(corpus.document(split, i as u64).unwrap().to_vec(), *tokens);
        }
        let beyond = corpus.document(split, expected.len() as u64);
        assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    }
}

#[test]
fn truncate_gives_the_beginning_of_each_document_and_chunk_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let shards = uneven();
    write_folder(dir.path(), 2, &shards);
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    for split in [Split::Train, Split::HeldOut] {
        for seq_len in [3, 4, 9, 16, 52, 500] {
            let documents = side(&shards, split);
            let beginnings: Vec<&[u32]> =
                documents.iter().map(|tokens| &tokens[..tokens.len().min(seq_len - 2)]).collect();
            let pieces: Vec<&[u32]> =
                documents.iter().flat_map(|tokens| tokens.chunks(seq_len - 2)).collect();
            for (policy, expected) in [(SamplePolicy::Truncate, beginnings), (SamplePolicy::Chunk, pieces)] {
                let samples = corpus.samples(split, policy, seq_len).unwrap();
                assert_eq!(samples.len(), expected.len() as u64);
                for (i, tokens) in expected.iter().enumerate() {
                    assert_eq!(samples.get(i as u64).unwrap().to_vec(), *tokens);
                }
                assert!(matches!(samples.get(samples.len()), Err(Error::OutOfRange { .. })));
            }
        }
    }
}

#[test]
fn ten_thousand_shards_are_opened_as_one_corpus() {
    const SHARDS: u64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let train = write_sparse_folder(dir.path(), SHARDS);
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    assert_eq!(corpus.train_documents(), train);
    // The holes are read only now: offsets of zero are no document.
    assert!(matches!(corpus.document(Split::Train, 5), Err(Error::Corrupt { .. })));
}

#[test]
fn a_sequence_without_room_for_a_token_is_refused() {
    let (_dir, corpus) = corpus(1, 5, 5);
    let error = corpus.samples(Split::Train, SamplePolicy::Chunk, 2).unwrap_err();
    assert_eq!(error.to_string(), "seq_len is 2, expected 3 to 1048576");
}

#[test]
fn folders_that_are_wrong_are_refused_at_open() {
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), 2, &some_documents(2, 20, 30));
        dir
    };
    let message = |dir: &tempfile::TempDir| Corpus::open(&[dir.path()]).unwrap_err().to_string();

    let dir = make();
    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    assert!(message(&dir).contains("no manifest.json"));

    let dir = make();
    for missing in ["shard-00001-0000.tokens", "tokenizer.json"] {
        fs::remove_file(dir.path().join(missing)).unwrap();
        let text = message(&dir);
        assert!(
            text.contains(&format!("{missing} is missing, though the manifest of its folder names it")),
            "{text}"
        );
    }

    let dir = make();
    for (path, found) in [("none", "is not there"), ("manifest.json", "is no folder")] {
        let text = Corpus::open(&[dir.path().join(path)]).unwrap_err().to_string();
        assert!(text.contains(&format!("{path} {found}, expected a shard folder")), "{text}");
    }

    let dir = make();
    fs::write(dir.path().join("tokenizer.json"), b"another").unwrap();
    assert!(message(&dir).contains("tokenizer.json does not match its manifest: the BLAKE3 is"));

    // An intact shard, but not the one of this manifest.
    let dir = make();
    let mut writer = ShardWriter::create(dir.path(), "shard-00001-0000.tokens", 2).unwrap();
    writer.push(&[1, 2, 3]).unwrap();
    writer.seal().unwrap();
    let text = message(&dir);
    assert!(
        text.contains("shard-00001-0000.tokens does not match its manifest: its size in bytes is"),
        "{text}"
    );

    let (dir, other) = (make(), make());
    let mut manifest = Manifest::read(other.path()).unwrap();
    manifest.tokenizer.special.mask = 999;
    manifest.write(other.path()).unwrap();
    let text = Corpus::open(&[dir.path(), other.path()]).unwrap_err().to_string();
    assert!(text.contains("cannot be one corpus: the list of special ids is"), "{text}");

    let (dir, other) = (make(), make());
    for (dir, share) in [(&dir, 0.005), (&other, 0.01)] {
        let mut manifest = Manifest::read(dir.path()).unwrap();
        manifest.ingest.options = serde_json::json!({ "held_out": share });
        manifest.write(dir.path()).unwrap();
    }
    let text = Corpus::open(&[dir.path(), other.path()]).unwrap_err().to_string();
    assert!(
        text.contains("the share of documents held out is 0.01 in the second, 0.005 in the first"),
        "{text}"
    );

    let dir = make();
    let text = Corpus::open(&[dir.path(), &dir.path().join(".")]).unwrap_err().to_string();
    assert!(text.contains("twice, expected each folder once"), "{text}");

    let none: [&str; 0] = [];
    assert!(matches!(Corpus::open(&none), Err(Error::Config { field: "shards", .. })));
}

#[test]
fn unigram_entropy_is_that_of_the_formula() {
    let dir = tempfile::tempdir().unwrap();
    // Beyond the first three tokens nothing counts, and neither do special tokens.
    let train = vec![vec![200, 200, 201, 999], vec![200, SPECIAL.unk]];
    let held_out = vec![vec![200, 201, SPECIAL.sep, 999], vec![202]];
    write_folder(dir.path(), 2, &[Documents { train, held_out }]);
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    let policy = SamplePolicy::Truncate;
    let counts = TokenCounts::of(&corpus.samples(Split::Train, policy, 5).unwrap(), None).unwrap();
    assert_eq!(
        (counts.total(), counts.count(200), counts.count(201), counts.count(SPECIAL.unk)),
        (4, 3, 1, 0)
    );
    let denominator = f64::from(4 + VOCAB);
    let expected =
        [3.0 + 1.0, 1.0 + 1.0, 1.0].map(|count: f64| -(count / denominator).ln()).iter().sum::<f64>() / 3.0;
    let found = unigram_entropy(&corpus, policy, 5, None).unwrap();
    assert!((found - expected).abs() < 1e-12, "{found} {expected}");
}

#[test]
fn counting_under_a_limit_reads_about_that_many_samples() {
    let (_dir, corpus) = corpus(2, 500, 5);
    let samples = corpus.samples(Split::Train, SamplePolicy::Truncate, 16).unwrap();
    let all = TokenCounts::of(&samples, None).unwrap().total();
    let some = TokenCounts::of(&samples, Some(100)).unwrap().total();
    assert!(some > all / 18 && some < all / 6, "{some} of {all}");
}

#[test]
fn a_corpus_without_held_out_documents_says_so() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 2, &[Documents { train: vec![vec![500]], held_out: vec![] }]);
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    let error = unigram_entropy(&corpus, SamplePolicy::Truncate, 16, None).unwrap_err().to_string();
    assert!(error.contains("no held-out documents"), "{error}");
}
