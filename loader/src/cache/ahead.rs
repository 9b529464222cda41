//! Follows the plan ahead of the workers and has shards fetched before a batch needs them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Pool;
use crate::error::Error;
use crate::plan::{Place, Plan};
use crate::samples::Samples;

/// Steps that are looked at ahead of the training at most: further than the cache can hold, in most orders.
const STEPS: u64 = 1 << 12;
/// How often it looks whether the training has gone on.
const LOOK: Duration = Duration::from_millis(20);

/// A thread that looks ahead; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the workers and the thread share.
#[derive(Debug)]
struct Shared {
    /// The highest step that a worker has begun. Relaxed: it guards nothing.
    step: AtomicU64,
    /// Set when the thread is to end. Relaxed, as above.
    stop: AtomicBool,
}

/// Tells how far the workers are.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Shared>);

impl Progress {
    pub(crate) fn begin(&self, step: u64) {
        self.0.step.fetch_max(step, Ordering::Relaxed);
    }
}

impl Ahead {
    /// Follows `plan` through `steps`; nothing for samples of this machine.
    ///
    /// # Errors
    /// [`Error::Thread`] when the system gives no thread.
    pub(crate) fn start(plan: &Plan, samples: &Samples, steps: Range<u64>) -> Result<Option<Self>, Error> {
        let Some(pool) = samples.corpus().pool() else { return Ok(None) };
        let shared = Arc::new(Shared { step: AtomicU64::new(steps.start), stop: AtomicBool::new(false) });
        let (pool, plan, samples) = (Arc::clone(pool), plan.clone(), samples.clone());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("loader-ahead".to_owned())
            .spawn(move || follow(&pool, &plan, &samples, steps, &seen))
            .map_err(|source| Error::Thread { source })?;
        Ok(Some(Self { shared, thread: Some(thread) }))
    }

    /// For a worker.
    pub(crate) fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.shared))
    }
}

fn follow(pool: &Pool, plan: &Plan, samples: &Samples, steps: Range<u64>, shared: &Shared) {
    let (mut place, mut ids, mut shards) = (Place::default(), Vec::new(), Vec::new());
    let (mut next, mut looked_at) = (steps.start, None);
    let number = pool.begin_plan(steps.start);
    while !shared.stop.load(Ordering::Relaxed) {
        let now = shared.step.load(Ordering::Relaxed);
        pool.reach(number, now);
        next = next.max(now);
        if next < steps.end && next - now < STEPS && !pool.has_all() {
            if looked_at != Some(next) {
                plan.samples_from(&mut place, next, &mut ids);
                samples.stored_shards(ids.iter().map(|id| id.sample), &mut shards);
                looked_at = Some(next);
            }
            if pool.ask_for_step(&shards, next) {
                next += 1;
                continue;
            }
        }
        thread::park_timeout(LOOK);
    }
    pool.end_plan(number);
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there costs speed only: workers fetch what they need themselves.
            let _ = thread.join();
        }
    }
}
