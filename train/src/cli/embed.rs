//! `train embed`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use train::embed::{EmbedOptions, embed};
use train::model_folder::ModelFolder;

use super::DeviceArgument;

/// Write a vector for each text: the mean of the model's output over its tokens.
///
/// Reads what `ingest c4` reads, files in the order of their paths; rows keep their order.
#[derive(Debug, Args)]
pub(crate) struct Embed {
    /// JSON lines (plain, gzip, zstd), Parquet or Arrow: files, folders, patterns, locations, or - for standard input
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// A run, whose newest usable checkpoint is taken, a checkpoint's own folder, or an imported model
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL")]
    from: PathBuf,
    /// The file to write: .npy (float32, one row a text) or .parquet (file, row, tokens, embedding)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The column that is the text
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    text: String,
    /// Scale each vector to length 1, so that a product is a cosine
    #[arg(long)]
    normalize: bool,
    /// Cut longer texts to this many tokens, [CLS] and [SEP] included [default: the model's max_position_embeddings]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(3..))]
    max_tokens: Option<u32>,
    /// Most tokens computed at once; bounds memory
    #[arg(long, value_name = "TOKENS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..))]
    batch_tokens: u32,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
}

impl Embed {
    /// Embeds, and says how many texts there were.
    pub(crate) fn run(self) -> Result<()> {
        let folder = ModelFolder::open(&self.from, |error| eprintln!("{error}; trying the one before"))?;
        let options = EmbedOptions {
            inputs: self.inputs,
            text: self.text,
            normalize: self.normalize,
            max_tokens: match self.max_tokens {
                Some(tokens) => tokens as usize,
                None => folder.config.max_position_embeddings as usize,
            },
            batch_tokens: self.batch_tokens as usize,
            device: self.device.into(),
        };
        let done = embed(&folder, &options, &self.out)?;
        eprintln!(
            "wrote {}: {} texts, {} numbers each; {} tokens, {} texts cut to {} tokens, {:.1} s",
            self.out.display(),
            done.texts,
            done.width,
            done.tokens,
            done.cut,
            options.max_tokens,
            done.elapsed_s
        );
        Ok(())
    }
}
