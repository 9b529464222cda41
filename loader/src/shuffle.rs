//! The order of the samples of one part of a corpus over its epochs: a function, not a list.
//!
//! The samples of an epoch are numbered 0 to n-1 and cut into blocks of neighbours. A keyed permutation orders the
//! blocks; a window is some consecutive blocks of that order, and a second permutation orders the samples of each
//! window. Epochs follow each other without a gap.

use std::ops::Range;

use crate::permutation::Permutation;
use crate::philox::{Key, Purpose};

/// Samples whose places are shuffled at a time.
const TOGETHER: usize = 256;

/// The order of a part over all epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shuffle {
    samples: u64,
    block: u64,
    window: u64,
    block_order: Key,
    window_order: Key,
}

/// A place in the order, with the window that it lies in once that has been needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    epoch: u64,
    position: u64,
    window: Option<Window>,
}

impl Shuffle {
    /// The order of `samples` samples, at least one and at most 2^62, for a seed and the number of the part among
    /// those that are mixed.
    pub(crate) fn new(samples: u64, seed: u64, part: u32, block: u64, window: u64) -> Self {
        // Beyond the part a block or a window changes nothing, and this keeps products within 64 bits.
        let block = block.min(samples);
        let window = window.min(samples.div_ceil(block));
        let key = |purpose| Key::derive_for(seed, purpose, part);
        let (block_order, window_order) = (key(Purpose::BlockOrder), key(Purpose::WindowOrder));
        Self { samples, block, window, block_order, window_order }
    }

    /// Samples in an epoch.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The epoch that the sample `position` of the whole order lies in.
    pub(crate) fn epoch(&self, position: u128) -> u64 {
        (position / u128::from(self.samples)) as u64
    }

    /// Goes to the sample `position` of the whole order. A window that is still the right one is kept.
    pub(crate) fn seek(&self, position: u128, place: &mut Place) {
        place.epoch = self.epoch(position);
        place.position = (position % u128::from(self.samples)) as u64;
    }

    /// Calls `each` with epoch and number of the next `count` samples at a place; goes to the place behind them.
    pub(crate) fn take(&self, place: &mut Place, count: usize, mut each: impl FnMut(u64, u64)) {
        let mut left = count as u64;
        while left > 0 {
            if place.position == self.samples {
                (place.epoch, place.position) = (place.epoch + 1, 0);
            }
            let Place { epoch, position, window } = place;
            let window = match window {
                Some(window) if window.epoch == *epoch && window.positions.contains(position) => window,
                other => {
                    // The memory of the window before serves again.
                    let blocks = other.take().map(|window| window.blocks).unwrap_or_default();
                    other.insert(EpochOrder::new(self, *epoch).window_at(*position, blocks))
                }
            };
            let end = window.positions.end.min(*position + left);
            window.samples(*position..end, self.block, |sample| each(*epoch, sample));
            left -= end - *position;
            *position = end;
        }
    }
}

/// The order of one epoch.
struct EpochOrder<'a> {
    shuffle: &'a Shuffle,
    epoch: u64,
    blocks: Permutation,
    /// Where in the order of blocks the last block stands, which may be short.
    short_at: u64,
    /// Samples that the short block lacks.
    missing: u64,
}

/// One window of an epoch.
#[derive(Clone, Debug)]
struct Window {
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
    /// Calls `each` with the samples at some positions of the epoch, which lie in the window.
    fn samples(&self, positions: Range<u64>, block: u64, mut each: impl FnMut(u64)) {
        let mut slots = [0; TOGETHER];
        for first in positions.clone().step_by(TOGETHER) {
            let count = (positions.end - first).min(TOGETHER as u64) as usize;
            let slots = &mut slots[..count];
            slots.iter_mut().zip(first - self.positions.start..).for_each(|(slot, at)| *slot = at);
            self.within.apply_to(slots);
            for slot in slots {
                // Places after the short block are moved up, as if it were full.
                let slot = *slot + if *slot >= self.short_end { self.missing } else { 0 };
                each(self.blocks[(slot / block) as usize] * block + slot % block);
            }
        }
    }
}

impl<'a> EpochOrder<'a> {
    fn new(shuffle: &'a Shuffle, epoch: u64) -> Self {
        let count = shuffle.samples.div_ceil(shuffle.block);
        let blocks = Permutation::new(count, shuffle.block_order, [epoch as u32, 0, 0]);
        let missing = count * shuffle.block - shuffle.samples;
        Self { shuffle, epoch, blocks, short_at: blocks.invert(count - 1), missing }
    }

    /// The number of samples in the first `blocks` blocks of the order.
    fn samples_before(&self, blocks: u64) -> u64 {
        blocks * self.shuffle.block - if blocks > self.short_at { self.missing } else { 0 }
    }

    /// The window that a position of the epoch lies in; `blocks` is memory for it.
    fn window_at(&self, position: u64, mut blocks: Vec<u64>) -> Window {
        // Positions after the short block are moved up, as if it were full.
        let past_short = position >= self.samples_before(self.short_at + 1);
        let block = (position + if past_short { self.missing } else { 0 }) / self.shuffle.block;
        let index = block / self.shuffle.window;
        let first_block = index * self.shuffle.window;
        let end_block =
            (first_block + self.shuffle.window).min(self.shuffle.samples.div_ceil(self.shuffle.block));
        let positions = self.samples_before(first_block)..self.samples_before(end_block);
        let counter = [self.epoch as u32, index as u32, (index >> 32) as u32];
        let within = Permutation::new(positions.end - positions.start, self.shuffle.window_order, counter);
        blocks.clear();
        blocks.extend((first_block..end_block).map(|at| self.blocks.apply(at)));
        let short_end = if (first_block..end_block).contains(&self.short_at) {
            self.samples_before(self.short_at + 1) - positions.start
        } else {
            u64::MAX
        };
        Window { epoch: self.epoch, positions, blocks, within, short_end, missing: self.missing }
    }
}
