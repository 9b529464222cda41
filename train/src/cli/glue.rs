//! `train glue`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use train::finetune::Order;
use train::glue::{self, GlueJob, GlueRun, Task};
use train::stop::Stop;

use super::DeviceArgument;
use super::finetune::OrderArgument;

/// Fine-tune a model on GLUE and evaluate it, by the recipe of MosaicBERT's paper.
///
/// Reads GLUE's own tab-separated files (GLUE/CoLA/train.tsv, …) and Hugging Face's Parquet files
/// (GLUE/cola/train-00000-of-00001.parquet, …). A task whose files have other numbers of rows than the official ones is
/// run, marked, and left out of the average.
///
/// The same command continues what was stopped: a finished task and seed is not repeated.
#[derive(Debug, Args)]
pub(crate) struct Glue {
    /// What to fine-tune: a run, whose newest usable checkpoint is taken, a checkpoint, or a model folder
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL")]
    from: PathBuf,
    /// Folder with a folder for each task
    #[arg(long, value_name = "GLUE_DIR")]
    data: PathBuf,
    /// Folder for results [default: RUN/glue/STEP-RECIPE, where `train pareto` finds them]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Tasks, separated by commas: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte [default: all that GLUE_DIR has]
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    tasks: Vec<String>,
    /// `mosaic`, the paper's table; `quick`, few epochs to compare checkpoints; or a TOML file that names what differs
    #[arg(long, value_name = "mosaic|quick|FILE", default_value = "mosaic")]
    recipe: String,
    /// Seeds for every task [default: the recipe's, from one to five a task]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seeds: Option<u32>,
    /// Order of training; the paper's is `file` [default: the recipe's, shuffled]
    #[arg(long, value_enum)]
    order: Option<OrderArgument>,
    /// Fine-tunings side by side, each a process of its own; on one GPU as many as its memory holds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
    /// Print the results as one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Only work through the list, for the process that was started with --jobs
    #[arg(long, hide = true)]
    worker: bool,
}

impl Glue {
    pub(crate) fn run(&self) -> Result<()> {
        let stop = Stop::on_signals().context("signals cannot be handled")?;
        let tasks = self.tasks.iter().map(|name| Task::find(name)).collect::<Result<_, _>>()?;
        let run = GlueRun::prepare(&GlueJob {
            from: self.from.clone(),
            data: self.data.clone(),
            out: self.out.clone(),
            tasks,
            recipe: self.recipe.clone(),
            seeds: self.seeds.map(|seeds| seeds as usize),
            order: self.order.map(Order::from),
            device: self.device.into(),
        })?;
        if self.worker {
            return Ok(run.work(self.jobs as usize, &stop)?);
        }
        eprintln!("results go to {}", run.out().display());
        let results = run.run(self.jobs as usize, &stop, || {
            let program = std::env::current_exe()
                .map_err(|source| train::Error::Read { path: "this program".into(), source })?;
            let mut command = Command::new(program);
            command.args(std::env::args_os().skip(1)).arg("--worker");
            Ok(command)
        })?;
        glue::report::write(&results, run.out())?;
        match self.json {
            true => println!("{}", serde_json::to_string(&results)?),
            false => print!("{}", glue::report::terminal(&results)),
        }
        Ok(())
    }
}
