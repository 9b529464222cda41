//! Options of commands that may be one of several processes.

use std::time::Duration;

use clap::Args;
use train::Error;
use train::distributed::{Patience, Ranks};

/// Started by torchrun --no-python, srun or mpirun, each process trains on its part of every batch.
#[derive(Debug, Args)]
pub(crate) struct RanksArguments {
    /// Among several processes: seconds without a sign of life after which one counts as dead, which ends the job
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) rank_timeout: u64,
    /// Among several processes: seconds to wait at the start until all are there
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) join_timeout: u64,
}

impl RanksArguments {
    /// The job that this process was started for.
    pub(crate) fn join(&self) -> Result<Ranks, Error> {
        Ranks::join(Patience {
            join: Duration::from_secs(self.join_timeout),
            silence: Duration::from_secs(self.rank_timeout),
        })
    }
}
