//! `train import`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use train::import;

/// Make a model of a Hugging Face BERT or a MosaicBERT, as a start for --init-from, finetune, fill or embed.
///
/// The folder holds config.json, model.safetensors (or its parts and their index) and tokenizer.json or vocab.txt.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Folder of the model, as Hugging Face lays it out
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Folder to be made
    #[arg(long, value_name = "MODEL")]
    out: PathBuf,
    /// tokenizer.json to use in place of the one that lies there
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Import {
    /// Imports, and says what was changed on the way.
    pub(crate) fn run(&self) -> Result<()> {
        let imported = import::import(&self.from, &self.out, self.tokenizer.as_deref())?;
        let config = &imported.config;
        println!(
            "{}: {} layers of width {}, {} heads of {}, vocabulary {}, {}",
            imported.source,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.head_size(),
            config.vocab_size,
            match config.position_embedding {
                model::config::PositionEmbedding::Alibi => "ALiBi".to_owned(),
                model::config::PositionEmbedding::Learned =>
                    format!("{} positions", config.max_position_embeddings),
            }
        );
        imported.notes.iter().for_each(|note| println!("{note}"));
        println!("wrote {}", self.out.display());
        Ok(())
    }
}
