//! The tasks of GLUE: where their files lie, what is in them, how many rows there are, and how they are measured.
//!
//! Layouts and labels: <https://gluebenchmark.com/tasks> and the data set `nyu-mll/glue` on the Hugging Face hub, whose
//! numbers of rows these are.

use serde::{Deserialize, Serialize};

use super::metrics::Metric;
use crate::error::Error;
use crate::finetune::FinetuneError;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Corpus of Linguistic Acceptability.
    Cola,
    /// Stanford Sentiment Treebank.
    Sst2,
    /// Microsoft Research Paraphrase Corpus.
    Mrpc,
    /// Semantic Textual Similarity Benchmark, a regression.
    Stsb,
    /// Quora Question Pairs.
    Qqp,
    /// Multi-Genre Natural Language Inference.
    Mnli,
    /// Question Natural Language Inference.
    Qnli,
    /// Recognizing Textual Entailment.
    Rte,
}

/// All tasks, in GLUE's order.
pub const TASKS: [Task; 8] =
    [Task::Cola, Task::Sst2, Task::Mrpc, Task::Stsb, Task::Qqp, Task::Mnli, Task::Qnli, Task::Rte];

/// One of a task's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Its name without `.tsv` in the official layout.
    pub tsv: &'static str,
    /// The start of its name in Hugging Face's.
    pub parquet: &'static str,
    /// Rows of the official one.
    pub rows: usize,
    /// Name of the file that is handed in to the leaderboard, for test sets.
    pub submission: Option<&'static str>,
}

const fn split(tsv: &'static str, parquet: &'static str, rows: usize) -> Split {
    Split { tsv, parquet, rows, submission: None }
}

const fn test(tsv: &'static str, parquet: &'static str, rows: usize, submission: &'static str) -> Split {
    Split { tsv, parquet, rows, submission: Some(submission) }
}

/// Where in a table the texts and the label are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The text.
    pub first: &'static str,
    /// The text it is paired with.
    pub second: Option<&'static str>,
    /// The label.
    pub label: &'static str,
}

/// Everything about a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskSpec {
    /// What GLUE calls it, also its folder in the official layout.
    pub name: &'static str,
    /// Its name on the command line and its folder in Hugging Face's layout.
    pub key: &'static str,
    /// Columns of the tab-separated files.
    pub tsv: Columns,
    /// Whether the train and dev files name their columns; the test file always does.
    pub tsv_header: bool,
    /// Columns of the tab-separated test file.
    pub tsv_test: Columns,
    /// Columns of the Parquet files.
    pub parquet: Columns,
    /// The classes in the order of their numbers; none for a regression.
    pub classes: &'static [&'static str],
    /// Whether the tab-separated files and the leaderboard write classes as words instead of numbers.
    pub words: bool,
    /// Training rows.
    pub train: Split,
    /// Development rows; two sets for MNLI, the matched one first.
    pub dev: &'static [Split],
    /// Test rows, in the order of `dev`.
    pub test: &'static [Split],
    /// Its measures in MosaicBERT's paper; the score of the task is their mean.
    pub metrics: &'static [Metric],
    /// Further measures, which are reported and do not count.
    pub also: &'static [Metric],
}

const fn columns(first: &'static str, second: Option<&'static str>, label: &'static str) -> Columns {
    Columns { first, second, label }
}

/// Sentences of a pair, as most files call them.
const PAIR: (&str, Option<&str>) = ("sentence1", Some("sentence2"));
const TRAIN: (&str, &str) = ("train", "train");

const COLA: TaskSpec = TaskSpec {
    name: "CoLA",
    key: "cola",
    tsv: columns("3", None, "1"),
    tsv_header: false,
    tsv_test: columns("sentence", None, ""),
    parquet: columns("sentence", None, "label"),
    classes: &["unacceptable", "acceptable"],
    words: false,
    train: split(TRAIN.0, TRAIN.1, 8_551),
    dev: &[split("dev", "validation", 1_043)],
    test: &[test("test", "test", 1_063, "CoLA.tsv")],
    metrics: &[Metric::Matthews],
    also: &[Metric::Accuracy],
};

const SST2: TaskSpec = TaskSpec {
    name: "SST-2",
    key: "sst2",
    tsv: columns("sentence", None, "label"),
    tsv_header: true,
    tsv_test: columns("sentence", None, ""),
    parquet: columns("sentence", None, "label"),
    classes: &["negative", "positive"],
    words: false,
    train: split(TRAIN.0, TRAIN.1, 67_349),
    dev: &[split("dev", "validation", 872)],
    test: &[test("test", "test", 1_821, "SST-2.tsv")],
    metrics: &[Metric::Accuracy],
    also: &[],
};

const MRPC: TaskSpec = TaskSpec {
    name: "MRPC",
    key: "mrpc",
    tsv: columns("#1 String", Some("#2 String"), "Quality"),
    tsv_header: true,
    tsv_test: columns("#1 String", Some("#2 String"), ""),
    parquet: columns(PAIR.0, PAIR.1, "label"),
    classes: &["not_equivalent", "equivalent"],
    words: false,
    train: split(TRAIN.0, TRAIN.1, 3_668),
    dev: &[split("dev", "validation", 408)],
    test: &[test("test", "test", 1_725, "MRPC.tsv")],
    metrics: &[Metric::Accuracy, Metric::F1],
    also: &[],
};

const STSB: TaskSpec = TaskSpec {
    name: "STS-B",
    key: "stsb",
    tsv: columns(PAIR.0, PAIR.1, "score"),
    tsv_header: true,
    tsv_test: columns(PAIR.0, PAIR.1, ""),
    parquet: columns(PAIR.0, PAIR.1, "label"),
    classes: &[],
    words: false,
    train: split(TRAIN.0, TRAIN.1, 5_749),
    dev: &[split("dev", "validation", 1_500)],
    test: &[test("test", "test", 1_379, "STS-B.tsv")],
    metrics: &[Metric::Spearman],
    also: &[Metric::Pearson],
};

const QQP: TaskSpec = TaskSpec {
    name: "QQP",
    key: "qqp",
    tsv: columns("question1", Some("question2"), "is_duplicate"),
    tsv_header: true,
    tsv_test: columns("question1", Some("question2"), ""),
    parquet: columns("question1", Some("question2"), "label"),
    classes: &["not_duplicate", "duplicate"],
    words: false,
    train: split(TRAIN.0, TRAIN.1, 363_846),
    dev: &[split("dev", "validation", 40_430)],
    test: &[test("test", "test", 390_965, "QQP.tsv")],
    metrics: &[Metric::Accuracy, Metric::F1],
    also: &[],
};

const MNLI: TaskSpec = TaskSpec {
    name: "MNLI",
    key: "mnli",
    tsv: columns(PAIR.0, PAIR.1, "gold_label"),
    tsv_header: true,
    tsv_test: columns(PAIR.0, PAIR.1, ""),
    parquet: columns("premise", Some("hypothesis"), "label"),
    classes: &["entailment", "neutral", "contradiction"],
    words: true,
    train: split(TRAIN.0, TRAIN.1, 392_702),
    dev: &[
        split("dev_matched", "validation_matched", 9_815),
        split("dev_mismatched", "validation_mismatched", 9_832),
    ],
    test: &[
        test("test_matched", "test_matched", 9_796, "MNLI-m.tsv"),
        test("test_mismatched", "test_mismatched", 9_847, "MNLI-mm.tsv"),
    ],
    metrics: &[Metric::Accuracy, Metric::AccuracyMismatched],
    also: &[],
};

const QNLI: TaskSpec = TaskSpec {
    name: "QNLI",
    key: "qnli",
    tsv: columns("question", Some("sentence"), "label"),
    tsv_header: true,
    tsv_test: columns("question", Some("sentence"), ""),
    parquet: columns("question", Some("sentence"), "label"),
    classes: &["entailment", "not_entailment"],
    words: true,
    train: split(TRAIN.0, TRAIN.1, 104_743),
    dev: &[split("dev", "validation", 5_463)],
    test: &[test("test", "test", 5_463, "QNLI.tsv")],
    metrics: &[Metric::Accuracy],
    also: &[],
};

const RTE: TaskSpec = TaskSpec {
    name: "RTE",
    key: "rte",
    tsv: columns(PAIR.0, PAIR.1, "label"),
    tsv_header: true,
    tsv_test: columns(PAIR.0, PAIR.1, ""),
    parquet: columns(PAIR.0, PAIR.1, "label"),
    classes: &["entailment", "not_entailment"],
    words: true,
    train: split(TRAIN.0, TRAIN.1, 2_490),
    dev: &[split("dev", "validation", 277)],
    test: &[test("test", "test", 3_000, "RTE.tsv")],
    metrics: &[Metric::Accuracy],
    also: &[],
};

impl Task {
    /// The task called `name`: `sst2` or `SST-2`.
    ///
    /// # Errors
    /// [`FinetuneError::UnknownTask`] with the names there are.
    pub fn find(name: &str) -> Result<Task, Error> {
        TASKS.into_iter().find(|task| plain(task.spec().key) == plain(name)).ok_or_else(|| {
            FinetuneError::UnknownTask {
                name: name.to_owned(),
                known: TASKS.map(|task| task.spec().key).join(", "),
            }
            .into()
        })
    }

    /// Everything about it.
    pub fn spec(self) -> &'static TaskSpec {
        match self {
            Task::Cola => &COLA,
            Task::Sst2 => &SST2,
            Task::Mrpc => &MRPC,
            Task::Stsb => &STSB,
            Task::Qqp => &QQP,
            Task::Mnli => &MNLI,
            Task::Qnli => &QNLI,
            Task::Rte => &RTE,
        }
    }
}

impl TaskSpec {
    /// Outputs of the classifier: the number of classes, or 1 for a regression.
    pub fn num_labels(&self) -> i64 {
        self.classes.len().max(1) as i64
    }

    /// Whether it is about pairs of texts.
    pub fn pairs(&self) -> bool {
        self.parquet.second.is_some()
    }
}

/// A name without case and punctuation, so that `SST-2` is `sst2`.
pub(crate) fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_both_their_names() {
        for task in TASKS {
            let spec = task.spec();
            assert_eq!(Task::find(spec.name).unwrap(), task);
            assert_eq!(Task::find(spec.key).unwrap(), task);
            assert_eq!(serde_json::to_value(task).unwrap(), spec.key);
            assert_eq!(spec.dev.len(), spec.test.len());
        }
        let error = Task::find("wnli").unwrap_err().to_string();
        assert!(error.contains("no GLUE task \"wnli\"; there are cola, sst2, mrpc"), "{error}");
    }
}
