//! `ingest c4`: files in C4's schema to shards.

use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use ingest::identity::{DEFAULT_HELD_OUT, DEFAULT_SHARD_TOKENS, DEFAULT_TEXT_FIELD};
use ingest::{EncoderChoice, Estimate, Inputs, Job, Options, Progress, Space, TokenizerFile};
use loader::atomic;

use super::filters::FilterArguments;
use super::meter::Meter;
use super::summary::Summary;
use super::{estimate, format, print, task};

/// How many skipped lines are printed; the manifest lists all.
const SKIPPED_SHOWN: usize = 10;

/// Turns C4 files into a shard folder.
///
/// Reads one JSON object a line, such as {"text": "...", "url": "...", "timestamp": "..."}, plain or packed with gzip or
/// zstd, and Parquet and Arrow tables with such columns; what a file is, its content tells. May be interrupted at any
/// moment: the same command continues, and the result is the same to the byte. On a folder that is finished it does
/// nothing.
///
/// A shard never spans two inputs. A Parquet file of more than 128 MiB unpacked is divided between its row groups into
/// several inputs, so that several workers read it: its documents and tokens are those of the same file as JSON lines, in
/// the same order, but its shards begin elsewhere.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Files, folders or patterns of .json.gz, .jsonl, .jsonl.zst, .parquet or .arrow, also s3://, gs://, az:// and
    /// https:// URLs; - for standard input
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// The shard folder; created, or continued when it holds an unfinished ingest of the same inputs. Also an s3://,
    /// gs:// or az:// URL: each shard is made in the folder for temporary files (TMPDIR) and sent once it is sealed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A tokenizer.json of Hugging Face's tokenizers, with [PAD] [UNK] [CLS] [SEP] [MASK]; without it, bert-base-uncased
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// What turns text into ids; all give the same ones
    #[arg(long, value_enum, value_name = "NAME", default_value = "auto")]
    encoder: EncoderArgument,
    /// Threads, each working on one input file; without it, one a processor
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// The field that holds the text
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TEXT_FIELD)]
    text_field: String,
    /// The share of documents kept from training for evaluation, chosen by a hash of their text
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_HELD_OUT)]
    held_out: f64,
    /// Close a shard once it holds this many tokens
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SHARD_TOKENS)]
    shard_tokens: u64,
    /// Leave out up to N lines that cannot be used, counted over all inputs, and list them in the manifest
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_bad_lines: u64,
    #[command(flatten)]
    filters: FilterArguments,
    /// Ingest only share I (counted from 0) of N, into a folder of its own in DIR, to be joined by `ingest merge DIR`;
    /// without it, what SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX say; `none` ingests everything all the same
    #[arg(long, value_name = "I/N")]
    task: Option<String>,
    /// Only print what the ingest is expected to come to, from a sample of the inputs
    #[arg(long)]
    dry_run: bool,
    /// Start even if the shards are not expected to fit on the disk
    #[arg(long)]
    no_space_check: bool,
    /// Also measure where the time goes: read, unpack, parse, encode (normalising included), write; and, beside
    /// the workers, seal (waiting for the disk included)
    #[arg(long)]
    profile: bool,
    /// Also write the summary (of a dry run, the estimate) as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `--encoder`.
#[derive(Clone, Copy, ValueEnum)]
enum EncoderArgument {
    /// The fast encoder for tokenizers it supports in full, else the tokenizers crate
    Auto,
    /// The fast WordPiece encoder, or an error
    Fast,
    /// Hugging Face's tokenizers crate
    Tokenizers,
}

impl From<EncoderArgument> for EncoderChoice {
    fn from(argument: EncoderArgument) -> Self {
        match argument {
            EncoderArgument::Auto => Self::Auto,
            EncoderArgument::Fast => Self::Fast,
            EncoderArgument::Tokenizers => Self::Tokenizers,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    // The process ends with it, and giving back every string of a vocabulary takes longer than all else that is left.
    let job = ManuallyDrop::new(job(arguments)?);
    announce(&job);
    if arguments.dry_run {
        return dry_run(arguments, &job);
    }
    look_ahead(arguments, &job)?;
    let progress = Arc::new(if arguments.profile { Progress::profiling() } else { Progress::default() });
    let started = Instant::now();
    let meter = Meter::start(progress.clone(), job.share().map(|input| input.bytes).sum());
    let outcome = ingest::run(&job, &progress);
    drop(meter);
    let outcome = outcome?;
    let summary = Summary::new(&outcome, &progress, started.elapsed());
    if outcome.was_finished {
        print(format_args!(
            "{} is finished already, from the same inputs and options; nothing to do",
            job.folder().display()
        ))?;
    } else {
        print(summary.table())?;
        if let Some(table) = summary.profile_table() {
            print(table)?;
        }
        print_skipped(&outcome.manifest)?;
        print(format_args!("{} is finished", job.folder().display()))?;
        if job.task.is_some() {
            print(format_args!("when all tasks are: ingest merge {}", job.out.display()))?;
        }
    }
    if let Some(path) = &arguments.json {
        // The speed of a run that had nothing to do would only hide that of the run that had.
        if !(outcome.was_finished && path.exists()) {
            atomic::write_file(path, |file| Ok(serde_json::to_writer_pretty(file, &summary)?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn job(arguments: &Arguments) -> Result<Job> {
    let options = Options {
        text_field: arguments.text_field.clone(),
        held_out: arguments.held_out,
        shard_tokens: arguments.shard_tokens,
        filters: arguments.filters.filters(),
    };
    options.validate()?;
    let tokenizer = match &arguments.tokenizer {
        Some(path) => TokenizerFile::read(path)?,
        None => TokenizerFile::bundled()?,
    };
    let workers = match arguments.workers {
        Some(workers) => workers,
        None => std::thread::available_parallelism()
            .context("cannot tell how many processors there are; say --workers N")?,
    };
    let task = task::choose(arguments.task.as_deref(), |name| std::env::var(name).ok())?;
    if let Some((task, from)) = task {
        eprintln!("task {} of {} (counted from 0), from {from}", task.index(), task.count());
    }
    Ok(Job {
        inputs: Inputs::find(&arguments.inputs)?,
        out: arguments.out.clone(),
        options,
        encoder: tokenizer.encoder(arguments.encoder.into())?,
        tokenizer,
        workers: workers.get(),
        skip_bad_lines: arguments.skip_bad_lines,
        task: task.map(|(task, _)| task),
    })
}

/// Says what is going to happen.
fn announce(job: &Job) {
    let inputs = &job.inputs;
    let (files, bytes) = job.share().fold((0, 0), |(files, bytes), input| (files + 1, bytes + input.bytes));
    let of = if job.task.is_some() {
        format!(" of {}", format::count(inputs.files.len() as u64))
    } else {
        String::new()
    };
    eprintln!(
        "{}{of}, {}, to {} with {} ({} ids) through {}, {}",
        format::counted(files, "file"),
        format::bytes(bytes),
        job.folder().display(),
        job.tokenizer.name(),
        format::count(job.tokenizer.info().vocab_size.into()),
        job.encoder.describe(),
        format::counted(job.workers.min(files as usize).max(1) as u64, "worker"),
    );
    if let Some(first) = inputs.ignored.first() {
        let count = format::counted(inputs.ignored.len() as u64, "file");
        eprintln!(
            "note: not read, being of other formats: {count} in the given folders, such as {}",
            first.display()
        );
    }
}

/// Prints the estimate and does nothing else.
fn dry_run(arguments: &Arguments, job: &Job) -> Result<ExitCode> {
    let Some(expected) = Estimate::of(job)? else {
        bail!(
            "the beginnings of the inputs hold no document; without --dry-run the first that is wrong is named"
        );
    };
    let space = Space::look(job, &expected)?;
    print(estimate::table(&expected, &space, job.workers))?;
    if let Some(path) = &arguments.json {
        atomic::write_file(path, |file| Ok(serde_json::to_writer_pretty(file, &expected)?))?;
    }
    if !arguments.no_space_check {
        space.check()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is to be expected, and refuses to start what will not fit.
fn look_ahead(arguments: &Arguments, job: &Job) -> Result<()> {
    if job.has_manifest()? {
        return Ok(());
    }
    if let Some(expected) = Estimate::of(job)? {
        let space = Space::look(job, &expected)?;
        eprintln!("{}", estimate::line(&expected, &space));
        if !arguments.no_space_check {
            space.check()?;
        }
    }
    Ok(())
}

fn print_skipped(manifest: &loader::shard::Manifest) -> Result<()> {
    let inputs = manifest.ingest.inputs.iter();
    let mut skipped = inputs.flat_map(|input| input.bad_lines.iter().map(move |bad| (&input.path, bad)));
    for (path, bad) in skipped.by_ref().take(SKIPPED_SHOWN) {
        print(format_args!("skipped {path} line {}, {}", bad.line, bad.reason))?;
    }
    let more = skipped.count();
    if more > 0 {
        print(format_args!("skipped {} more; the manifest lists all", format::count(more as u64)))?;
    }
    Ok(())
}
