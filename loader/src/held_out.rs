//! Evaluation batches: the held-out samples, each once, always the same.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Assembler, MicroBatch, MicroBatchSize};
use crate::config::{HeldOutConfig, invalid};
use crate::corpus::{Corpus, Split};
use crate::error::Error;
use crate::mask::Draw;
use crate::permutation::Permutation;
use crate::philox::{Key, Purpose};
use crate::plan::SampleId;

/// Samples whose shards are asked for before they are needed, where these lie in a store.
const AHEAD: u64 = 4096;

/// The held-out samples of a corpus as micro-batches, in an order and with masks that only the seed decides. Under a
/// limit they are a random choice of all held-out samples, not those of the first input files.
///
/// # Errors
/// [`Error::Config`] for a setting out of its range, [`Error::EmptySplit`] when nothing was held out,
/// [`Error::Corrupt`] when counting the samples meets wrong offsets.
pub fn held_out_batches(corpus: Arc<Corpus>, config: &HeldOutConfig) -> Result<HeldOutBatches, Error> {
    config.validate()?;
    let samples = corpus.samples(Split::HeldOut, config.policy, config.seq_len)?;
    if samples.is_empty() {
        let hint = ", or ingest again with a larger --held-out";
        return Err(Error::EmptySplit { split: "held-out", hint });
    }
    let order = Permutation::new(samples.len(), Key::derive(config.seed, Purpose::HeldOutOrder), [0; 3]);
    let indices = 0..config.limit.unwrap_or(u64::MAX).min(samples.len());
    let in_all = usize::try_from(indices.end).unwrap_or(usize::MAX);
    let size = MicroBatchSize::of(config.micro_batch_tokens, in_all, config.seq_len);
    let assembler = Assembler::of_tokens(samples, config.seed, config.micro_batch_tokens);
    let draw = assembler.draw(config.mask_rate);
    Ok(HeldOutBatches { assembler, size, order, indices, draw })
}

/// Iterator over evaluation batches, see [`held_out_batches`].
#[derive(Clone, Debug)]
pub struct HeldOutBatches {
    assembler: Assembler,
    size: MicroBatchSize,
    order: Permutation,
    indices: Range<u64>,
    draw: Draw,
}

impl HeldOutBatches {
    /// Number of samples still to come.
    pub fn samples(&self) -> u64 {
        self.indices.end - self.indices.start
    }

    /// Only the part of the samples still to come that is for `rank` of `world_size`. Every sample is some rank's, and
    /// a rank may have none.
    ///
    /// # Errors
    /// [`Error::Config`] unless `rank < world_size`.
    pub fn share(self, rank: usize, world_size: usize) -> Result<Self, Error> {
        if rank >= world_size {
            return Err(invalid("rank", rank, "less than the number of ranks"));
        }
        let cut = |rank: usize| {
            let offset = u128::from(self.samples()) * rank as u128 / world_size as u128;
            self.indices.start + offset as u64
        };
        let indices = cut(rank)..cut(rank + 1);
        Ok(Self { indices, ..self })
    }
}

impl HeldOutBatches {
    /// As many of the samples still to come as the budget takes; there is one at least.
    fn batch(&mut self) -> Result<MicroBatch, Error> {
        let mut batch = MicroBatch::with_room_for(self.size)?;
        let next = self.indices.start..self.indices.end.min(self.indices.start.saturating_add(AHEAD));
        let order = &self.order;
        self.assembler.samples().ask_for(next.map(|index| order.apply(index)));
        while !self.indices.is_empty() {
            let id = SampleId { epoch: 0, sample: self.order.apply(self.indices.start) };
            let text = self.assembler.text(id)?;
            if !self.assembler.fits(text, &batch) {
                break;
            }
            self.assembler.push(&self.draw, id, text, &mut batch)?;
            self.indices.start += 1;
        }
        self.assembler.samples().release();
        Ok(batch)
    }
}

impl Iterator for HeldOutBatches {
    type Item = Result<MicroBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.indices.is_empty() {
            return None;
        }
        let batch = self.batch();
        if batch.is_err() {
            self.indices.start = self.indices.end;
        }
        Some(batch)
    }
}
