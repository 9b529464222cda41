//! Reads GLUE's files, in the official layout or in Hugging Face's, and says where they are not the official ones.
//!
//! ```text
//! official        GLUE/CoLA/{train,dev,test}.tsv        GLUE/MNLI/{train,dev_matched,dev_mismatched,…}.tsv
//! Hugging Face    GLUE/cola/{train,validation,test}-00000-of-00001.parquet, or GLUE/cola/train/0000.parquet
//! ```
//!
//! Folders are recognised whatever the case and the punctuation of their names.

use std::fs;
use std::path::{Path, PathBuf};

use super::tasks::{Columns, Split, Task, TaskSpec, plain};
use crate::error::Error;
use crate::finetune::FinetuneError;
use crate::finetune::examples::Text;
use crate::finetune::table::{Format, Table};

/// Largest score of STS-B; the smallest is 0.
const LARGEST_SCORE: f64 = 5.0;
/// Rows of the official files that are torn, and are left out everywhere: only QQP has some.
const TORN_ROWS_ALLOWED: [(Task, usize); 1] = [(Task::Qqp, 100)];

/// A task's data.
#[derive(Debug)]
pub struct TaskData {
    /// The task.
    pub task: Task,
    /// Training examples.
    pub train: Vec<Text>,
    /// Development examples, one list a set.
    pub dev: Vec<Vec<Text>>,
    /// Test examples, whose labels are unknown, one list a set; empty where there is no test file.
    pub test: Vec<Vec<Text>>,
    /// In which sentences the files differ from the official ones; none when they are those.
    pub unofficial: Vec<String>,
    /// BLAKE3 of all training and development examples.
    pub blake3: String,
}

/// The layout of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Official,
    HuggingFace,
}

/// The tasks that `folder` has data of.
///
/// # Errors
/// [`Error::Read`] when the folder cannot be listed.
pub fn present(folder: &Path) -> Result<Vec<Task>, Error> {
    let names = names(folder)?;
    Ok(super::tasks::TASKS
        .into_iter()
        .filter(|task| names.iter().any(|name| plain(name) == plain(task.spec().key)))
        .collect())
}

impl TaskData {
    /// Reads a task's files in `folder`, all of them checked.
    ///
    /// # Errors
    /// [`FinetuneError::NoTask`], a missing column, a label that is none of the task's, an empty set: each names file and
    /// row.
    pub fn read(folder: &Path, task: Task) -> Result<TaskData, Error> {
        let spec = task.spec();
        let none = |reason: String| -> Error {
            FinetuneError::NoTask { task: spec.name, folder: folder.to_owned(), reason }.into()
        };
        let found = names(folder)?.into_iter().find(|name| plain(name) == plain(spec.key));
        let Some(name) = found else {
            return Err(none(format!("it has no folder {} or {}", spec.name, spec.key)));
        };
        let dir = folder.join(name);
        let layout = match (
            locate(&dir, &spec.train, Layout::Official)?,
            locate(&dir, &spec.train, Layout::HuggingFace)?,
        ) {
            (official, _) if !official.is_empty() => Layout::Official,
            (_, parquet) if !parquet.is_empty() => Layout::HuggingFace,
            _ => {
                return Err(none(format!(
                    "{} has neither {}.tsv nor {}-*.parquet",
                    dir.display(),
                    spec.train.tsv,
                    spec.train.parquet
                )));
            }
        };
        let mut unofficial = Vec::new();
        let train = read_split(&dir, task, &spec.train, layout, true, &mut unofficial)?.unwrap_or_default();
        if train.is_empty() {
            let path = locate(&dir, &spec.train, layout)?.swap_remove(0);
            return Err(FinetuneError::Empty { path, purpose: "training", needed: 1 }.into());
        }
        let mut dev = Vec::new();
        for split in spec.dev {
            let Some(texts) = read_split(&dir, task, split, layout, true, &mut unofficial)? else {
                return Err(none(format!("{} has no {}", dir.display(), file_name(split, layout))));
            };
            if texts.len() < 2 {
                let path = locate(&dir, split, layout)?.swap_remove(0);
                return Err(FinetuneError::Empty { path, purpose: "evaluation", needed: 2 }.into());
            }
            dev.push(texts);
        }
        let mut test = Vec::new();
        for split in spec.test {
            test.extend(read_split(&dir, task, split, layout, false, &mut unofficial)?);
        }
        if test.len() != spec.test.len() {
            test.clear();
        }
        let blake3 = fingerprint(std::iter::once(&train).chain(&dev));
        Ok(TaskData { task, train, dev, test, unofficial, blake3 })
    }

    /// All sets that are evaluated, as one list.
    pub fn dev_examples(&self) -> usize {
        self.dev.iter().map(Vec::len).sum()
    }
}

/// Reads one file of a task; `None` where there is none.
fn read_split(
    dir: &Path,
    task: Task,
    split: &Split,
    layout: Layout,
    labelled: bool,
    unofficial: &mut Vec<String>,
) -> Result<Option<Vec<Text>>, Error> {
    let spec = task.spec();
    let paths = locate(dir, split, layout)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let (columns, format) = match (layout, labelled) {
        (Layout::HuggingFace, _) => (spec.parquet, Format::Parquet),
        (Layout::Official, true) => (spec.tsv, Format::Tsv { header: spec.tsv_header }),
        (Layout::Official, false) => (spec.tsv_test, Format::Tsv { header: true }),
    };
    let mut texts = Vec::new();
    for path in &paths {
        let table = Table::read(path, format)?;
        let allowed = TORN_ROWS_ALLOWED.iter().find(|entry| entry.0 == task).map_or(0, |entry| entry.1);
        if table.ragged.len() > allowed {
            return Err(FinetuneError::Table {
                path: path.clone(),
                format: "tab-separated lines",
                reason: format!(
                    "line {} has another number of cells than the first; is it the {} of {}?",
                    table.ragged[0], split.tsv, spec.name
                ),
            }
            .into());
        }
        texts.extend(read_table(&table, spec, &columns, layout, labelled)?);
    }
    if texts.len() != split.rows {
        unofficial.push(format!(
            "{} has {} rows, the official one {}",
            file_name(split, layout),
            texts.len(),
            split.rows
        ));
    }
    Ok(Some(texts))
}

fn read_table(
    table: &Table,
    spec: &TaskSpec,
    columns: &Columns,
    layout: Layout,
    labelled: bool,
) -> Result<Vec<Text>, Error> {
    // The columns first, so that a file of something else is told by its header.
    let first = table.column(columns.first)?;
    let second = columns.second.map(|name| table.column(name)).transpose()?;
    let labels = if labelled { Some(table.column(columns.label)?) } else { None };
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    let texts = (0..table.rows()).map(|row| {
        let label = match labels {
            None => 0.0,
            Some(labels) => {
                let found = labels[row].as_deref().unwrap_or_default();
                read_label(spec, found, layout).ok_or_else(|| {
                    let found = if found.is_empty() { "empty" } else { found };
                    table.refuse(row, columns.label, found, &expected_labels(spec, layout))
                })?
            }
        };
        // A few sentences of QQP are empty in the official files; an empty text is only its special tokens.
        Ok(Text { first: text(&first[row]), second: second.map(|cells| text(&cells[row])), label })
    });
    texts.collect()
}

/// The number of a label as a file writes it.
fn read_label(spec: &TaskSpec, label: &str, layout: Layout) -> Option<f64> {
    if spec.classes.is_empty() {
        let score: f64 = label.parse().ok()?;
        return (0.0..=LARGEST_SCORE).contains(&score).then_some(score);
    }
    let class = match (layout, spec.words) {
        (Layout::Official, true) => spec.classes.iter().position(|class| *class == label)?,
        _ => label.parse::<usize>().ok().filter(|&class| class < spec.classes.len())?,
    };
    Some(class as f64)
}

fn expected_labels(spec: &TaskSpec, layout: Layout) -> String {
    match (spec.classes, layout, spec.words) {
        ([], _, _) => format!("a number from 0 to {LARGEST_SCORE}"),
        (classes, Layout::Official, true) => classes.join(" or "),
        (classes, _, _) => (0..classes.len()).map(|class| class.to_string()).collect::<Vec<_>>().join(" or "),
    }
}

/// The files of a split, sorted.
fn locate(dir: &Path, split: &Split, layout: Layout) -> Result<Vec<PathBuf>, Error> {
    let is_parquet = |name: &str| name.ends_with(".parquet");
    let mut found: Vec<PathBuf> = match layout {
        Layout::Official => {
            let path = dir.join(format!("{}.tsv", split.tsv));
            if path.is_file() { vec![path] } else { Vec::new() }
        }
        Layout::HuggingFace => {
            let inner = dir.join(split.parquet);
            let inside = if inner.is_dir() { names(&inner)? } else { Vec::new() };
            let inside = inside.into_iter().filter(|name| is_parquet(name)).map(|name| inner.join(name));
            let beside = names(dir)?.into_iter().filter(|name| {
                let stem = name.strip_suffix(".parquet").unwrap_or_default();
                stem == split.parquet || stem.starts_with(&format!("{}-", split.parquet))
            });
            inside.chain(beside.map(|name| dir.join(name))).collect()
        }
    };
    found.sort();
    Ok(found)
}

fn file_name(split: &Split, layout: Layout) -> String {
    match layout {
        Layout::Official => format!("{}.tsv", split.tsv),
        Layout::HuggingFace => format!("{}-*.parquet", split.parquet),
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = read().map_err(|source| Error::Read { path: dir.to_owned(), source })?;
    names.sort();
    Ok(names)
}

/// BLAKE3 of texts and labels.
pub(crate) fn fingerprint<'a>(sets: impl Iterator<Item = &'a Vec<Text>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for set in sets {
        hasher.update(&(set.len() as u64).to_le_bytes());
        for text in set {
            let parts = [Some(text.first.as_str()), text.second.as_deref()];
            for part in parts.into_iter().flatten() {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            hasher.update(&text.label.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    fn write(dir: &Path, name: &str, content: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn write_parquet(dir: &Path, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn strings(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    /// The same rows in both layouts, for a task of each kind.
    #[test]
    fn both_layouts_give_the_same_examples() {
        let dir = tempfile::tempdir().unwrap();
        let (tsv, parquet) = (dir.path().join("official"), dir.path().join("hub"));
        for split in ["train", "dev"] {
            write(&tsv, &format!("CoLA/{split}.tsv"), "gj04\t1\t\tA \"good one.\ngj04\t0\t*\tOne bad a.\n");
            write(
                &tsv,
                &format!("STS-B/{split}.tsv"),
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n\
                 0\tg\tf\t2012\t1\tn\tn\tA dog.\tA cat.\t3.800\n1\tg\tf\t2012\t2\tn\tn\tOne.\tTwo.\t0.000\n",
            );
        }
        write(
            &tsv,
            "MNLI/train.tsv",
            "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA.\tB.\tx\tneutral\n1\tC.\tD.\tx\tcontradiction\n",
        );
        for split in ["dev_matched", "dev_mismatched"] {
            write(
                &tsv,
                &format!("MNLI/{split}.tsv"),
                "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n0\tE.\tF.\tx\ty\tentailment\n\
                 1\tG.\tH.\tx\ty\tneutral\n",
            );
        }
        for split in ["train", "validation"] {
            // Once the file's own name, once the folder's, as the hub has both.
            let cola = format!("cola/{split}-00000-of-00001.parquet");
            let labels: ArrayRef = Arc::new(Int64Array::from(vec![1, 0]));
            write_parquet(
                &parquet,
                &cola,
                vec![("sentence", strings(&["A \"good one.", "One bad a."])), ("label", labels)],
            );
            let scores: ArrayRef = Arc::new(Float32Array::from(vec![3.8, 0.0]));
            let columns = vec![
                ("sentence1", strings(&["A dog.", "One."])),
                ("sentence2", strings(&["A cat.", "Two."])),
                ("label", scores),
            ];
            write_parquet(&parquet, &format!("stsb/{split}/0000.parquet"), columns);
        }
        let pairs = |name: &str, first: &[&str], second: &[&str], labels: Vec<i64>| {
            let labels: ArrayRef = Arc::new(Int64Array::from(labels));
            let columns =
                vec![("premise", strings(first)), ("hypothesis", strings(second)), ("label", labels)];
            write_parquet(&parquet, name, columns);
        };
        pairs("mnli/train-00000-of-00001.parquet", &["A.", "C."], &["B.", "D."], vec![1, 2]);
        for split in ["validation_matched", "validation_mismatched"] {
            pairs(&format!("mnli/{split}-00000-of-00001.parquet"), &["E.", "G."], &["F.", "H."], vec![0, 1]);
        }

        assert_eq!(present(&tsv).unwrap(), [Task::Cola, Task::Stsb, Task::Mnli]);
        assert_eq!(present(&parquet).unwrap(), [Task::Cola, Task::Stsb, Task::Mnli]);
        for task in [Task::Cola, Task::Stsb, Task::Mnli] {
            let one = TaskData::read(&tsv, task).unwrap();
            let other = TaskData::read(&parquet, task).unwrap();
            assert_eq!((&one.train, &one.dev), (&other.train, &other.dev), "{task:?}");
            assert_eq!(one.blake3, other.blake3);
            assert!(one.test.is_empty());
            assert_eq!(one.unofficial.len(), 1 + task.spec().dev.len());
        }
        let mnli = TaskData::read(&tsv, Task::Mnli).unwrap();
        assert_eq!(mnli.train[1].label, 2.0);
        assert_eq!(mnli.unofficial[0], "train.tsv has 2 rows, the official one 392702");
        let stsb = TaskData::read(&parquet, Task::Stsb).unwrap();
        assert!(stsb.unofficial[0].starts_with("train-*.parquet has 2 rows"));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_row() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |name: &str, content: &str| {
            write(dir.path(), name, content);
            TaskData::read(dir.path(), Task::Sst2).unwrap_err().to_string()
        };
        let good = "sentence\tlabel\nfine\t1\nbad\t0\n";
        let error = TaskData::read(dir.path(), Task::Sst2).unwrap_err().to_string();
        assert!(error.contains("no data of SST-2") && error.contains("no folder SST-2 or sst2"), "{error}");
        fs::create_dir(dir.path().join("SST-2")).unwrap();
        let error = TaskData::read(dir.path(), Task::Sst2).unwrap_err().to_string();
        assert!(error.contains("neither train.tsv nor train-*.parquet"), "{error}");
        let error = refused("SST-2/train.tsv", good);
        assert!(error.contains("has no dev.tsv"), "{error}");
        let error = refused("SST-2/dev.tsv", "sentence\tlabel\n");
        assert!(error.contains("dev.tsv has no examples: evaluation needs at least 2"), "{error}");
        let error = refused("SST-2/dev.tsv", "sentence\tlabel\nfine\t1\nbad\t2\n");
        assert!(error.ends_with("dev.tsv, row 2: label is 2, expected 0 or 1"), "{error}");
        let error = refused("SST-2/dev.tsv", "text\tlabel\nfine\t1\n");
        assert!(error.ends_with("dev.tsv has no column \"sentence\"; it has text, label"), "{error}");
        let error = refused("SST-2/dev.tsv", "sentence\tlabel\nfine\t1\nbad\n");
        assert!(error.contains("line 3 has another number of cells"), "{error}");

        write(dir.path(), "RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tmaybe\n");
        let error = TaskData::read(dir.path(), Task::Rte).unwrap_err().to_string();
        assert!(error.ends_with("row 1: label is maybe, expected entailment or not_entailment"), "{error}");
    }
}
