//! `train fill`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use train::fill::fill;
use train::model_folder::ModelFolder;

use super::DeviceArgument;

/// Let a model fill in masked words: train fill "Paris is the [MASK] of France." --from RUN
#[derive(Debug, Args)]
pub(crate) struct Fill {
    /// Sentences with [MASK] in them
    #[arg(value_name = "SENTENCE", required = true)]
    sentences: Vec<String>,
    /// A run, whose newest usable checkpoint is taken, a checkpoint's own folder, or an imported model
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL")]
    from: PathBuf,
    /// Words shown for each mask
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
    /// Print one JSON object a sentence: {"masks": [{"candidates": [{"token": ..., "probability": ...}]}]}
    #[arg(long)]
    json: bool,
}

impl Fill {
    /// Prints each sentence with its likeliest words, and the words below it.
    pub(crate) fn run(&self) -> Result<()> {
        let folder = ModelFolder::open(&self.from, |error| eprintln!("{error}; trying the one before"))?;
        let filled = fill(&folder, &self.sentences, self.top as usize, self.device.into())?;
        for (number, (sentence, filled)) in self.sentences.iter().zip(&filled).enumerate() {
            if self.json {
                println!("{}", serde_json::to_string(filled)?);
                continue;
            }
            if number > 0 {
                println!();
            }
            println!("{}", filled.sentence(sentence));
            for (number, mask) in filled.masks.iter().enumerate() {
                if filled.masks.len() > 1 {
                    println!("  mask {}", number + 1);
                }
                for candidate in &mask.candidates {
                    println!("  {:6.2} %  {}", 100.0 * candidate.probability, candidate.token);
                }
            }
        }
        Ok(())
    }
}
