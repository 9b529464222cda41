//! Unpadded masked batches: samples gathered from the map, masked, and cut into micro-batches by a budget of tokens.

use crate::config::{LoaderConfig, MaskRate, invalid};
use crate::cut::{count_micro_batches, cut_micro_batches, cut_ranks};
use crate::error::Error;
use crate::mask::{Continuations, Draw, Masker, Room};
use crate::plan::{self, Plan, SampleId};
use crate::samples::{self, FRAME_TOKENS, Samples};
use crate::shard::Tokens;
use crate::slot::{Buffer, Cutter, Region};

/// The shortest sample: `[CLS]`, a token, `[SEP]`.
const FEWEST_TOKENS: usize = FRAME_TOKENS + 1;

/// How many samples before it is masked the processor is told to fetch a sample: masking them takes longer than memory does.
const AHEAD: usize = 12;

/// Samples laid end to end without padding, for one pass through the model. `T` tokens, `B` samples, `M` masked tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// What the model sees, `[T]`.
    pub input_ids: Buffer<i32>,
    /// Where each sample begins, then `T`: `[B + 1]`.
    pub cu_seqlens: Buffer<i32>,
    /// Tokens of the longest sample.
    pub max_seqlen: usize,
    /// Indices into `input_ids` of the tokens to predict, rising, `[M]`.
    pub masked_positions: Buffer<i32>,
    /// The tokens to predict, `[M]`.
    pub labels: Buffer<i32>,
}

impl MicroBatch {
    /// Number of tokens, `T`.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Number of samples, `B`.
    pub fn samples(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// One without samples, in ordinary memory.
    pub(crate) fn with_room_for(size: MicroBatchSize) -> Result<Self, Error> {
        let bytes = Cutter::bytes_for(size.buffers());
        let region = Region::plain(bytes).map_err(|source| Error::Memory { bytes, source })?;
        Ok(Self::cut(&mut Cutter::new(region), size))
    }

    fn cut(cutter: &mut Cutter, size: MicroBatchSize) -> Self {
        let mut batch = Self {
            input_ids: cutter.cut(size.tokens),
            cu_seqlens: cutter.cut(size.samples + 1),
            max_seqlen: 0,
            masked_positions: cutter.cut(size.tokens),
            labels: cutter.cut(size.tokens),
        };
        batch.clear();
        batch
    }

    /// Empties it and keeps its memory.
    fn clear(&mut self) {
        self.input_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        self.max_seqlen = 0;
        self.masked_positions.clear();
        self.labels.clear();
    }
}

/// What one micro-batch has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MicroBatchSize {
    tokens: usize,
    samples: usize,
}

impl MicroBatchSize {
    /// Enough for a budget of tokens, of which up to `samples` samples of up to `seq_len` tokens make use.
    pub(crate) fn of(micro_batch_tokens: usize, samples: usize, seq_len: usize) -> Self {
        let tokens = micro_batch_tokens.min(samples.saturating_mul(seq_len)).max(seq_len);
        Self { tokens, samples: samples.min(tokens / FEWEST_TOKENS).max(1) }
    }

    /// Bytes of each buffer.
    fn buffers(self) -> [usize; 4] {
        [4 * self.tokens, 4 * (self.samples + 1), 4 * self.tokens, 4 * self.tokens]
    }
}

/// What the slot of a step has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotSize {
    micro_batches: usize,
    each: MicroBatchSize,
}

impl SlotSize {
    /// Enough for a rank's part of a batch of up to `batch_size` samples of up to `seq_len` tokens, however long each is.
    fn of(micro_batch_tokens: usize, batch_size: usize, world_size: usize, seq_len: usize) -> Self {
        let in_all = batch_size.saturating_mul(seq_len);
        // An equal share and the longest sample, as `cut_ranks` says.
        let tokens = (in_all / world_size).saturating_add(seq_len).min(in_all);
        let samples = batch_size.min(tokens / FEWEST_TOKENS).max(1);
        let each = MicroBatchSize::of(micro_batch_tokens.min(tokens), samples, seq_len);
        // A greedy cut fills all but the last until the next sample does not fit, so to more than the budget less a
        // sample; the cut that is made is into no more micro-batches than the greedy one needs for the largest part.
        let least = (micro_batch_tokens.saturating_add(1)).saturating_sub(seq_len).max(FEWEST_TOKENS);
        let micro_batches = samples.min(tokens / least + 1);
        Self { micro_batches, each }
    }

    /// Bytes of the slot's memory.
    pub(crate) fn bytes(self) -> usize {
        Cutter::bytes_for(self.each.buffers()).saturating_mul(self.micro_batches)
    }
}

/// The batch of one step: this rank's micro-batches, and counts of the global batch.
#[derive(Debug)]
pub struct StepBatch {
    /// The step, counted from 0.
    pub step: u64,
    /// The epoch of the global batch's first sample, counted from 0.
    pub epoch: u64,
    /// The fraction of tokens chosen for prediction at this step.
    pub mask_rate: f64,
    /// The part of the global batch that is this rank's. Never empty.
    pub micro_batches: Vec<MicroBatch>,
    /// Masked tokens of the global batch, over all ranks: what the loss is divided by.
    pub masked_tokens: u64,
    /// Samples of the global batch, over all ranks.
    pub samples: u64,
    /// Tokens of the global batch, over all ranks, special tokens included.
    pub tokens: u64,
    /// Memory for micro-batches that this step does not need.
    spare: Vec<MicroBatch>,
}

impl StepBatch {
    /// An empty one within a slot's memory.
    ///
    /// # Panics
    /// When the region is smaller than `size` says.
    pub(crate) fn within(region: Region, size: SlotSize) -> Self {
        let mut cutter = Cutter::new(region);
        let spare = (0..size.micro_batches).map(|_| MicroBatch::cut(&mut cutter, size.each)).collect();
        Self {
            step: 0,
            epoch: 0,
            mask_rate: 0.0,
            micro_batches: Vec::with_capacity(size.micro_batches),
            masked_tokens: 0,
            samples: 0,
            tokens: 0,
            spare,
        }
    }

    /// The micro-batch that is being filled, after the ones before it are full.
    fn begin_micro_batch(&mut self) -> &mut MicroBatch {
        let mut next = self.spare.pop().expect("a slot has room for its samples however they are cut");
        next.clear();
        self.micro_batches.push_mut(next)
    }

    /// Makes all its memory spare.
    fn clear(&mut self) {
        while let Some(used) = self.micro_batches.pop() {
            self.spare.push(used);
        }
    }
}

/// A copy in ordinary memory.
impl Clone for StepBatch {
    fn clone(&self) -> Self {
        Self { micro_batches: self.micro_batches.clone(), spare: Vec::new(), ..*self }
    }
}

/// Spare memory is no part of the batch.
impl PartialEq for StepBatch {
    fn eq(&self, other: &Self) -> bool {
        let counts = |batch: &Self| {
            (batch.step, batch.epoch, batch.mask_rate, batch.masked_tokens, batch.samples, batch.tokens)
        };
        counts(self) == counts(other) && self.micro_batches == other.micro_batches
    }
}

/// Appends masked samples to micro-batches.
#[derive(Clone, Debug)]
pub(crate) struct Assembler {
    samples: Samples,
    masker: Masker,
    vocab_size: u32,
    cls: i32,
    sep: i32,
    micro_batch_tokens: usize,
}

impl Assembler {
    /// For training.
    fn new(samples: Samples, config: &LoaderConfig) -> Result<Self, Error> {
        let continuations =
            config.whole_word_masking.then(|| Continuations::of(samples.corpus())).transpose()?;
        let mut assembler = Self::of_tokens(samples, config.seed, config.micro_batch_tokens);
        if let Some(continuations) = continuations {
            assembler.masker = assembler.masker.whole_words(continuations);
        }
        Ok(assembler)
    }

    /// Masks tokens one by one, whatever word they belong to.
    pub(crate) fn of_tokens(samples: Samples, seed: u64, micro_batch_tokens: usize) -> Self {
        let tokenizer = samples.corpus().tokenizer();
        Self {
            masker: Masker::new(seed, tokenizer),
            vocab_size: tokenizer.vocab_size,
            cls: tokenizer.special.cls as i32,
            sep: tokenizer.special.sep as i32,
            micro_batch_tokens,
            samples,
        }
    }

    /// What masking needs to know of a rate.
    pub(crate) fn draw(&self, rate: f64) -> Draw {
        self.masker.draw(rate)
    }

    /// The samples that are read.
    pub(crate) fn samples(&mut self) -> &mut Samples {
        &mut self.samples
    }

    /// The text of a sample.
    pub(crate) fn text(&self, id: SampleId) -> Result<Tokens<'_>, Error> {
        self.samples.get(id.sample)
    }

    /// Whether a text fits into the budget of a micro-batch. An empty micro-batch takes any.
    pub(crate) fn fits(&self, text: Tokens<'_>, batch: &MicroBatch) -> bool {
        batch.tokens() == 0 || batch.tokens() + text.len() + FRAME_TOKENS <= self.micro_batch_tokens
    }

    /// Appends a sample, masked.
    pub(crate) fn push(
        &self,
        draw: &Draw,
        id: SampleId,
        text: Tokens<'_>,
        batch: &mut MicroBatch,
    ) -> Result<(), Error> {
        let (len, first) = (text.len(), batch.tokens() + 1);
        let ids = batch.input_ids.grow(len + FRAME_TOKENS);
        ids[0] = self.cls;
        ids[len + 1] = self.sep;
        let before = batch.labels.len();
        let room = Room {
            ids: &mut ids[1..=len],
            positions: batch.masked_positions.grow(len),
            labels: batch.labels.grow(len),
        };
        let masked = self.masker.mask(draw, id, text, first, room);
        if masked.largest >= self.vocab_size {
            return Err(self.samples.outside_vocabulary(id.sample, masked.largest)?);
        }
        batch.masked_positions.truncate(before + masked.chosen);
        batch.labels.truncate(before + masked.chosen);
        batch.cu_seqlens.push(batch.input_ids.len() as i32);
        batch.max_seqlen = batch.max_seqlen.max(len + FRAME_TOKENS);
        Ok(())
    }

    /// How many tokens of a sample masking chooses.
    fn count(&self, draw: &Draw, id: SampleId, text: Tokens<'_>) -> Result<u64, Error> {
        let masked = self.masker.count(draw, id, text);
        if masked.largest >= self.vocab_size {
            return Err(self.samples.outside_vocabulary(id.sample, masked.largest)?);
        }
        Ok(masked.chosen as u64)
    }

    /// Calls `each` for the samples in order, whose texts are fetched ahead.
    fn for_each(
        &self,
        ids: &[SampleId],
        places: &[samples::Place],
        mut each: impl FnMut(SampleId, Tokens<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        places.iter().take(AHEAD).for_each(|place| self.samples.prefetch_text(*place));
        for (at, (id, place)) in ids.iter().zip(places).enumerate() {
            if let Some(later) = places.get(at + AHEAD) {
                self.samples.prefetch_text(*later);
            }
            each(*id, self.samples.text(*place)?)?;
        }
        Ok(())
    }
}

/// Builds the batch of any step: a pure function of the step, but for the memory it reuses.
#[derive(Clone, Debug)]
pub(crate) struct StepBuilder {
    assembler: Assembler,
    plan: Plan,
    mask_rate: MaskRate,
    rank: usize,
    world_size: usize,
    slot_size: SlotSize,
    scratch: Scratch,
}

/// What [`StepBuilder::build`] works with, kept for its memory.
#[derive(Clone, Debug, Default)]
struct Scratch {
    /// Where the last batch ended in the order.
    place: plan::Place,
    ids: Vec<SampleId>,
    places: Vec<samples::Place>,
    ends: Vec<u64>,
    ranks: Vec<usize>,
    cuts: Vec<usize>,
}

impl Scratch {
    /// Room for any step, so that memory is asked for at the first one only.
    fn make_room(&mut self, samples: usize, world_size: usize, micro_batches: usize) {
        let Self { place: _, ids, places, ends, ranks, cuts } = self;
        ids.clear();
        ids.reserve(samples);
        places.clear();
        places.reserve(samples);
        for (numbers, room) in [(ranks, world_size + 1), (cuts, micro_batches)] {
            numbers.clear();
            numbers.reserve(room);
        }
        ends.clear();
        ends.reserve(samples + 1);
    }
}

impl StepBuilder {
    pub(crate) fn new(
        samples: Samples,
        config: &LoaderConfig,
        rank: usize,
        world_size: usize,
    ) -> Result<Self, Error> {
        if rank >= world_size {
            return Err(invalid("rank", rank, "less than the number of ranks"));
        }
        let plan = Plan::new(&samples.parts(config.batch_tokens > 0)?, config)?;
        if world_size > plan.smallest_batch() {
            return Err(Error::MoreRanksThanSamples { samples: plan.smallest_batch(), world_size });
        }
        let seq_len = samples.seq_len();
        Ok(Self {
            slot_size: SlotSize::of(config.micro_batch_tokens, plan.largest_batch(), world_size, seq_len),
            assembler: Assembler::new(samples, config)?,
            plan,
            mask_rate: config.mask_rate,
            rank,
            world_size,
            scratch: Scratch::default(),
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn samples(&self) -> &Samples {
        &self.assembler.samples
    }

    /// The memory that [`build`](StepBuilder::build) needs.
    pub(crate) fn slot_size(&self) -> SlotSize {
        self.slot_size
    }

    /// Makes `batch` the batch of a step.
    pub(crate) fn build(&mut self, step: u64, batch: &mut StepBatch) -> Result<(), Error> {
        let Self { assembler, scratch, .. } = self;
        scratch.make_room(self.plan.largest_batch(), self.world_size, self.slot_size.micro_batches);
        let Scratch { place, ids, places, ends, ranks, cuts } = scratch;
        let epoch = self.plan.samples_from(place, step, ids);
        assembler.samples.hold(ids.iter().map(|id| id.sample))?;
        assembler.samples.look_up(ids.iter().map(|id| id.sample), places)?;
        ends.clear();
        ends.push(0);
        ends.extend(places.iter().scan(0, |end, place| {
            *end += place.len() as u64;
            Some(*end)
        }));
        cut_ranks(ends, self.world_size, ranks);
        let budget = assembler.micro_batch_tokens as u64;
        // As many on every rank, as far as their samples allow: ranks wait for each other.
        let count = ranks.windows(2).map(|of| count_micro_batches(ends, of[0]..of[1], budget)).max();
        let share = ranks[self.rank]..ranks[self.rank + 1];
        cut_micro_batches(ends, share.clone(), budget, count.unwrap_or(1), cuts);
        let rate = self.mask_rate.at(step);
        let draw = assembler.draw(rate);

        batch.clear();
        let (mut at, mut next_cut) = (share.start, 0);
        assembler.for_each(&ids[share.clone()], &places[share.clone()], |id, text| {
            let micro_batch = match batch.micro_batches.last_mut() {
                Some(last) if at != cuts[next_cut - 1] => last,
                _ => {
                    next_cut += 1;
                    batch.begin_micro_batch()
                }
            };
            at += 1;
            assembler.push(&draw, id, text, micro_batch)
        })?;
        let mut masked_tokens: u64 = batch.micro_batches.iter().map(|micro| micro.labels.len() as u64).sum();
        // The loss is divided by the masked tokens of all ranks. Counting them here costs each rank a fraction of what
        // one worker can do, and saves the trainer a message between all ranks at every step.
        for others in [0..share.start, share.end..ids.len()] {
            assembler.for_each(&ids[others.clone()], &places[others], |id, text| {
                masked_tokens += assembler.count(&draw, id, text)?;
                Ok(())
            })?;
        }
        batch.step = step;
        batch.epoch = epoch;
        batch.mask_rate = rate;
        batch.masked_tokens = masked_tokens;
        batch.samples = ids.len() as u64;
        batch.tokens = ends[ids.len()];
        // Other batches may be waiting for room.
        assembler.samples.release();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the lengths of the samples, the budget and the number of ranks, the cuts fit the slot.
        #[test]
        fn a_slot_has_room_for_every_cut(
            seq_len in 3..40usize, budget in 1..200usize, lengths in vec(any::<usize>(), 1..60), world_size in 1..9usize,
        ) {
            let ends: Vec<u64> = std::iter::once(0)
                .chain(lengths.iter().scan(0, |end, len| {
                    *end += (FEWEST_TOKENS + len % (seq_len - FRAME_TOKENS)) as u64;
                    Some(*end)
                }))
                .collect();
            let world_size = world_size.min(lengths.len());
            let size = SlotSize::of(budget, lengths.len(), world_size, seq_len);
            let (mut ranks, mut cuts) = (Vec::new(), Vec::new());
            cut_ranks(&ends, world_size, &mut ranks);
            let counts = ranks.windows(2).map(|of| count_micro_batches(&ends, of[0]..of[1], budget as u64));
            let count = counts.max().unwrap();
            for of in ranks.windows(2) {
                cut_micro_batches(&ends, of[0]..of[1], budget as u64, count, &mut cuts);
                prop_assert!(cuts.len() <= size.micro_batches);
                let mut start = of[0];
                for &cut in &cuts {
                    prop_assert!(ends[cut] - ends[start] <= size.each.tokens as u64);
                    prop_assert!(cut - start <= size.each.samples);
                    start = cut;
                }
            }
        }
    }
}
