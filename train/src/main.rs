//! `train`: pretraining, evaluation and reports. What it does is in the library; this is the table of contents.

mod cli;

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;
use train::checkpoint::{self, Checkpoint};
use train::distributed::Ranks;
use train::layers::{PRESETS, Preset, change, resolve_with};
use train::model_folder::ModelFolder;
use train::run::Run;
use train::stop::Stop;
use train::{bench, eval, micro_batch};

use crate::cli::{Cli, Command, Pretrain};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => pretrain(cli.pretrain),
        Some(Command::Eval(arguments)) => evaluate(&arguments),
        Some(Command::Average(arguments)) => average(&arguments),
        Some(Command::Report(arguments)) => arguments.run(),
        Some(Command::Watch(arguments)) => arguments.run(),
        Some(Command::Glue(arguments)) => arguments.run(),
        Some(Command::Finetune(arguments)) => arguments.run(),
        Some(Command::Predict(arguments)) => arguments.run(),
        Some(Command::Pareto(arguments)) => arguments.run(),
        Some(Command::Sweep(arguments)) => arguments.run(),
        Some(Command::Bench(arguments)) => bench(arguments),
        Some(Command::Import(arguments)) => arguments.run(),
        Some(Command::Export(arguments)) => arguments.run(),
        Some(Command::Fill(arguments)) => arguments.run(),
        Some(Command::Embed(arguments)) => arguments.run(),
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

/// Starts, resumes or branches off a run and trains it to its end, in a job together with the other ranks.
fn pretrain(mut arguments: Pretrain) -> Result<()> {
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let ranks = arguments.ranks.join()?;
    let outlets = std::mem::take(&mut arguments.outlets).into();
    let trained = open(arguments, &ranks).and_then(|mut run| {
        run.publish(&outlets)?;
        Ok(run.train(&stop)?)
    });
    ranks.leave(trained)
}

/// The run that is asked for.
fn open(arguments: Pretrain, ranks: &Ranks) -> Result<Run> {
    let Pretrain {
        shards, out, resume, init_from, preset, config, mut set, device, recipe, shard_cache, ..
    } = arguments;
    set.extend(shard_cache.sets());
    if !ranks.is_first() {
        return Ok(Run::follow(&shards, ranks)?);
    }
    let (device, micro_batch) = (device.map(Into::into), recipe.micro_batch_tokens);
    let run = match (resume, recipe.branch_from, out) {
        (Some(path), ..) => Run::resume(&path, &shards, &set, device, micro_batch, ranks)?,
        (None, Some(from), Some(out)) => {
            let decay = recipe.decay.expect("clap asks for --decay where --branch-from is present");
            let trunk = Checkpoint::find(&from, |error| eprintln!("{error}; trying the one before"))?;
            Run::branch(trunk, &out, &shards, decay, &set, device, ranks)?
        }
        (None, None, Some(out)) => {
            set.extend(recipe.budget.map(|budget| format!("train.budget={budget}")));
            let refused = |error: &train::Error| eprintln!("{error}; trying the one before");
            let init = init_from.map(|path| ModelFolder::open(&path, refused)).transpose()?;
            let model = init.as_ref().map(|init| &init.config);
            let mut config = resolve_with(&preset, model, config.as_deref(), &set)?;
            config.train.device = device.unwrap_or(config.train.device);
            if let Some(asked) = micro_batch {
                micro_batch::resolve(asked, &mut config)?;
            }
            Run::start(&out, &shards, config, init.as_ref(), ranks)?
        }
        (None, _, None) => unreachable!("clap asks for --out where --resume is absent"),
    };
    Ok(run)
}

/// Writes the mean of the newest checkpoints.
fn average(arguments: &cli::Average) -> Result<()> {
    let steps = checkpoint::average(&arguments.run, arguments.last, &arguments.out)?;
    let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
    eprintln!("wrote the mean of steps {} to {}", steps.join(", "), arguments.out.display());
    Ok(())
}

/// Evaluates a checkpoint on held-out documents.
fn evaluate(arguments: &cli::Eval) -> Result<()> {
    let mut checkpoint =
        Checkpoint::find(&arguments.from, |error| eprintln!("{error}; trying the one before"))?;
    checkpoint.config = change(&checkpoint.config, &arguments.shard_cache.sets())?;
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

/// Measures training or loading.
fn bench(arguments: cli::Bench) -> Result<()> {
    let ranks = arguments.ranks.join()?;
    let (data_only, demand, json) = (arguments.data_only, arguments.demand, arguments.json);
    let measure = |ranks: Ranks| -> Result<()> {
        let bench = arguments.resolve(ranks)?;
        let (table, object) = match data_only {
            true => shown(&bench::load(&bench, demand)?)?,
            false => shown(&bench::train(&bench)?)?,
        };
        if bench.ranks.is_first() {
            print!("{}", if json { object + "\n" } else { table });
        }
        Ok(())
    };
    let measured = measure(ranks.clone());
    ranks.leave(measured)
}

/// What was measured, for people and as JSON.
fn shown(report: &(impl Display + Serialize)) -> Result<(String, String)> {
    Ok((report.to_string(), serde_json::to_string(report)?))
}

/// Lists the presets, or prints one.
fn presets(name: Option<&str>) -> Result<()> {
    if let Some(name) = name {
        print!("{}", Preset::find(name)?.text);
        return Ok(());
    }
    for preset in PRESETS {
        println!("{:<28}  {}", preset.name, preset.summary());
    }
    Ok(())
}
