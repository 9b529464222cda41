//! `ingest inspect`: what a shard folder holds.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use loader::shard::Manifest;

use super::{format, print, statistics};

/// Shards, inputs and skipped lines that are listed; `--json` has all.
const LISTED: usize = 20;

/// Shows what a shard folder holds, or one document of it.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The shard folder, also an s3://, gs:// or az:// URL
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Show document N (counted from 0, shard by shard, the held-out ones last in each): its text and where it came from
    #[arg(long, value_name = "N")]
    doc: Option<u64>,
    /// Read every token and show statistics: lengths of documents, what sequence lengths make of them, tokens
    #[arg(long, conflicts_with = "doc")]
    stats: bool,
    /// Write the statistics as a page with plots that needs nothing but itself
    #[arg(long, value_name = "FILE", conflicts_with = "doc")]
    html: Option<PathBuf>,
    /// Print JSON: the whole manifest, the document with its ids, or with --stats the statistics
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match arguments.doc {
        Some(document) => show_document(arguments, document)?,
        None if arguments.stats || arguments.html.is_some() => {
            let json = arguments.json && arguments.stats;
            statistics::run(&arguments.dir, json, arguments.html.as_deref())?;
        }
        None => show_manifest(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show_document(arguments: &Arguments, document: u64) -> Result<()> {
    let found = ingest::find_document(&arguments.dir, document)?;
    if arguments.json {
        print(serde_json::to_string_pretty(&found)?)?;
        return Ok(());
    }
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let table = format::pairs([
        ("document", format::count(document)),
        ("shard", format!("{}, document {}", found.shard, format::count(found.document_in_shard))),
        ("side", if found.held_out { "held out" } else { "training" }.to_owned()),
        ("url", or_none(&found.url)),
        ("timestamp", or_none(&found.timestamp)),
        ("source", format!("{}, row {}", found.source, format::count(found.row))),
        ("text", format!("{} bytes, XXH3 {}", format::count(found.bytes.into()), found.xxh3_128)),
        ("tokens", format::count(found.ids.len() as u64)),
    ]);
    print(format_args!("{table}\n{}", found.text))?;
    Ok(())
}

fn show_manifest(arguments: &Arguments) -> Result<()> {
    let manifest = ingest::read_manifest(&arguments.dir)?;
    if arguments.json {
        print(serde_json::to_string_pretty(&manifest)?)?;
        return Ok(());
    }
    print(overview(&manifest))?;
    let shards = manifest.shards.iter().take(LISTED).map(|shard| {
        [
            shard.file.clone(),
            format::count(shard.documents),
            format::count(shard.held_out),
            format::count(shard.tokens),
            format::bytes(shard.bytes),
            format::bytes(shard.docs_bytes),
        ]
    });
    print(format::columns(["shard", "documents", "held out", "tokens", "size", "table"], shards))?;
    say_more(manifest.shards.len(), "shards")?;
    let inputs = manifest.ingest.inputs.iter().take(LISTED).map(|input| {
        [
            input.path.clone(),
            format::bytes(input.bytes),
            format::count(input.rows),
            format::count(input.documents),
            format::count(input.bad_lines.len() as u64),
            format::count(input.empty_documents),
        ]
    });
    print(format::columns(["input", "size", "rows", "documents", "skipped", "empty"], inputs))?;
    say_more(manifest.ingest.inputs.len(), "inputs")?;
    let skipped = || {
        manifest.ingest.inputs.iter().flat_map(|input| input.bad_lines.iter().map(move |bad| (input, bad)))
    };
    for (input, bad) in skipped().take(LISTED) {
        print(format_args!("skipped {} line {}, {}", input.path, bad.line, bad.reason))?;
    }
    say_more(skipped().count(), "skipped lines")?;
    Ok(())
}

fn overview(manifest: &Manifest) -> comfy_table::Table {
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    let tokenizer = &manifest.tokenizer;
    let special = &tokenizer.special;
    format::pairs([
        ("written by", format!("{}, format {}", manifest.program, manifest.format_version)),
        (
            "documents",
            format!(
                "{}, {} held out",
                format::count(manifest.documents),
                format::count(manifest.held_out_documents)
            ),
        ),
        (
            "tokens",
            format!(
                "{}, {} held out",
                format::count(manifest.tokens),
                format::count(manifest.held_out_tokens)
            ),
        ),
        ("text", format::bytes(manifest.text_bytes)),
        ("tokens a document", format!("{:.1}", ratio(manifest.tokens, manifest.documents))),
        ("text bytes a token", format!("{:.2}", ratio(manifest.text_bytes, manifest.tokens))),
        (
            "vocabulary",
            format!(
                "{} ids ({} for the model), {} bytes a token",
                format::count(tokenizer.vocab_size.into()),
                format::count(tokenizer.model_vocab_size.into()),
                manifest.token_bytes
            ),
        ),
        (
            "special tokens",
            format!(
                "[PAD] {}, [UNK] {}, [CLS] {}, [SEP] {}, [MASK] {}",
                special.pad, special.unk, special.cls, special.sep, special.mask
            ),
        ),
        ("tokenizer BLAKE3", tokenizer.blake3.clone()),
        ("corpus BLAKE3", manifest.blake3()),
        ("options", manifest.ingest.options.to_string()),
    ])
}

fn say_more(count: usize, what: &str) -> Result<()> {
    if count > LISTED {
        print(format_args!(
            "... and {} more {what}; --json lists all",
            format::count((count - LISTED) as u64)
        ))?;
    }
    Ok(())
}
