//! `train finetune`: people's own data, from a table to a saved model, measures and a confusion matrix.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::dataset::{Columns, Dataset, Split, Target, TargetChoice};
use super::saved::SavedTask;
use super::{FinetuneError, Fitted, Settings, Start, examples, fit, prediction, report, scores};
use crate::config::DeviceChoice;
use crate::device;
use crate::error::Error;
use crate::glue::metrics::{Metric, confusion};
use crate::glue::results::{make_dir, write_bytes, write_json};
use crate::host;
use crate::model_folder::{ModelFolder, ModelIdentity, ModelProvenance};
use crate::stop::Stop;

/// Name of the model's folder in `--out`.
pub const MODEL: &str = "model";
/// Name of the summary in `--out`.
const RESULTS: &str = "results.json";

/// What to fine-tune.
#[derive(Clone, Debug)]
pub struct FinetuneJob {
    /// The pretrained model: a run, a checkpoint or a model folder.
    pub from: PathBuf,
    /// The table.
    pub data: PathBuf,
    /// Its columns.
    pub columns: Columns,
    /// What the labels are.
    pub target: TargetChoice,
    /// Which rows are evaluated on.
    pub split: Split,
    /// Where model and results go.
    pub out: PathBuf,
    /// How.
    pub settings: Settings,
    /// Decides the head's first values, the order and dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneResults {
    /// Program that wrote it.
    pub program: String,
    /// When, RFC 3339.
    pub created: String,
    /// The pretrained model.
    pub model: ModelIdentity,
    /// The table.
    pub data: PathBuf,
    /// Where the rows that were evaluated come from.
    pub split: String,
    /// Its columns, what they mean and the longest example.
    pub task: SavedTask,
    /// How it was trained.
    pub settings: Settings,
    /// The seed.
    pub seed: u64,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Examples trained on.
    pub train_examples: usize,
    /// Examples evaluated.
    pub dev_examples: usize,
    /// Measures on the latter.
    pub metrics: BTreeMap<Metric, f64>,
    /// Mean squared error, of a regression.
    pub mean_squared_error: Option<f64>,
    /// How often each class (row) was predicted as each (column), of a classification.
    pub confusion: Vec<Vec<u64>>,
    /// How training went.
    pub fitted: Fitted,
    /// Seconds, evaluation included.
    pub seconds: f64,
}

impl FinetuneJob {
    /// Trains, evaluates, saves and reports.
    ///
    /// # Errors
    /// Whatever is wrong with model, data or settings, before anything is trained or written.
    pub fn run(&self, stop: &Stop) -> Result<FinetuneResults, Error> {
        self.settings.validate()?;
        let start = Start::open(&self.from)?;
        let dataset = Dataset::read(&self.data, &self.columns, self.target, &self.split)?;
        start.check(self.settings.seq_len, self.columns.text_pair.is_some())?;
        let device = device::choose(self.device)?;
        let model_path = self.out.join(MODEL);
        if model_path.exists() || self.out.join(RESULTS).exists() {
            return Err(Error::OutExists { path: self.out.clone() });
        }
        make_dir(&self.out)?;

        let begun = Instant::now();
        let encode = |texts: &[_]| examples::encode(texts, &start.folder.tokenizer, self.settings.seq_len);
        let (train, dev) = (encode(&dataset.train)?, encode(&dataset.dev)?);
        let kind = self.settings.precision.compute_kind(device);
        let model = start.classifier(dataset.target.num_labels(), self.seed, device, kind)?;
        let epochs = self.settings.epochs;
        let said = |epoch, loss| eprintln!("epoch {epoch}/{epochs}  loss {loss:.4}");
        let fitted = fit(&model, &train, &self.settings, self.seed, device, stop, said)?;
        let dev_scores = scores(&model, &dev, device)?;
        let predictions: Vec<f64> = dev_scores.iter().map(|scores| prediction(scores)).collect();
        let seconds = begun.elapsed().as_secs_f64();

        let task = SavedTask {
            target: dataset.target.clone(),
            columns: self.columns.clone(),
            seq_len: self.settings.seq_len,
            precision: self.settings.precision,
        };
        self.save(&start, &model, &task, &model_path)?;
        let labels: Vec<f64> = dataset.dev.iter().map(|text| text.label).collect();
        let lines = super::predict::csv(&dataset.target, &dev_scores, Some(&labels));
        write_bytes(&self.out.join("predictions.csv"), &lines)?;
        let results = FinetuneResults {
            program: host::PROGRAM.to_owned(),
            created: host::now(),
            model: start.identity.clone(),
            data: self.data.clone(),
            split: dataset.split.clone(),
            metrics: measures(&dataset.target, &labels, &predictions),
            mean_squared_error: (dataset.target == Target::Number)
                .then(|| squared_error(&labels, &predictions)),
            confusion: match &dataset.target {
                Target::Classes(names) => {
                    let classes =
                        |values: &[f64]| values.iter().map(|&class| class as usize).collect::<Vec<_>>();
                    confusion(&classes(&labels), &classes(&predictions), names.len())
                }
                Target::Number => Vec::new(),
            },
            task,
            settings: self.settings.clone(),
            seed: self.seed,
            device: device::name(device).to_owned(),
            train_examples: train.len(),
            dev_examples: dev.len(),
            fitted,
            seconds,
        };
        write_bytes(&self.out.join("report.md"), report::markdown(&results).as_bytes())?;
        write_json(&self.out.join(RESULTS), &results)?;
        Ok(results)
    }

    /// Writes the model's folder.
    fn save(
        &self,
        start: &Start,
        model: &model::SequenceClassifier,
        task: &SavedTask,
        path: &Path,
    ) -> Result<(), Error> {
        let notes = vec![format!("fine-tuned on {} with seed {}", self.data.display(), self.seed)];
        let provenance =
            ModelProvenance::now("train finetune", &self.data, std::slice::from_ref(&self.data), notes)?;
        let (config, tokenizer) = (&start.folder.config, start.folder.tokenizer.bytes());
        ModelFolder::write(path, config, tokenizer, model.parameters().iter(), &provenance)?;
        task.write(path)
    }
}

/// The measures that fit the target.
pub(crate) fn measures(target: &Target, labels: &[f64], predictions: &[f64]) -> BTreeMap<Metric, f64> {
    let metrics: &[Metric] = match target {
        Target::Classes(_) => &[Metric::Accuracy, Metric::F1, Metric::Matthews],
        Target::Number => &[Metric::Pearson, Metric::Spearman],
    };
    metrics.iter().map(|&metric| (metric, metric.of(labels, predictions))).collect()
}

/// Mean squared error.
pub(crate) fn squared_error(labels: &[f64], predictions: &[f64]) -> f64 {
    let squares: Vec<f64> = labels.iter().zip(predictions).map(|(a, b)| (a - b).powi(2)).collect();
    crate::glue::metrics::mean(&squares)
}

/// A fine-tuned model and its task.
///
/// # Errors
/// Those of [`ModelFolder::open`], and [`FinetuneError::Unfit`] when the model has no task.
pub(crate) fn open_saved(path: &Path) -> Result<(ModelFolder, SavedTask), Error> {
    let folder = ModelFolder::open(path, |_| ())?;
    let Some(task) = SavedTask::read(&folder.path)? else {
        let reason = "was not fine-tuned by `train finetune`: it has no task.json".to_owned();
        return Err(FinetuneError::Unfit { path: folder.path, reason }.into());
    };
    Ok((folder, task))
}
