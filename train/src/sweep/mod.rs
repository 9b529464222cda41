//! `train sweep`: several configurations on the same shards, one after the other, ending in one table and one Pareto page.
//!
//! Each run is a process of its own, started as a person would start it, in the folder `OUT/NAME`: what a run leaves behind
//! is a run like any other. A run that is there is resumed, a finished one has nothing to do, so the same command continues
//! a sweep that was stopped. Nothing is tokenised again: shards serve every configuration.

pub mod config;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use rustix::process::{Pid, Signal, kill_process};

pub use self::config::{SweepConfig, SweepGlue, SweepRun};
use crate::checkpoint;
use crate::error::Error;
use crate::finetune::FinetuneError;
use crate::folder::RunFolder;
use crate::glue::GlueResults;
use crate::glue::results::{make_dir, write_bytes};
use crate::metrics::{self, Record};
use crate::pareto::{Pareto, Score};
use crate::stop::Stop;

/// How often a running process is looked after.
const LOOK: Duration = Duration::from_millis(200);
/// A file in a run's folder that says it has trained to its end.
const FINISHED: &str = "finished";

/// A sweep and where it happens.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// What its file says.
    pub config: SweepConfig,
    /// The folder of all runs.
    pub out: PathBuf,
    /// `--device` of every process.
    pub device: &'static str,
    /// This program.
    pub program: PathBuf,
}

/// A line of the table at the end.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    name: String,
    steps: u64,
    samples: u64,
    hours: f64,
    samples_per_s: f64,
    loss: Option<f64>,
    glue: Option<f64>,
}

impl Sweep {
    /// Trains and evaluates what is not finished. Returns the table, as it is written to `OUT/sweep.md`.
    ///
    /// # Errors
    /// [`FinetuneError::Jobs`] when some runs failed (the others are done nevertheless), [`FinetuneError::Stopped`].
    pub fn run(&self, stop: &Stop) -> Result<String, Error> {
        make_dir(&self.out)?;
        let (mut failed, mut first) = (0, None);
        for run in &self.config.run {
            let done = self.train(run, stop).and_then(|()| self.evaluate(run, stop));
            match done {
                Ok(()) => {}
                Err(error @ Error::Finetune(FinetuneError::Stopped)) => return Err(error),
                Err(error) => {
                    eprintln!("{}: {error}", run.name);
                    failed += 1;
                    first.get_or_insert(format!("{}: {error}", run.name));
                }
            }
        }
        let text = self.report()?;
        match first {
            None => Ok(text),
            Some(first) => {
                eprint!("{text}");
                Err(FinetuneError::Jobs { failed, jobs: self.config.run.len(), first }.into())
            }
        }
    }

    fn folder(&self, run: &SweepRun) -> PathBuf {
        self.out.join(&run.name)
    }

    /// Starts or resumes a run.
    fn train(&self, run: &SweepRun, stop: &Stop) -> Result<(), Error> {
        let folder = self.folder(run);
        if folder.join(FINISHED).exists() {
            return Ok(());
        }
        let mut command = Command::new(&self.program);
        match folder.join("config.toml").exists() {
            true => {
                command.arg("--resume").arg(&folder);
            }
            false => {
                command.arg("--out").arg(&folder).args(["--preset", self.config.preset_of(run)]);
                self.config.shards.iter().for_each(|shards| {
                    command.arg("--shards").arg(shards);
                });
                self.config.settings_of(run).iter().for_each(|set| {
                    command.args(["--set", set]);
                });
            }
        }
        command.args(["--device", self.device]);
        eprintln!("== {}: training", run.name);
        finish(command, stop)?;
        write_bytes(&folder.join(FINISHED), b"")
    }

    /// GLUE of some of its checkpoints.
    fn evaluate(&self, run: &SweepRun, stop: &Stop) -> Result<(), Error> {
        let Some((glue, data)) = self.config.glue.as_ref().and_then(|glue| Some((glue, glue.data.as_ref()?)))
        else {
            return Ok(());
        };
        let folder = self.folder(run);
        let all = checkpoint::list(&folder.join("checkpoints"))?;
        for path in spaced(&all, glue.checkpoints) {
            let out = folder.join("glue").join(path.file_name().unwrap_or_default());
            if out.join("results.json").exists() {
                continue;
            }
            let mut command = Command::new(&self.program);
            command.arg("glue").arg("--from").arg(path).arg("--data").arg(data).arg("--out").arg(&out);
            command.args(["--recipe", &glue.recipe, "--device", self.device]);
            command.args(["--seeds", &glue.seeds.to_string(), "--jobs", &glue.jobs.to_string()]);
            if !glue.tasks.is_empty() {
                let tasks: Vec<&str> = glue.tasks.iter().map(|task| task.spec().key).collect();
                command.args(["--tasks", &tasks.join(",")]);
            }
            eprintln!("== {}: GLUE of {}", run.name, path.display());
            finish(command, stop)?;
        }
        Ok(())
    }

    /// The table, `sweep.md`, and the pages.
    fn report(&self) -> Result<String, Error> {
        let lines: Vec<Line> = self.config.run.iter().filter_map(|run| self.line(run)).collect();
        let header = ["run", "steps", "samples", "hours", "samples/s", "held-out loss", "GLUE mean"];
        let cells = |line: &Line| {
            [
                line.name.clone(),
                line.steps.to_string(),
                line.samples.to_string(),
                format!("{:.3}", line.hours),
                format!("{:.0}", line.samples_per_s),
                line.loss.map_or("–".to_owned(), |loss| format!("{loss:.4}")),
                line.glue.map_or("–".to_owned(), |glue| format!("{:.2}", 100.0 * glue)),
            ]
        };
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header);
        let mut markdown =
            format!("| {} |\n| --- |{}\n", header.join(" | "), " ---: |".repeat(header.len() - 1));
        for line in &lines {
            table.add_row(cells(line));
            markdown.push_str(&format!("| {} |\n", cells(line).join(" | ")));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write_bytes(&self.out.join("sweep.md"), markdown.as_bytes())?;
        let mut text = format!("{table}\n");
        let with_glue = lines.iter().any(|line| line.glue.is_some());
        for (score, name, wanted) in
            [(Score::Glue, "pareto.html", with_glue), (Score::Loss, "pareto-loss.html", true)]
        {
            let runs: Vec<PathBuf> = lines
                .iter()
                .filter(|line| score == Score::Loss || line.glue.is_some())
                .filter(|line| score != Score::Loss || line.loss.is_some())
                .map(|line| self.out.join(&line.name))
                .collect();
            if !wanted || runs.is_empty() {
                continue;
            }
            let (out, price_per_hour) = (self.out.join(name), self.config.price_per_hour);
            Pareto { runs, glue: Vec::new(), score, recipe: None, price_per_hour, out: out.clone() }
                .write()?;
            text.push_str(&format!("wrote {}\n", out.display()));
        }
        Ok(text)
    }

    /// What a run came to; `None` before its first record.
    fn line(&self, run: &SweepRun) -> Option<Line> {
        let folder = RunFolder::open(&self.folder(run)).ok()?;
        let records = metrics::read(&folder.metrics()).ok()?;
        let last = records.iter().rev().find_map(|record| match record {
            Record::Train(record) => Some(record),
            Record::Eval(_) => None,
        })?;
        let loss = records.iter().rev().find_map(|record| match record {
            Record::Eval(record) => Some(record.loss),
            Record::Train(_) => None,
        });
        // The newest checkpoint's.
        let mut results: Vec<GlueResults> = std::fs::read_dir(folder.path().join("glue"))
            .into_iter()
            .flatten()
            .filter_map(|entry| GlueResults::read(&entry.ok()?.path()).ok())
            .collect();
        results.sort_by_key(|results| results.model.progress.map(|progress| progress.step));
        Some(Line {
            name: run.name.clone(),
            steps: last.step,
            samples: last.samples,
            hours: last.elapsed_s / 3600.0,
            samples_per_s: last.samples as f64 / last.elapsed_s.max(1e-9),
            loss,
            glue: results.last().and_then(|results| results.average.mean),
        })
    }
}

/// `count` of them, evenly spaced, the last among them.
fn spaced(all: &[PathBuf], count: usize) -> Vec<&Path> {
    let count = count.min(all.len());
    (1..=count).map(|number| all[(number * all.len()).div_ceil(count) - 1].as_path()).collect()
}

/// Runs a process to its end; passes a stop on to it.
fn finish(mut command: Command, stop: &Stop) -> Result<(), Error> {
    let program = PathBuf::from(command.get_program());
    let spawned = command.spawn().map_err(|source| Error::Read { path: program.clone(), source });
    let mut child: Child = spawned?;
    let mut asked = false;
    let status = loop {
        match child.try_wait().map_err(|source| Error::Read { path: program.clone(), source })? {
            Some(status) => break status,
            None => std::thread::sleep(LOOK),
        }
        if stop.requested() && !asked {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that has ended already cannot be asked.
                let _ = kill_process(pid, Signal::TERM);
            }
            asked = true;
        }
    };
    if stop.requested() {
        return Err(FinetuneError::Stopped.into());
    }
    match status.success() {
        true => Ok(()),
        false => Err(FinetuneError::Process { status: status.to_string() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_spaced_and_the_last_is_among_them() {
        let all: Vec<PathBuf> = (1..=7).map(|step| PathBuf::from(step.to_string())).collect();
        let of = |count| spaced(&all, count).iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(of(0), Vec::<&str>::new());
        assert_eq!(of(1), ["7"]);
        assert_eq!(of(3), ["3", "5", "7"]);
        assert_eq!(of(100).len(), 7);
    }
}
