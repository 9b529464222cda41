//! Where the time of a run goes: each worker has a clock that always stands on one stage.
//!
//! Entering a stage within another stops the outer one until it is left, so the shares add up and none counts twice.
//! A reading of the clock costs about 25 ns and a document takes about ten, which is 1 % of its time; without
//! [`Progress::profiling`](crate::Progress::profiling) nothing is read.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bytes of the input from the operating system.
    Read,
    /// Decompression, checksums of the input included.
    Unpack,
    /// Lines, UTF-8 and JSON; columns of a table.
    Parse,
    /// Text to ids. Normalising is part of it: most of the text is looked up without being normalised.
    Encode,
    /// Tokens, the table of documents and checksums, and waiting for the sealer to take a full part.
    Write,
    /// All else.
    Other,
    /// What a worker's sealer does beside it: the rest of a part, and waiting until the disk or the store has it.
    Seal,
}

impl Stage {
    /// All, in the order of the pipeline.
    pub const ALL: [Stage; 7] =
        [Stage::Read, Stage::Unpack, Stage::Parse, Stage::Encode, Stage::Write, Stage::Other, Stage::Seal];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Unpack => "unpack",
            Stage::Parse => "parse",
            Stage::Encode => "encode",
            Stage::Write => "write",
            Stage::Other => "other",
            Stage::Seal => "seal",
        }
    }
}

/// Time spent in each stage, by all workers of a run together.
#[derive(Debug, Default)]
pub struct Stages {
    measured: bool,
    nanoseconds: [AtomicU64; Stage::ALL.len()],
}

impl Stages {
    /// Stages whose time will be measured.
    pub(crate) fn measured() -> Self {
        Self { measured: true, ..Self::default() }
    }

    /// The stages with their time, in the order of the pipeline; nothing if the run did not measure them.
    pub fn times(&self) -> Vec<(Stage, Duration)> {
        let time =
            |stage: Stage| Duration::from_nanos(self.nanoseconds[stage as usize].load(Ordering::Relaxed));
        Stage::ALL.into_iter().filter(|_| self.measured).map(|stage| (stage, time(stage))).collect()
    }
}

/// The clock of one thread.
#[derive(Clone, Copy)]
struct Clock {
    stage: Stage,
    since: Instant,
    nanoseconds: [u64; Stage::ALL.len()],
}

thread_local! {
    static CLOCK: Cell<Option<Clock>> = const { Cell::new(None) };
}

/// Lets the clock of this thread stand on `stage` and returns where it stood; nothing where none runs.
#[inline]
fn turn(stage: Stage) -> Option<Stage> {
    CLOCK.with(|cell| {
        let mut clock = cell.get()?;
        let now = Instant::now();
        clock.nanoseconds[clock.stage as usize] += now.duration_since(clock.since).as_nanos() as u64;
        let before = std::mem::replace(&mut clock.stage, stage);
        clock.since = now;
        cell.set(Some(clock));
        Some(before)
    })
}

/// Runs `work` as part of `stage`.
#[inline]
pub(crate) fn within<T>(stage: Stage, work: impl FnOnce() -> T) -> T {
    let before = turn(stage);
    let result = work();
    before.map(turn);
    result
}

/// A reader whose reading is [`Stage::Read`].
pub(crate) struct Timed<R>(pub(crate) R);

impl<R: Read> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        within(Stage::Read, || self.0.read(buffer))
    }
}

/// Measures what this thread does in `work`, if the run is to be measured.
pub(crate) fn measure<T>(stages: &Stages, work: impl FnOnce() -> T) -> T {
    if !stages.measured {
        return work();
    }
    let clock = Clock { stage: Stage::Other, since: Instant::now(), nanoseconds: [0; Stage::ALL.len()] };
    CLOCK.set(Some(clock));
    let result = work();
    turn(Stage::Other);
    if let Some(clock) = CLOCK.take() {
        for (sum, time) in stages.nanoseconds.iter().zip(clock.nanoseconds) {
            sum.fetch_add(time, Ordering::Relaxed);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait() {
        std::thread::sleep(Duration::from_millis(2));
    }

    #[test]
    fn stages_within_stages_count_once_and_all_time_is_some_stages() {
        let stages = Stages::measured();
        let started = Instant::now();
        measure(&stages, || {
            within(Stage::Parse, || {
                wait();
                within(Stage::Unpack, || within(Stage::Read, wait));
            });
            within(Stage::Write, wait);
        });
        let elapsed = started.elapsed();
        let times = stages.times();
        for (stage, time) in &times {
            let worked = matches!(stage, Stage::Read | Stage::Parse | Stage::Write);
            assert_eq!(*time >= Duration::from_millis(2), worked, "{stage:?}: {time:?}");
        }
        assert!(times.iter().map(|(_, time)| *time).sum::<Duration>() <= elapsed);
    }

    #[test]
    fn nothing_is_measured_that_was_not_asked_for() {
        let stages = Stages::default();
        assert_eq!(measure(&stages, || within(Stage::Read, || 7)), 7);
        assert!(stages.times().is_empty());
    }
}
