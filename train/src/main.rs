//! `train`: pretraining, evaluation and reports. What it does is in the library; this is the table of contents.

mod cli;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use train::checkpoint::Checkpoint;
use train::layers::{PRESETS, Preset, resolve};
use train::run::Run;
use train::stop::Stop;
use train::{bench, eval, report};

use crate::cli::{Cli, Command, Pretrain};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => pretrain(cli.pretrain),
        Some(Command::Eval(arguments)) => evaluate(&arguments),
        Some(Command::Report(arguments)) => write_report(&arguments),
        Some(Command::Bench(arguments)) => bench(arguments),
        Some(Command::Presets { name }) => presets(name.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("train: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts or resumes a run and trains it to its end.
fn pretrain(arguments: Pretrain) -> Result<()> {
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let mut run = match (&arguments.resume, &arguments.out) {
        (Some(path), _) => Run::resume(path, &arguments.shards, arguments.device.map(Into::into))?,
        (None, Some(out)) => {
            let mut config = resolve(&arguments.preset, arguments.config.as_deref(), &arguments.set)?;
            if let Some(device) = arguments.device {
                config.train.device = device.into();
            }
            Run::start(out, &arguments.shards, config)?
        }
        (None, None) => unreachable!("clap asks for --out where --resume is absent"),
    };
    Ok(run.train(&stop)?)
}

/// Evaluates a checkpoint on held-out documents.
fn evaluate(arguments: &cli::Eval) -> Result<()> {
    let checkpoint = Checkpoint::find(&arguments.from, |error| eprintln!("{error}; trying the one before"))?;
    let result = eval::evaluate_checkpoint(
        &checkpoint,
        &arguments.shards,
        arguments.max_samples,
        arguments.device.into(),
    )?;
    if arguments.json {
        println!("{}", serde_json::to_string(&result)?);
        return Ok(());
    }
    println!("checkpoint             {}", checkpoint.path.display());
    println!("held-out loss          {:.4} nats a masked token", result.loss);
    println!("accuracy               {:.2} % of masked tokens", 100.0 * result.accuracy);
    println!("unigram cross-entropy  {:.4} nats", result.unigram_loss);
    println!("masked tokens          {}", result.masked_tokens);
    Ok(())
}

/// Writes the page about one or several runs.
fn write_report(arguments: &cli::Report) -> Result<()> {
    report::write(&arguments.runs, &arguments.out)
        .with_context(|| format!("no report was written to {}", arguments.out.display()))?;
    eprintln!("wrote {}", arguments.out.display());
    Ok(())
}

/// Measures training or loading.
fn bench(arguments: cli::Bench) -> Result<()> {
    let (data_only, demand, json) = (arguments.data_only, arguments.demand, arguments.json);
    let bench = arguments.resolve()?;
    match (data_only, json) {
        (true, true) => println!("{}", serde_json::to_string(&bench::load(&bench, demand)?)?),
        (true, false) => print!("{}", bench::load(&bench, demand)?),
        (false, true) => println!("{}", serde_json::to_string(&bench::train(&bench)?)?),
        (false, false) => print!("{}", bench::train(&bench)?),
    }
    Ok(())
}

/// Lists the presets, or prints one.
fn presets(name: Option<&str>) -> Result<()> {
    if let Some(name) = name {
        print!("{}", Preset::find(name)?.text);
        return Ok(());
    }
    for preset in PRESETS {
        println!("{:<18}  {}", preset.name, preset.summary());
    }
    Ok(())
}
