//! Options of pretraining about what watches it.

use std::path::PathBuf;

use clap::Args;
use train::journal::Outlets;

/// Options of pretraining.
#[derive(Debug, Default, Args)]
pub(crate) struct OutletsArguments {
    /// Keep the newest numbers in FILE as Prometheus text, for the node exporter's textfile collector: NAME.prom in its folder
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,
    /// Write no TensorBoard events; otherwise they are in RUN/tensorboard
    #[arg(long)]
    no_tensorboard: bool,
}

impl From<OutletsArguments> for Outlets {
    fn from(arguments: OutletsArguments) -> Outlets {
        Outlets { tensorboard: !arguments.no_tensorboard, prometheus: arguments.prometheus }
    }
}
