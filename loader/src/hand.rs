//! The shards at hand: those of this machine always, those of a store while they are held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::cache::{Part, Pin, Pool};
use crate::corpus::{Corpus, ShardAt};
use crate::error::Error;
use crate::shard::Shard;

/// What one reader of a corpus has at hand.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    corpus: Arc<Corpus>,
    /// What it needs of a shard that lies in a store.
    part: Part,
    /// One for each shard of the corpus; empty when none lies in a store.
    held: Box<[OnceLock<Pin>]>,
    /// Set once, when nobody needs what it waits for. Relaxed: it guards no data, and is read under the pool's lock, which
    /// whoever sets it takes afterwards. Copies share it.
    abandoned: Arc<AtomicBool>,
}

/// Ends the waiting of a hand and its copies for shards of a store.
#[derive(Clone, Debug)]
pub(crate) struct Abandon {
    pool: Option<Arc<Pool>>,
    abandoned: Arc<AtomicBool>,
}

impl Abandon {
    /// Whoever waits gets [`Error::Abandoned`], now and later.
    pub(crate) fn now(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        if let Some(pool) = &self.pool {
            pool.wake();
        }
    }
}

impl Hand {
    /// An empty one.
    pub(crate) fn new(corpus: Arc<Corpus>, part: Part) -> Self {
        let shards = if corpus.pool().is_some() { corpus.shards().len() } else { 0 };
        let held = (0..shards).map(|_| OnceLock::new()).collect();
        Self { corpus, part, held, abandoned: Arc::default() }
    }

    pub(crate) fn corpus(&self) -> &Arc<Corpus> {
        &self.corpus
    }

    /// What ends its waiting.
    pub(crate) fn abandon(&self) -> Abandon {
        Abandon { pool: self.corpus.pool().cloned(), abandoned: Arc::clone(&self.abandoned) }
    }

    /// Whether some shards lie in a store.
    pub(crate) fn is_remote(&self) -> bool {
        !self.held.is_empty()
    }

    /// A shard; one of a store is fetched and held if it is not yet.
    ///
    /// # Errors
    /// Why it cannot be had.
    #[inline(always)]
    pub(crate) fn shard(&self, number: usize) -> Result<&Shard, Error> {
        match &self.corpus.shards()[number] {
            ShardAt::Here(shard) => Ok(shard),
            ShardAt::Stored(object) => self.stored(number, *object),
        }
    }

    #[cold]
    #[inline(never)]
    fn take(&self, number: usize, object: usize) -> Result<(), Error> {
        if let (Some(pool), Some(held)) = (self.corpus.pool(), self.held.get(number)) {
            for pin in pool.hold(&[object], self.part, &self.abandoned)? {
                // Another thread may have been quicker.
                let _ = held.set(pin);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn stored(&self, number: usize, object: usize) -> Result<&Shard, Error> {
        if self.held[number].get().is_none() {
            self.take(number, object)?;
        }
        Ok(self.held[number].get().expect("it has just been taken").shard())
    }

    /// A shard that is at hand already.
    #[inline]
    pub(crate) fn present(&self, number: usize) -> Option<&Shard> {
        match &self.corpus.shards()[number] {
            ShardAt::Here(shard) => Some(shard),
            ShardAt::Stored(_) => Some(self.held[number].get()?.shard()),
        }
    }

    /// Takes some shards, and only these, fetched all at once.
    ///
    /// # Errors
    /// [`Error::CacheTooSmall`]; why one of them cannot be had.
    pub(crate) fn hold(&mut self, numbers: &[usize]) -> Result<(), Error> {
        self.release();
        let Some(pool) = self.corpus.pool() else { return Ok(()) };
        let stored = numbers.iter().filter_map(|number| Some((*number, self.corpus.object(*number)?)));
        let (numbers, objects): (Vec<usize>, Vec<usize>) = stored.unzip();
        for (number, pin) in numbers.into_iter().zip(pool.hold(&objects, self.part, &self.abandoned)?) {
            let _ = self.held[number].set(pin);
        }
        Ok(())
    }

    /// Gives all shards back but one: for readers that go from shard to shard.
    pub(crate) fn keep(&mut self, number: usize) {
        for (other, held) in self.held.iter_mut().enumerate() {
            if other != number {
                held.take();
            }
        }
    }

    /// Gives all shards back.
    pub(crate) fn release(&mut self) {
        self.held.iter_mut().for_each(|held| drop(held.take()));
    }

    /// Has some shards fetched, in their order, without waiting for them.
    pub(crate) fn ask_for(&self, numbers: impl Iterator<Item = usize>) {
        if let Some(pool) = self.corpus.pool() {
            let objects: Vec<usize> = numbers.filter_map(|number| self.corpus.object(number)).collect();
            pool.ask_for(&objects, self.part);
        }
    }
}
