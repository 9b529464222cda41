//! `train sweep`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use train::stop::Stop;
use train::sweep::{self, SweepConfig};

use super::DeviceArgument;

/// Train several configurations on the same shards, one after the other, and compare them.
///
/// The file names a preset, a budget and what each run changes; `train/sweeps/mosaic-ablation.toml` is an example. The same
/// command continues what was stopped.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// The sweep's TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for the runs, the table and the pages
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Shard folder, in place of the file's; may be given several times
    #[arg(long, value_name = "DIR")]
    shards: Vec<PathBuf>,
    /// GLUE's folder, in place of the file's
    #[arg(long, value_name = "GLUE_DIR")]
    glue: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
}

impl Sweep {
    pub(crate) fn run(self) -> Result<()> {
        let stop = Stop::on_signals().context("signals cannot be handled")?;
        let mut config = SweepConfig::read(&self.config)?;
        if !self.shards.is_empty() {
            config.shards = self.shards;
        }
        ensure!(!config.shards.is_empty(), "{} names no shards; give --shards DIR", self.config.display());
        if let Some(data) = self.glue {
            config.glue.get_or_insert_default().data = Some(data);
        }
        let sweep = sweep::Sweep {
            config,
            out: self.out,
            device: match self.device {
                DeviceArgument::Cpu => "cpu",
                DeviceArgument::Cuda => "cuda",
                DeviceArgument::Auto => "auto",
            },
            program: std::env::current_exe().context("this program's own file cannot be found")?,
        };
        print!("{}", sweep.run(&stop)?);
        Ok(())
    }
}
