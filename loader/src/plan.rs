//! Which samples make up the batch of a step: arithmetic, with no state and no stored order.
//!
//! The samples of an epoch are numbered 0 to n-1 and cut into blocks of neighbours. A keyed permutation orders the
//! blocks; a window is some consecutive blocks of that order, and a second permutation orders the samples of each
//! window. Epochs follow each other without a gap, so a batch may hold the end of one and the beginning of the next.
//! Rank, world size, micro-batches and workers have no part in it.

use std::ops::Range;

use crate::config::{LoaderConfig, invalid};
use crate::error::Error;
use crate::permutation::Permutation;
use crate::philox::{Key, Purpose};

/// One visit of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId {
    /// How often every sample has been visited before.
    pub epoch: u64,
    /// The sample's number.
    pub sample: u64,
}

/// The order of all samples over all steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    samples: u64,
    batch_size: u64,
    seed: u64,
    block: u64,
    window: u64,
}

impl Plan {
    /// The plan for a number of samples, which is neither zero nor above 2^62 (no disk holds so many), with the batch size, seed and shuffle of `config`.
    ///
    /// # Errors
    /// [`Error::Config`] when a setting is out of its range, [`Error::EmptySplit`] when there are no samples.
    pub fn new(samples: u64, config: &LoaderConfig) -> Result<Self, Error> {
        config.validate()?;
        if samples == 0 {
            return Err(Error::EmptySplit { split: "training", hint: "" });
        }
        // Beyond the corpus a block or a window changes nothing, and this keeps products within 64 bits.
        let block = config.shuffle_block.min(samples);
        let window = config.shuffle_window.min(samples.div_ceil(block));
        Ok(Self { samples, batch_size: config.batch_size as u64, seed: config.seed, block, window })
    }

    /// Samples in an epoch.
    pub fn epoch_samples(&self) -> u64 {
        self.samples
    }

    /// The epoch of the first sample of a step, counted from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        (self.start(step) / u128::from(self.samples)) as u64
    }

    /// The global batch of a step, counted from 0, put into `ids` in place of what was there.
    pub fn samples_in(&self, step: u64, ids: &mut Vec<SampleId>) {
        self.samples_with(&mut None, step, ids);
    }

    /// As [`samples_in`](Plan::samples_in). The window that a batch ends in is left in `recent`, where the next batch
    /// is likely to go on; whatever is there changes no result.
    pub(crate) fn samples_with(&self, recent: &mut Option<Window>, step: u64, ids: &mut Vec<SampleId>) {
        ids.clear();
        let start = self.start(step);
        let mut epoch = (start / u128::from(self.samples)) as u64;
        let mut position = (start % u128::from(self.samples)) as u64;
        let mut window = match recent.take() {
            Some(window) if window.epoch == epoch && window.positions.contains(&position) => window,
            _ => EpochOrder::new(self, epoch).window_at(position),
        };
        for _ in 0..self.batch_size {
            if position == self.samples {
                (epoch, position) = (epoch + 1, 0);
            }
            if window.epoch != epoch || !window.positions.contains(&position) {
                window = EpochOrder::new(self, epoch).window_at(position);
            }
            ids.push(SampleId { epoch, sample: window.sample(position, self.block) });
            position += 1;
        }
        *recent = Some(window);
    }

    /// The number of a step's first sample, counting through all epochs.
    fn start(&self, step: u64) -> u128 {
        u128::from(step) * u128::from(self.batch_size)
    }
}

/// The part of a global batch that is a rank's: neighbours, and the sizes of any two parts differ by one at most.
///
/// # Errors
/// [`Error::Config`] unless `rank < world_size <= batch_size`.
pub fn share(batch_size: usize, rank: usize, world_size: usize) -> Result<Range<usize>, Error> {
    if rank >= world_size {
        return Err(invalid("rank", rank, "less than the number of ranks"));
    }
    if world_size > batch_size {
        return Err(invalid("batch_size", batch_size, "at least one sample for each rank"));
    }
    let cut = |rank: usize| (rank as u128 * batch_size as u128 / world_size as u128) as usize;
    Ok(cut(rank)..cut(rank + 1))
}

/// The order of one epoch.
struct EpochOrder<'a> {
    plan: &'a Plan,
    epoch: u64,
    blocks: Permutation,
    /// Where in the order of blocks the last block stands, which may be short.
    short_at: u64,
    /// Samples that the short block lacks.
    missing: u64,
}

/// One window of an epoch.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    epoch: u64,
    /// The positions in the epoch that it fills.
    positions: Range<u64>,
    /// Its blocks, in their order: eight bytes each, the only part of the order that is stored.
    blocks: Vec<u64>,
    within: Permutation,
    /// The place among its samples where the short block ends, and the samples that block lacks; nothing is past the
    /// end when it is not in this window.
    short_end: u64,
    missing: u64,
}

impl Window {
    /// The sample at a position of the epoch, which lies in the window.
    #[inline]
    fn sample(&self, position: u64, block: u64) -> u64 {
        let shuffled = self.within.apply(position - self.positions.start);
        // Places after the short block are moved up, as if it were full.
        let slot = shuffled + if shuffled >= self.short_end { self.missing } else { 0 };
        self.blocks[(slot / block) as usize] * block + slot % block
    }
}

impl<'a> EpochOrder<'a> {
    fn new(plan: &'a Plan, epoch: u64) -> Self {
        let count = plan.samples.div_ceil(plan.block);
        let blocks =
            Permutation::new(count, Key::derive(plan.seed, Purpose::BlockOrder), [epoch as u32, 0, 0]);
        let missing = count * plan.block - plan.samples;
        Self { plan, epoch, blocks, short_at: blocks.invert(count - 1), missing }
    }

    /// The number of samples in the first `blocks` blocks of the order.
    fn samples_before(&self, blocks: u64) -> u64 {
        blocks * self.plan.block - if blocks > self.short_at { self.missing } else { 0 }
    }

    /// The window that a position of the epoch lies in.
    fn window_at(&self, position: u64) -> Window {
        // Positions after the short block are moved up, as if it were full.
        let past_short = position >= self.samples_before(self.short_at + 1);
        let block = (position + if past_short { self.missing } else { 0 }) / self.plan.block;
        let index = block / self.plan.window;
        let first_block = index * self.plan.window;
        let end_block = (first_block + self.plan.window).min(self.plan.samples.div_ceil(self.plan.block));
        let positions = self.samples_before(first_block)..self.samples_before(end_block);
        let key = Key::derive(self.plan.seed, Purpose::WindowOrder);
        let counter = [self.epoch as u32, index as u32, (index >> 32) as u32];
        let within = Permutation::new(positions.end - positions.start, key, counter);
        let blocks: Vec<u64> = (first_block..end_block).map(|at| self.blocks.apply(at)).collect();
        let short_end = if (first_block..end_block).contains(&self.short_at) {
            self.samples_before(self.short_at + 1) - positions.start
        } else {
            u64::MAX
        };
        Window { epoch: self.epoch, positions, blocks, within, short_end, missing: self.missing }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn plan(samples: u64, batch_size: usize, block: u64, window: u64, seed: u64) -> Plan {
        let config = LoaderConfig {
            batch_size,
            seed,
            shuffle_block: block,
            shuffle_window: window,
            ..Default::default()
        };
        Plan::new(samples, &config).unwrap()
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

    proptest! {
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
        fn shares_are_the_batch_in_order(batch_size in 1..5000usize, world_size in 1..70usize) {
            prop_assume!(world_size <= batch_size);
            let mut next = 0;
            for rank in 0..world_size {
                let share = share(batch_size, rank, world_size).unwrap();
                prop_assert_eq!(share.start, next);
                prop_assert!((batch_size / world_size..=batch_size.div_ceil(world_size)).contains(&share.len()));
                next = share.end;
            }
            prop_assert_eq!(next, batch_size);
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

    #[test]
    fn an_empty_corpus_and_too_many_ranks_are_refused() {
        assert!(matches!(Plan::new(0, &LoaderConfig::default()), Err(Error::EmptySplit { .. })));
        assert!(matches!(share(4, 0, 5), Err(Error::Config { field: "batch_size", .. })));
        assert!(matches!(share(4, 2, 2), Err(Error::Config { field: "rank", .. })));
    }
}
