//! The largest micro-batch that memory holds, found by trial.
//!
//! A trial is what the worst step of training does: two micro-batches, so that the second meets the gradients of the first,
//! forward and backward, full of samples of the greatest length; and once more of samples half as long behind one of full
//! length, which is worse where attention is computed on padding. Weights and moments stay as they are.

use model::{MaskedLm, TokenBatch};
use tch::Device;

use crate::config::Config;
use crate::device;
use crate::distributed::Ranks;
use crate::error::Error;
use crate::optimizer::DecoupledAdamW;
use crate::run::build;

/// Largest micro-batch that is tried on a GPU: beyond it nothing becomes faster, and host memory is used up.
const MOST_ON_GPU: usize = 1 << 17;

/// Largest micro-batch that is tried on the CPU.
const MOST_ON_CPU: usize = 1 << 14;

/// Trials are this share of a micro-batch larger than it: room for more masked tokens than expected, and for fragments.
const HEADROOM: usize = 8;

/// What `--micro-batch-tokens` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatchTokens {
    /// As many as memory holds.
    Auto,
    /// So many.
    Tokens(usize),
}

impl std::str::FromStr for MicroBatchTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<MicroBatchTokens, String> {
        match text {
            "auto" => Ok(MicroBatchTokens::Auto),
            _ => text
                .replace('_', "")
                .parse()
                .map(MicroBatchTokens::Tokens)
                .map_err(|_| format!("{text:?} is neither a number of tokens nor auto")),
        }
    }
}

/// Puts what was asked for into the configuration; `auto` builds the model and tries.
///
/// # Errors
/// [`Error::NoMicroBatch`] when not even one sample fits; those of the device.
pub fn resolve(asked: MicroBatchTokens, config: &mut Config) -> Result<(), Error> {
    config.train.micro_batch_tokens = match asked {
        MicroBatchTokens::Tokens(tokens) => tokens,
        MicroBatchTokens::Auto => {
            let device = device::choose(config.train.device)?;
            let (model, optimizer) = build(config, device, &Ranks::alone())?;
            let most = if device.is_cuda() { MOST_ON_GPU } else { MOST_ON_CPU };
            let tokens = largest(&model, &optimizer, config, device, most)?.ok_or(Error::NoMicroBatch)?;
            eprintln!("train.micro_batch_tokens = {tokens}: the largest that fits, of the powers of two");
            tokens
        }
    };
    config.validate()
}

/// The largest power of two, up to `most`, that fits as a micro-batch; none when not even one sample does. One that holds
/// the whole batch of a step is large enough.
///
/// # Errors
/// What is wrong beside memory.
pub(crate) fn largest(
    model: &MaskedLm,
    optimizer: &DecoupledAdamW,
    config: &Config,
    device: Device,
    most: usize,
) -> Result<Option<usize>, Error> {
    let (seq_len, batch_size) = (config.train.seq_len, config.train.batch_size);
    let whole = seq_len.saturating_mul(batch_size).next_power_of_two();
    let mut found = None;
    let mut tokens = seq_len.next_power_of_two();
    while tokens <= most.min(whole) && fits(model, optimizer, config, device, tokens + tokens / HEADROOM)? {
        found = Some(tokens);
        tokens *= 2;
    }
    Ok(found)
}

/// Whether two micro-batches of `tokens` go forward and backward.
fn fits(
    model: &MaskedLm,
    optimizer: &DecoupledAdamW,
    config: &Config,
    device: Device,
    tokens: usize,
) -> Result<bool, Error> {
    let seq_len = config.train.seq_len;
    for length in [seq_len, seq_len.div_ceil(2)] {
        let cu_seqlens = cuts(tokens, seq_len, length);
        let tried = (0..2).try_for_each(|_| -> Result<(), Error> {
            let batch = batch(&cu_seqlens, config, device)?;
            let normalizer = batch.labels.numel().max(1) as f64;
            Ok(model.loss(&batch, true, normalizer)?.backward()?)
        });
        optimizer.zero_gradients();
        match tried {
            Err(Error::Model(model::Error::OutOfMemory { .. })) => return Ok(false),
            other => other?,
        }
    }
    Ok(true)
}

/// One sample of `first` tokens, then as many of `length` as fit into `tokens`.
fn cuts(tokens: usize, first: usize, length: usize) -> Vec<i32> {
    std::iter::once(0)
        .chain((0..).map(|sample| first + sample * length).take_while(|end| *end <= tokens.max(first)))
        .map(|end| i32::try_from(end).unwrap_or(i32::MAX))
        .collect()
}

/// Samples of the given lengths with as many masked tokens as training ever has.
fn batch(cu_seqlens: &[i32], config: &Config, device: Device) -> Result<TokenBatch, Error> {
    let tokens = i64::from(cu_seqlens.last().copied().unwrap_or(0));
    let vocabulary = config.model.vocab_size.max(1);
    let ids: Vec<i32> = (0..tokens).map(|at| (at * 7919 % vocabulary) as i32).collect();
    let rate = config.train.mask_rate.highest();
    let before = |at: i64| (at as f64 * rate) as i64;
    let positions: Vec<i64> = (0..tokens).filter(|at| before(at + 1) > before(*at)).collect();
    let labels: Vec<i64> = positions.iter().map(|at| at % vocabulary).collect();
    Ok(TokenBatch::from_host(&ids, cu_seqlens, &positions, &labels, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers;

    #[test]
    fn a_trial_is_full_and_masks_as_training_does() {
        assert_eq!(cuts(100, 24, 24), [0, 24, 48, 72, 96]);
        assert_eq!(cuts(60, 24, 12), [0, 24, 36, 48, 60]);
        assert_eq!(cuts(5, 24, 12), [0, 24], "one sample is always tried");
        let config = layers::resolve("tiny", None, &["train.mask_rate={from=0.15, to=0.3}".into()]).unwrap();
        let batch = batch(&cuts(1000, 100, 50), &config, Device::Cpu).unwrap();
        assert_eq!((batch.tokens(), batch.labels.numel()), (1000, 300));
    }

    #[test]
    fn without_a_limit_of_memory_the_whole_batch_is_one_micro_batch_and_nothing_is_changed() {
        let sets = ["model.vocab_size=128", "model.hidden_size=32", "train.batch_size=3", "train.seq_len=24"];
        let config = layers::resolve("tiny", None, &sets.map(str::to_owned)).unwrap();
        let (model, optimizer) = build(&config, Device::Cpu, &Ranks::alone()).unwrap();
        let before: Vec<_> = model.parameters().iter().map(|(_, tensor)| tensor.copy()).collect();
        assert_eq!(largest(&model, &optimizer, &config, Device::Cpu, 1 << 14).unwrap(), Some(128));
        assert_eq!(largest(&model, &optimizer, &config, Device::Cpu, 64).unwrap(), Some(64));
        assert_eq!(largest(&model, &optimizer, &config, Device::Cpu, 16).unwrap(), None);
        for ((name, now), before) in model.parameters().iter().zip(&before) {
            assert!(now.equal(before), "{name}");
            assert!(!now.grad().defined() || now.grad().abs().max().double_value(&[]) == 0.0, "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_is_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(MicroBatchTokens::Auto));
        assert_eq!("16_384".parse(), Ok(MicroBatchTokens::Tokens(16_384)));
        assert!("many".parse::<MicroBatchTokens>().unwrap_err().contains("neither a number"));
    }
}
