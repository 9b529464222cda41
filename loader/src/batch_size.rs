//! How many samples the batch of each step has, as arithmetic: where a step begins in the order follows from its number,
//! whether the batch is counted in samples or in tokens and while it still grows.
//!
//! With a batch of `B` that grows from `b` over `W` steps, the first `k` steps take `b k + (B - b) k² / 2W` samples or
//! tokens, and steps after those take `B` each: the integral of a straight line from `b` to `B`. A batch of tokens is
//! turned into samples by the mean length of a sample, so that steps have that many tokens on average and neighbouring
//! steps the same number of samples but for one; to count the very tokens would mean to read all samples before a step.

use crate::config::{LoaderConfig, invalid};
use crate::error::Error;

/// Lengths of samples are averaged to this fraction of a token.
pub(crate) const TOKEN_FRACTION: u64 = 1 << 20;

/// The batch size of every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchSizes {
    /// Samples or tokens of the batch at the beginning and when it has grown, and the steps in between.
    from: u64,
    to: u64,
    warmup: u64,
    /// What a sample counts: [`TOKEN_FRACTION`] times its tokens on average, or times one.
    per_sample: u64,
}

impl BatchSizes {
    /// The sizes that `config` asks for. `mean_len` is the mean length of a sample in [`TOKEN_FRACTION`]s of a token;
    /// it matters to batches of tokens only.
    ///
    /// # Errors
    /// [`Error::Config`] when a batch has no room for a sample.
    pub(crate) fn new(config: &LoaderConfig, mean_len: u64) -> Result<Self, Error> {
        let (field, to, per_sample) = match config.batch_tokens {
            0 => ("batch_size", config.batch_size, TOKEN_FRACTION),
            tokens => ("batch_tokens", tokens, mean_len.max(TOKEN_FRACTION)),
        };
        let to = to as u64;
        let from = match config.batch_warmup_steps {
            0 => to,
            _ => ((config.batch_warmup_from * to as f64).round() as u64).clamp(1, to),
        };
        let sizes = Self { from, to, warmup: config.batch_warmup_steps, per_sample };
        match sizes.smallest() {
            0 => {
                Err(invalid(field, to, "enough for a sample in every batch, also in the first of a warm-up"))
            }
            _ => Ok(sizes),
        }
    }

    /// How many samples all steps before `step` take.
    pub(crate) fn start(&self, step: u64) -> u128 {
        let [from, to, warmup, step] = [self.from, self.to, self.warmup, step].map(u128::from);
        // Settings have ranges that keep this below 2^118.
        let (units, divisor) = match step < warmup {
            true => ((2 * warmup * from + (to - from) * step) * step, 2 * warmup),
            false => (warmup * (from + to) + 2 * to * (step - warmup), 2),
        };
        units * u128::from(TOKEN_FRACTION) / (divisor * u128::from(self.per_sample))
    }

    /// The samples of a step.
    pub(crate) fn len(&self, step: u64) -> usize {
        (self.start(step + 1) - self.start(step)) as usize
    }

    /// Every step has at least so many samples.
    pub(crate) fn smallest(&self) -> usize {
        (u128::from(self.from) * u128::from(TOKEN_FRACTION) / u128::from(self.per_sample)) as usize
    }

    /// No step has more samples.
    pub(crate) fn largest(&self) -> usize {
        (u128::from(self.to) * u128::from(TOKEN_FRACTION)).div_ceil(u128::from(self.per_sample)) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(batch_size: usize, from: f64, steps: u64) -> BatchSizes {
        let config = LoaderConfig {
            batch_size,
            batch_warmup_from: from,
            batch_warmup_steps: steps,
            ..Default::default()
        };
        BatchSizes::new(&config, 0).unwrap()
    }

    #[test]
    fn a_batch_grows_in_a_straight_line() {
        let sizes = samples(1000, 0.2, 100);
        for (step, expected) in [(0, 204), (25, 404), (50, 604), (99, 996), (100, 1000), (5000, 1000)] {
            assert!(sizes.len(step).abs_diff(expected) <= 1, "step {step}: {}", sizes.len(step));
        }
        // The area under the line: a mean of 600 over the warm-up.
        assert_eq!(sizes.start(100), 60_000);
        assert_eq!(sizes.start(110), 70_000);
    }

    #[test]
    fn batches_of_tokens_have_them_on_average() {
        let config = LoaderConfig { batch_tokens: 65_536, ..Default::default() };
        // 100.5 tokens a sample.
        let sizes = BatchSizes::new(&config, 201 * TOKEN_FRACTION / 2).unwrap();
        assert_eq!((sizes.smallest(), sizes.largest()), (652, 653));
        let steps = 100_000;
        let per_step = sizes.start(steps) as f64 * 100.5 / steps as f64;
        assert!((per_step - 65_536.0).abs() < 0.01, "{per_step}");
    }

    #[test]
    fn a_batch_without_room_for_a_sample_is_refused() {
        let config = LoaderConfig { batch_tokens: 100, ..Default::default() };
        let message = BatchSizes::new(&config, 120 * TOKEN_FRACTION).unwrap_err().to_string();
        assert!(message.starts_with("batch_tokens is 100, expected enough for a sample"), "{message}");
    }

    proptest! {
        /// Steps follow each other without a gap, grow and stay within the bounds that memory is set aside by.
        #[test]
        fn sizes_grow_within_their_bounds(
            batch in 1..1usize << 32, from in 0.0..1.0f64, warmup in 0..1u64 << 32, mean in 1.0..2000.0f64,
            tokens in any::<bool>(), step in 0..1u64 << 40, near in 0..1u64 << 32,
        ) {
            let mut config = LoaderConfig {
                batch_size: batch, batch_warmup_from: from, batch_warmup_steps: warmup, ..Default::default()
            };
            if tokens {
                config.batch_tokens = batch;
            }
            let Ok(sizes) = BatchSizes::new(&config, (mean * TOKEN_FRACTION as f64) as u64) else {
                return Ok(());
            };
            for step in [step, near, near % (warmup + 1), warmup.saturating_sub(1), warmup] {
                let len = sizes.len(step);
                prop_assert!(sizes.smallest() <= len && len <= sizes.largest(), "{} of {:?}", len, sizes);
                prop_assert_eq!(sizes.start(step) + len as u128, sizes.start(step + 1));
                // Rounding down both ends of a step can take one sample from the next.
                prop_assert!(len <= sizes.len(step + 1) + 1);
            }
            prop_assert_eq!(sizes.start(0), 0);
        }
    }
}
