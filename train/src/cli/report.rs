//! `train report`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use train::report;

/// Write one self-contained HTML page about a run, or comparing several.
///
/// Several runs are compared by loss against steps, tokens, time and, with a price, dollars; by throughput and MFU; and by
/// what differs in their configurations.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Dollars an hour of the machine that trained; given several times, one for each run in their order
    #[arg(long, value_name = "DOLLARS")]
    price_per_hour: Vec<f64>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Report {
    pub(crate) fn run(&self) -> Result<()> {
        let (prices, runs) = (&self.price_per_hour, self.runs.len());
        ensure!(
            prices.len() <= 1 || prices.len() == runs,
            "--price-per-hour is there {} times for {runs} runs; give it once for all, or once for each",
            prices.len()
        );
        ensure!(
            prices.iter().all(|price| *price >= 0.0 && price.is_finite()),
            "--price-per-hour is a number of dollars, 0 or more"
        );
        report::write(&self.runs, prices, &self.out)
            .with_context(|| format!("no report was written to {}", self.out.display()))?;
        eprintln!("wrote {}", self.out.display());
        Ok(())
    }
}
