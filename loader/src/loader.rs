//! Batches for training, in step order.

use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{StepBatch, StepBuilder};
use crate::cache::Ahead;
use crate::config::LoaderConfig;
use crate::corpus::{Corpus, Split};
use crate::error::Error;
use crate::hand::Abandon;
use crate::plan::Plan;
use crate::slot::Region;
use crate::workers::{Taken, Workers};

/// Running workers that keep batches ready; iterate over it to take them. Dropping it stops the threads, also those that
/// wait for a shard to be fetched.
///
/// What it gives depends on the corpus, the configuration, the rank and the step: not on the number of workers, not on
/// the step that it was started at.
#[derive(Debug)]
pub struct Loader {
    workers: Workers<StepBatch>,
    /// Where shards lie in a store.
    _ahead: Option<Ahead>,
    /// Ends waiting for shards.
    abandon: Abandon,
    plan: Plan,
    waited: Duration,
}

impl Loader {
    /// Starts to load the steps from `first_step` to just before `last_step`, counted from 0, for `rank` of
    /// `world_size`. Any step may be the first, at the same cost.
    ///
    /// # Errors
    /// As [`LoaderBuilder::start`].
    pub fn start(
        corpus: Arc<Corpus>,
        config: &LoaderConfig,
        rank: usize,
        world_size: usize,
        first_step: u64,
        last_step: u64,
    ) -> Result<Self, Error> {
        Self::builder(corpus, config).rank(rank, world_size).steps(first_step..last_step).start()
    }

    /// A loader for all steps of a single rank in ordinary memory, unless told otherwise.
    pub fn builder(corpus: Arc<Corpus>, config: &LoaderConfig) -> LoaderBuilder {
        LoaderBuilder {
            corpus,
            config: config.clone(),
            rank: 0,
            world_size: 1,
            steps: 0..u64::MAX,
            memory: Box::new(Region::plain),
        }
    }

    /// The order that the batches follow.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Waits until [`next`](Iterator::next) has an answer without waiting, and no longer than `most`. False when it has none:
    /// where shards are being fetched, that may take long.
    pub fn wait(&mut self, most: Duration) -> bool {
        if self.workers.is_ready() {
            return true;
        }
        let start = Instant::now();
        let is_ready = self.workers.wait(most);
        self.waited += start.elapsed();
        is_ready
    }

    /// How long [`next`](Iterator::next) and [`wait`](Loader::wait) have waited for batches that were not ready, in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Number of batches that may be ready or held at a time.
    pub fn slots(&self) -> usize {
        self.workers.slots()
    }

    /// Gives a used batch back, as dropping it does, so that a worker fills its memory again.
    pub fn recycle(&self, batch: ReadyBatch) {
        drop(batch);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Before the workers are waited for.
        self.abandon.now();
    }
}

impl Iterator for Loader {
    type Item = Result<ReadyBatch, Error>;

    /// The batch of the next step; waits until it is ready. Nothing after the last step or after an error of a worker.
    /// Drop a batch before asking for as many more as there are slots, or the answer is [`Error::AllSlotsHeld`].
    fn next(&mut self) -> Option<Self::Item> {
        if self.workers.is_ready() {
            return self.workers.take().map(|taken| taken.map(ReadyBatch));
        }
        let start = Instant::now();
        let taken = self.workers.take();
        self.waited += start.elapsed();
        taken.map(|taken| taken.map(ReadyBatch))
    }
}

/// The batch of a step, in the memory of the loader; it reads as a [`StepBatch`]. Dropping it gives the memory back.
#[derive(Debug)]
pub struct ReadyBatch(Taken<StepBatch>);

impl Deref for ReadyBatch {
    type Target = StepBatch;

    fn deref(&self) -> &StepBatch {
        self.0.item()
    }
}

/// Which part of which steps a [`Loader`] is for, and where it puts them.
pub struct LoaderBuilder {
    corpus: Arc<Corpus>,
    config: LoaderConfig,
    rank: usize,
    world_size: usize,
    steps: Range<u64>,
    memory: Box<dyn FnMut(usize) -> io::Result<Region>>,
}

impl std::fmt::Debug for LoaderBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoaderBuilder")
            .field("config", &self.config)
            .field("rank", &(self.rank, self.world_size))
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl LoaderBuilder {
    /// The part of each batch that is for `rank` of `world_size`.
    pub fn rank(self, rank: usize, world_size: usize) -> Self {
        Self { rank, world_size, ..self }
    }

    /// The steps to load, counted from 0.
    pub fn steps(self, steps: Range<u64>) -> Self {
        Self { steps, ..self }
    }

    /// Where the batches lie: called once for each of `config.slots` slots with the bytes that it needs. Page-locked
    /// memory given here lets a device copy batches without an intermediate copy.
    pub fn slots(self, memory: impl FnMut(usize) -> io::Result<Region> + 'static) -> Self {
        Self { memory: Box::new(memory), ..self }
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of its range, [`Error::EmptySplit`] when there is nothing to train on,
    /// [`Error::Corrupt`] when counting the samples meets wrong offsets, why a shard cannot be fetched that this needs,
    /// [`Error::Memory`] when there is no memory for
    /// the slots, [`Error::Thread`] when the system gives no thread.
    pub fn start(mut self) -> Result<Loader, Error> {
        let config = &self.config;
        config.validate()?;
        let samples = self.corpus.samples(Split::Train, config.policy, config.seq_len)?;
        let builder = StepBuilder::new(samples, config, self.rank, self.world_size)?;
        let plan = builder.plan().clone();
        let bytes = builder.slot_size().bytes();
        let slot = |_| {
            let region = (self.memory)(bytes).map_err(|source| Error::Memory { bytes, source })?;
            Ok(StepBatch::within(region, builder.slot_size()))
        };
        let slots = (0..config.slots).map(slot).collect::<Result<Vec<_>, Error>>()?;
        let steps = self.steps.start..self.steps.end.max(self.steps.start);
        let ahead = Ahead::start(&plan, builder.samples(), steps.clone())?;
        let workers = Workers::start(slots, config.workers, steps, || {
            let (mut builder, progress) = (builder.clone(), ahead.as_ref().map(Ahead::progress));
            move |step, batch: &mut StepBatch| {
                if let Some(progress) = &progress {
                    progress.begin(step);
                }
                builder.build(step, batch)
            }
        })?;
        let abandon = builder.samples().abandon();
        Ok(Loader { workers, _ahead: ahead, abandon, plan, waited: Duration::ZERO })
    }
}
