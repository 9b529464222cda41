//! `ingest vocab`: a WordPiece vocabulary from text.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ingest::identity::DEFAULT_TEXT_FIELD;
use ingest::{EncoderChoice, Inputs, TokenizerFile, VocabOptions, train_vocab};
use loader::atomic;

use super::{format, print};

/// Trains a WordPiece vocabulary on a sample of the text, for `ingest c4 --tokenizer`.
///
/// The same inputs, options and seed give the same file.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What `ingest c4` takes: files, folders, patterns, URLs
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// Pieces in the vocabulary, special tokens included: a multiple of 64, which tensor cores like
    #[arg(long, value_name = "N", default_value_t = 30528)]
    size: u32,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Text to learn from
    #[arg(long, value_name = "BYTES", default_value_t = 256_000_000)]
    sample_bytes: u64,
    /// Whether upper and lower case are the same, and letters with and without accents
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    lowercase: bool,
    /// Chooses the sample
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The field that holds the text
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TEXT_FIELD)]
    text_field: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = VocabOptions {
        size: arguments.size,
        sample_bytes: arguments.sample_bytes,
        lowercase: arguments.lowercase,
        seed: arguments.seed,
        text_field: arguments.text_field.clone(),
    };
    options.validate()?;
    let vocab = train_vocab(&Inputs::find(&arguments.inputs)?, &options)?;
    atomic::write_file(&arguments.out, |file| file.write_all(vocab.json.as_bytes()))?;
    let encoder = TokenizerFile::read(&arguments.out)?.encoder(EncoderChoice::Auto)?;
    print(format_args!(
        "{}: {} pieces from {} of text in {}; encodes through {}",
        arguments.out.display(),
        format::count(options.size.into()),
        format::bytes(vocab.text_bytes),
        format::counted(vocab.documents, "document"),
        encoder.describe(),
    ))?;
    Ok(ExitCode::SUCCESS)
}
