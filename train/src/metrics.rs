//! What a run measures, as JSON lines: one object a logged step or evaluation in `RUN/metrics.jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// Training, averaged over the steps since the line before.
    Train(TrainRecord),
    /// An evaluation on held-out documents.
    Eval(EvalRecord),
}

impl Record {
    /// The number of steps done when the record was made.
    pub fn step(&self) -> u64 {
        match self {
            Record::Train(record) => record.step,
            Record::Eval(record) => record.step,
        }
    }
}

/// Training progress. Loss, accuracy and rates are averages over the steps since the previous record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Steps done.
    pub step: u64,
    /// Cross-entropy in nats, mean over masked tokens.
    pub loss: f64,
    /// Share of masked tokens predicted exactly.
    pub accuracy: f64,
    /// Share of the budget used when the last step began, from 0 to 1: what learning rate and mask rate follow.
    #[serde(default)]
    pub progress: f64,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Fraction of tokens that the last step predicted.
    #[serde(default)]
    pub mask_rate: f64,
    /// Euclidean norm of the last step's gradient.
    pub grad_norm: f64,
    /// Samples trained on per second of wall clock.
    pub samples_per_s: f64,
    /// Tokens (no padding, special tokens included) trained on per second of wall clock.
    pub tokens_per_s: f64,
    /// Share of the wall clock spent waiting for the loader.
    pub wait_share: f64,
    /// TFLOP/s of the model's matrix products on all ranks ([`model::ModelConfig::training_flops`]).
    #[serde(default)]
    pub model_tflops: f64,
    /// Model FLOPs utilisation: those over the cards' dense bf16 peak, if the card is a known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Samples seen since step 0.
    pub samples: u64,
    /// Tokens seen since step 0.
    pub tokens: u64,
    /// Steps skipped since step 0 because loss or gradient were not finite.
    pub skipped: u64,
    /// The step at which the run ends, as far as known: an estimate where the budget is a time or a number of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Seconds until then, evaluations and checkpoints included, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_s: Option<f64>,
    /// Seconds of training since step 0, evaluations and checkpoints included, time between resumptions not.
    pub elapsed_s: f64,
    /// When this was measured, in seconds since 1970.
    #[serde(default)]
    pub time: f64,
}

/// An evaluation of masked-language modelling on the held-out documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps done.
    pub step: u64,
    /// Cross-entropy in nats, mean over masked tokens.
    pub loss: f64,
    /// Share of masked tokens predicted exactly.
    pub accuracy: f64,
    /// Number of tokens that were masked and predicted.
    pub masked_tokens: u64,
    /// Cross-entropy in nats of the same corpus' held-out tokens under the frequencies of its training tokens: what
    /// a model that ignores context can reach.
    pub unigram_loss: f64,
    /// Seconds of training since step 0.
    pub elapsed_s: f64,
    /// When this was measured, in seconds since 1970.
    #[serde(default)]
    pub time: f64,
}

/// Appends records to `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Opens `path` for appending after removing every record beyond `step`, a torn last line included.
    ///
    /// A run resumed from a checkpoint repeats the steps after it; this is what keeps any step from appearing
    /// twice. The other lines stay as they are, byte for byte.
    pub fn resume(path: &Path, step: u64) -> Result<MetricsWriter, Error> {
        let lines = if path.exists() { read_lines(path)? } else { Vec::new() };
        let io = |source| Error::Write { path: path.to_owned(), source };
        loader::atomic::write_file(path, |out| {
            for (line, _) in lines.iter().filter(|(_, record)| record.step() <= step) {
                out.write_all(line.as_bytes())?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })?;
        let file = File::options().append(true).open(path).map_err(io)?;
        Ok(MetricsWriter { path: path.to_owned(), file })
    }

    /// A handle through which another thread can make durable what has been written so far.
    pub fn handle(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Appends one record. The line is handed to the system in one piece, so a killed run leaves at most its last
    /// line torn.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_vec(record).expect("a record is plain numbers");
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// Reads all records of a `metrics.jsonl`. A torn last line, left by a killed run, is ignored.
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    Ok(read_lines(path)?.into_iter().map(|(_, record)| record).collect())
}

/// The records with the lines that they stand in.
fn read_lines(path: &Path) -> Result<Vec<(String, Record)>, Error> {
    let io = |source| Error::Read { path: path.to_owned(), source };
    let lines =
        BufReader::new(File::open(path).map_err(io)?).lines().collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut records = Vec::with_capacity(lines.len());
    let count = lines.len();
    for (index, line) in lines.into_iter().enumerate() {
        match serde_json::from_str(&line) {
            Ok(record) => records.push((line, record)),
            Err(_) if index + 1 == count => {}
            Err(source) => {
                return Err(Error::MetricsLine { path: path.to_owned(), line: index + 1, source });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(step: u64) -> Record {
        Record::Eval(EvalRecord {
            step,
            loss: 5.25,
            accuracy: 0.125,
            masked_tokens: 7,
            unigram_loss: 6.5,
            elapsed_s: 1.5,
            time: 1.5e9,
        })
    }

    #[test]
    fn resuming_drops_later_steps_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::resume(&path, 0).unwrap();
        (1..=5).for_each(|step| writer.write(&eval(step)).unwrap());
        writer.file.write_all(b"{\"kind\":\"eval\",\"st").unwrap();

        let mut writer = MetricsWriter::resume(&path, 3).unwrap();
        writer.write(&eval(4)).unwrap();
        let steps: Vec<u64> = read(&path).unwrap().iter().map(Record::step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let good = serde_json::to_string(&eval(1)).unwrap();
        std::fs::write(&path, format!("{good}\nnot json\n{good}\n")).unwrap();
        assert!(matches!(read(&path), Err(Error::MetricsLine { line: 2, .. })));
    }

    #[test]
    fn a_record_is_one_flat_object() {
        let text = serde_json::to_string(&eval(9)).unwrap();
        assert!(text.starts_with(r#"{"kind":"eval","step":9,"loss":5.25,"#), "{text}");
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), eval(9));
    }
}
