//! Progress through a run as a pure function of the step, from 0 at its first step to 1 when its budget is used up.
//!
//! Learning rate and mask rate follow progress, and the loader must know the mask rate of a step long before the step is
//! made. So progress is not read off a clock: it is a chain of straight lines over the steps, *legs*. A budget that is a
//! number of steps has one leg. A budget in seconds or tokens is a number of steps that nobody knows in advance: each leg
//! lasts a while, and from what its steps used the next one estimates how many steps are left and heads for 1 at the end of
//! them. Legs begin short, each twice as long as what was measured before, and never last longer than half of what is left,
//! so that the estimate is made anew again and again the nearer the end is. A run ends within a few steps of its budget, and
//! always at progress 1: if the budget is used up before, by a machine that became slower, four more steps make up for it.
//!
//! Legs are whole numbers and are part of every checkpoint, so a resumed run repeats the arithmetic of the steps it repeats
//! exactly. Where the budget is counted in tokens or samples a whole run is a function of its configuration and data; where
//! it is a time, the legs are what the clock decided.

use serde::{Deserialize, Serialize};

/// Steps of the first leg of a budget that is measured: progress stands still.
const FIRST_LEG: u64 = 4;

/// Of these, the ones that are not measured: kernels are compiled and memory is allocated in them.
pub const UNMEASURED: u64 = 2;

/// A leg that has no more steps to go than this is the last.
const LAST_LEG: u64 = 8;

/// Steps of the last leg at the least, unless progress is past [`NEARLY`].
const LEAST_LAST_LEG: u64 = 4;

/// Progress from which the end makes no difference any more.
const NEARLY: f64 = 0.99;

/// A straight line of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leg {
    /// Its first step, counted from 0.
    pub from: u64,
    /// The step at which what is left is estimated anew; the run's end when it equals `end`.
    pub until: u64,
    /// The step at which progress would be 1; `None` while nothing has been measured, when progress stands still.
    pub end: Option<u64>,
}

/// The legs so far. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    legs: Vec<Leg>,
}

impl Pace {
    /// The pace of a run whose steps are known: from `from`, where progress is 0, to `end`, where it is 1.
    pub fn steps(from: u64, end: u64) -> Pace {
        Pace { legs: vec![Leg { from, until: end, end: Some(end) }] }
    }

    /// The pace of a run from step `from` whose steps have to be measured.
    pub fn measured(from: u64) -> Pace {
        Pace { legs: vec![Leg { from, until: from + FIRST_LEG, end: None }] }
    }

    /// The leg that the run is on.
    pub fn leg(&self) -> Leg {
        self.legs[self.legs.len() - 1]
    }

    /// The run's first step.
    pub fn first(&self) -> u64 {
        self.legs[0].from
    }

    /// The number of steps, if it is known already or never: the last leg's end.
    pub fn end(&self) -> Option<u64> {
        self.leg().end
    }

    /// Whether the run ends after `done` steps.
    pub fn ends_at(&self, done: u64) -> bool {
        let leg = self.leg();
        leg.end == Some(leg.until) && done >= leg.until
    }

    /// Whether what is left is to be estimated anew after `done` steps.
    pub fn is_due(&self, done: u64) -> bool {
        done >= self.leg().until && !self.ends_at(done)
    }

    /// Goes on from step `done` with `left` steps to go, as estimated; a fraction is rounded. No step left ends the run, but
    /// for the steps that bring progress to 1.
    pub fn extend(&mut self, done: u64, left: f64) {
        let left = if left.is_finite() { left.round().clamp(0.0, 1e15) as u64 } else { 0 };
        let left = if self.progress(done) < NEARLY { left.max(LEAST_LAST_LEG) } else { left };
        let until = match left {
            0..=LAST_LEG => left,
            _ => (left / 2).min((2 * (done - self.first())).max(FIRST_LEG)),
        };
        self.legs.push(Leg { from: done, until: done + until, end: Some(done + left) });
    }

    /// Progress at `step`, counted from 0: what is done when the step begins. Between 0 and 1, and never falling.
    pub fn progress(&self, step: u64) -> f64 {
        let mut progress = 0.0;
        for (leg, next) in self.legs.iter().zip(self.legs.iter().skip(1).map(Some).chain([None])) {
            let to = next.map_or(step, |next| next.from.min(step));
            if let Some(end) = leg.end
                && to > leg.from
            {
                let share = (to - leg.from) as f64 / (end - leg.from).max(1) as f64;
                progress += (1.0 - progress) * share.min(1.0);
            }
            if to == step {
                break;
            }
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a budget of `budget` through steps that cost `cost(step)`; the pace, the steps made and what they cost.
    fn run(budget: f64, cost: impl Fn(u64) -> f64) -> (Pace, u64, f64) {
        let mut pace = Pace::measured(0);
        let (mut step, mut spent, mut mark) = (0, 0.0, (0, 0.0));
        while !pace.ends_at(step) {
            spent += cost(step);
            step += 1;
            if step == UNMEASURED {
                mark = (step, spent);
            }
            if pace.is_due(step) {
                let each = (spent - mark.1) / (step - mark.0) as f64;
                pace.extend(step, (budget - spent) / each);
                mark = (step, spent);
            }
        }
        (pace, step, spent)
    }

    #[test]
    fn a_known_number_of_steps_is_one_straight_line() {
        let pace = Pace::steps(0, 12);
        assert_eq!([0, 3, 12, 20].map(|step| pace.progress(step)), [0.0, 0.25, 1.0, 1.0]);
        assert!(pace.ends_at(12) && !pace.ends_at(11) && !pace.is_due(12));
        let branch = Pace::steps(100, 110);
        assert_eq!([100, 105, 110].map(|step| branch.progress(step)), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn a_steady_machine_ends_within_a_step_of_the_budget() {
        let (pace, steps, spent) = run(3600.0, |step| if step == 0 { 20.0 } else { 0.5 });
        assert!((spent - 3600.0).abs() <= 0.5, "{spent} s");
        assert_eq!(steps, 7161);
        assert!((pace.progress(steps) - 1.0).abs() < 1e-12);
        // The first step's 20 s are as good as forgotten when the warm-up of 6 % ends.
        assert!((pace.progress(430) - 0.06).abs() < 0.01, "{}", pace.progress(430));
    }

    #[test]
    fn a_machine_that_becomes_slower_still_ends_in_time() {
        let (_, _, spent) = run(1000.0, |step| if step < 600 { 0.5 } else { 1.3 });
        assert!((spent - 1000.0).abs() <= 1.3, "{spent} s");
        // A slow step every hundred, as an evaluation is.
        let (_, _, spent) = run(1000.0, |step| if step % 100 == 99 { 5.5 } else { 0.5 });
        assert!((spent - 1000.0).abs() <= 6.0, "{spent} s");
    }

    #[test]
    fn a_budget_of_less_than_the_first_leg_ends_decayed_all_the_same() {
        let (pace, steps, _) = run(1.0, |_| 5.0);
        assert_eq!((steps, pace.progress(steps)), (FIRST_LEG + LEAST_LAST_LEG, 1.0));
        assert_eq!(pace.progress(steps - 1), 0.75);
    }

    #[test]
    fn a_leg_may_be_cut_short() {
        let mut pace = Pace::measured(0);
        pace.extend(4, 100.0);
        assert_eq!(pace.leg().until, 12);
        pace.extend(6, 20.0);
        assert!((pace.progress(6) - 0.02).abs() < 1e-12 && (pace.progress(16) - 0.51).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn progress_rises_from_0_to_1_and_reads_back_as_itself(
            budget in 1.0..5000.0, slow in 0.1..3.0, turn in 0..2000u64,
        ) {
            let (pace, steps, _) = run(budget, |step| if step < turn { 0.7 } else { slow });
            let mut last = 0.0;
            for step in 0..=steps {
                let progress = pace.progress(step);
                prop_assert!((last..=1.0).contains(&progress), "{} after {} at {}", progress, last, step);
                last = progress;
            }
            prop_assert!(last >= NEARLY, "{}", last);
            let text = serde_json::to_string(&pace).unwrap();
            prop_assert_eq!(serde_json::from_str::<Pace>(&text).unwrap(), pace);
        }

        /// What has been decided stays: a resumed run finds the same progress at every step that it repeats.
        #[test]
        fn later_legs_change_nothing_before_them(left in 9.0..1e6, next in 0.0..1e6) {
            let mut pace = Pace::measured(0);
            pace.extend(4, left);
            let until = pace.leg().until;
            let before: Vec<f64> = (0..=until).map(|step| pace.progress(step)).collect();
            pace.extend(until, next);
            let after: Vec<f64> = (0..=until).map(|step| pace.progress(step)).collect();
            prop_assert_eq!(before, after);
        }
    }
}
