//! `train pareto`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use train::glue::Task;
use train::pareto::{self, Score};

/// Draw what runs had reached against what they had cost: hours, samples, arithmetic, dollars.
///
/// GLUE of a run's checkpoints is what `train glue --from CHECKPOINT` left in RUN/glue. Beside the page are its charts as SVG and
/// its points as CSV. The paper's curves are drawn dashed.
#[derive(Debug, Args)]
pub(crate) struct Pareto {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// What is drawn: `glue`, the mean of the official tasks that all results have; one task; or `loss`, on held-out documents
    #[arg(long, value_name = "glue|TASK|loss", default_value = "glue")]
    score: String,
    /// Further folders that `train glue` wrote for these runs' checkpoints
    #[arg(long, value_name = "DIR")]
    glue: Vec<PathBuf>,
    /// Only results of this recipe
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// Dollars an hour of the machine that trained
    #[arg(long, value_name = "DOLLARS")]
    price_per_hour: Option<f64>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Pareto {
    pub(crate) fn run(self) -> Result<()> {
        let score = match self.score.as_str() {
            "glue" => Score::Glue,
            "loss" => Score::Loss,
            task => Score::Task(Task::find(task)?),
        };
        let files = pareto::Pareto {
            runs: self.runs,
            glue: self.glue,
            score,
            recipe: self.recipe,
            price_per_hour: self.price_per_hour,
            out: self.out,
        }
        .write()?;
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        eprintln!("wrote {}", names.join(", "));
        Ok(())
    }
}
