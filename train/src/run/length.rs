//! How many steps a run has: from its budget, and for a budget that has to be measured, from what its steps have used.

use std::sync::Arc;

use loader::{Corpus, Plan, Split};

use crate::budget::Budget;
use crate::checkpoint::{Spent, State};
use crate::config::Config;
use crate::error::Error;
use crate::pace::Pace;

/// The pace of a run of `config` that begins at step `from`. `train.steps` is the step it ends at; a budget is what it uses
/// from there.
///
/// # Errors
/// [`Error::Loader`] when the samples of an epoch cannot be counted.
pub(super) fn pace(config: &Config, corpus: &Arc<Corpus>, from: u64) -> Result<Pace, Error> {
    let (samples, epochs) = match config.train.budget {
        None => return Ok(Pace::steps(from, config.train.steps)),
        Some(Budget::Steps(steps)) => return Ok(Pace::steps(from, from + steps)),
        Some(Budget::Samples(samples)) => (samples, 0.0),
        Some(Budget::Epochs(epochs)) => (0, epochs),
        Some(Budget::Tokens(_) | Budget::Time(_)) => return Ok(Pace::measured(from)),
    };
    // The loader's plan knows the batch of every step, whether it grows or is counted in tokens.
    let loader = config.loader_config();
    let all = corpus.samples(Split::Train, loader.policy, loader.seq_len)?;
    let plan = Plan::new(&all.parts(loader.batch_tokens > 0)?, &loader)?;
    let samples = samples + (epochs * plan.samples() as f64).ceil() as u64;
    Ok(Pace::steps(from, from + plan.steps_for(samples, from).max(1)))
}

/// The steps that are left of a budget that is measured: what is left of it over what a step uses, as measured since
/// `state.mark`.
///
/// A step's time is that of its training, and an equal share of all evaluations and of the time that checkpoints have
/// kept training waiting; both count against a time budget, except those after its last step.
pub(super) fn steps_left(budget: Option<Budget>, state: &State) -> f64 {
    let (now, mark, origin) = (state.spent(), state.mark, state.origin);
    let steps = (now.step - mark.step).max(1) as f64;
    match budget {
        Some(Budget::Tokens(total)) => {
            let left = total as f64 - (now.tokens - origin.tokens) as f64;
            left / ((now.tokens - mark.tokens) as f64 / steps)
        }
        Some(Budget::Time(total)) => {
            let trained = |spent: Spent| spent.elapsed_s - spent.paused_s;
            let pauses = (now.paused_s - origin.paused_s) / (now.step - origin.step).max(1) as f64;
            let each = (trained(now) - trained(mark)) / steps + pauses;
            (total - (now.elapsed_s - origin.elapsed_s)) / each
        }
        _ => 0.0,
    }
}

/// Seconds that are left, as far as known: what is left of a budget in time, else the steps that are left, each with
/// `step_s` seconds of training and an equal share of the pauses so far.
pub(super) fn seconds_left(budget: Option<Budget>, state: &State, step_s: f64) -> Option<f64> {
    let (now, origin) = (state.spent(), state.origin);
    let steps = state.pace.end()?.saturating_sub(now.step);
    match budget {
        Some(Budget::Time(total)) if steps > 0 => Some((total - (now.elapsed_s - origin.elapsed_s)).max(0.0)),
        _ => {
            let pauses = (now.paused_s - origin.paused_s) / (now.step - origin.step).max(1) as f64;
            Some(steps as f64 * (step_s + pauses))
        }
    }
}

/// Whether a time budget is being used up so much faster than its pace expected that the pace must be estimated anew before
/// the leg ends: what the steps of the leg have taken is more than they should by a quarter of the whole leg.
pub(super) fn is_late(budget: Option<Budget>, state: &State, done: u64, elapsed_s: f64) -> bool {
    let (Some(Budget::Time(total)), leg) = (budget, state.pace.leg()) else { return false };
    let Some(end) = leg.end.filter(|end| *end > leg.from && done > leg.from) else { return false };
    let left_then = state.origin.elapsed_s + total - state.mark.elapsed_s;
    let share = |steps: u64| left_then * steps as f64 / (end - leg.from) as f64;
    let taken = elapsed_s - state.mark.elapsed_s;
    taken > share(done - leg.from) + 0.25 * share(leg.until - leg.from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Identity;

    #[test]
    fn what_is_left_is_divided_by_what_a_step_uses() {
        let identity = Identity { manifest_blake3: "", tokenizer_blake3: "" };
        let mut state = State::start(identity, 17, Pace::measured(0));
        (state.step, state.tokens, state.elapsed_s, state.paused_s) = (20, 2400, 50.0, 10.0);
        state.mark = Spent { step: 10, tokens: 1000, elapsed_s: 25.0, paused_s: 5.0, ..Spent::default() };
        // 140 tokens a step of the last ten.
        assert_eq!(steps_left(Some(Budget::Tokens(3800)), &state), 10.0);
        // 20 s of training in ten steps, and 10 s of pauses in twenty.
        assert_eq!(steps_left(Some(Budget::Time(75.0)), &state), 10.0);
        assert!(steps_left(Some(Budget::Time(49.0)), &state) < 0.0);
        // A branch has only its own use counted.
        state.origin = Spent { step: 0, tokens: 400, elapsed_s: 30.0, paused_s: 10.0, ..Spent::default() };
        assert_eq!(steps_left(Some(Budget::Tokens(3400)), &state), 10.0);
        assert_eq!(steps_left(Some(Budget::Time(40.0)), &state), 10.0);
    }

    #[test]
    fn time_left_is_that_of_the_budget_or_of_the_steps_that_are_left() {
        let identity = Identity { manifest_blake3: "", tokenizer_blake3: "" };
        let mut state = State::start(identity, 17, Pace::steps(0, 60));
        (state.step, state.elapsed_s, state.paused_s) = (20, 50.0, 10.0);
        // 40 steps of 2 s, and 0.5 s of pauses for each.
        assert_eq!(seconds_left(None, &state, 2.0), Some(100.0));
        assert_eq!(seconds_left(Some(Budget::Time(75.0)), &state, 2.0), Some(25.0));
        state.step = 60;
        assert_eq!(seconds_left(Some(Budget::Time(75.0)), &state, 2.0), Some(0.0));
        state.pace = Pace::measured(0);
        assert_eq!(seconds_left(Some(Budget::Time(75.0)), &state, 2.0), None);
    }

    #[test]
    fn a_leg_that_takes_much_longer_than_expected_is_cut_short() {
        let identity = Identity { manifest_blake3: "", tokenizer_blake3: "" };
        let mut state = State::start(identity, 17, Pace::measured(0));
        let budget = Some(Budget::Time(110.0));
        assert!(!is_late(budget, &state, 3, 1e3), "nothing is expected of the first leg");
        // Ten seconds for four steps; the next 100 s are expected to make 80 steps, the leg is eight of them.
        state.pace.extend(4, 80.0);
        state.mark = Spent { step: 4, elapsed_s: 10.0, ..Spent::default() };
        assert_eq!(state.pace.leg().until, 12);
        assert!(!is_late(budget, &state, 6, 10.0 + 2.5 + 2.5));
        assert!(is_late(budget, &state, 6, 10.0 + 2.5 + 2.6));
        assert!(!is_late(Some(Budget::Tokens(1)), &state, 6, 1e3));
    }
}
