//! Which samples make up the batch of a step: arithmetic, with no state and no stored order.
//!
//! A training is one sequence of samples, cut into steps by `batch_size`. `mixture` says which of several weighted
//! parts each sample of the sequence comes from, and `shuffle` in which order each part gives its samples, epoch
//! after epoch without a gap; so a batch may hold the end of one epoch and the beginning of the next. Rank, world size,
//! micro-batches and workers have no part in it.

use crate::batch_size::{BatchSizes, TOKEN_FRACTION};
use crate::config::LoaderConfig;
use crate::error::Error;
use crate::mixture::{self, Mixture};
use crate::shuffle::{self, Shuffle};

/// One visit of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId {
    /// How often every sample of its part has been visited before.
    pub epoch: u64,
    /// The sample's number, counting through all parts.
    pub sample: u64,
}

/// Samples that are shuffled among themselves and have a share of every batch: those of a weighted shard folder, or of
/// all folders where there are no weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Number of samples, neither zero nor above 2^62 (no disk holds so many).
    pub samples: u64,
    /// Share of the samples of a batch, in proportion to the other parts' weights.
    pub weight: f64,
    /// Mean length of a sample in tokens, `[CLS]` and `[SEP]` included. Only batches counted in tokens need it.
    pub mean_len: f64,
}

/// The order of all samples over all steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    sizes: BatchSizes,
    mixture: Mixture,
    sources: Vec<Source>,
}

/// A part, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    /// The number of its first sample.
    first: u64,
    shuffle: Shuffle,
}

impl Source {
    /// Appends the next `count` samples at a place; goes to the place behind them.
    fn take(&self, place: &mut shuffle::Place, count: usize, ids: &mut Vec<SampleId>) {
        self.shuffle
            .take(place, count, |epoch, sample| ids.push(SampleId { epoch, sample: self.first + sample }));
    }
}

/// A place in the order, and the windows of the shuffle that it lies in. Whatever stands there changes no result; going on
/// where the last batch ended is faster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    mixture: mixture::Place,
    sources: Vec<shuffle::Place>,
    scratch: Scratch,
}

/// What mixing works with, kept for its memory.
#[derive(Clone, Debug, Default)]
struct Scratch {
    /// The source of each sample.
    turns: Vec<usize>,
    /// The samples of the first source, then those of the second, and so on.
    taken: Vec<SampleId>,
    /// For each source where its next sample stands.
    next: Vec<usize>,
}

impl Plan {
    /// The plan for the parts of a corpus, with the batch size, seed and shuffle of `config`.
    ///
    /// # Errors
    /// [`Error::Config`] when a setting or a weight is out of its range, [`Error::EmptySplit`] when a part has no samples.
    pub fn new(parts: &[Part], config: &LoaderConfig) -> Result<Self, Error> {
        config.validate()?;
        if parts.is_empty() || parts.iter().any(|part| part.samples == 0) {
            return Err(Error::EmptySplit { split: "training", hint: "" });
        }
        let weights: Vec<f64> = parts.iter().map(|part| part.weight).collect();
        let mixture = Mixture::new(&weights)?;
        let mean_len = mixture.mean(parts.iter().map(|part| (part.mean_len * TOKEN_FRACTION as f64) as u64));
        let mut first = 0;
        let sources = (0..).zip(parts).map(|(number, part)| {
            let (block, window) = (config.shuffle_block, config.shuffle_window);
            let source =
                Source { first, shuffle: Shuffle::new(part.samples, config.seed, number, block, window) };
            first += part.samples;
            source
        });
        Ok(Self { sizes: BatchSizes::new(config, mean_len)?, sources: sources.collect(), mixture })
    }

    /// Samples of all parts, each once.
    pub fn samples(&self) -> u64 {
        self.sources.iter().map(|source| source.shuffle.samples()).sum()
    }

    /// The epoch of the first sample of a step, counted from 0: how often every sample had been visited before, of several
    /// parts the one least visited.
    pub fn epoch(&self, step: u64) -> u64 {
        self.seek(&mut Place::default(), step)
    }

    /// Number of samples in the global batch of a step, counted from 0.
    pub fn batch_size(&self, step: u64) -> usize {
        self.sizes.len(step)
    }

    /// How many steps, from step `from` on, take `samples` samples or more.
    pub fn steps_for(&self, samples: u64, from: u64) -> u64 {
        let until = self.sizes.start(from) + u128::from(samples);
        let (mut low, mut high) = (from, from + samples.div_ceil(self.smallest_batch() as u64));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.sizes.start(middle) < until {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low - from
    }

    /// No step has fewer samples.
    pub fn smallest_batch(&self) -> usize {
        self.sizes.smallest()
    }

    /// No step has more samples.
    pub fn largest_batch(&self) -> usize {
        self.sizes.largest()
    }

    /// The global batch of a step, counted from 0, put into `ids` in place of what was there.
    pub fn samples_in(&self, step: u64, ids: &mut Vec<SampleId>) {
        self.samples_from(&mut Place::default(), step, ids);
    }

    /// As [`samples_in`](Plan::samples_in), from the place where another batch ended to that where this one ends. Gives
    /// the epoch.
    pub(crate) fn samples_from(&self, place: &mut Place, step: u64, ids: &mut Vec<SampleId>) -> u64 {
        let epoch = self.seek(place, step);
        let len = self.sizes.len(step);
        ids.clear();
        let Place { mixture, sources, scratch: Scratch { turns, taken, next } } = place;
        if let ([source], [place]) = (&self.sources[..], &mut sources[..]) {
            source.take(place, len, ids);
            return epoch;
        }
        // Many samples of a source cost less than one at a time, so their turns are decided first.
        next.clear();
        next.resize(self.sources.len(), 0);
        turns.clear();
        turns.extend((0..len).map(|_| self.mixture.next(mixture)));
        turns.iter().for_each(|number| next[*number] += 1);
        taken.clear();
        for ((source, place), next) in self.sources.iter().zip(sources).zip(&mut *next) {
            let count = std::mem::replace(next, taken.len());
            source.take(place, count, taken);
        }
        ids.extend(turns.iter().map(|number| {
            let at = next[*number];
            next[*number] += 1;
            taken[at]
        }));
        epoch
    }

    /// Goes to the first sample of a step, which is in the epoch that is given back.
    fn seek(&self, place: &mut Place, step: u64) -> u64 {
        place.sources.resize_with(self.sources.len(), Default::default);
        let mut least = u64::MAX;
        self.mixture.seek(self.sizes.start(step), &mut place.mixture, |number, before| {
            let shuffle = &self.sources[number].shuffle;
            shuffle.seek(before, &mut place.sources[number]);
            least = least.min(shuffle.epoch(before));
        });
        least
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn whole(samples: u64) -> Part {
        Part { samples, weight: 1.0, mean_len: 100.0 }
    }

    fn plan(samples: u64, batch_size: usize, block: u64, window: u64, seed: u64) -> Plan {
        let config = LoaderConfig {
            batch_size,
            seed,
            shuffle_block: block,
            shuffle_window: window,
            ..Default::default()
        };
        Plan::new(&[whole(samples)], &config).unwrap()
    }

    fn batch(plan: &Plan, step: u64) -> Vec<SampleId> {
        let mut ids = Vec::new();
        plan.samples_in(step, &mut ids);
        ids
    }

    /// The first `epochs` epochs, read through batches of one epoch.
    fn epochs(samples: u64, block: u64, window: u64, epochs: u64) -> Vec<Vec<u64>> {
        let plan = plan(samples, samples as usize, block, window, 3);
        (0..epochs)
            .map(|epoch| {
                let ids = batch(&plan, epoch);
                assert!(ids.iter().all(|id| id.epoch == epoch));
                ids.into_iter().map(|id| id.sample).collect()
            })
            .collect()
    }

    /// Both levels together: every size to 10,000 in a release build, and some of them with overflow checks.
    #[test]
    fn every_small_size_is_visited_whole() {
        let stride = if cfg!(debug_assertions) { 211 } else { 1 };
        for samples in (1..200).chain((200..=10_000).step_by(stride)) {
            let (block, window) = (1 + samples % 67, 1 + samples % 5);
            let order = &epochs(samples, block, window, 1)[0];
            let mut seen = vec![false; samples as usize];
            order.iter().for_each(|sample| seen[*sample as usize] = true);
            assert!(seen.iter().all(|seen| *seen), "{samples} samples, block {block}, window {window}");
        }
    }

    #[test]
    fn steps_are_counted_while_a_batch_grows_and_where_it_is_of_tokens() {
        assert_eq!(
            [0, 1, 16, 17, 300].map(|samples| plan(540, 16, 8, 8, 1).steps_for(samples, 5)),
            [0, 1, 1, 2, 19]
        );
        let growing = LoaderConfig {
            batch_size: 1000,
            batch_warmup_from: 0.2,
            batch_warmup_steps: 100,
            ..Default::default()
        };
        let growing = Plan::new(&[whole(540)], &growing).unwrap();
        // 60,000 samples in the hundred steps of the warm-up, then 1000 each.
        assert_eq!([60_000, 60_001, 70_000].map(|samples| growing.steps_for(samples, 0)), [100, 101, 110]);
        assert_eq!(growing.steps_for(10_000, 100), 10);
        let tokens = LoaderConfig { batch_tokens: 1600, ..Default::default() };
        assert_eq!(Plan::new(&[whole(540)], &tokens).unwrap().steps_for(540, 0), 34);
    }

    proptest! {
        #[test]
        fn the_steps_that_are_counted_are_the_fewest(
            batch in 1..5000usize, grown_from in 0.0..1.0f64, warmup in 0..300u64, wanted in 1..1u64 << 30, from in 0..1000u64,
        ) {
            let config = LoaderConfig {
                batch_size: batch, batch_warmup_from: grown_from, batch_warmup_steps: warmup, ..Default::default()
            };
            let plan = Plan::new(&[whole(1)], &config).unwrap();
            let steps = plan.steps_for(wanted, from);
            let taken = |steps: u64| plan.sizes.start(from + steps) - plan.sizes.start(from);
            prop_assert!(taken(steps) >= u128::from(wanted) && taken(steps - 1) < u128::from(wanted));
        }

        /// Too large to visit whole: no sample comes twice in what is visited of an epoch.
        #[test]
        fn large_sizes_repeat_nothing(
            samples in 100_000..1u64 << 50, block in 1..100_000u64, window in 1..5000u64, seed in any::<u64>(),
            steps in any::<[u64; 8]>(),
        ) {
            let plan = plan(samples, 500, block, window, seed);
            let steps: HashSet<u64> = steps.map(|step| step % (samples / 500)).into();
            let ids: Vec<SampleId> = steps.iter().flat_map(|step| batch(&plan, *step)).collect();
            prop_assert!(ids.iter().all(|id| id.epoch == 0 && id.sample < samples));
            prop_assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 500 * steps.len());
        }

        #[test]
        fn every_epoch_visits_every_sample_once(
            samples in 1..3000u64, block in 1..200u64, window in 1..20u64, batch_size in 1..400usize, seed in any::<u64>(),
        ) {
            let plan = plan(samples, batch_size, block, window, seed);
            let steps = (2 * samples).div_ceil(batch_size as u64);
            let visits: Vec<SampleId> = (0..steps).flat_map(|step| batch(&plan, step)).collect();
            for (epoch, visits) in visits.chunks_exact(samples as usize).enumerate() {
                prop_assert!(visits.iter().all(|id| id.epoch == epoch as u64 && id.sample < samples));
                prop_assert_eq!(visits.iter().map(|id| id.sample).collect::<HashSet<_>>().len() as u64, samples);
            }
        }

        /// The window bounds how far apart samples read together lie: at most `window` blocks.
        #[test]
        fn a_window_reads_no_more_than_its_blocks(samples in 1..3000u64, block in 1..100u64, window in 1..10u64) {
            let order = &epochs(samples, block, window, 1)[0];
            // The short block may stand in any window, so cut by distinct blocks instead of by positions.
            let mut open = HashSet::new();
            let mut closed = HashSet::new();
            let mut left = 0;
            for &sample in order {
                prop_assert!(!closed.contains(&(sample / block)));
                if open.insert(sample / block) {
                    prop_assert!(open.len() as u64 <= window);
                    left += block.min(samples - sample / block * block);
                }
                left -= 1;
                if left == 0 && open.len() as u64 == window {
                    closed.extend(open.drain());
                }
            }
        }

        #[test]
        fn huge_corpora_and_late_steps_stay_in_range(samples in 1..1u64 << 62, step in 0..1u64 << 48, seed in any::<u64>()) {
            let plan = plan(samples, 5, 1024, 4096, seed);
            prop_assert!(batch(&plan, step).iter().all(|id| id.sample < samples));
        }
    }

    #[test]
    fn consecutive_epochs_differ_and_neither_is_sorted() {
        let orders = epochs(1000, 64, 4, 3);
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        for order in &orders {
            // In a random order the expected number of fixed points is one; 15 would have probability 1e-12.
            assert!(order.iter().enumerate().filter(|(i, sample)| *i as u64 == **sample).count() < 15);
        }
    }

    /// Where one sample went says nothing about where it goes in the next epoch: over pairs of consecutive epochs, its
    /// places in both fall into each of 64 fields equally often. A chi-square of 63 degrees of freedom; beyond 140 lies one
    /// right program in fifteen million.
    #[test]
    fn consecutive_epochs_are_independent() {
        let (samples, block, window) = (64, 8, 8);
        let mut counts = [0u64; 64];
        for seed in 0..400 {
            let plan = plan(samples, samples as usize, block, window, seed);
            let places: Vec<Vec<u64>> = (0..2)
                .map(|epoch| {
                    let mut places = vec![0; samples as usize];
                    for (place, id) in batch(&plan, epoch).iter().enumerate() {
                        places[id.sample as usize] = place as u64;
                    }
                    places
                })
                .collect();
            for (first, second) in places[0].iter().zip(&places[1]) {
                counts[(first / 8 * 8 + second / 8) as usize] += 1;
            }
        }
        let expected = 400.0;
        let chi2: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        assert!(chi2 < 140.0, "chi-square {chi2:.0}");
    }

    #[test]
    fn a_step_equals_its_part_of_the_sequence_whatever_the_batch_size() {
        let (samples, block, window) = (1000, 37, 5);
        let one_by_one: Vec<SampleId> =
            (0..3000).flat_map(|step| batch(&plan(samples, 1, block, window, 8), step)).collect();
        for batch_size in [7, 64, 999, 1500] {
            let plan = plan(samples, batch_size, block, window, 8);
            for step in 0..3000 / batch_size {
                let expected = &one_by_one[step * batch_size..(step + 1) * batch_size];
                assert_eq!(batch(&plan, step as u64), expected);
            }
        }
    }

    /// Over the seeds a sample is equally likely at every position, also with several windows, as long as all blocks are
    /// full. Each sample is a chi-square of 23 degrees of freedom; beyond 76 lies one right program in ten million.
    #[test]
    fn positions_are_uniform_over_the_seeds() {
        let (samples, seeds) = (24, 20_000);
        let mut counts = vec![vec![0u64; samples]; samples];
        for seed in 0..seeds {
            for (position, id) in batch(&plan(samples as u64, samples, 4, 2, seed), 0).iter().enumerate() {
                counts[id.sample as usize][position] += 1;
            }
        }
        let expected = seeds as f64 / samples as f64;
        for (sample, counts) in counts.iter().enumerate() {
            let chi2: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
            assert!(chi2 < 76.0, "sample {sample}: chi-square {chi2:.0}");
        }
    }

    /// Two parts, the second with three times the weight: each is visited evenly, epoch by epoch, and a batch holds its
    /// share of both.
    #[test]
    fn parts_of_a_mixture_have_epochs_of_their_own() {
        let parts = [(20, 1.0), (90, 3.0)].map(|(samples, weight)| Part { samples, weight, mean_len: 9.0 });
        let config =
            LoaderConfig { batch_size: 8, shuffle_block: 7, shuffle_window: 2, ..Default::default() };
        let plan = Plan::new(&parts, &config).unwrap();
        assert_eq!(plan.samples(), 110);
        let visits: Vec<SampleId> = (0..90).flat_map(|step| batch(&plan, step)).collect();
        for batch in visits.chunks(8) {
            assert_eq!(batch.iter().filter(|id| id.sample < 20).count(), 2);
        }
        for (first, samples) in [(0, 20), (20, 90)] {
            let of_part: Vec<&SampleId> =
                visits.iter().filter(|id| (first..first + samples).contains(&id.sample)).collect();
            for (epoch, visits) in of_part.chunks_exact(samples as usize).enumerate() {
                assert!(visits.iter().all(|id| id.epoch == epoch as u64));
                assert_eq!(visits.iter().map(|id| id.sample).collect::<HashSet<_>>().len() as u64, samples);
            }
        }
        // 80 samples of the first part, 240 of the second: four and nearly three epochs.
        assert_eq!((plan.epoch(0), plan.epoch(40)), (0, 2));
    }

    /// Equal numbers of samples under one seed are still shuffled independently.
    #[test]
    fn parts_of_a_mixture_have_orders_of_their_own() {
        let plan =
            Plan::new(&[whole(50), whole(50)], &LoaderConfig { batch_size: 100, ..Default::default() });
        let ids = batch(&plan.unwrap(), 0);
        let order = |first: u64| -> Vec<u64> {
            let of_part = ids.iter().filter(|id| (first..first + 50).contains(&id.sample));
            of_part.map(|id| id.sample - first).collect()
        };
        assert_eq!(order(0).len(), 50);
        assert_ne!(order(0), order(50));
    }

    #[test]
    fn a_growing_batch_takes_the_same_samples_in_other_steps() {
        let parts = [whole(1000)];
        let config = LoaderConfig {
            batch_size: 64,
            batch_warmup_steps: 20,
            batch_warmup_from: 0.25,
            ..Default::default()
        };
        let growing = Plan::new(&parts, &config).unwrap();
        let steps: Vec<SampleId> = (0..30).flat_map(|step| batch(&growing, step)).collect();
        assert_eq!(steps.len(), 20 * 40 + 10 * 64);
        assert_eq!((growing.batch_size(0), growing.batch_size(20)), (17, 64));
        let config = LoaderConfig { batch_size: 1, batch_warmup_steps: 0, ..config };
        let one_by_one = Plan::new(&parts, &config).unwrap();
        let expected: Vec<SampleId> =
            (0..steps.len() as u64).flat_map(|step| batch(&one_by_one, step)).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn parts_without_samples_are_refused() {
        for parts in [&[][..], &[whole(0)], &[whole(5), whole(0)]] {
            assert!(matches!(Plan::new(parts, &LoaderConfig::default()), Err(Error::EmptySplit { .. })));
        }
    }
}
