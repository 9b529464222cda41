//! What the loader gives: right in itself, and the same for any number of workers and ranks and any first step.

// One test hands over memory of its own.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use loader::shard::{Manifest, Shard};
use loader::{
    Corpus, Error, HeldOutConfig, LinearMaskRate, Loader, LoaderConfig, MaskRate, MicroBatch, Plan, Region,
    SamplePolicy, Split, StepBatch, held_out_batches, measure,
};

use proptest::prelude::*;

use crate::fixture::{Documents, SPECIAL, VOCAB, config, corpus, some_documents, write_folder};

pub(crate) fn batches(
    corpus: &Arc<Corpus>,
    config: &LoaderConfig,
    rank: usize,
    world_size: usize,
    steps: std::ops::Range<u64>,
) -> Vec<StepBatch> {
    Loader::start(Arc::clone(corpus), config, rank, world_size, steps.start, steps.end)
        .unwrap()
        .map(|batch| StepBatch::clone(&batch.unwrap()))
        .collect()
}

/// A sample as the model sees it: ids, and what is to be predicted where.
pub(crate) type Seen = (Vec<i32>, Vec<(i32, i32)>);

/// The samples of micro-batches, wherever the cuts are; checks what must hold for each micro-batch.
pub(crate) fn samples<'a>(batches: impl IntoIterator<Item = &'a MicroBatch>) -> Vec<Seen> {
    let mut seen = Vec::new();
    for batch in batches {
        assert_eq!((batch.cu_seqlens[0], *batch.cu_seqlens.last().unwrap()), (0, batch.tokens() as i32));
        assert_eq!(batch.cu_seqlens.len(), batch.samples() + 1);
        assert_eq!(batch.masked_positions.len(), batch.labels.len());
        assert!(batch.masked_positions.is_sorted());
        let mut longest = 0;
        for ends in batch.cu_seqlens.windows(2) {
            let (start, end) = (ends[0] as usize, ends[1] as usize);
            longest = longest.max(end - start);
            let ids = batch.input_ids[start..end].to_vec();
            assert_eq!((ids[0], ids[end - start - 1]), (SPECIAL.cls as i32, SPECIAL.sep as i32));
            let predictions = batch
                .masked_positions
                .iter()
                .zip(&batch.labels)
                .filter(|(position, _)| (start as i32..end as i32).contains(position))
                .map(|(position, label)| (position - start as i32, *label))
                .collect();
            seen.push((ids, predictions));
        }
        assert_eq!(batch.max_seqlen, longest);
    }
    seen
}

/// The text of a sample before it was masked.
pub(crate) fn unmasked((ids, predictions): &Seen) -> Vec<u32> {
    let mut ids = ids.clone();
    predictions.iter().for_each(|(position, label)| ids[*position as usize] = *label);
    ids[1..ids.len() - 1].iter().map(|id| *id as u32).collect()
}

#[test]
fn batches_hold_the_samples_of_the_plan_and_their_counts() {
    let (_dir, corpus) = corpus(3, 40, 30);
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        let config = LoaderConfig { policy, ..config() };
        let of_policy = corpus.samples(Split::Train, policy, config.seq_len).unwrap();
        let plan = Plan::new(&of_policy.parts(false).unwrap(), &config).unwrap();
        let mut ids = Vec::new();
        // Far enough for a second epoch.
        for batch in batches(&corpus, &config, 0, 1, 0..30) {
            plan.samples_in(batch.step, &mut ids);
            let seen = samples(&batch.micro_batches);
            let expected: Vec<Vec<u32>> =
                ids.iter().map(|id| of_policy.get(id.sample).unwrap().to_vec()).collect();
            assert_eq!(seen.iter().map(unmasked).collect::<Vec<_>>(), expected);
            assert_eq!((batch.samples, batch.epoch), (12, ids[0].epoch));
            assert_eq!(batch.tokens, seen.iter().map(|(ids, _)| ids.len() as u64).sum::<u64>());
            assert_eq!(batch.masked_tokens, seen.iter().map(|(_, chosen)| chosen.len() as u64).sum::<u64>());
            for (ids, chosen) in &seen {
                assert!(ids.iter().all(|id| (0..VOCAB as i32).contains(id)));
                assert!(chosen.iter().all(|(_, label)| !SPECIAL.ids().contains(&(*label as u32))));
            }
        }
    }
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let one = batches(&corpus, &LoaderConfig { workers: 1, slots: 1, ..config() }, 0, 1, 0..40);
    assert_eq!(one.len(), 40);
    for workers in [2, 3, 4, 16] {
        assert_eq!(batches(&corpus, &LoaderConfig { workers, slots: 8, ..config() }, 0, 1, 0..40), one);
    }
}

#[test]
fn ranks_share_the_batch_of_a_single_rank() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let config = config();
    for whole in batches(&corpus, &config, 0, 1, 0..12) {
        let steps = whole.step..whole.step + 1;
        for world_size in [2, 3, 8, 12] {
            let ranks: Vec<StepBatch> = (0..world_size)
                .flat_map(|rank| batches(&corpus, &config, rank, world_size, steps.clone()))
                .collect();
            for rank in &ranks {
                assert_eq!(
                    (rank.masked_tokens, rank.tokens, rank.samples, rank.epoch),
                    (whole.masked_tokens, whole.tokens, whole.samples, whole.epoch)
                );
                assert!(!rank.micro_batches.is_empty());
            }
            let union = samples(ranks.iter().flat_map(|rank| &rank.micro_batches));
            assert_eq!(union, samples(&whole.micro_batches), "{world_size} ranks");
        }
    }
}

#[test]
fn any_step_can_be_the_first() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let all = batches(&corpus, &config(), 0, 1, 0..50);
    for first in [1, 7, 8, 49] {
        // Another number of ranks and workers after the interruption, as well.
        let resumed: Vec<Vec<StepBatch>> = (0..3)
            .map(|rank| batches(&corpus, &LoaderConfig { workers: 3, ..config() }, rank, 3, first..50))
            .collect();
        for (i, whole) in all[first as usize..].iter().enumerate() {
            let union = samples(resumed.iter().flat_map(|rank| &rank[i].micro_batches));
            assert_eq!(union, samples(&whole.micro_batches));
        }
    }
    assert!(batches(&corpus, &config(), 0, 1, 50..50).is_empty());
}

#[test]
fn micro_batches_keep_their_budget_and_decide_nothing_else() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let whole = samples(&batches(&corpus, &config(), 0, 1, 3..4)[0].micro_batches);
    for micro_batch_tokens in [1, 16, 17, 40, 64, 100_000] {
        let config = LoaderConfig { micro_batch_tokens, ..config() };
        let batch = &batches(&corpus, &config, 0, 1, 3..4)[0];
        assert_eq!(samples(&batch.micro_batches), whole);
        let largest = batch.micro_batches.iter().map(MicroBatch::tokens).max().unwrap();
        for (i, micro_batch) in batch.micro_batches.iter().enumerate() {
            assert!(micro_batch.samples() >= 1);
            assert!(micro_batch.tokens() <= micro_batch_tokens || micro_batch.samples() == 1);
            // Filled as far as the next sample allows, but for a cut that is as even as can be.
            if let Some(next) = batch.micro_batches.get(i + 1) {
                assert!(micro_batch.tokens() + next.cu_seqlens[1] as usize > largest);
            }
        }
    }
}

#[test]
fn the_mask_of_a_sample_does_not_depend_on_its_batch() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let by_text = |batch_size: usize, steps: u64| -> BTreeMap<Vec<u32>, Seen> {
        let config = LoaderConfig { batch_size, micro_batch_tokens: 16 * batch_size, ..config() };
        batches(&corpus, &config, 0, 1, 0..steps)
            .iter()
            .flat_map(|batch| samples(&batch.micro_batches))
            .map(|seen| (unmasked(&seen), seen))
            .collect()
    };
    // 108 training documents: both read exactly the first epoch.
    let small = by_text(4, 27);
    assert_eq!(small.len(), 108, "the fixture's documents differ");
    assert_eq!(small, by_text(54, 2));
}

#[test]
fn used_batches_are_filled_again_without_a_trace() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let fresh = batches(&corpus, &config(), 0, 1, 0..40);
    let mut loader = Loader::start(corpus, &config(), 0, 1, 0, 40).unwrap();
    for expected in fresh {
        let batch = loader.next().unwrap().unwrap();
        assert_eq!(*batch, expected);
        loader.recycle(batch);
    }
}

#[test]
fn batches_lie_in_memory_from_outside() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let expected = batches(&corpus, &config(), 0, 1, 0..9);
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&ranges);
    let loader = Loader::builder(Arc::clone(&corpus), &config()).steps(0..9).slots(move |bytes| {
        let mut owner = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let start = NonNull::from(&mut owner[..]).cast::<u8>();
        given.lock().unwrap().push(start.addr().get()..start.addr().get() + bytes);
        // SAFETY: the box keeps its memory until it is dropped, and nothing else uses it.
        Ok(unsafe { Region::from_raw(start, bytes, Box::new(owner)) })
    });
    for (batch, expected) in loader.start().unwrap().zip(expected) {
        let batch = batch.unwrap();
        assert_eq!(*batch, expected);
        for micro_batch in &batch.micro_batches {
            let address = micro_batch.labels.as_ptr().addr();
            assert!(ranges.lock().unwrap().iter().any(|range| range.contains(&address)));
        }
    }
    assert_eq!(ranges.lock().unwrap().len(), config().slots);
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let (_dir, corpus) = corpus(1, 10, 10);
    let none = |_| Err(io::Error::from(io::ErrorKind::OutOfMemory));
    let error = Loader::builder(corpus, &config()).slots(none).start().unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
}

#[test]
fn holding_every_batch_is_an_error_and_not_a_standstill() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let mut loader = Loader::start(corpus, &config(), 0, 1, 0, 50).unwrap();
    let mut held: Vec<_> = loader.by_ref().take(4).map(Result::unwrap).collect();
    let error = loader.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::AllSlotsHeld { slots: 4 }), "{error}");
    held.remove(0);
    assert_eq!(loader.next().unwrap().unwrap().step, 4);
}

#[test]
fn measuring_counts_what_was_taken() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let mut loader = Loader::start(Arc::clone(&corpus), &config(), 0, 1, 0, 50).unwrap();
    let fast = measure(&mut loader, 10, None).unwrap();
    // Four slots were emptied first.
    assert_eq!((fast.steps, loader.next().unwrap().unwrap().step), (10, 14));
    assert!(fast.tokens_per_s > fast.samples_per_s && (0.0..=1.0).contains(&fast.wait_share));
    let paced = measure(&mut loader, 1000, Some(1e6)).unwrap();
    assert_eq!(paced.steps, 35);
    assert!(paced.tokens_per_s <= 1e6);
}

#[test]
fn the_mask_rate_follows_its_schedule() {
    let (_dir, corpus) = corpus(3, 200, 30);
    let mask_rate = MaskRate::Linear(LinearMaskRate { from: 0.9, to: 0.1, first_step: 0, steps: 20 });
    let config = LoaderConfig { mask_rate, batch_size: 200, ..config() };
    let batches = batches(&corpus, &config, 0, 1, 0..22);
    for (step, rate) in [(0, 0.9), (10, 0.5), (20, 0.1), (21, 0.1)] {
        let batch = &batches[step];
        assert!((batch.mask_rate - rate).abs() < 1e-12);
        let text: u64 = samples(&batch.micro_batches)
            .iter()
            .map(|seen| unmasked(seen).iter().filter(|id| !SPECIAL.ids().contains(id)).count() as u64)
            .sum();
        // Five standard deviations.
        let (mean, deviation) = (text as f64 * rate, (text as f64 * rate * (1.0 - rate)).sqrt());
        assert!((batch.masked_tokens as f64 - mean).abs() < 5.0 * deviation, "step {step}");
    }
}

#[test]
fn held_out_batches_hold_every_held_out_sample_once() {
    let (_dir, corpus) = corpus(3, 40, 30);
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        let config =
            HeldOutConfig { policy, seq_len: 16, micro_batch_tokens: 40, ..HeldOutConfig::default() };
        let of_policy = corpus.samples(Split::HeldOut, policy, 16).unwrap();
        let read = |config: &HeldOutConfig| -> Vec<MicroBatch> {
            held_out_batches(Arc::clone(&corpus), config).unwrap().map(Result::unwrap).collect()
        };
        let whole = samples(&read(&config));
        let mut texts: Vec<Vec<u32>> = whole.iter().map(unmasked).collect();
        let mut expected: Vec<Vec<u32>> =
            (0..of_policy.len()).map(|i| of_policy.get(i).unwrap().to_vec()).collect();
        texts.sort();
        expected.sort();
        assert_eq!(texts, expected);
        assert_eq!(read(&config), read(&config));
        // A limit takes the first of them, and ranks share them.
        let limited = HeldOutConfig { limit: Some(5), ..config.clone() };
        assert_eq!(samples(&read(&limited)), whole[..5]);
        let shares: Vec<Seen> = (0..7)
            .flat_map(|rank| {
                let share = held_out_batches(Arc::clone(&corpus), &config).unwrap().share(rank, 7).unwrap();
                samples(&share.map(Result::unwrap).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(shares, whole);
    }
}

#[test]
fn training_and_held_out_samples_are_those_of_their_split() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let texts = |split| -> Vec<Vec<u32>> {
        (0..corpus.documents(split)).map(|i| corpus.document(split, i).unwrap().to_vec()).collect()
    };
    let held_out = texts(Split::HeldOut);
    assert!(!held_out.is_empty() && texts(Split::Train).iter().all(|text| !held_out.contains(text)));
}

#[test]
fn a_loader_that_is_dropped_early_stops() {
    let (_dir, corpus) = corpus(3, 40, 30);
    let mut loader = Loader::start(Arc::clone(&corpus), &config(), 0, 1, 0, u64::MAX).unwrap();
    loader.next().unwrap().unwrap();
    drop(loader);
    assert_eq!(Arc::strong_count(&corpus), 1, "no thread holds the corpus any more");
}

#[test]
fn settings_that_cannot_work_are_refused_at_start() {
    let (_dir, corpus) = corpus(1, 10, 10);
    let message = |config: LoaderConfig, rank, world_size| {
        Loader::start(Arc::clone(&corpus), &config, rank, world_size, 0, 1).unwrap_err().to_string()
    };
    assert_eq!(
        message(LoaderConfig { batch_size: 0, ..config() }, 0, 1),
        "batch_size is 0, expected 1 to 4294967295"
    );
    assert_eq!(
        message(LoaderConfig { batch_size: 3, ..config() }, 0, 4),
        "4 ranks cannot share a batch of 3 samples, which is the smallest of this training; use at most 3 ranks, or raise \
         train.batch_size, or train.batch_warmup_from where the batch grows"
    );
    assert_eq!(message(config(), 4, 4), "rank is 4, expected less than the number of ranks");
    // The first batch of a warm-up is the smallest.
    let growing = LoaderConfig { batch_warmup_steps: 10, batch_warmup_from: 0.25, ..config() };
    assert_eq!(
        message(growing, 0, 4),
        "4 ranks cannot share a batch of 3 samples, which is the smallest of this training; use at most 3 ranks, or raise \
         train.batch_size, or train.batch_warmup_from where the batch grows"
    );
    let words = message(LoaderConfig { whole_word_masking: true, ..config() }, 0, 1);
    assert!(words.starts_with("whole_word_masking needs a WordPiece tokenizer"), "{words}");
}

/// A shard whose checksums nobody has read yet, with a token that the vocabulary does not have.
#[test]
fn a_token_outside_the_vocabulary_names_shard_and_document() {
    let dir = tempfile::tempdir().unwrap();
    let train: Vec<Vec<u32>> = (0..20).map(|i| vec![500 + i; 3]).collect();
    let manifest = write_folder(dir.path(), 2, &[Documents { train, held_out: vec![vec![600]] }]);
    let path = dir.path().join(&manifest.shards[0].file);
    let mut file = fs::read(&path).unwrap();
    file[128 + 2 * 22..][..2].copy_from_slice(&60_000u16.to_le_bytes());
    fs::write(&path, &file).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    let mut loader = Loader::start(corpus, &config(), 0, 1, 0, 10).unwrap();
    let error = loader.find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::TokenOutsideVocabulary { document: 7, token: 60_000, .. }), "{error}");
    assert!(loader.next().is_none());
    assert!(Shard::open(&path).unwrap().verify().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in a shard behind its header, a training gets batches or an error that names the file: never a panic, and
    /// never a token that the model does not know.
    #[test]
    fn damaged_shards_give_batches_or_an_error(
        chunk in any::<bool>(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), 2, &some_documents(2, 40, 30));
        let path = dir.path().join("shard-00001-0000.tokens");
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in damage {
            let behind = bytes.len() - 128;
            bytes[128 + at.index(behind)] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        let corpus = Corpus::open(&[dir.path()]).unwrap();
        let policy = if chunk { SamplePolicy::Chunk } else { SamplePolicy::Truncate };
        let config = LoaderConfig { policy, ..config() };
        let mut steps = 0;
        let outcome = Loader::start(corpus, &config, 0, 1, 0, 12).and_then(|loader| {
            for batch in loader {
                let batch = batch?;
                let micro_batches = || batch.micro_batches.iter();
                let numbers = || micro_batches().flat_map(|micro| micro.input_ids.iter().chain(&*micro.labels));
                assert!(numbers().all(|id| (0..VOCAB as i32).contains(id)));
                assert_eq!(micro_batches().map(|micro| micro.tokens() as u64).sum::<u64>(), batch.tokens);
                steps += 1;
            }
            Ok(())
        });
        match outcome {
            Ok(()) => prop_assert_eq!(steps, 12),
            Err(error @ (Error::Corrupt { .. } | Error::TokenOutsideVocabulary { .. })) => {
                prop_assert!(error.to_string().contains("shard-00001-0000.tokens"), "{}", error);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
