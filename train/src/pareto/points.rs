//! What a run had reached and what it had cost, checkpoint by checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use model::Work;

use super::Score;
use crate::config::Config;
use crate::error::Error;
use crate::finetune::FinetuneError;
use crate::folder::RunFolder;
use crate::glue::metrics;
use crate::glue::results::{GlueResults, RESULTS};
use crate::glue::tasks::Task;
use crate::metrics::{self as records, Record};

/// A run's points.
#[derive(Debug)]
pub(crate) struct RunPoints {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// One checkpoint or evaluation of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) step: u64,
    pub(crate) hours: f64,
    pub(crate) samples: f64,
    pub(crate) tokens: f64,
    pub(crate) flops: f64,
    /// GLUE or a task from 0 to 1, or a loss in nats.
    pub(crate) score: f64,
    /// Standard deviation over seeds, where there are several.
    pub(crate) spread: Option<f64>,
    /// Whether no other point is at least as good for less time.
    pub(crate) frontier: bool,
}

/// The points of all runs, and the tasks that are averaged.
pub(crate) fn collect(
    runs: &[PathBuf],
    glue: &[PathBuf],
    score: Score,
    recipe: Option<&str>,
) -> Result<(Vec<RunPoints>, Vec<Task>), Error> {
    let mut found = Vec::new();
    for path in runs {
        let folder = RunFolder::open(path)?;
        let config = folder.read_config()?;
        let results = match score {
            Score::Loss => Vec::new(),
            _ => glue_results(path, glue, recipe)?,
        };
        found.push((folder, config, results));
    }
    let all: Vec<&GlueResults> = found.iter().flat_map(|run| &run.2).collect();
    check_recipes(&all)?;
    let tasks = match score {
        Score::Loss => Vec::new(),
        Score::Task(task) => vec![task],
        Score::Glue => common_tasks(&all),
    };
    let mut lines = Vec::new();
    for (folder, config, results) in &found {
        let records = records::read(&folder.metrics())?;
        let mut points = match score {
            Score::Loss => of_losses(&records, config),
            _ => results.iter().filter_map(|results| of_glue(results, &records, config, &tasks)).collect(),
        };
        points.sort_by_key(|point: &Point| point.step);
        if points.is_empty() {
            let (found, advice) = match score {
                Score::Loss => ("no evaluations in metrics.jsonl", "train further, or set eval.every_steps"),
                _ => (
                    "no such results in its folder glue",
                    "evaluate its checkpoints first: train glue --from CHECKPOINT --data GLUE_DIR",
                ),
            };
            let (path, found, advice) = (folder.path().to_owned(), found.to_owned(), advice.to_owned());
            return Err(FinetuneError::NoResults { path, found, advice }.into());
        }
        lines.push(RunPoints { name: folder.name(), points });
    }
    distinguish(&mut lines);
    mark_frontier(&mut lines, score == Score::Loss);
    Ok((lines, tasks))
}

/// The results in `RUN/glue`, and those of `extra` that are of the run's checkpoints.
fn glue_results(run: &Path, extra: &[PathBuf], recipe: Option<&str>) -> Result<Vec<GlueResults>, Error> {
    let refuse = |path: &Path, source| Error::Read { path: path.to_owned(), source };
    let inside = run.join("glue");
    let mut folders = Vec::new();
    if inside.is_dir() {
        for entry in fs::read_dir(&inside).map_err(|source| refuse(&inside, source))? {
            folders.push(entry.map_err(|source| refuse(&inside, source))?.path());
        }
    }
    folders.sort();
    let mut found = Vec::new();
    for folder in folders.iter().filter(|folder| folder.join(RESULTS).exists()) {
        found.push(GlueResults::read(folder)?);
    }
    let absolute = fs::canonicalize(run).map_err(|source| refuse(run, source))?;
    for folder in extra {
        let results = GlueResults::read(folder)?;
        if results.model.path.starts_with(&absolute) {
            found.push(results);
        }
    }
    found.retain(|results| recipe.is_none_or(|recipe| results.recipe == recipe));
    Ok(found)
}

/// Scores of different recipes do not compare.
fn check_recipes(results: &[&GlueResults]) -> Result<(), Error> {
    let Some(first) = results.first() else { return Ok(()) };
    match results.iter().find(|other| other.settings != first.settings) {
        None => Ok(()),
        Some(other) => Err(FinetuneError::NoResults {
            path: other.model.path.clone(),
            found: format!("results of recipe {} and another model of recipe {}", other.recipe, first.recipe),
            advice: "scores of different recipes do not compare; name one with --recipe".to_owned(),
        }
        .into()),
    }
}

/// The official tasks that every result has.
fn common_tasks(results: &[&GlueResults]) -> Vec<Task> {
    let Some(first) = results.first() else { return Vec::new() };
    let everywhere = |task: &Task| results.iter().all(|other| other.average.tasks.contains(task));
    first.average.tasks.iter().copied().filter(everywhere).collect()
}

fn of_glue(results: &GlueResults, records: &[Record], config: &Config, tasks: &[Task]) -> Option<Point> {
    let progress = results.model.progress?;
    let found: Vec<_> = tasks
        .iter()
        .map(|task| results.tasks.iter().find(|of| of.task == *task))
        .collect::<Option<Vec<_>>>()?;
    if found.is_empty() {
        return None;
    }
    let scores: Vec<f64> = found.iter().map(|of| of.score.mean).collect();
    // Of a mean of independent ones.
    let variance: f64 = found.iter().map(|of| of.score.std.powi(2)).sum();
    let several = found.iter().all(|of| of.seeds.len() > 1);
    let of_budget = records.iter().rev().find_map(|record| match record {
        Record::Train(record) if record.step <= progress.step => Some(record.progress),
        _ => None,
    });
    Some(Point {
        step: progress.step,
        hours: progress.elapsed_s / 3600.0,
        samples: progress.samples as f64,
        tokens: progress.tokens as f64,
        flops: flops(config, of_budget.unwrap_or(0.0), progress.samples, progress.tokens),
        score: metrics::mean(&scores),
        spread: several.then(|| variance.sqrt() / found.len() as f64),
        frontier: false,
    })
}

fn of_losses(records: &[Record], config: &Config) -> Vec<Point> {
    let (mut samples, mut tokens, mut progress) = (0, 0, 0.0);
    let mut points = Vec::new();
    for record in records {
        match record {
            // A step's training record stands before its evaluation.
            Record::Train(record) => {
                (samples, tokens, progress) = (record.samples, record.tokens, record.progress);
            }
            Record::Eval(record) => points.push(Point {
                step: record.step,
                hours: record.elapsed_s / 3600.0,
                samples: samples as f64,
                tokens: tokens as f64,
                flops: flops(config, progress, samples, tokens),
                score: record.loss,
                spread: None,
                frontier: false,
            }),
        }
    }
    points.retain(|point: &Point| point.hours > 0.0 && point.samples > 0.0);
    points
}

/// Arithmetic of training until then ([`model::ModelConfig::training_flops`]), all samples taken to be of the mean length:
/// attention, which that underestimates, is 2 % of it at 128 tokens.
fn flops(config: &Config, progress: f64, samples: u64, tokens: u64) -> f64 {
    let rate = super::mean_mask_rate(config, progress);
    let pairs = if samples == 0 { 0.0 } else { (tokens as f64).powi(2) / samples as f64 };
    let work = Work { tokens, pairs: pairs as u64, masked: (rate * tokens as f64) as u64 };
    config.model.training_flops(work)
}

/// Runs of the same name get their number.
fn distinguish(lines: &mut [RunPoints]) {
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    for (number, line) in lines.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == line.name).count() > 1 {
            line.name = format!("{} ({})", line.name, number + 1);
        }
    }
}

/// Marks the points that no other point beats: at least as good in no more time.
fn mark_frontier(lines: &mut [RunPoints], smaller_is_better: bool) {
    let all: Vec<(f64, f64)> =
        lines.iter().flat_map(|line| &line.points).map(|point| (point.hours, point.score)).collect();
    for point in lines.iter_mut().flat_map(|line| &mut line.points) {
        point.frontier = on_frontier(&all, (point.hours, point.score), smaller_is_better);
    }
}

/// Whether no point of `all` is at least as good at no greater cost, and better in one of them.
pub(crate) fn on_frontier(all: &[(f64, f64)], (cost, score): (f64, f64), smaller_is_better: bool) -> bool {
    let better = |a: f64, b: f64| if smaller_is_better { a < b } else { a > b };
    !all.iter().any(|&(other_cost, other)| {
        let no_worse = other_cost <= cost && !better(score, other);
        no_worse && (other_cost < cost || better(other, score))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_is_what_nothing_beats() {
        let all = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)];
        let larger: Vec<bool> = all.iter().map(|&point| on_frontier(&all, point, false)).collect();
        assert_eq!(larger, [true, false, true, false, true]);
        let smaller: Vec<bool> = all.iter().map(|&point| on_frontier(&all, point, true)).collect();
        assert_eq!(smaller, [true, true, false, false, false]);
    }
}
