//! Options of pretraining about how long it trains, from where, and in what pieces.

use std::path::PathBuf;

use clap::Args;
use train::budget::Budget;
use train::micro_batch::MicroBatchTokens;

/// Options of pretraining.
#[derive(Debug, Args)]
pub(crate) struct Recipe {
    /// Train for so long and end decayed: 1h, 90m, 70000steps, 10Msamples, 2Gtokens, 3epochs; the same as --set train.budget=...
    #[arg(long, value_name = "BUDGET", conflicts_with = "resume")]
    pub(crate) budget: Option<Budget>,
    /// Most tokens in a micro-batch, or `auto`: the largest power of two that memory holds, found by trial
    #[arg(long, value_name = "TOKENS|auto")]
    pub(crate) micro_batch_tokens: Option<MicroBatchTokens>,
    /// Start a new run from a checkpoint whose learning rate is at its peak, and only decay it, for as long as --decay says
    #[arg(
        long,
        value_name = "CHECKPOINT|RUN",
        requires = "decay",
        conflicts_with_all = ["resume", "preset", "config", "budget"]
    )]
    pub(crate) branch_from: Option<PathBuf>,
    /// How long a branch decays, as for --budget
    #[arg(long, value_name = "BUDGET", requires = "branch_from")]
    pub(crate) decay: Option<Budget>,
}
