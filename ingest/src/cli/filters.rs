//! What is left out, as it is said on the command line.

use clap::{Args, ValueEnum};
use ingest::{DEFAULT_LANGUAGE_THRESHOLD, Dedup, Filters};

#[derive(Args)]
pub(crate) struct FilterArguments {
    /// Leave out documents of fewer characters
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_chars: u64,
    /// Leave out documents of fewer tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tokens: u64,
    /// Leave out documents that repeat an earlier one; reads all inputs twice, and keeps 28 bytes a document (near: 392)
    /// in the shard folder meanwhile. With --task every task makes the first of these passes over the inputs of all tasks,
    /// so N tasks read everything N times
    #[arg(long, value_enum, value_name = "KIND", default_value = "none")]
    dedup: DedupArgument,
    /// Leave out documents in none of these languages
    #[arg(long, value_name = "CODE,...", value_delimiter = ',')]
    language: Vec<String>,
    /// How sure a language must be told, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_LANGUAGE_THRESHOLD)]
    language_threshold: f64,
}

/// `--dedup`.
#[derive(Clone, Copy, ValueEnum)]
enum DedupArgument {
    /// Keep all
    None,
    /// Leave out those that differ from an earlier one in case and white space only
    Exact,
    /// Leave out those that share most of their five-word phrases with an earlier one
    Near,
}

impl FilterArguments {
    pub(crate) fn filters(&self) -> Filters {
        Filters {
            min_chars: self.min_chars,
            min_tokens: self.min_tokens,
            dedup: match self.dedup {
                DedupArgument::None => Dedup::None,
                DedupArgument::Exact => Dedup::Exact,
                DedupArgument::Near => Dedup::Near,
            },
            languages: self.language.clone(),
            language_threshold: self.language_threshold,
        }
    }
}
