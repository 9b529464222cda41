//! The order as users rely on it: the global batch of a step is the same for any number of ranks, workers and any cut into
//! micro-batches, and a training that is interrupted goes on as if nothing had happened.

use std::sync::Arc;

use loader::{Corpus, LinearMaskRate, Loader, LoaderConfig, MaskRate, SamplePolicy, ShardFolder, StepBatch};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::batches::{Seen, batches, samples};
use crate::fixture::{Documents, config, some_documents, word_piece, write_folder_of};

/// Two folders that share a tokenizer whose words are known, with weights if wanted.
pub(crate) fn two_folders(weights: bool) -> (TempDir, Arc<Corpus>) {
    let dir = tempfile::tempdir().unwrap();
    let mut shards = some_documents(5, 60, 40);
    // Those of the second folder are others.
    let second: Vec<Documents> = shards.split_off(3);
    let folders = [("a", shards, 0.7), ("b", second, 0.3)].map(|(name, shards, weight)| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        write_folder_of(&path, &word_piece(), 2, &shards);
        ShardFolder { path, weight: weights.then_some(weight) }
    });
    let corpus = Corpus::open_weighted(&folders).unwrap();
    (dir, corpus)
}

/// What must agree on all ranks, and the samples of all of them in order.
fn joined(ranks: &[StepBatch]) -> ((u64, u64, u64, u64), Vec<Seen>) {
    let counts = |batch: &StepBatch| (batch.epoch, batch.samples, batch.tokens, batch.masked_tokens);
    for rank in ranks {
        assert_eq!(counts(rank), counts(&ranks[0]));
    }
    (counts(&ranks[0]), samples(ranks.iter().flat_map(|rank| &rank.micro_batches)))
}

/// Any combination of what changes the order.
fn settings() -> impl Strategy<Value = LoaderConfig> {
    (any::<[bool; 4]>(), 64..90usize, 0..8u64, any::<u64>()).prop_map(
        |([chunk, tokens, whole_words, linear], batch_size, warmup, seed)| LoaderConfig {
            policy: if chunk { SamplePolicy::Chunk } else { SamplePolicy::Truncate },
            batch_size,
            batch_tokens: if tokens { 16 * batch_size } else { 0 },
            batch_warmup_steps: warmup,
            batch_warmup_from: 1.0 - warmup as f64 / 100.0,
            whole_word_masking: whole_words,
            mask_rate: match linear {
                true => MaskRate::Linear(LinearMaskRate { from: 0.4, to: 0.1, first_step: 0, steps: 9 }),
                false => MaskRate::Constant(0.3),
            },
            seed,
            ..config()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_global_batch_is_the_same_for_any_ranks_workers_and_cuts(
        config in settings(), weights in any::<bool>(), step in 0..12u64, budgets in any::<[u16; 5]>(),
    ) {
        let (_dir, corpus) = two_folders(weights);
        let one = batches(&corpus, &LoaderConfig { workers: 1, slots: 1, ..config.clone() }, 0, 1, step..step + 1);
        let expected = joined(&one);
        let ways = [(1, 2), (2, 1), (3, 3), (8, 2), (57, 1)].into_iter().zip(budgets);
        for ((world_size, workers), budget) in ways {
            let config = LoaderConfig { workers, micro_batch_tokens: 1 + budget as usize % 400, ..config.clone() };
            let ranks: Vec<StepBatch> = (0..world_size)
                .flat_map(|rank| batches(&corpus, &config, rank, world_size, step..step + 1))
                .collect();
            prop_assert_eq!(&joined(&ranks), &expected, "{} ranks", world_size);
        }
    }

    /// A training that is stopped and goes on with other numbers of ranks and workers and another budget, with batches
    /// under way each time, sees exactly the samples that it would have seen.
    #[test]
    fn an_interrupted_training_goes_on_as_if_nothing_had_happened(
        config in settings(), weights in any::<bool>(), stops in proptest::collection::vec((1..6u64, 1..5usize, 1..4usize), 3),
    ) {
        let (_dir, corpus) = two_folders(weights);
        let end = 12;
        let whole: Vec<_> =
            batches(&corpus, &config, 0, 1, 0..end).iter().map(|batch| joined(std::slice::from_ref(batch))).collect();
        let mut seen = Vec::new();
        let mut ways = stops.into_iter().chain([(end, 1, 1)]);
        while seen.len() < end as usize {
            let (steps, world_size, workers) = ways.next().unwrap();
            let config = LoaderConfig { workers, slots: 3, micro_batch_tokens: 40 * workers, ..config.clone() };
            let first = seen.len() as u64;
            // Loaders that would go on to the end, and are dropped before.
            let mut ranks: Vec<Loader> = (0..world_size)
                .map(|rank| Loader::start(Arc::clone(&corpus), &config, rank, world_size, first, end).unwrap())
                .collect();
            for step in first..(first + steps).min(end) {
                let batches: Vec<StepBatch> = ranks
                    .iter_mut()
                    .map(|rank| StepBatch::clone(&rank.next().unwrap().unwrap()))
                    .collect();
                assert!(batches.iter().all(|batch| batch.step == step));
                seen.push(joined(&batches));
            }
        }
        prop_assert_eq!(seen, whole);
    }
}

/// Ranks get equal work, and as many micro-batches: they wait for each other at every step.
#[test]
fn ranks_have_nearly_equal_parts() {
    let (_dir, corpus) = two_folders(true);
    let config = LoaderConfig { batch_size: 128, micro_batch_tokens: 100, ..config() };
    for world_size in [2, 3, 8] {
        let ranks: Vec<StepBatch> =
            (0..world_size).flat_map(|rank| batches(&corpus, &config, rank, world_size, 4..5)).collect();
        let tokens =
            |rank: &StepBatch| rank.micro_batches.iter().map(|micro| micro.tokens() as u64).sum::<u64>();
        let equal = ranks[0].tokens / world_size as u64;
        for rank in &ranks {
            assert!(tokens(rank).abs_diff(equal) <= 16, "{} of {equal}", tokens(rank));
            assert!(rank.micro_batches.len().abs_diff(ranks[0].micro_batches.len()) <= 1);
        }
    }
}

#[test]
fn a_batch_of_tokens_has_them_on_average() {
    for (policy, weights) in [(SamplePolicy::Truncate, false), (SamplePolicy::Chunk, true)] {
        let (_dir, corpus) = two_folders(weights);
        let config = LoaderConfig { policy, batch_tokens: 500, ..config() };
        let batches = batches(&corpus, &config, 0, 1, 0..200);
        let mean = batches.iter().map(|batch| batch.tokens).sum::<u64>() as f64 / 200.0;
        assert!((mean - 500.0).abs() < 10.0, "{mean}");
        let sizes: Vec<u64> = batches.iter().map(|batch| batch.samples).collect();
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
    }
}

#[test]
fn a_batch_grows_to_its_full_size() {
    let (_dir, corpus) = two_folders(false);
    let config = LoaderConfig { batch_size: 40, batch_warmup_steps: 10, batch_warmup_from: 0.25, ..config() };
    let sizes: Vec<u64> = batches(&corpus, &config, 0, 1, 0..12).iter().map(|batch| batch.samples).collect();
    // The first k steps take 10 k + 30 k² / 20, rounded down.
    assert_eq!(sizes, [11, 15, 17, 21, 23, 27, 29, 33, 35, 39, 40, 40]);
}
