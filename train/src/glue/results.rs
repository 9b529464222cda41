//! What a run of GLUE leaves behind, and how it is summed up.
//!
//! ```text
//! OUT/results.json                          everything below, summed up: the file that `train pareto` reads
//! OUT/report.md, OUT/report.html            the same for people
//! OUT/submission/CoLA.tsv, …                predictions on the test sets, where they are there, as GLUE takes them
//! OUT/tasks/TASK/seed-N/result.json         one fine-tuning; where it is there, it is not repeated
//! OUT/tasks/TASK/seed-N/dev*.tsv            its predictions on the development sets, with the labels
//! OUT/tasks/mnli/seed-N/model/              the model other tasks start from
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use model::ModelConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::metrics::{self, Metric};
use super::recipe::Recipe;
use super::tasks::{TASKS, Task};
use crate::error::Error;
use crate::finetune::{Fitted, Progress, Settings};
use crate::host;

/// Version of the layout of `results.json`.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the summary.
pub const RESULTS: &str = "results.json";

/// The summary of a run of GLUE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlueResults {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Program that wrote it.
    pub program: String,
    /// When, RFC 3339.
    pub created: String,
    /// The model that was fine-tuned.
    pub model: ModelSource,
    /// Name of the recipe, or its file.
    pub recipe: String,
    /// The recipe in full.
    pub settings: Recipe,
    /// `cpu` or `cuda`.
    pub device: String,
    /// The tasks, in GLUE's order.
    pub tasks: Vec<TaskResult>,
    /// Means over tasks.
    pub average: Average,
}

/// The model that was fine-tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// Its folder, absolute.
    pub path: PathBuf,
    /// BLAKE3 of its `model.safetensors`.
    pub blake3: String,
    /// How far its run had come, where it is a checkpoint of this program.
    pub progress: Option<Progress>,
    /// Its architecture.
    pub config: ModelConfig,
}

/// One task, over all seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// The task.
    pub task: Task,
    /// Whether its files are GLUE's own. Others count in no average.
    pub official: bool,
    /// What is to be known about it: how its files differ from the official ones, or where it started.
    pub notes: Vec<String>,
    /// Training examples.
    pub train_examples: usize,
    /// Development examples.
    pub dev_examples: usize,
    /// Where its fine-tunings started: `pretrained` or `mnli`.
    pub started_from: String,
    /// The seeds, in the order of all `values`.
    pub seeds: Vec<u64>,
    /// The mean of the measures that count, from 0 to 1.
    pub score: Statistic,
    /// Each measure on the development set, from 0 (or -1) to 1.
    pub metrics: BTreeMap<Metric, Statistic>,
    /// Seconds of training and evaluation, all seeds together.
    pub seconds: f64,
}

/// A number over several seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistic {
    /// The mean.
    pub mean: f64,
    /// The sample's standard deviation; 0 of a single value.
    pub std: f64,
    /// One value a seed.
    pub values: Vec<f64>,
}

/// Means over tasks of their scores, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// GLUE as the paper averages it: the mean of all eight tasks. Only where all of them are there and official.
    pub glue: Option<f64>,
    /// The mean of the tasks below.
    pub mean: Option<f64>,
    /// The official tasks there are.
    pub tasks: Vec<Task>,
}

/// One fine-tuning: a task and a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedResult {
    /// The task.
    pub task: Task,
    /// The seed.
    pub seed: u64,
    /// What decided it.
    pub key: SeedKey,
    /// Each measure on the development set.
    pub metrics: BTreeMap<Metric, f64>,
    /// The mean of the measures that count.
    pub score: f64,
    /// How training went.
    pub fitted: Fitted,
    /// Seconds, evaluation included.
    pub seconds: f64,
}

/// What a fine-tuning depends on, beside task and seed. A finished one is used again only where all of it is equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedKey {
    /// BLAKE3 of the pretrained model's parameters.
    pub model_blake3: String,
    /// BLAKE3 of the task's examples.
    pub data_blake3: String,
    /// The recipe.
    pub settings: Settings,
    /// Where it started: `pretrained`, or `mnli` with the seed.
    pub started_from: String,
    /// `cpu` or `cuda`.
    pub device: String,
}

impl SeedKey {
    /// What differs from another, with both values.
    pub fn difference(&self, other: &SeedKey) -> Option<(&'static str, String, String)> {
        let settings = |key: &SeedKey| serde_json::to_string(&key.settings).unwrap_or_default();
        let pairs = [
            ("model", self.model_blake3.clone(), other.model_blake3.clone()),
            ("data", self.data_blake3.clone(), other.data_blake3.clone()),
            ("recipe", settings(self), settings(other)),
            ("start", self.started_from.clone(), other.started_from.clone()),
            ("device", self.device.clone(), other.device.clone()),
        ];
        pairs.into_iter().find(|(_, one, other)| one != other)
    }
}

impl Statistic {
    /// Of `values`, one a seed.
    pub fn of(values: Vec<f64>) -> Statistic {
        Statistic { mean: metrics::mean(&values), std: metrics::standard_deviation(&values), values }
    }
}

impl TaskResult {
    /// Sums up the seeds of a task; at least one.
    pub fn of(
        seeds: &[SeedResult],
        unofficial: &[String],
        notes: Vec<String>,
        train_examples: usize,
        dev_examples: usize,
    ) -> TaskResult {
        let first = &seeds[0];
        let metrics = first.metrics.keys().map(|metric| {
            let values = seeds.iter().map(|seed| seed.metrics.get(metric).copied().unwrap_or(0.0)).collect();
            (*metric, Statistic::of(values))
        });
        TaskResult {
            task: first.task,
            official: unofficial.is_empty(),
            notes: unofficial.iter().cloned().chain(notes).collect(),
            train_examples,
            dev_examples,
            started_from: first.key.started_from.clone(),
            seeds: seeds.iter().map(|seed| seed.seed).collect(),
            score: Statistic::of(seeds.iter().map(|seed| seed.score).collect()),
            metrics: metrics.collect(),
            seconds: seeds.iter().map(|seed| seed.seconds).sum(),
        }
    }
}

impl Average {
    /// Of the official ones among `tasks`.
    pub fn of(tasks: &[TaskResult]) -> Average {
        let counted: Vec<&TaskResult> = tasks.iter().filter(|task| task.official).collect();
        let scores: Vec<f64> = counted.iter().map(|task| task.score.mean).collect();
        let mean = (!scores.is_empty()).then(|| metrics::mean(&scores));
        Average {
            glue: mean.filter(|_| counted.len() == TASKS.len()),
            mean,
            tasks: counted.iter().map(|task| task.task).collect(),
        }
    }
}

impl GlueResults {
    /// Sums up.
    pub fn of(
        model: ModelSource,
        recipe: &str,
        settings: Recipe,
        device: &str,
        tasks: Vec<TaskResult>,
    ) -> GlueResults {
        GlueResults {
            format_version: FORMAT_VERSION,
            program: host::PROGRAM.to_owned(),
            created: host::now(),
            model,
            recipe: recipe.to_owned(),
            settings,
            device: device.to_owned(),
            average: Average::of(&tasks),
            tasks,
        }
    }

    /// Reads `OUT/results.json`.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Json`].
    pub fn read(out: &Path) -> Result<GlueResults, Error> {
        read_json(&out.join(RESULTS))
    }

    /// Writes `OUT/results.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &Path) -> Result<(), Error> {
        write_json(&out.join(RESULTS), self)
    }

    /// The score of one task, or the mean of the official ones.
    pub fn score(&self, task: Option<Task>) -> Option<f64> {
        match task {
            None => self.average.mean,
            Some(task) => {
                self.tasks.iter().find(|result| result.task == task).map(|result| result.score.mean)
            }
        }
    }
}

/// Reads a JSON file of ours.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Writes a JSON file, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).expect("numbers, strings, lists and maps");
    write_bytes(path, &text)
}

/// Writes a file, whole or not at all.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    Ok(loader::atomic::write_file(path, |out| out.write_all(bytes))?)
}

/// Makes a folder and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(task: Task, official: bool, score: f64) -> TaskResult {
        TaskResult {
            task,
            official,
            notes: Vec::new(),
            train_examples: 1,
            dev_examples: 1,
            started_from: "pretrained".to_owned(),
            seeds: vec![1],
            score: Statistic::of(vec![score]),
            metrics: BTreeMap::from([(Metric::Accuracy, Statistic::of(vec![score]))]),
            seconds: 1.0,
        }
    }

    #[test]
    fn the_average_is_of_official_tasks_and_glues_only_of_all_eight() {
        let mut tasks: Vec<TaskResult> =
            TASKS.into_iter().enumerate().map(|(at, task)| result(task, true, 0.1 * at as f64)).collect();
        let average = Average::of(&tasks);
        assert!((average.glue.unwrap() - 0.35).abs() < 1e-12);
        tasks[7].official = false;
        let average = Average::of(&tasks);
        assert_eq!(average.glue, None);
        assert!((average.mean.unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(average.tasks.len(), 7);
        assert_eq!(Average::of(&[]), Average::default());
    }

    #[test]
    fn json_comes_back() {
        let statistic = Statistic::of(vec![0.5, 0.75]);
        assert!((statistic.std - 0.125 * 2f64.sqrt()).abs() < 1e-12);
        let text = serde_json::to_string(&result(Task::Sst2, true, 0.5)).unwrap();
        assert!(text.contains("\"metrics\":{\"accuracy\":{\"mean\":0.5"), "{text}");
        assert_eq!(serde_json::from_str::<TaskResult>(&text).unwrap(), result(Task::Sst2, true, 0.5));
    }
}
