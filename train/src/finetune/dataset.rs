//! People's own data: which columns, what the labels are, and which rows are kept from training.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FinetuneError;
use super::examples::Text;
use super::table::{Format, Table};
use crate::error::Error;

/// More distinct labels than this are hardly classes.
const MANY_CLASSES: usize = 1000;

/// Where in a table the texts and the label are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The text.
    pub text: String,
    /// The text it is paired with.
    pub text_pair: Option<String>,
    /// The label.
    pub label: String,
}

/// What is predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// One of these classes, in the order of their numbers.
    Classes(Vec<String>),
    /// A number.
    Number,
}

/// Which of the two, when somebody decides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetChoice {
    /// A regression when every label is a number and one of them is not whole; else a classification.
    #[default]
    Auto,
    /// A classification; labels are names, whatever they look like.
    Classification,
    /// A regression.
    Regression,
}

/// Labelled texts, split.
#[derive(Debug)]
pub struct Dataset {
    /// What is predicted.
    pub target: Target,
    /// Examples to train on.
    pub train: Vec<Text>,
    /// Examples to evaluate on.
    pub dev: Vec<Text>,
    /// Where the latter come from, in words.
    pub split: String,
}

/// Where the evaluation's rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Split {
    /// A file of their own.
    File(PathBuf),
    /// This share of the rows. Which ones is decided by a hash of their text, so that equal texts stay on one side and the
    /// same file is split the same way every time.
    Share(f64),
}

impl Target {
    /// Outputs of the classifier.
    pub fn num_labels(&self) -> i64 {
        match self {
            Target::Classes(names) => names.len() as i64,
            Target::Number => 1,
        }
    }

    /// A prediction in the words of the data.
    pub fn show(&self, prediction: f64) -> String {
        match self {
            Target::Classes(names) => names.get(prediction as usize).cloned().unwrap_or_default(),
            Target::Number => prediction.to_string(),
        }
    }

    /// What labels mean, from all of them.
    fn infer(table: &Table, labels: &[&str], choice: TargetChoice, column: &str) -> Result<Target, Error> {
        let refused = |reason| Err(FinetuneError::Labels { path: table.path().to_owned(), reason }.into());
        let number = |label: &str| label.parse::<f64>().ok().filter(|number| number.is_finite());
        let not_a_number = labels.iter().position(|label| number(label).is_none());
        let regression = match choice {
            TargetChoice::Regression => match not_a_number {
                Some(row) => return Err(table.refuse(row, column, labels[row], "a number")),
                None => true,
            },
            TargetChoice::Classification => false,
            TargetChoice::Auto => {
                not_a_number.is_none()
                    && labels.iter().filter_map(|label| number(label)).any(|number| number.fract() != 0.0)
            }
        };
        let distinct: BTreeSet<&str> = labels.iter().copied().collect();
        if distinct.len() < 2 {
            let only = distinct.first().copied().unwrap_or_default();
            return refused(format!(
                "every label in column {column:?} is {only:?}; there is nothing to learn"
            ));
        }
        if regression {
            return Ok(Target::Number);
        }
        if distinct.len() > MANY_CLASSES {
            return refused(format!(
                "column {column:?} has {} different labels; --task regression predicts numbers, and --task classification \
                 takes at most {MANY_CLASSES} classes",
                distinct.len()
            ));
        }
        let mut names: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
        // Numbers in their order: 2 before 10.
        if not_a_number.is_none() {
            names.sort_by(|a, b| number(a).partial_cmp(&number(b)).unwrap_or(std::cmp::Ordering::Equal));
        }
        Ok(Target::Classes(names))
    }

    /// The number of a label.
    fn read(&self, table: &Table, row: usize, label: &str, column: &str) -> Result<f64, Error> {
        match self {
            Target::Number => match label.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => Ok(number),
                None => Err(table.refuse(row, column, label, "a number")),
            },
            Target::Classes(names) => match names.iter().position(|name| name == label) {
                Some(class) => Ok(class as f64),
                None => Err(table.refuse(row, column, label, &format!("one of {}", listing(names)))),
            },
        }
    }
}

impl Dataset {
    /// Reads and splits; everything is checked.
    ///
    /// # Errors
    /// A missing column, an empty cell, a label that the training rows do not have, too few rows: by file and row.
    pub fn read(
        path: &Path,
        columns: &Columns,
        choice: TargetChoice,
        split: &Split,
    ) -> Result<Dataset, Error> {
        let table = Table::read(path, Format::of(path)?)?;
        let labels = table.texts(&columns.label)?;
        if labels.is_empty() {
            return Err(FinetuneError::Empty { path: path.to_owned(), purpose: "training", needed: 2 }.into());
        }
        let target = Target::infer(&table, &labels, choice, &columns.label)?;
        let rows = texts(&table, columns, Some(&target))?;
        let (train, dev, told) = match split {
            Split::File(dev_path) => {
                let table = Table::read(dev_path, Format::of(dev_path)?)?;
                (rows, texts(&table, columns, Some(&target))?, dev_path.display().to_string())
            }
            Split::Share(share) => {
                let (train, dev) = split_by_hash(rows, *share);
                let told = format!("{:.3} % of the rows, chosen by a hash of their text", 100.0 * share);
                (train, dev, told)
            }
        };
        let from = match split {
            Split::File(dev_path) => dev_path.clone(),
            Split::Share(_) => path.to_owned(),
        };
        if dev.len() < 2 {
            return Err(FinetuneError::Empty { path: from, purpose: "evaluation", needed: 2 }.into());
        }
        if train.is_empty() {
            return Err(FinetuneError::Empty { path: path.to_owned(), purpose: "training", needed: 1 }.into());
        }
        Ok(Dataset { target, train, dev, split: told })
    }
}

/// The texts of a table; with labels where `target` says what they are.
///
/// # Errors
/// A missing column, or an empty cell.
pub fn texts(table: &Table, columns: &Columns, target: Option<&Target>) -> Result<Vec<Text>, Error> {
    let first = table.texts(&columns.text)?;
    let second = columns.text_pair.as_deref().map(|name| table.texts(name)).transpose()?;
    let labels = match target {
        Some(_) => Some(table.texts(&columns.label)?),
        None => None,
    };
    let text = |row: usize| {
        let label = match (&labels, target) {
            (Some(labels), Some(target)) => target.read(table, row, labels[row], &columns.label)?,
            _ => 0.0,
        };
        let second = second.as_ref().map(|cells| cells[row].to_owned());
        Ok(Text { first: first[row].to_owned(), second, label })
    };
    (0..table.rows()).map(text).collect()
}

/// Keeps `share` of the distinct texts, those with the smallest hashes, for evaluation.
fn split_by_hash(rows: Vec<Text>, share: f64) -> (Vec<Text>, Vec<Text>) {
    let hash = |text: &Text| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.first.as_bytes());
        hasher.update(&[0]);
        hasher.update(text.second.as_deref().unwrap_or_default().as_bytes());
        *hasher.finalize().as_bytes()
    };
    let hashes: Vec<[u8; 32]> = rows.iter().map(hash).collect();
    let distinct: BTreeSet<[u8; 32]> = hashes.iter().copied().collect();
    let count = (share * distinct.len() as f64).round() as usize;
    let kept: BTreeSet<[u8; 32]> = distinct.into_iter().take(count).collect();
    let (dev, train): (Vec<_>, Vec<_>) = rows.into_iter().zip(hashes).partition(|row| kept.contains(&row.1));
    let plain = |rows: Vec<(Text, [u8; 32])>| rows.into_iter().map(|row| row.0).collect();
    (plain(train), plain(dev))
}

/// The first few names.
pub(crate) fn listing(names: &[String]) -> String {
    match names.len() {
        0..=8 => names.join(", "),
        n => format!("{} and {} more", names[..8].join(", "), n - 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn columns() -> Columns {
        Columns { text: "text".to_owned(), text_pair: None, label: "label".to_owned() }
    }

    fn read(csv: &str, choice: TargetChoice) -> Result<Dataset, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        fs::write(&path, csv).unwrap();
        Dataset::read(&path, &columns(), choice, &Split::Share(0.25)).map_err(|error| error.to_string())
    }

    fn csv(labels: &[&str]) -> String {
        let rows = labels.iter().enumerate().map(|(row, label)| format!("text {row},{label}\n"));
        format!("text,label\n{}", rows.collect::<String>())
    }

    fn target(labels: &[&str], choice: TargetChoice) -> Target {
        let labels: Vec<&str> = labels.iter().copied().cycle().take(16).collect();
        read(&csv(&labels), choice).unwrap().target
    }

    #[test]
    fn labels_tell_the_task() {
        let classes = |names: &[&str]| Target::Classes(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(target(&["no", "yes"], TargetChoice::Auto), classes(&["no", "yes"]));
        assert_eq!(target(&["10", "2"], TargetChoice::Auto), classes(&["2", "10"]));
        assert_eq!(target(&["1", "2.5"], TargetChoice::Auto), Target::Number);
        assert_eq!(target(&["1", "2.5"], TargetChoice::Classification), classes(&["1", "2.5"]));
        assert_eq!(target(&["1", "2"], TargetChoice::Regression), Target::Number);
        let error = read(&csv(&["1", "x", "2"]), TargetChoice::Regression).unwrap_err();
        assert!(error.ends_with("t.csv, row 2: label is x, expected a number"), "{error}");
        let error = read(&csv(&["same"; 9]), TargetChoice::Auto).unwrap_err();
        assert!(error.contains("every label in column \"label\" is \"same\""), "{error}");
        let error = read("text,label\n", TargetChoice::Auto).unwrap_err();
        assert!(error.contains("no examples: training needs at least 2"), "{error}");
    }

    #[test]
    fn equal_texts_stay_on_one_side_of_a_split_of_the_right_size() {
        let rows: String = (0..200).map(|row| format!("text {},{}\n", row % 100, row % 2)).collect();
        let dataset = read(&format!("text,label\n{rows}"), TargetChoice::Auto).unwrap();
        assert_eq!((dataset.train.len(), dataset.dev.len()), (150, 50));
        let train: BTreeSet<&str> = dataset.train.iter().map(|text| text.first.as_str()).collect();
        assert!(dataset.dev.iter().all(|text| !train.contains(text.first.as_str())));
    }

    #[test]
    fn a_class_that_training_does_not_have_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (train, dev) = (dir.path().join("train.csv"), dir.path().join("dev.csv"));
        fs::write(&train, csv(&["a", "b", "a"])).unwrap();
        fs::write(&dev, csv(&["a", "c"])).unwrap();
        let split = Split::File(dev.clone());
        let error = Dataset::read(&train, &columns(), TargetChoice::Auto, &split).unwrap_err().to_string();
        assert!(error.ends_with("dev.csv, row 2: label is c, expected one of a, b"), "{error}");
        fs::write(&dev, "text,label\n").unwrap();
        let error = Dataset::read(&train, &columns(), TargetChoice::Auto, &split).unwrap_err().to_string();
        assert!(error.contains("dev.csv has no examples: evaluation needs at least 2"), "{error}");
    }
}
