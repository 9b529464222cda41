//! `train export`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use train::export::{Architecture, Format, export};
use train::model_folder::ModelFolder;

/// Write a model as a folder that Hugging Face's transformers loads.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A run, whose newest usable checkpoint is taken, a checkpoint's own folder, or an imported model
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL")]
    from: PathBuf,
    /// Folder to be made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What it is for
    #[arg(long, value_enum, default_value = "hf")]
    format: FormatArgument,
}

/// `--format`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArgument {
    /// transformers: natively for a BERT, with its own Python for a MosaicBERT
    Hf,
    /// JinaBERT's layout, which serving programs know: for models with ALiBi and GeGLU
    JinaBert,
}

impl Export {
    /// Exports, and says how to load the folder.
    pub(crate) fn run(&self) -> Result<()> {
        let folder = ModelFolder::open(&self.from, |error| eprintln!("{error}; trying the one before"))?;
        let format = match self.format {
            FormatArgument::Hf => Format::HuggingFace,
            FormatArgument::JinaBert => Format::JinaBert,
        };
        let how = match export(&folder, &self.out, format)? {
            Architecture::Bert => "transformers loads it as a BERT of its own",
            Architecture::MosaicBert => "load it with trust_remote_code=True; its Python lies in the folder",
            Architecture::JinaBert => "programs that know JinaBERT load it",
        };
        println!("wrote {} from {}: {how}", self.out.display(), folder.path.display());
        Ok(())
    }
}
