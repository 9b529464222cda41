//! `train watch`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use train::watch::{Watched, terminal_size};

/// Watch a run in the terminal, whether it trains or has ended: curves, newest records, time left.
///
/// q ends it, t changes between steps and time.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one frame and end; also done where the output is no terminal
    #[arg(long)]
    once: bool,
    /// Seconds between two looks at the run
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
}

/// A frame's size where there is no terminal.
const SIZE: (u16, u16) = (100, 32);

impl Watch {
    pub(crate) fn run(&self) -> Result<()> {
        let mut watched = Watched::open(&self.run)?;
        let terminal = std::io::stdout().is_terminal();
        if terminal && !self.once {
            return Ok(watched.show(Duration::from_secs(self.interval))?);
        }
        let (width, height) = terminal_size().filter(|_| terminal).unwrap_or(SIZE);
        print!("{}", watched.text(width, height.saturating_sub(1)));
        Ok(())
    }
}
