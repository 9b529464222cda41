//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use train::config::DeviceChoice;
use train::layers::DEFAULT_PRESET;

/// Pretrain a masked language model on packed shards.
///
/// Without a sub-command it trains:
///
///   train --shards DIR --out RUN --preset tiny      starts a run
///   train --resume RUN                              continues it exactly
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
    /// Shard folder, as `ingest` wrote it; may be given several times
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    pub(crate) shards: Vec<PathBuf>,
    /// Folder of the new run: configuration, metrics and checkpoints go there
    #[arg(long, value_name = "RUN", required_unless_present = "resume")]
    pub(crate) out: Option<PathBuf>,
    /// Continue the run in this folder from its newest usable checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "preset", "config", "set"])]
    pub(crate) resume: Option<PathBuf>,
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
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Masked-LM loss and accuracy on held-out documents
    Eval(Eval),
    /// Write one self-contained HTML page about a run, or comparing several
    Report(Report),
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
    /// Shard folder whose held-out documents are used; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) shards: Vec<PathBuf>,
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

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
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
