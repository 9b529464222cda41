//! Threads that make one item a step in the slots of a ring, and the order in which the items are taken: that of the
//! steps, whatever the number of threads.

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use crate::error::Error;
use crate::ring::{Filler, Held, Lease, Taker, ring};
use crate::sync::thread::{self, JoinHandle};

/// Running threads and the ring that they fill.
#[derive(Debug)]
pub(crate) struct Workers<T> {
    taker: Taker<Made<T>>,
    threads: Vec<JoinHandle<()>>,
    slots: usize,
}

/// What a slot holds.
#[derive(Debug)]
pub(crate) struct Made<T> {
    item: T,
    /// Why the item is not what it should be.
    error: Option<Error>,
}

/// A made item; dropping it gives its memory back to the workers.
#[derive(Debug)]
pub(crate) struct Taken<T>(Lease<Made<T>>);

impl<T> Taken<T> {
    pub(crate) fn item(&self) -> &T {
        &self.0.get().item
    }
}

impl<T: Send + Sync + 'static> Workers<T> {
    /// Starts `count` workers that fill `slots`. Each gets its own work from `make_work`: a function of the step that
    /// changes what a slot holds into the item of that step.
    pub(crate) fn start<W>(
        slots: Vec<T>,
        count: usize,
        steps: Range<u64>,
        mut make_work: impl FnMut() -> W,
    ) -> Result<Self, Error>
    where
        W: FnMut(u64, &mut T) -> Result<(), Error> + Send + 'static,
    {
        let tickets = steps.end.saturating_sub(steps.start);
        let count = tickets.min(count.max(1) as u64) as usize;
        let slots: Vec<Made<T>> = slots.into_iter().map(|item| Made { item, error: None }).collect();
        let slot_count = slots.len();
        let (taker, fillers) = ring(slots, count, tickets);
        let mut workers = Self { taker, threads: Vec::with_capacity(count), slots: slot_count };
        for (index, filler) in fillers.into_iter().enumerate() {
            let work = make_work();
            let thread = thread::Builder::new()
                .name(format!("loader-{index}"))
                .spawn(move || run(filler, steps.start, work))
                .map_err(|source| Error::Thread { source })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Number of items that may be made or held at a time.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Whether the next item could be taken without waiting.
    pub(crate) fn is_ready(&self) -> bool {
        self.taker.is_ready()
    }

    /// Waits until [`take`](Workers::take) has an answer without waiting, and no longer than `most`. False when it has none.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        self.taker.wait(most)
    }

    /// The item of the next step, when it is ready; nothing after the last step or after an error.
    pub(crate) fn take(&mut self) -> Option<Result<Taken<T>, Error>> {
        let mut lease = match self.taker.take()? {
            Ok(lease) => lease,
            Err(Held) => return Some(Err(Error::AllSlotsHeld { slots: self.slots })),
        };
        match lease.get_mut().error.take() {
            None => Some(Ok(Taken(lease))),
            Some(error) => {
                self.taker.close();
                Some(Err(error))
            }
        }
    }
}

/// What a thread does: one step after the other, until there are no more, nobody takes them, or one fails.
fn run<T>(mut filler: Filler<Made<T>>, first: u64, mut work: impl FnMut(u64, &mut T) -> Result<(), Error>) {
    let mut failed = false;
    while !failed
        && filler.fill(|ticket, slot| {
            let step = first + ticket;
            // The item and the work may be left half-changed: neither is used again after an error.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| work(step, &mut slot.item)));
            slot.error = outcome
                .unwrap_or_else(|panic| {
                    let message = panic
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|message| (*message).to_owned()))
                        .unwrap_or_else(|| "it left no message".into());
                    Err(Error::WorkerPanicked { step, message })
                })
                .err();
            failed = slot.error.is_some();
        })
    {}
}

impl<T> Drop for Workers<T> {
    fn drop(&mut self) {
        self.taker.close();
        for thread in self.threads.drain(..) {
            // Panics of the work have been caught and handed over.
            let _ = thread.join();
        }
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn give_the_step() -> fn(u64, &mut u64) -> Result<(), Error> {
        |step, item| {
            *item = step;
            Ok(())
        }
    }

    /// The next item, or the message of the error.
    fn take(workers: &mut Workers<u64>) -> Option<Result<u64, String>> {
        let taken = workers.take()?;
        Some(taken.map(|taken| *taken.item()).map_err(|error| error.to_string()))
    }

    #[test]
    fn items_come_in_step_order_for_any_number_of_workers() {
        for workers in [1, 2, 3, 4, 7, 100] {
            for slots in [1, 2, 8] {
                let mut workers = Workers::start(vec![0; slots], workers, 5..47, give_the_step).unwrap();
                let taken: Vec<u64> = std::iter::from_fn(|| take(&mut workers)).map(Result::unwrap).collect();
                assert_eq!(taken, (5..47).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_steps_end_at_once() {
        assert!(Workers::start(vec![0; 2], 3, 7..7, give_the_step).unwrap().take().is_none());
        assert!(Workers::start(vec![0; 2], 3, u64::MAX..u64::MAX, give_the_step).unwrap().take().is_none());
    }

    #[test]
    fn workers_wait_when_nobody_takes() {
        let made = Arc::new(AtomicU64::new(0));
        let mut workers = Workers::start(vec![0; 4], 2, 0..1000, || {
            let made = Arc::clone(&made);
            move |_, _: &mut u64| {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .unwrap();
        for taken in 1..=10 {
            workers.take().unwrap().unwrap();
            // A slot each, and those that were given back may be full again.
            assert!(made.load(Ordering::SeqCst) <= 4 + taken);
        }
        drop(workers);
        assert!(made.load(Ordering::SeqCst) <= 14);
        assert_eq!(Arc::strong_count(&made), 1, "the threads have ended");
    }

    #[test]
    fn a_panic_reaches_the_taker_after_the_steps_before_it() {
        let mut workers = Workers::start(vec![0; 6], 3, 0..100, || {
            |step, item: &mut u64| {
                assert!(step != 20, "the twentieth");
                *item = step;
                Ok(())
            }
        })
        .unwrap();
        for step in 0..20 {
            assert_eq!(take(&mut workers), Some(Ok(step)));
        }
        let error = take(&mut workers).unwrap().unwrap_err();
        assert!(error.contains("step 20") && error.contains("the twentieth"), "{error}");
        assert!(workers.take().is_none());
    }

    #[test]
    fn an_error_reaches_the_taker_and_ends_the_sequence() {
        let mut workers = Workers::start(vec![0; 4], 2, 0..100, || {
            |step, item: &mut u64| match step {
                9 => Err(Error::OutOfRange { what: "sample", index: 9, count: 1 }),
                _ => give_the_step()(step, item),
            }
        })
        .unwrap();
        assert_eq!((0..9).map(|_| take(&mut workers).unwrap().unwrap()).sum::<u64>(), 36);
        assert!(matches!(workers.take(), Some(Err(Error::OutOfRange { index: 9, .. }))));
        assert!(workers.take().is_none());
    }

    #[test]
    fn items_that_are_all_held_are_an_error_that_passes() {
        let mut workers = Workers::start(vec![0; 2], 2, 0..100, give_the_step).unwrap();
        let first = workers.take().unwrap().unwrap();
        let _second = workers.take().unwrap().unwrap();
        assert!(matches!(workers.take(), Some(Err(Error::AllSlotsHeld { slots: 2 }))));
        drop(first);
        assert_eq!(take(&mut workers), Some(Ok(2)));
    }
}

/// The whole worker set under a checker that tries many interleavings; `make models` runs it.
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests {
    use super::*;

    const RUNS: usize = 2_000;

    fn start(slots: usize, workers: usize, steps: u64, bad: Option<u64>) -> Workers<u64> {
        Workers::start(vec![u64::MAX; slots], workers, 0..steps, || {
            move |step, item: &mut u64| {
                *item = step;
                if bad == Some(step) {
                    Err(Error::OutOfRange { what: "sample", index: step, count: 0 })
                } else {
                    Ok(())
                }
            }
        })
        .unwrap()
    }

    #[test]
    fn steps_come_in_order_and_end() {
        let check = || {
            let mut workers = start(2, 3, 7, None);
            for step in 0..7 {
                assert_eq!(*workers.take().unwrap().unwrap().item(), step);
            }
            assert!(workers.take().is_none());
        };
        shuttle::check_random(check, RUNS);
        shuttle::check_pct(check, RUNS, 3);
    }

    #[test]
    fn dropping_early_ends_every_thread() {
        let check = || {
            let mut workers = start(2, 3, u64::MAX, None);
            let held = workers.take().unwrap().unwrap();
            drop(workers);
            assert_eq!(*held.item(), 0);
        };
        shuttle::check_random(check, RUNS);
        shuttle::check_pct(check, RUNS, 3);
    }

    #[test]
    fn an_error_comes_at_its_step_and_is_the_last() {
        let check = || {
            let mut workers = start(3, 2, 50, Some(2));
            assert!(workers.take().unwrap().is_ok() && workers.take().unwrap().is_ok());
            assert!(workers.take().unwrap().is_err());
            assert!(workers.take().is_none());
        };
        shuttle::check_random(check, RUNS);
    }
}
