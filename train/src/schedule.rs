//! The learning rate and the mask rate as pure functions of progress, which goes from 0 to 1 ([`crate::pace`]).
//!
//! `linear`: linear warm-up, then linear decay to a fraction of the peak: Composer's `LinearWithWarmupScheduler`
//! (`composer/optim/scheduler.py`), which the MosaicBERT recipe uses with a warm-up of 6 % and a final fraction of 0.02.
//!
//! `wsd`: warm-up, stable, decay (Hu et al. 2024, MiniCPM): the peak is held until the last `decay_fraction`, which falls
//! as 1 − √t (Hägele et al. 2024), as ModernBERT is trained. What was trained at the peak can be decayed from any checkpoint
//! (`train --branch-from`), so one long run gives finished models of many budgets.
//!
//! Nothing is remembered between steps, so a resumed run needs no schedule state.

use loader::{LinearMaskRate, MaskRate};
use serde::{Deserialize, Serialize};

/// Shape of the learning-rate curve; the peak itself is `optimizer.lr`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// What follows the warm-up.
    pub shape: Shape,
    /// Share of the budget spent warming up from 0, in `[0, 1)`.
    pub warmup_fraction: f64,
    /// Share of the budget that `wsd` spends decaying, at its end, in `[0, 1 - warmup_fraction]`; 0 stays at the peak.
    /// `linear` decays over all that follows the warm-up.
    pub decay_fraction: f64,
    /// Learning rate at the end of training, as a fraction of the peak, in `[0, 1]`.
    pub final_fraction: f64,
}

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A straight line to the end.
    Linear,
    /// The peak, then 1 − √t.
    Wsd,
}

impl ScheduleConfig {
    /// Multiplier of the peak learning rate at `progress`.
    ///
    /// A step takes the progress made before it, so the very first update has a multiplier of 0 (when there is a warm-up
    /// at all), and the last one does not quite reach [`ScheduleConfig::final_fraction`], as in Composer.
    pub fn factor(&self, progress: f64) -> f64 {
        if progress < self.warmup_fraction {
            return progress / self.warmup_fraction;
        }
        let decay = match self.shape {
            Shape::Linear => 1.0 - self.warmup_fraction,
            Shape::Wsd => self.decay_fraction,
        };
        let into = progress.min(1.0) - (1.0 - decay);
        if into <= 0.0 || decay == 0.0 {
            return 1.0;
        }
        let fall = match self.shape {
            Shape::Linear => into / decay,
            Shape::Wsd => (into / decay).min(1.0).sqrt(),
        };
        1.0 + fall * (self.final_fraction - 1.0)
    }

    /// Whether the learning rate is at its peak at `progress`: only from there can a decay branch off.
    pub fn is_stable(&self, progress: f64) -> bool {
        self.factor(progress) == 1.0
    }
}

/// The fraction of tokens chosen for prediction: a number, or `{ from, to }`, a straight line over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a mask rate is a number such as 0.3 or a table { from, to }")]
pub enum MaskSchedule {
    /// The same at every step.
    Constant(f64),
    /// A straight line from the first step to the last.
    Linear(MaskLine),
}

/// The two ends of a mask rate that moves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskLine {
    /// Rate at progress 0.
    pub from: f64,
    /// Rate at progress 1.
    pub to: f64,
}

impl MaskSchedule {
    /// The rate at `progress`.
    pub fn at(&self, progress: f64) -> f64 {
        match *self {
            MaskSchedule::Constant(rate) => rate,
            MaskSchedule::Linear(MaskLine { from, to }) => from + (to - from) * progress,
        }
    }

    /// The highest rate there is.
    pub fn highest(&self) -> f64 {
        self.at(0.0).max(self.at(1.0))
    }

    /// The same as the loader wants it for a straight line of progress: from step `first`, where progress is `progress`, to
    /// step `end`, where it is 1. Without an end progress stands still.
    pub(crate) fn over_steps(&self, progress: f64, first: u64, end: Option<u64>) -> MaskRate {
        match (*self, end) {
            (MaskSchedule::Constant(rate), _) => MaskRate::Constant(rate),
            (MaskSchedule::Linear(_), None) => MaskRate::Constant(self.at(progress)),
            (MaskSchedule::Linear(line), Some(end)) => MaskRate::Linear(LinearMaskRate {
                from: self.at(progress),
                to: line.to,
                first_step: first,
                steps: end - first,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAPER: ScheduleConfig = ScheduleConfig {
        shape: Shape::Linear,
        warmup_fraction: 0.06,
        decay_fraction: 0.1,
        final_fraction: 0.02,
    };
    const WSD: ScheduleConfig = ScheduleConfig { shape: Shape::Wsd, ..PAPER };

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn linear_rises_from_zero_peaks_after_warm_up_and_ends_at_the_final_fraction() {
        assert_eq!(PAPER.factor(0.0), 0.0);
        assert_eq!(PAPER.factor(0.03), 0.5);
        assert_eq!(PAPER.factor(0.06), 1.0);
        close(PAPER.factor(0.53), 0.51);
        close(PAPER.factor(1.0), 0.02);
        close(PAPER.factor(1.3), 0.02);
    }

    #[test]
    fn wsd_holds_the_peak_and_falls_as_one_minus_the_root() {
        assert_eq!([0.03, 0.06, 0.5, 0.9].map(|progress| WSD.factor(progress)), [0.5, 1.0, 1.0, 1.0]);
        close(WSD.factor(0.925), 1.0 - 0.98 * 0.5);
        close(WSD.factor(1.0), 0.02);
        assert!(WSD.is_stable(0.5) && !WSD.is_stable(0.05) && !WSD.is_stable(0.95));
        let stable = ScheduleConfig { decay_fraction: 0.0, ..WSD };
        assert_eq!(stable.factor(1.0), 1.0);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        let schedule = ScheduleConfig { warmup_fraction: 0.0, final_fraction: 0.0, ..PAPER };
        assert_eq!(schedule.factor(0.0), 1.0);
        assert_eq!(schedule.factor(0.5), 0.5);
        let decay = ScheduleConfig { warmup_fraction: 0.0, decay_fraction: 1.0, final_fraction: 0.0, ..WSD };
        assert_eq!([0.0, 0.25, 1.0].map(|progress| decay.factor(progress)), [1.0, 0.5, 0.0]);
    }

    #[test]
    fn the_loaders_mask_rate_is_the_schedules_at_every_step() {
        let schedule = MaskSchedule::Linear(MaskLine { from: 0.3, to: 0.15 });
        let mut pace = crate::pace::Pace::measured(0);
        for (done, left) in [(4, 100.0), (12, 50.0), (28, 200.0)] {
            pace.extend(done, left);
            let leg = pace.leg();
            let rate = schedule.over_steps(pace.progress(leg.from), leg.from, leg.end);
            for step in leg.from..=leg.until {
                close(rate.at(step), schedule.at(pace.progress(step)));
            }
        }
    }

    proptest! {
        #[test]
        fn stays_between_zero_and_the_peak(
            wsd: bool, warmup in 0.0..0.99, decay in 0.0..=1.0, last in 0.0..=1.0, at in 0.0..1.2,
        ) {
            let shape = if wsd { Shape::Wsd } else { Shape::Linear };
            let decay_fraction = decay * (1.0 - warmup);
            let schedule = ScheduleConfig { shape, warmup_fraction: warmup, decay_fraction, final_fraction: last };
            prop_assert!((0.0..=1.0).contains(&schedule.factor(at)));
        }
    }
}
