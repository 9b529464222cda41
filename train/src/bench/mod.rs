//! `train bench`: how fast a configuration trains on this machine, everything included, and where the time goes.
//!
//! What is measured is [`step`] as a run makes it, fed by a [`Loader`]: gathering, masking, copies to the device, forward,
//! backward and update. Without shards the loader reads synthetic documents from a temporary folder.

mod parts;
mod synthetic;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use loader::{Corpus, Loader, ShardFolder, StepBatch, Throughput};
use model::torch::Profile;
use model::{ModelConfig, Work};
use serde::Serialize;
use tch::Device;
use tempfile::TempDir;

pub use parts::{KernelTime, Parts};
pub use synthetic::Lengths;

use crate::card;
use crate::config::{Config, PathChoice};
use crate::device;
use crate::distributed::{Ranks, Reducer};
use crate::error::Error;
use crate::optimizer::DecoupledAdamW;
use crate::run::{build, check_vocabulary};
use crate::step::step;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// As for a run; its number of steps does not matter.
    pub config: Config,
    /// Shard folders to read; none: synthetic documents.
    pub shards: Vec<ShardFolder>,
    /// The lengths of synthetic samples.
    pub lengths: Lengths,
    /// Steps before the clock starts, at least one.
    pub warm_up: u64,
    /// Steps that are timed, at least one.
    pub steps: u64,
    /// Where to write a Chrome trace of one more step, made by rank 0.
    pub trace: Option<PathBuf>,
    /// The processes that train together.
    pub ranks: Ranks,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `cpu`, or the GPU's name.
    pub device: String,
    /// The path that was taken: fused or reference.
    pub path: PathChoice,
    /// Longest sample in tokens.
    pub seq_len: usize,
    /// Processes that trained together; rates are those of all of them, unless they say otherwise.
    pub world_size: usize,
    /// Whether each of them had a share of the optimizer's state.
    pub shard_optimizer: bool,
    /// Samples of a step.
    pub batch_size: usize,
    /// Most tokens in a micro-batch.
    pub micro_batch_tokens: usize,
    /// Steps that were timed.
    pub steps: u64,
    /// Samples a second.
    pub samples_per_s: f64,
    /// Tokens a second, no padding, special tokens included.
    pub real_tokens_per_s: f64,
    /// Milliseconds of one step.
    pub step_ms: f64,
    /// Share of the time that the training loop of rank 0 waited for the loader.
    pub wait_share: f64,
    /// Share of the time that training stood still for the exchange of gradients, mean of the ranks: on a GPU, that its stream
    /// had nothing else to do.
    pub reduce_wait_share: f64,
    /// TFLOP/s of the model's matrix products ([`ModelConfig::training_flops`]).
    pub model_tflops: f64,
    /// Those over the cards' dense bf16 peak, if the card is a known one.
    pub mfu: Option<f64>,
    /// Most GPU memory in use by tensors during the timed steps, in GiB.
    pub peak_memory_gib: Option<f64>,
    /// Milliseconds of one profiled step by part; on a GPU only. The profiled step is not among the timed ones.
    pub parts_ms: Option<Parts>,
    /// The same by kernel, the most expensive first.
    pub kernels: Vec<KernelTime>,
}

/// Trains for a few steps and measures.
///
/// # Errors
/// Those of starting a run; [`Error::Model`] where the fused path is asked for and cannot be taken.
pub fn train(bench: &Bench) -> Result<Report, Error> {
    let config = &bench.config;
    let ranks = &bench.ranks;
    let device = device::choose_for(config.train.device, ranks)?;
    let (corpus, _folder) = corpus(bench)?;
    check_vocabulary(config, &corpus)?;
    let (model, mut optimizer) = build(config, device, ranks)?;
    let lr = config.optimizer.lr * config.schedule.warmup_fraction.max(0.01);
    let launch = |optimizer: &mut DecoupledAdamW, batch: &StepBatch| {
        step(&model, optimizer, batch, lr, config.seed, device)
    };
    let reduced = |optimizer: &DecoupledAdamW| optimizer.reducer().map(Reducer::waited).transpose();

    let mut loader = loader(bench, &corpus)?;
    for _ in 0..bench.warm_up {
        launch(&mut optimizer, &*take(&mut loader)?)?.outcome()?;
    }
    // All begin together.
    ranks.barrier()?;
    reduced(&optimizer)?;
    let working = ranks.working(bench.warm_up);
    if let Device::Cuda(card) = device {
        model::torch::reset_peak_memory(card)?;
    }
    let (start, waited_before) = (Instant::now(), loader.waited());
    let (mut work, mut samples, mut tokens, mut under_way) = (Work::default(), 0, 0, None);
    for _ in 0..bench.steps {
        let batch = take(&mut loader)?;
        let launched = launch(&mut optimizer, &batch)?;
        samples += batch.samples;
        tokens += batch.tokens;
        for micro_batch in &batch.micro_batches {
            work.add(&micro_batch.cu_seqlens, micro_batch.labels.len());
        }
        if let Some(before) = under_way.replace(launched) {
            let _waiting = ranks.waiting();
            before.outcome()?;
        }
    }
    under_way.map(|last| last.outcome()).transpose()?;
    let seconds = start.elapsed().as_secs_f64();
    drop(working);
    let wait_share = (loader.waited() - waited_before).as_secs_f64() / seconds;
    let reduced = reduced(&optimizer)?.unwrap_or_default().as_secs_f64();
    let peak_memory_gib = match device {
        Device::Cuda(card) => Some(model::torch::memory_in_use(card)?.peak as f64 / f64::from(1 << 30)),
        _ => None,
    };

    let (mut parts_ms, mut kernels) = (None, Vec::new());
    if device.is_cuda() || bench.trace.is_some() {
        let batch = take(&mut loader)?;
        let profile = Profile::start()?;
        launch(&mut optimizer, &batch)?.outcome()?;
        let activities = profile.finish(bench.trace.as_deref().filter(|_| ranks.is_first()))?;
        if device.is_cuda() {
            let (parts, by_kernel) = parts::split(&activities, 1);
            (parts_ms, kernels) = (Some(parts), by_kernel);
        }
    }
    let card = card::name(device);
    let mut sums = [ModelConfig::training_flops(&config.model, work) / seconds / 1e12, reduced / seconds];
    ranks.sum(&mut sums)?;
    let ([model_tflops, reduce_wait_shares], world_size) = (sums, ranks.world_size());
    Ok(Report {
        mfu: card.as_deref().and_then(card::peak_tflops).map(|peak| model_tflops / peak / world_size as f64),
        device: card.unwrap_or_else(|| device::name(device).to_owned()),
        path: if model.is_fused() { PathChoice::Fused } else { PathChoice::Reference },
        seq_len: config.train.seq_len,
        world_size,
        shard_optimizer: config.train.shard_optimizer,
        reduce_wait_share: reduce_wait_shares / world_size as f64,
        batch_size: config.train.batch_size,
        micro_batch_tokens: config.train.micro_batch_tokens,
        steps: bench.steps,
        samples_per_s: samples as f64 / seconds,
        real_tokens_per_s: tokens as f64 / seconds,
        step_ms: seconds * 1e3 / bench.steps as f64,
        wait_share,
        model_tflops,
        peak_memory_gib,
        parts_ms,
        kernels,
    })
}

/// Loads for a while without training: as fast as it goes, or, with a `demand` in tokens a second, no faster than that.
///
/// # Errors
/// Shards that cannot be read.
pub fn load(bench: &Bench, demand: Option<f64>) -> Result<Throughput, Error> {
    let (corpus, _folder) = corpus(bench)?;
    let mut loader = loader(bench, &corpus)?;
    for _ in 0..bench.warm_up {
        take(&mut loader)?;
    }
    Ok(loader::measure(&mut loader, bench.steps, demand)?)
}

/// The corpus to read, and the temporary folder it lies in if it is a synthetic one.
fn corpus(bench: &Bench) -> Result<(Arc<Corpus>, Option<TempDir>), Error> {
    if !bench.shards.is_empty() {
        return Ok((bench.config.open_corpus(&bench.shards)?, None));
    }
    let folder = tempfile::tempdir().map_err(|source| Error::Write { path: std::env::temp_dir(), source })?;
    let train = &bench.config.train;
    // Two batches' worth: no step is the same as the one before it.
    let samples = 2 * train.batch_size as u64;
    let vocabulary = u32::try_from(bench.config.model.vocab_size).unwrap_or(u32::MAX);
    synthetic::write(folder.path(), samples, train.seq_len, bench.lengths, vocabulary)?;
    Ok((Corpus::open(&[folder.path().to_owned()])?, Some(folder)))
}

fn loader(bench: &Bench, corpus: &Arc<Corpus>) -> Result<Loader, Error> {
    let (rank, world_size) = (bench.ranks.rank(), bench.ranks.world_size());
    Ok(Loader::start(Arc::clone(corpus), &bench.config.loader_config(), rank, world_size, 0, u64::MAX)?)
}

fn take(loader: &mut Loader) -> Result<loader::ReadyBatch, Error> {
    Ok(loader.next().expect("a loader without a last step has a next one")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::resolve;

    fn bench(lengths: Lengths) -> Bench {
        let sets = [
            "train.batch_size=8",
            "train.micro_batch_tokens=256",
            "train.device=cpu",
            "model.num_hidden_layers=1",
        ];
        let config = resolve("tiny", None, &sets.map(str::to_owned)).unwrap();
        Bench { config, shards: vec![], lengths, warm_up: 1, steps: 2, trace: None, ranks: Ranks::alone() }
    }

    #[test]
    fn full_batches_are_full_and_what_is_reported_fits_together() {
        let bench = bench(Lengths::Full);
        let report = train(&bench).unwrap();
        assert_eq!((report.path, report.device.as_str()), (PathChoice::Reference, "cpu"));
        let length = report.real_tokens_per_s / report.samples_per_s;
        assert!((length - bench.config.train.seq_len as f64).abs() < 1e-6, "{length} tokens a sample");
        let samples = report.samples_per_s * report.step_ms / 1e3;
        assert!((samples - 8.0).abs() < 1e-6, "{samples} samples a step");
        assert!(report.model_tflops > 0.0 && report.mfu.is_none() && report.parts_ms.is_none());
    }

    #[test]
    fn ragged_samples_are_shorter_on_average() {
        let mut bench = bench(Lengths::Ragged);
        bench.config.train.batch_size = 512;
        let loaded = load(&bench, None).unwrap();
        let (mean, longest) = (loaded.tokens_per_s / loaded.samples_per_s, bench.config.train.seq_len as f64);
        assert!((mean / longest - 0.625).abs() < 0.03, "{mean} of {longest}");
        assert_eq!(loaded.steps, 2);
    }

    #[test]
    fn the_fused_path_is_not_taken_silently_elsewhere() {
        let mut asked = bench(Lengths::Full);
        asked.config.train.path = PathChoice::Fused;
        assert!(train(&asked).unwrap_err().to_string().contains("not on a CUDA card"));
    }
}
