//! `train finetune` and `train predict`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use train::finetune::dataset::{Split, TargetChoice};
use train::finetune::{self, Columns, FinetuneJob, Order, Precision, PredictJob, Settings};
use train::stop::Stop;

use super::DeviceArgument;

/// Fine-tune a model to classify texts, or to predict a number for each, and save it.
///
///   train finetune --from runs/first --data reviews.csv --text review --label stars --out models/stars
///   train predict --from models/stars --data new.csv --out predictions.csv
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Finetune {
    /// What to start from: a run, whose newest usable checkpoint is taken, a checkpoint, or a model folder
    #[arg(long, value_name = "RUN|CHECKPOINT|MODEL")]
    from: PathBuf,
    /// Table with texts and labels: csv, jsonl, parquet or tsv, by the end of its name
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Table to evaluate on; without it some rows of --data are kept for that
    #[arg(long, value_name = "FILE", conflicts_with = "dev_share")]
    dev: Option<PathBuf>,
    /// Share of the rows of --data that is kept for evaluation, chosen by a hash of their text
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    dev_share: f64,
    /// Column of the text
    #[arg(long, value_name = "COLUMN")]
    text: String,
    /// Column of a second text that it is paired with
    #[arg(long, value_name = "COLUMN")]
    text_pair: Option<String>,
    /// Column of the label
    #[arg(long, value_name = "COLUMN")]
    label: String,
    /// What labels are; auto: numbers if all of them are and one is not whole, else names of classes
    #[arg(long, value_enum, default_value = "auto")]
    task: TaskArgument,
    /// New folder for the model, its measures and its predictions
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 3)]
    epochs: u64,
    /// Examples a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Peak learning rate, reached after 6 % of the steps and falling to 0 at the end
    #[arg(long, value_name = "RATE", default_value_t = 5e-5)]
    lr: f64,
    /// Share of every weight lost per update at the peak learning rate
    #[arg(long, value_name = "SHARE", default_value_t = 5e-6)]
    weight_decay: f64,
    /// Longest example in tokens; longer ones are cut
    #[arg(long, value_name = "TOKENS", default_value_t = 256)]
    seq_len: usize,
    /// Most tokens in one forward and backward pass
    #[arg(long, value_name = "TOKENS", default_value_t = 16_384)]
    micro_batch_tokens: usize,
    /// Order of training
    #[arg(long, value_enum, default_value = "shuffled")]
    order: OrderArgument,
    /// What is computed in on CUDA; the CPU computes in float32
    #[arg(long, value_enum, default_value = "bf16")]
    precision: PrecisionArgument,
    /// Decides the new head's first values, the order and dropout
    #[arg(long, value_name = "N", default_value_t = 17)]
    seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
    /// Print the results as one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Predict with a fine-tuned model.
#[derive(Debug, Args)]
pub(crate) struct Predict {
    /// What `train finetune` was told to write to, or the model folder in it
    #[arg(long, value_name = "MODEL")]
    from: PathBuf,
    /// Table with texts: csv, jsonl, parquet or tsv; where it has the label column too, measures are printed
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Column of the text [default: the training data's]
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// Column of the second text [default: the training data's]
    #[arg(long, value_name = "COLUMN")]
    text_pair: Option<String>,
    /// File for the predictions, csv or jsonl
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArgument,
}

/// `--order`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OrderArgument {
    /// A new random order every epoch
    Shuffled,
    /// The same, in batches of about the same length
    Grouped,
    /// The order of the file, every epoch
    File,
}

/// `--task`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TaskArgument {
    /// As the labels look
    Auto,
    /// Labels are names
    Classification,
    /// Labels are numbers
    Regression,
}

/// `--precision`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionArgument {
    /// bfloat16 with float32 weights
    Bf16,
    /// float32
    Fp32,
}

impl From<OrderArgument> for Order {
    fn from(argument: OrderArgument) -> Order {
        match argument {
            OrderArgument::Shuffled => Order::Shuffled,
            OrderArgument::Grouped => Order::Grouped,
            OrderArgument::File => Order::File,
        }
    }
}

impl Finetune {
    pub(crate) fn run(self) -> Result<()> {
        let stop = Stop::on_signals().context("signals cannot be handled")?;
        let split = match self.dev {
            Some(path) => Split::File(path),
            None => {
                anyhow::ensure!(
                    self.dev_share > 0.0 && self.dev_share < 1.0,
                    "--dev-share is {}, expected a number between 0 and 1",
                    self.dev_share
                );
                Split::Share(self.dev_share)
            }
        };
        let job = FinetuneJob {
            from: self.from,
            data: self.data,
            columns: Columns { text: self.text, text_pair: self.text_pair, label: self.label },
            target: match self.task {
                TaskArgument::Auto => TargetChoice::Auto,
                TaskArgument::Classification => TargetChoice::Classification,
                TaskArgument::Regression => TargetChoice::Regression,
            },
            split,
            out: self.out,
            settings: Settings {
                epochs: self.epochs,
                batch_size: self.batch_size,
                seq_len: self.seq_len,
                order: self.order.into(),
                precision: match self.precision {
                    PrecisionArgument::Bf16 => Precision::Bf16,
                    PrecisionArgument::Fp32 => Precision::Fp32,
                },
                micro_batch_tokens: self.micro_batch_tokens,
                lr: self.lr,
                weight_decay: self.weight_decay,
                betas: [0.9, 0.98],
                eps: 1e-6,
                warmup_fraction: 0.06,
                final_fraction: 0.0,
            },
            seed: self.seed,
            device: self.device.into(),
        };
        let results = job.run(&stop)?;
        match self.json {
            true => println!("{}", serde_json::to_string(&results)?),
            false => print!("{}", finetune::report::terminal(&results)),
        }
        eprintln!("the model is in {}", job.out.join(finetune::job::MODEL).display());
        Ok(())
    }
}

impl Predict {
    pub(crate) fn run(self) -> Result<()> {
        let job = PredictJob {
            from: self.from,
            data: self.data,
            text: self.text,
            text_pair: self.text_pair,
            out: self.out,
            device: self.device.into(),
        };
        let predicted = job.run()?;
        for (name, value) in &predicted.measures {
            println!("{name:<20} {value:>8.4}");
        }
        eprintln!("{} predictions are in {}", predicted.rows, job.out.display());
        Ok(())
    }
}
