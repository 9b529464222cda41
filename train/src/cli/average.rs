//! Options of `train average`.

use std::path::PathBuf;

use clap::Args;

/// `train average`.
#[derive(Debug, Args)]
pub(crate) struct Average {
    /// The run
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// How many of its newest checkpoints
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) last: usize,
    /// Folder of the mean, which eval and export take as a checkpoint
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
