//! The command line.

mod average;
mod embed;
mod export;
mod fill;
mod finetune;
mod glue;
mod import;
mod outlets;
mod pareto;
mod ranks;
mod recipe;
mod report;
mod shard_cache;
mod sweep;
mod watch;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use loader::ShardFolder;
use train::bench;
use train::config::{DeviceChoice, PathChoice};
use train::distributed::Ranks;
use train::layers::{DEFAULT_PRESET, resolve};

use self::embed::Embed;
use self::export::Export;
use self::fill::Fill;
use self::import::Import;
use self::outlets::OutletsArguments;
pub(crate) use average::Average;
pub(crate) use recipe::Recipe;

use ranks::RanksArguments;
use shard_cache::ShardCache;

/// Pretrain a masked language model on packed shards.
///
/// Without a sub-command it trains:
///
///   train --shards DIR --out RUN --preset tiny      starts a run
///   train --resume RUN                              continues it exactly
///   train --branch-from CKPT --decay 1h --out RUN   decays a checkpoint at the peak
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    verbatim_doc_comment
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) pretrain: Pretrain,
}

/// Pretraining, the main job.
#[derive(Debug, Args)]
pub(crate) struct Pretrain {
    /// Shard folder, as `ingest` wrote it, or its URL (s3://, gs://, az://, https://); may be given several times, each with a
    /// weight to mix them: A=0.7 B=0.3
    #[arg(long, value_name = "DIR|URL[=WEIGHT]", required_unless_present_any = ["resume", "branch_from"])]
    pub(crate) shards: Vec<ShardFolder>,
    /// Folder of the new run: configuration, metrics and checkpoints go there
    #[arg(long, value_name = "RUN", required_unless_present = "resume")]
    pub(crate) out: Option<PathBuf>,
    /// Continue the run in this folder from its newest usable checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "preset", "config", "set"])]
    pub(crate) resume: Option<PathBuf>,
    /// Begin with the weights and the architecture of this model: a run, a checkpoint, or what `train import` wrote.
    /// Optimizer, schedule and data are the new run's
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL", conflicts_with_all = ["resume", "branch_from"])]
    pub(crate) init_from: Option<PathBuf>,
    /// Configuration to start from; `train presets` lists them
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, hide_default_value = false)]
    pub(crate) preset: String,
    /// TOML file with what differs from the preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one value, for example --set train.steps=1000; wins over preset and file
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where to compute; the same as --set train.device=...
    #[arg(long, value_enum)]
    pub(crate) device: Option<DeviceArgument>,
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    #[command(flatten)]
    pub(crate) shard_cache: ShardCache,
    #[command(flatten)]
    pub(crate) outlets: OutletsArguments,
    #[command(flatten)]
    pub(crate) ranks: RanksArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Masked-LM loss and accuracy on held-out documents
    Eval(Eval),
    /// Write the mean of a run's newest checkpoints as a checkpoint
    Average(Average),
    Report(report::Report),
    Watch(watch::Watch),
    Glue(glue::Glue),
    Finetune(finetune::Finetune),
    Predict(finetune::Predict),
    Pareto(pareto::Pareto),
    Sweep(sweep::Sweep),
    /// Measure how fast this machine trains, or only loads, and where the time goes
    Bench(Bench),
    Import(Import),
    Export(Export),
    Fill(Fill),
    Embed(Embed),
    /// List the presets, or print one with all keys and their sources
    Presets {
        /// Print this one
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// A run, whose newest usable checkpoint is taken, or a checkpoint's own folder
    #[arg(long, value_name = "RUN|CHECKPOINT")]
    pub(crate) from: PathBuf,
    /// Shard folder whose held-out documents are used, or its URL; may be given several times
    #[arg(long, value_name = "DIR|URL", required = true)]
    pub(crate) shards: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) shard_cache: ShardCache,
    /// Most held-out samples to evaluate; 0 takes all of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_samples: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) device: DeviceArgument,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// A few steps of training as a run makes them, on synthetic documents unless --shards names others.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Configuration to measure; `train presets` lists them
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PRESET, hide_default_value = false)]
    pub(crate) preset: String,
    /// TOML file with what differs from the preset
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one value, for example --set train.micro_batch_tokens=65536
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    pub(crate) set: Vec<String>,
    /// Shard folder to read, or its URL; may be given several times, each with a weight to mix them
    #[arg(long, value_name = "DIR|URL[=WEIGHT]")]
    pub(crate) shards: Vec<ShardFolder>,
    #[command(flatten)]
    pub(crate) shard_cache: ShardCache,
    /// Longest sample in tokens; the same as --set train.seq_len=...
    #[arg(long, value_name = "TOKENS")]
    pub(crate) seq: Option<usize>,
    /// Samples a step; the same as --set train.batch_size=...
    #[arg(long, value_name = "SAMPLES")]
    pub(crate) batch_size: Option<usize>,
    /// Most tokens in a micro-batch; the same as --set train.micro_batch_tokens=...
    #[arg(long, value_name = "TOKENS")]
    pub(crate) micro_batch_tokens: Option<usize>,
    /// Threads that load; the same as --set loader.workers=...
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// Lengths of synthetic samples: all as long as can be, or from a quarter of that
    #[arg(long, value_enum, default_value = "full", conflicts_with = "shards")]
    pub(crate) lengths: LengthsArgument,
    /// Where to compute
    #[arg(long, value_enum)]
    pub(crate) device: Option<DeviceArgument>,
    /// What to compute with; the same as --set train.path=...
    #[arg(long, value_enum)]
    pub(crate) path: Option<PathArgument>,
    /// Steps that are timed [default: 5, or 500 with --data-only]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) steps: Option<u64>,
    /// Steps before that
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) warm_up: u64,
    /// Write a Chrome trace of one more step, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE", conflicts_with = "data_only")]
    pub(crate) trace: Option<PathBuf>,
    /// Only load and mask; train nothing
    #[arg(long)]
    pub(crate) data_only: bool,
    /// With --data-only: take no more than so many tokens a second, as a GPU would, and see how long one waits
    #[arg(long, value_name = "TOKENS_PER_S", requires = "data_only")]
    pub(crate) demand: Option<f64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ranks: RanksArguments,
}

/// `--lengths`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LengthsArgument {
    /// As long as can be
    Full,
    /// Uniform from a quarter of that
    Ragged,
}

/// `--path`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PathArgument {
    /// Our kernels
    Fused,
    /// Plain libtorch
    Reference,
}

/// `--device`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DeviceArgument {
    /// The processor
    Cpu,
    /// The first NVIDIA card
    Cuda,
    /// CUDA where there is a card, the processor elsewhere
    Auto,
}

impl From<DeviceArgument> for DeviceChoice {
    fn from(argument: DeviceArgument) -> DeviceChoice {
        match argument {
            DeviceArgument::Cpu => DeviceChoice::Cpu,
            DeviceArgument::Cuda => DeviceChoice::Cuda,
            DeviceArgument::Auto => DeviceChoice::Auto,
        }
    }
}

impl Bench {
    /// What to measure, on the ranks of a job.
    pub(crate) fn resolve(self, ranks: Ranks) -> Result<bench::Bench, train::Error> {
        let mut sets = self.set;
        sets.extend(self.shard_cache.sets());
        let shortcuts = [
            ("train.seq_len", self.seq),
            ("train.batch_size", self.batch_size),
            ("train.micro_batch_tokens", self.micro_batch_tokens),
            ("loader.workers", self.workers),
        ];
        sets.extend(shortcuts.iter().filter_map(|(key, value)| Some(format!("{key}={}", (*value)?))));
        let mut config = resolve(&self.preset, self.config.as_deref(), &sets)?;
        if let Some(device) = self.device {
            config.train.device = device.into();
        }
        match self.path {
            Some(PathArgument::Fused) => config.train.path = PathChoice::Fused,
            Some(PathArgument::Reference) => config.train.path = PathChoice::Reference,
            None => {}
        }
        Ok(bench::Bench {
            config,
            shards: self.shards,
            lengths: match self.lengths {
                LengthsArgument::Full => bench::Lengths::Full,
                LengthsArgument::Ragged => bench::Lengths::Ragged,
            },
            warm_up: self.warm_up,
            steps: self.steps.unwrap_or(if self.data_only { 500 } else { 5 }),
            trace: self.trace,
            ranks,
        })
    }
}
