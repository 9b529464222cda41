//! One optimizer step: forward and backward over the micro-batches, then the update.

use loader::StepBatch;
use model::MaskedLm;
use model::torch::Readback;
use tch::{Device, Kind, Tensor};

use crate::distributed::Reducer;
use crate::error::Error;
use crate::feed;
use crate::optimizer::DecoupledAdamW;

/// What a step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    /// Cross-entropy in nats, mean over the masked tokens of the whole batch.
    pub loss: f64,
    /// Masked tokens predicted exactly.
    pub correct: u64,
    /// Euclidean norm of the gradient.
    pub grad_norm: f64,
    /// Whether the update was made. It is not when loss or gradient are not finite.
    pub updated: bool,
}

/// The seed of torch's generators for a step, which decides dropout: SplitMix64 (Steele, Lea and Flood 2014) of the
/// run's seed advanced by the step. A pure function, so that a resumed run drops what an uninterrupted one does.
pub fn step_seed(seed: u64, step: u64) -> i64 {
    let mut z = seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as i64
}

/// The seed of a rank of a job, so that ranks drop different activations; that of rank 0 is the run's. The multiplier, an odd
/// one, is that of Steele and Vigna's generators of 2021.
fn rank_seed(seed: u64, rank: usize) -> u64 {
    seed.wrapping_add((rank as u64).wrapping_mul(0xd134_2543_de82_ef95))
}

/// A step that was given to the device, and of which the host does not know yet how it went.
#[derive(Debug)]
pub struct Launched(Readback);

impl Launched {
    /// What the step measured; waits until the device has made it.
    ///
    /// # Errors
    /// [`Error::Model`] when work on the device has failed.
    pub fn outcome(self) -> Result<StepOutcome, Error> {
        let [loss, correct, grad_norm]: [f64; 3] =
            self.0.wait()?.try_into().expect("the step sent three numbers");
        // The optimizer decided the same, from the same numbers.
        let updated = loss.is_finite() && grad_norm.is_finite();
        Ok(StepOutcome { loss, correct: correct as u64, grad_norm, updated })
    }
}

/// Makes one step with learning rate `lr`.
///
/// Every micro-batch's loss is divided by the masked tokens of the whole batch, so the gradient does not depend on
/// how the batch was cut. In a job of several ranks each makes its part of the batch, and gradients and numbers are summed: all
/// ranks make the same update. The gradients are zero before and after. On the fused path the host waits for nothing: it can
/// prepare the next step while the device is busy with this one.
///
/// # Errors
/// [`Error::Model`] or [`Error::Torch`] when a pass fails.
pub fn step(
    model: &MaskedLm,
    optimizer: &mut DecoupledAdamW,
    batch: &StepBatch,
    lr: f64,
    seed: u64,
    device: Device,
) -> Result<Launched, Error> {
    let rank = optimizer.reducer().map_or(0, Reducer::rank);
    tch::manual_seed(step_seed(rank_seed(seed, rank), batch.step));
    let normalizer = batch.masked_tokens.max(1) as f64;
    let mut sums = Tensor::zeros([2], (Kind::Double, device)); // [2]: loss, correct
    let micro_batches: Vec<_> = batch.micro_batches.iter().filter(|micro| !micro.labels.is_empty()).collect();
    for (index, micro_batch) in micro_batches.iter().enumerate() {
        let output = model.loss(&feed::to_device(micro_batch, device)?, true, normalizer)?;
        if let Some(reducer) = optimizer.reducer() {
            reducer.ranks().tick();
            if index + 1 == micro_batches.len() {
                reducer.arm();
            }
        }
        output.backward()?;
        let parts = [output.loss.detach(), output.correct].map(|part| part.to_kind(Kind::Double)); // [] each
        sums += Tensor::stack(&parts, 0); // [2]
    }
    if let Some(reducer) = optimizer.reducer() {
        reducer.finish()?;
    }
    let norm = optimizer.gradient_norm()?.to_kind(Kind::Double).view(1); // [1]
    let numbers = match optimizer.reducer() {
        Some(reducer) => reducer.numbers(&sums, &norm)?,
        None => Tensor::cat(&[sums, norm], 0),
    }; // [3]
    optimizer.step_if_finite(lr, &numbers, &numbers.narrow(0, 2, 1))?;
    Ok(Launched(Readback::start(&numbers)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn step_seeds_are_splitmix64_and_do_not_repeat() {
        // The first outputs of SplitMix64 from seed 0, as published with its reference implementation.
        assert_eq!(
            [0, 1].map(|step| step_seed(0, step) as u64),
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]
        );
        let seeds: HashSet<i64> =
            (0..10).flat_map(|seed| (0..1000).map(move |step| step_seed(seed, step))).collect();
        assert_eq!(seeds.len(), 10_000);
        assert_eq!(rank_seed(17, 0), 17);
        let seeds: HashSet<i64> =
            (0..64).flat_map(|rank| (0..100).map(move |step| step_seed(rank_seed(17, rank), step))).collect();
        assert_eq!(seeds.len(), 6_400);
    }
}
