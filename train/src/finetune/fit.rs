//! Fine-tuning of a classifier: the loop over epochs and batches, and what it is set by.

use std::time::Instant;

use model::SequenceClassifier;
use model::torch::Readback;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::FinetuneError;
use super::examples::{Example, labels, pack};
use super::order::{self, Order, micro_batches};
use crate::error::Error;
use crate::optimizer::{DecoupledAdamW, OptimizerConfig};
use crate::schedule::{ScheduleConfig, Shape};
use crate::step::step_seed;
use crate::stop::Stop;

/// This many steps in a row with a loss or gradient that is not finite end a fine-tuning.
const MAX_SKIPPED_IN_A_ROW: u64 = 10;
/// Slots of one forward pass when nothing is trained.
const PREDICTION_TOKENS: usize = 32_768;

/// What decides a fine-tuning, beside data, model and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Passes over the examples.
    pub epochs: u64,
    /// Examples a step.
    pub batch_size: usize,
    /// Longest example in tokens; longer ones are cut.
    pub seq_len: usize,
    /// The order of training.
    pub order: Order,
    /// What activations are computed in on CUDA; the CPU computes in float32.
    pub precision: Precision,
    /// Most tokens of one forward and backward pass, padding to the longest included: bounds memory, and changes results
    /// by rounding and dropout only.
    pub micro_batch_tokens: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Share of every weight that is lost per update at the peak learning rate.
    pub weight_decay: f64,
    /// Decay rates of AdamW's two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of the steps spent warming up from 0.
    pub warmup_fraction: f64,
    /// Learning rate at the end as a fraction of the peak, on a straight line from it.
    pub final_fraction: f64,
}

/// What activations are computed in on CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bfloat16, with float32 weights.
    Bf16,
    /// float32.
    Fp32,
}

/// How a fine-tuning went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Steps.
    pub steps: u64,
    /// Steps without update, because loss or gradient were not finite.
    pub skipped: u64,
    /// Mean training loss of each epoch.
    pub losses: Vec<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

impl Settings {
    /// Refuses values outside their range.
    ///
    /// # Errors
    /// [`Error::ConfigRange`].
    pub fn validate(&self) -> Result<(), Error> {
        let range = |key, ok: bool, found: String, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::ConfigRange { key, found, expected: expected.to_owned() }),
        };
        let Settings { lr, betas, eps, weight_decay, warmup_fraction, final_fraction, .. } = self;
        range("epochs", self.epochs > 0, self.epochs.to_string(), "at least 1")?;
        range("batch_size", self.batch_size > 0, self.batch_size.to_string(), "at least 1")?;
        range("seq_len", self.seq_len >= 8, self.seq_len.to_string(), "at least 8")?;
        range("micro_batch_tokens", self.micro_batch_tokens > 0, "0".into(), "at least 1")?;
        range("lr", *lr > 0.0 && lr.is_finite(), lr.to_string(), "a number above 0")?;
        let valid = betas.iter().all(|beta| (0.0..1.0).contains(beta));
        range("betas", valid, format!("{betas:?}"), "two numbers from 0 to below 1")?;
        range("eps", *eps > 0.0, eps.to_string(), "above 0")?;
        range("weight_decay", (0.0..1.0).contains(weight_decay), weight_decay.to_string(), "0 to below 1")?;
        let valid = (0.0..1.0).contains(warmup_fraction);
        range("warmup_fraction", valid, warmup_fraction.to_string(), "0 to below 1")?;
        range("final_fraction", (0.0..=1.0).contains(final_fraction), final_fraction.to_string(), "0 to 1")
    }

    /// Steps of a fine-tuning on `examples` examples; the last batch of an epoch may be smaller.
    pub fn steps(&self, examples: usize) -> u64 {
        self.epochs * examples.div_ceil(self.batch_size) as u64
    }

    /// The optimizer's part.
    fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip_norm: 0.0,
        }
    }

    /// The schedule's part.
    fn schedule(&self) -> ScheduleConfig {
        ScheduleConfig {
            shape: Shape::Linear,
            warmup_fraction: self.warmup_fraction,
            decay_fraction: 0.0,
            final_fraction: self.final_fraction,
        }
    }
}

impl Precision {
    /// What activations are computed in on `device`.
    pub fn compute_kind(self, device: Device) -> Kind {
        match (device.is_cuda(), self) {
            (true, Precision::Bf16) => Kind::BFloat16,
            _ => Kind::Float,
        }
    }
}

/// Fine-tunes `model` on `examples`; `epoch_done` is told each epoch's number, from 1, and mean loss.
///
/// The loss is the mean over each batch. Order and dropout are functions of `seed` and the step, so the same call gives
/// the same model on the same device.
///
/// # Errors
/// [`FinetuneError::Diverged`], [`FinetuneError::Stopped`], or [`Error::Model`] when a pass fails.
pub fn fit(
    model: &SequenceClassifier,
    examples: &[Example],
    settings: &Settings,
    seed: u64,
    device: Device,
    stop: &Stop,
    mut epoch_done: impl FnMut(u64, f64),
) -> Result<Fitted, Error> {
    let begun = Instant::now();
    let mut optimizer = DecoupledAdamW::of_classifier(settings.optimizer(), model)?;
    let schedule = settings.schedule();
    let steps = settings.steps(examples.len());
    let mut fitted = Fitted { steps, skipped: 0, losses: Vec::new(), seconds: 0.0 };
    let mut sums = Sums { steps, ..Sums::default() };
    let mut step = 0;
    for epoch in 0..settings.epochs {
        let mut under_way: Option<Readback> = None;
        for batch in order::epoch(examples, settings.order, settings.batch_size, seed, epoch) {
            if stop.requested() {
                return Err(FinetuneError::Stopped.into());
            }
            tch::manual_seed(step_seed(seed, step));
            let mut loss = Tensor::zeros([1], (Kind::Double, device)); // [1]
            for micro in micro_batches(examples, &batch, settings.micro_batch_tokens) {
                let micro = || micro.iter().map(|&at| &examples[at]);
                let labels = labels(micro(), model.num_labels(), device); // [B]
                let output = model.loss(&pack(micro(), device)?, &labels, true, batch.len() as f64)?;
                output.backward()?;
                loss += output.loss.detach().to_kind(Kind::Double).view(1); // [1]
            }
            let norm = optimizer.gradient_norm()?.to_kind(Kind::Double).view(1); // [1]
            let numbers = Tensor::cat(&[&loss, &norm], 0); // [2]
            let lr = settings.lr * schedule.factor(step as f64 / steps as f64);
            optimizer.step_if_finite(lr, &numbers, &norm)?;
            step += 1;
            // The device works on this step while the host learns how the one before went.
            if let Some(before) = under_way.replace(Readback::start(&numbers)?) {
                sums.add(before)?;
            }
        }
        under_way.into_iter().try_for_each(|last| sums.add(last))?;
        let mean = sums.end_epoch();
        fitted.losses.push(mean);
        epoch_done(epoch + 1, mean);
    }
    fitted.skipped = sums.skipped;
    fitted.seconds = begun.elapsed().as_secs_f64();
    Ok(fitted)
}

/// What the host knows of the steps so far.
#[derive(Default)]
struct Sums {
    steps: u64,
    /// Steps accounted for.
    step: u64,
    skipped: u64,
    streak: u64,
    /// Of this epoch.
    loss: f64,
    /// Steps of this epoch with an update.
    updates: u64,
}

impl Sums {
    /// Adds a step: its loss and the norm of its gradient.
    fn add(&mut self, numbers: Readback) -> Result<(), Error> {
        let numbers = numbers.wait()?; // [2]
        self.step += 1;
        // The optimizer decided the same, from the same numbers.
        if numbers.iter().all(|number| number.is_finite()) {
            self.loss += numbers[0];
            self.updates += 1;
            self.streak = 0;
            return Ok(());
        }
        self.skipped += 1;
        self.streak += 1;
        match self.streak < MAX_SKIPPED_IN_A_ROW {
            true => Ok(()),
            false => {
                let (streak, step, steps) = (self.streak, self.step, self.steps);
                Err(FinetuneError::Diverged { streak, step, steps }.into())
            }
        }
    }

    /// The mean loss of the epoch.
    fn end_epoch(&mut self) -> f64 {
        let mean = self.loss / self.updates.max(1) as f64;
        (self.loss, self.updates) = (0.0, 0);
        mean
    }
}

/// The scores of each example, without dropout: `num_labels` numbers each, in the examples' order.
///
/// # Errors
/// [`Error::Model`] when a pass fails.
pub fn scores(
    model: &SequenceClassifier,
    examples: &[Example],
    device: Device,
) -> Result<Vec<Vec<f64>>, Error> {
    let _guard = no_grad_guard();
    let all: Vec<usize> = (0..examples.len()).collect();
    let mut found = vec![Vec::new(); examples.len()];
    for batch in micro_batches(examples, &all, PREDICTION_TOKENS) {
        let tokens = pack(batch.iter().map(|&at| &examples[at]), device)?;
        let logits = model.logits(&tokens)?.to_kind(Kind::Double).to_device(Device::Cpu); // [B, num_labels]
        let logits = Vec::<Vec<f64>>::try_from(logits)?;
        for (at, scores) in batch.into_iter().zip(logits) {
            found[at] = scores;
        }
    }
    Ok(found)
}

/// What scores predict: the class with the largest, or the number itself where there is one.
pub fn prediction(scores: &[f64]) -> f64 {
    match scores {
        [number] => *number,
        // The first of equal ones, as torch's argmax takes it.
        _ => (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0) as f64,
    }
}
