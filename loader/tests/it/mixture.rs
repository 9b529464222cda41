//! Several folders as one corpus, with weights: every batch holds its share of each, and what was held out stays out.

use std::collections::HashMap;
use std::sync::Arc;

use loader::{Corpus, Error, Loader, LoaderConfig, SamplePolicy, ShardFolder, Split};
use tempfile::TempDir;

use crate::batches::{batches, samples, unmasked};
use crate::fixture::{Documents, config, some_documents, write_folder};

/// Folders whose documents consist of one token each: 200 and up for the first, 300 and up for the second, and so on. The
/// lengths tell the documents of a folder apart.
fn folders(documents: &[usize], weights: &[f64]) -> (TempDir, Vec<ShardFolder>) {
    let dir = tempfile::tempdir().unwrap();
    let folders = documents.iter().zip(weights).enumerate().map(|(number, (&count, &weight))| {
        let path = dir.path().join(format!("{number}"));
        std::fs::create_dir(&path).unwrap();
        let train = (0..count).map(|len| vec![200 + 100 * number as u32; len + 1]).collect();
        write_folder(&path, 2, &[Documents { train, held_out: vec![vec![900 + number as u32]] }]);
        ShardFolder { path, weight: Some(weight) }
    });
    let folders = folders.collect();
    (dir, folders)
}

/// The number of the folder and the length of each sample of a step.
fn sources(
    corpus: &Arc<Corpus>,
    config: &LoaderConfig,
    steps: std::ops::Range<u64>,
) -> Vec<Vec<(u32, usize)>> {
    batches(corpus, config, 0, 1, steps)
        .iter()
        .map(|batch| {
            let texts = samples(&batch.micro_batches);
            texts.iter().map(unmasked).map(|text| ((text[0] - 200) / 100, text.len())).collect()
        })
        .collect()
}

#[test]
fn every_batch_holds_its_share_of_each_folder() {
    let (_dir, folders) = folders(&[30, 10, 100], &[0.5, 0.2, 0.3]);
    let corpus = Corpus::open_weighted(&folders).unwrap();
    let config = LoaderConfig { batch_size: 40, seq_len: 128, micro_batch_tokens: 1000, ..config() };
    let steps = sources(&corpus, &config, 0..60);
    for batch in &steps {
        for (folder, expected) in [(0, 20), (1, 8), (2, 12)] {
            assert_eq!(batch.iter().filter(|(from, _)| *from == folder).count(), expected);
        }
    }
    // Each folder is read evenly, epoch after epoch of its own: 2400 samples are 40, 48 and 7.2 epochs.
    for (folder, documents, epochs) in [(0, 30, 40), (1, 10, 48), (2, 100, 7)] {
        let mut read: HashMap<usize, u64> = HashMap::new();
        for (_, len) in steps.iter().flatten().filter(|(from, _)| *from == folder) {
            *read.entry(*len).or_default() += 1;
        }
        assert_eq!(read.len(), documents);
        assert!(read.values().all(|times| (epochs..=epochs + 1).contains(times)), "{read:?}");
    }
}

#[test]
fn weights_do_not_depend_on_how_documents_are_cut() {
    let (_dir, folders) = folders(&[60, 20], &[1.0, 3.0]);
    let corpus = Corpus::open_weighted(&folders).unwrap();
    let config = LoaderConfig { policy: SamplePolicy::Chunk, batch_size: 12, ..config() };
    for batch in sources(&corpus, &config, 0..50) {
        assert_eq!(batch.iter().filter(|(folder, _)| *folder == 0).count(), 3);
    }
}

/// A folder alone is read the same with a weight and without.
#[test]
fn one_weight_changes_nothing() {
    let (_dir, mut folders) = folders(&[50], &[0.2]);
    let weighted = sources(&Corpus::open_weighted(&folders).unwrap(), &config(), 0..10);
    folders[0].weight = None;
    assert_eq!(weighted, sources(&Corpus::open_weighted(&folders).unwrap(), &config(), 0..10));
}

#[test]
fn folders_and_weights_that_make_no_sense_are_refused() {
    let (_dir, mut folders) = folders(&[5, 5], &[0.5, 0.5]);
    folders[1].weight = None;
    let message = Corpus::open_weighted(&folders).unwrap_err().to_string();
    assert!(message.contains("without a weight, expected a weight for every folder"), "{message}");
    folders[1].weight = Some(-1.0);
    let corpus = Corpus::open_weighted(&folders).unwrap();
    let error = Loader::start(corpus, &config(), 0, 1, 0, 1).unwrap_err();
    assert!(matches!(error, Error::Config { field: "a weight of --shards", .. }), "{error}");
    // Nothing to train on in one of them.
    let empty = tempfile::tempdir().unwrap();
    write_folder(empty.path(), 2, &[Documents { train: vec![], held_out: vec![vec![500]] }]);
    folders[1] = ShardFolder { path: empty.path().to_owned(), weight: Some(1.0) };
    let corpus = Corpus::open_weighted(&folders).unwrap();
    let message = Loader::start(corpus, &config(), 0, 1, 0, 1).unwrap_err().to_string();
    assert!(message.contains("none for a folder without training documents"), "{message}");
}

/// Whatever the policy and however the folders are mixed, training reads training documents and nothing else, and all of
/// them.
#[test]
fn training_batches_hold_no_held_out_document() {
    let dir = tempfile::tempdir().unwrap();
    let folders = ["a", "b"].map(|name| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let mut shards = some_documents(2, 40, 12);
        for documents in &mut shards {
            let mark = |documents: &mut Vec<Vec<u32>>, token: u32| {
                documents.iter_mut().for_each(|document| document.fill(token));
            };
            mark(&mut documents.train, 300);
            mark(&mut documents.held_out, 400);
        }
        write_folder(&path, 2, &shards);
        ShardFolder { path, weight: Some(1.0) }
    });
    let corpus = Corpus::open_weighted(&folders).unwrap();
    assert!(corpus.documents(Split::HeldOut) > 0);
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        let batches = batches(&corpus, &LoaderConfig { policy, ..config() }, 0, 1, 0..30);
        let texts = batches.iter().flat_map(|batch| samples(&batch.micro_batches));
        assert!(texts.map(|seen| unmasked(&seen)).all(|text| text.iter().all(|token| *token == 300)));
    }
}
