//! The configuration of a run: one typed structure per component, composed here.
//!
//! Values come in layers, later ones winning: a preset, then a TOML file that names only what differs, then
//! `--set key.path=value` ([`crate::layers`]). The resolved whole is written to `RUN/config.toml`, which is itself
//! a valid `--config`.

use std::path::PathBuf;
use std::sync::Arc;

use loader::{
    ByteSize, CacheConfig, Corpus, DEFAULT_CACHE_SIZE, HeldOutConfig, LoaderConfig, MaskRate, SamplePolicy,
    ShardFolder,
};
use model::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::budget::{self, Budget};
use crate::error::Error;
use crate::optimizer::OptimizerConfig;
use crate::schedule::{MaskSchedule, ScheduleConfig};

/// Everything that decides a run, apart from its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Decides initial weights, sample order, masks and dropout.
    pub seed: u64,
    /// Length, batch and device of training.
    pub train: TrainConfig,
    /// The encoder.
    pub model: ModelConfig,
    /// How samples are cut, shuffled and fed.
    pub loader: FeedConfig,
    /// Decoupled AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// Evaluation on held-out documents.
    pub eval: EvalConfig,
    /// Saving.
    pub checkpoint: CheckpointConfig,
}

/// Length, batch and device of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps, unless `budget` says otherwise.
    pub steps: u64,
    /// What ends the run in place of `steps`: samples, tokens, epochs or a time; `none` lets `steps` decide.
    #[serde(with = "budget::or_none")]
    pub budget: Option<Budget>,
    /// Samples a step, over all micro-batches and ranks.
    pub batch_size: usize,
    /// Tokens a step, on average over the steps, in place of `batch_size`; 0 counts `batch_size` samples.
    pub batch_tokens: usize,
    /// Steps over which the batch grows in a straight line to its full size; 0 for none.
    pub batch_warmup_steps: u64,
    /// Size of the batch at step 0 of that, as a fraction of the full one.
    pub batch_warmup_from: f64,
    /// Longest sample in tokens, `[CLS]` and `[SEP]` included.
    pub seq_len: usize,
    /// Most tokens in one forward and backward pass: bounds memory, and changes results only by rounding.
    pub micro_batch_tokens: usize,
    /// Fraction of tokens chosen for prediction: a number, or `{ from, to }`, a straight line over the budget.
    pub mask_rate: MaskSchedule,
    /// Whether all tokens of a word are chosen or none; needs a WordPiece tokenizer. Evaluation always masks tokens.
    pub whole_word_masking: bool,
    /// Where to compute.
    pub device: DeviceChoice,
    /// What to compute with.
    pub path: PathChoice,
    /// Threads torch uses on the CPU; 0 takes every processor. Another number rounds sums differently.
    pub threads: usize,
    /// In a job of several ranks: whether each keeps and updates a share of the optimizer's state (ZeRO stage 1) instead of all
    /// of it. Changes results only by rounding.
    #[serde(default)]
    pub shard_optimizer: bool,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every_steps: u64,
    /// This many steps in a row with a loss or gradient that is not finite end the run.
    pub max_skipped_in_a_row: u64,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The processor, in float32.
    Cpu,
    /// The first NVIDIA card, in bfloat16 with float32 weights.
    Cuda,
    /// CUDA where there is a card, the CPU elsewhere.
    Auto,
}

/// What to compute with: the same model, and the same results but for rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathChoice {
    /// Our kernels, which are for CUDA cards and for the models they are written for.
    Fused,
    /// Plain libtorch: any device, any model.
    Reference,
    /// Fused where it can be; a note says so where a card is there and it can not.
    Auto,
}

/// How samples are cut, shuffled and fed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedConfig {
    /// How documents become samples: `truncate` or `chunk`.
    pub policy: SamplePolicy,
    /// Threads that gather and mask. Changes no result.
    pub workers: usize,
    /// Finished batches kept ready. Changes no result.
    pub slots: usize,
    /// Samples in a shuffle block: neighbours in a shard, which are read together.
    pub shuffle_block: u64,
    /// Blocks that are shuffled together, sample by sample. Smaller keeps reads local on a corpus larger than memory.
    pub shuffle_window: u64,
    /// Folder that keeps shards fetched from an object store; empty: `tessera/shards` in `$XDG_CACHE_HOME` or `~/.cache`.
    /// Changes no result.
    #[serde(default)]
    pub shard_cache: PathBuf,
    /// The most that this folder may hold. Changes no result.
    #[serde(default = "default_cache_size")]
    pub shard_cache_size: ByteSize,
}

fn default_cache_size() -> ByteSize {
    DEFAULT_CACHE_SIZE
}

impl FeedConfig {
    /// Where shards of object stores are kept.
    pub fn cache(&self) -> CacheConfig {
        let dir = Some(self.shard_cache.clone()).filter(|dir| !dir.as_os_str().is_empty());
        CacheConfig { dir, size: self.shard_cache_size }
    }
}

/// Evaluation on held-out documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Steps between evaluations; the last step is always evaluated. 0 evaluates only there.
    pub every_steps: u64,
    /// Fraction of tokens predicted; 0.15 everywhere, so that losses of different runs compare.
    pub mask_rate: f64,
    /// Most held-out samples to evaluate; 0 takes all of them.
    pub max_samples: u64,
}

/// Saving.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; the last step is always saved. 0 saves only there.
    pub every_steps: u64,
    /// Checkpoints kept; older ones are removed. 0 keeps all.
    pub keep: usize,
    /// A checkpoint of a step that this divides is never removed. 0 spares none.
    pub keep_every_steps: u64,
}

impl Config {
    /// Refuses values outside their range or at odds with each other.
    ///
    /// # Errors
    /// [`Error::ConfigRange`], or the error of the component that owns the value.
    pub fn validate(&self) -> Result<(), Error> {
        let range = |key, ok: bool, found: String, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::ConfigRange { key, found, expected: expected.to_owned() }),
        };
        let (train, optimizer, schedule) = (&self.train, &self.optimizer, &self.schedule);
        range("train.steps", train.steps > 0, train.steps.to_string(), "at least 1")?;
        range("train.log_every_steps", train.log_every_steps > 0, "0".into(), "at least 1")?;
        range("train.max_skipped_in_a_row", train.max_skipped_in_a_row > 0, "0".into(), "at least 1")?;
        let rate = optimizer.lr;
        range("optimizer.lr", rate > 0.0 && rate.is_finite(), rate.to_string(), "a number above 0")?;
        let betas = optimizer.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        range("optimizer.betas", betas, format!("{:?}", optimizer.betas), "two numbers from 0 to below 1")?;
        range("optimizer.eps", optimizer.eps > 0.0, optimizer.eps.to_string(), "above 0")?;
        let decay = optimizer.weight_decay;
        range("optimizer.weight_decay", (0.0..1.0).contains(&decay), decay.to_string(), "0 to below 1")?;
        let warmup = schedule.warmup_fraction;
        range("schedule.warmup_fraction", (0.0..1.0).contains(&warmup), warmup.to_string(), "0 to below 1")?;
        let last = schedule.final_fraction;
        range("schedule.final_fraction", (0.0..=1.0).contains(&last), last.to_string(), "0 to 1")?;
        let decay = schedule.decay_fraction;
        let room = 1.0 - warmup;
        // A hair of tolerance: 1 - 0.06 is not 0.94.
        let fits = (0.0..=room + 1e-12).contains(&decay);
        range(
            "schedule.decay_fraction",
            fits,
            decay.to_string(),
            &format!("0 to {room}, what warm-up leaves"),
        )?;
        let clip = optimizer.clip_norm;
        range(
            "optimizer.clip_norm",
            clip >= 0.0 && clip.is_finite(),
            clip.to_string(),
            "0, for none, or more",
        )?;
        for rate in [train.mask_rate.at(0.0), train.mask_rate.at(1.0)] {
            range("train.mask_rate", rate > 0.0 && rate <= 1.0, rate.to_string(), "above 0 and at most 1")?;
        }
        self.model.validate()?;
        self.loader_config().validate()?;
        self.held_out_config().validate()?;
        Ok(self.model.check_seq_len(train.seq_len)?)
    }

    /// The corpus in shard folders, of this machine or in object stores.
    ///
    /// # Errors
    /// [`Error::Loader`] with what is wrong with the first that is wrong.
    pub fn open_corpus(&self, shards: &[ShardFolder]) -> Result<Arc<Corpus>, Error> {
        Ok(Corpus::open_cached(shards, &self.loader.cache())?)
    }

    /// The settings of the training loader, with the mask rate that training begins with; [`crate::run`] gives it the
    /// schedule.
    pub fn loader_config(&self) -> LoaderConfig {
        LoaderConfig {
            seq_len: self.train.seq_len,
            policy: self.loader.policy,
            batch_size: self.train.batch_size,
            batch_tokens: self.train.batch_tokens,
            batch_warmup_steps: self.train.batch_warmup_steps,
            batch_warmup_from: self.train.batch_warmup_from,
            micro_batch_tokens: self.train.micro_batch_tokens,
            mask_rate: MaskRate::Constant(self.train.mask_rate.at(0.0)),
            whole_word_masking: self.train.whole_word_masking,
            seed: self.seed,
            workers: self.loader.workers,
            slots: self.loader.slots,
            shuffle_block: self.loader.shuffle_block,
            shuffle_window: self.loader.shuffle_window,
        }
    }

    /// The settings of the held-out batches. Their masks do not depend on the run's seed.
    pub fn held_out_config(&self) -> HeldOutConfig {
        HeldOutConfig {
            seq_len: self.train.seq_len,
            policy: self.loader.policy,
            micro_batch_tokens: self.train.micro_batch_tokens,
            mask_rate: self.eval.mask_rate,
            limit: (self.eval.max_samples > 0).then_some(self.eval.max_samples),
            ..HeldOutConfig::default()
        }
    }

    /// The configuration as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration has only strings, numbers and tables")
    }
}
