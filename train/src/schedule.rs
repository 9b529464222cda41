//! The learning rate as a pure function of progress.
//!
//! Linear warm-up, then linear decay to a fraction of the peak: Composer's `LinearWithWarmupScheduler`
//! (`composer/optim/scheduler.py`), which the MosaicBERT recipe uses with a warm-up of 6 % and a final
//! fraction of 0.02. Nothing is remembered between steps, so a resumed run needs no schedule state.

use serde::{Deserialize, Serialize};

/// Shape of the learning-rate curve; the peak itself is `optimizer.lr`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Share of all steps spent warming up from 0, in `[0, 1)`. Rounded down to whole steps, as Composer does.
    pub warmup_fraction: f64,
    /// Learning rate at the end of training, as a fraction of the peak, in `[0, 1]`.
    pub final_fraction: f64,
}

impl ScheduleConfig {
    /// Number of warm-up steps of a run of `steps`.
    pub fn warmup_steps(&self, steps: u64) -> u64 {
        (self.warmup_fraction * steps as f64) as u64
    }

    /// Multiplier of the peak learning rate for the step with zero-based index `step`.
    ///
    /// The index is the number of steps already done, so the very first update has a multiplier of 0 (when there
    /// is a warm-up at all) and the peak is reached by the update after `warmup_steps` others. Beyond the last
    /// step the multiplier stays at [`ScheduleConfig::final_fraction`].
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let warmup = self.warmup_steps(steps);
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        1.0 + done.min(1.0) * (self.final_fraction - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAPER: ScheduleConfig = ScheduleConfig { warmup_fraction: 0.06, final_fraction: 0.02 };

    #[test]
    fn rises_from_zero_peaks_after_warm_up_and_ends_at_the_final_fraction() {
        assert_eq!(PAPER.warmup_steps(70_000), 4_200);
        assert_eq!(PAPER.factor(0, 70_000), 0.0);
        assert_eq!(PAPER.factor(2_100, 70_000), 0.5);
        assert_eq!(PAPER.factor(4_200, 70_000), 1.0);
        assert!((PAPER.factor(70_000, 70_000) - 0.02).abs() < 1e-12);
        assert!((PAPER.factor(90_000, 70_000) - 0.02).abs() < 1e-12);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        let schedule = ScheduleConfig { warmup_fraction: 0.0, final_fraction: 0.0 };
        assert_eq!(schedule.factor(0, 10), 1.0);
        assert_eq!(schedule.factor(5, 10), 0.5);
    }

    proptest! {
        #[test]
        fn stays_between_zero_and_the_peak(warmup in 0.0..0.99, last in 0.0..=1.0, steps in 1u64..100_000, at in 0.0..1.2) {
            let schedule = ScheduleConfig { warmup_fraction: warmup, final_fraction: last };
            let factor = schedule.factor((at * steps as f64) as u64, steps);
            prop_assert!((0.0..=1.0).contains(&factor));
        }
    }
}
