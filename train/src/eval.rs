//! Evaluation: masked-language modelling on documents that training never sees.
//!
//! The masks depend on nothing but the corpus and the evaluation's own settings, so the losses of any two runs on the
//! same shards compare. Beside them stands the unigram cross-entropy of the same corpus, the loss of a model that
//! knows how frequent words are and ignores context.

use std::path::PathBuf;
use std::sync::Arc;

use loader::{Corpus, HeldOutConfig, SamplePolicy, ShardFolder, held_out_batches, unigram_entropy};
use model::MaskedLm;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::checkpoint::Checkpoint;
use crate::config::DeviceChoice;
use crate::device;
use crate::distributed::Ranks;
use crate::error::Error;
use crate::feed;
use crate::host::unix_time;
use crate::metrics::EvalRecord;

/// Samples read of each side for the unigram frequencies: millions of tokens, seconds of work on any corpus.
pub const UNIGRAM_SAMPLES: u64 = 1 << 18;

/// The result of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Cross-entropy in nats, mean over masked tokens.
    pub loss: f64,
    /// Share of masked tokens predicted exactly.
    pub accuracy: f64,
    /// Number of masked tokens.
    pub masked_tokens: u64,
}

/// Evaluates `model` on the held-out documents. In a job the ranks divide the batches among them.
///
/// # Errors
/// [`Error::Loader`] when nothing was held out or a shard is damaged; [`Error::Model`] when a rank is gone.
pub fn evaluate(
    model: &MaskedLm,
    corpus: &Arc<Corpus>,
    config: &HeldOutConfig,
    device: Device,
    ranks: &Ranks,
) -> Result<Evaluation, Error> {
    let _guard = no_grad_guard();
    let mut sums = Tensor::zeros([2], (Kind::Double, device)); // [2]: loss, correct
    let mut masked_tokens = 0_u64;
    for (number, batch) in held_out_batches(Arc::clone(corpus), config)?.enumerate() {
        let batch = batch?;
        if batch.labels.is_empty() || number % ranks.world_size() != ranks.rank() {
            continue;
        }
        masked_tokens += batch.labels.len() as u64;
        let output = model.loss(&feed::to_device(&batch, device)?, false, 1.0)?;
        let parts = [output.loss, output.correct].map(|part| part.to_kind(Kind::Double)); // [] each
        sums += Tensor::stack(&parts, 0); // [2]
    }
    let [loss, correct]: [f64; 2] =
        Vec::<f64>::try_from(sums)?.try_into().expect("the tensor has two elements");
    let mut sums = [loss, correct, masked_tokens as f64];
    ranks.sum(&mut sums)?;
    let [loss, correct, masked] = sums;
    let (masked_tokens, count) = (masked as u64, masked.max(1.0));
    Ok(Evaluation { loss: loss / count, accuracy: correct / count, masked_tokens })
}

/// Evaluates a checkpoint on the held-out documents of `shards`, as its own training would; `max_samples` of 0 takes all
/// of them.
///
/// # Errors
/// Shards of another tokenizer, or without held-out documents; no such device.
pub fn evaluate_checkpoint(
    checkpoint: &Checkpoint,
    shards: &[PathBuf],
    max_samples: u64,
    device: DeviceChoice,
) -> Result<EvalRecord, Error> {
    let mut config = checkpoint.config.clone();
    config.eval.max_samples = max_samples;
    let folders: Vec<ShardFolder> = shards.iter().cloned().map(ShardFolder::from).collect();
    let corpus = config.open_corpus(&folders)?;
    checkpoint.check_tokenizer(&corpus.tokenizer().blake3)?;
    let device = device::choose(device)?;
    // Another number of threads would round the sums differently.
    device::set_threads(config.train.threads);
    let model = MaskedLm::new(&config.model, config.seed, device, device::compute_kind(device))?;
    checkpoint.load_parameters(model.parameters())?;
    let evaluation = evaluate(&model, &corpus, &config.held_out_config(), device, &Ranks::alone())?;
    Ok(EvalRecord {
        step: checkpoint.state.step,
        loss: evaluation.loss,
        accuracy: evaluation.accuracy,
        masked_tokens: evaluation.masked_tokens,
        unigram_loss: unigram(&corpus, config.loader.policy, config.train.seq_len)?,
        elapsed_s: checkpoint.state.elapsed_s,
        time: unix_time(),
    })
}

/// Cross-entropy in nats of the held-out tokens under the frequencies of the training tokens, from at most
/// [`UNIGRAM_SAMPLES`] samples of each.
///
/// # Errors
/// [`Error::Loader`] when one side is empty or a shard is damaged.
pub fn unigram(corpus: &Arc<Corpus>, policy: SamplePolicy, seq_len: usize) -> Result<f64, Error> {
    Ok(unigram_entropy(corpus, policy, seq_len, Some(UNIGRAM_SAMPLES))?)
}
