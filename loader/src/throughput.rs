//! How fast batches come: what `train bench --data-only` prints.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;
use crate::loader::Loader;

/// What a loader delivered over some steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Tokens of the global batches a second, special tokens included.
    pub tokens_per_s: f64,
    /// Samples of the global batches a second.
    pub samples_per_s: f64,
    /// The share of the time, 0 to 1, that the consumer waited for a batch that was not ready.
    pub wait_share: f64,
    /// Steps taken.
    pub steps: u64,
    /// Time they took in seconds.
    pub elapsed_s: f64,
}

/// Takes up to `steps` batches and drops them: as fast as they come, or no faster than `demand` tokens a second.
///
/// Takes as many as there may be ready before the clock starts, so that what was made in advance is not counted. Without
/// a demand the consumer does nothing but wait, so only the rates mean something then.
///
/// # Errors
/// Those of the loader.
pub fn measure(loader: &mut Loader, steps: u64, demand: Option<f64>) -> Result<Throughput, Error> {
    if demand.is_none() {
        for _ in 0..loader.slots() {
            loader.next().transpose()?;
        }
    }
    let (start, waited_before) = (Instant::now(), loader.waited());
    let (mut taken, mut tokens, mut samples) = (0, 0, 0);
    while taken < steps
        && let Some(batch) = loader.next().transpose()?
    {
        taken += 1;
        tokens += batch.tokens;
        samples += batch.samples;
        drop(batch);
        if let Some(demand) = demand {
            let due = start + Duration::from_secs_f64(tokens as f64 / demand);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    let elapsed_s = start.elapsed().as_secs_f64();
    let waited = loader.waited() - waited_before;
    Ok(Throughput {
        tokens_per_s: tokens as f64 / elapsed_s,
        samples_per_s: samples as f64 / elapsed_s,
        wait_share: waited.as_secs_f64() / elapsed_s,
        steps: taken,
        elapsed_s,
    })
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tokens               {:.0} a second", self.tokens_per_s)?;
        writeln!(f, "samples              {:.0} a second", self.samples_per_s)?;
        writeln!(f, "waiting              {:.3} % of the time", 100.0 * self.wait_share)?;
        writeln!(f, "steps                {} in {:.3} s", self.steps, self.elapsed_s)
    }
}
