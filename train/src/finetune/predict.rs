//! `train predict`: a fine-tuned model over a table.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::dataset::{Columns, Target, texts};
use super::job::{measures, open_saved, squared_error};
use super::table::{Format, Table};
use super::{examples, prediction, scores};
use crate::config::DeviceChoice;
use crate::device;
use crate::error::Error;
use crate::glue::results::write_bytes;

/// What to predict.
#[derive(Clone, Debug)]
pub struct PredictJob {
    /// The model: what `train finetune` saved, or the folder it was told to write to.
    pub from: PathBuf,
    /// The table.
    pub data: PathBuf,
    /// Column of the text, where it is called differently from the training data's.
    pub text: Option<String>,
    /// Column of the second text, likewise.
    pub text_pair: Option<String>,
    /// Where predictions go, CSV or JSON lines by the end of its name.
    pub out: PathBuf,
    /// Where to compute.
    pub device: DeviceChoice,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Rows predicted.
    pub rows: usize,
    /// Measures, where the table has the label column too: name and value.
    pub measures: Vec<(String, f64)>,
}

impl PredictJob {
    /// Predicts every row and writes the predictions.
    ///
    /// # Errors
    /// A model that was not fine-tuned, a missing column, an empty text, a file that cannot be written.
    pub fn run(&self) -> Result<Predicted, Error> {
        let format = Format::of(&self.out)?;
        let (folder, task) = open_saved(&self.from)?;
        let columns = Columns {
            text: self.text.clone().unwrap_or(task.columns.text),
            // A model of pairs needs both.
            text_pair: task.columns.text_pair.map(|name| self.text_pair.clone().unwrap_or(name)),
            label: task.columns.label,
        };
        let table = Table::read(&self.data, Format::of(&self.data)?)?;
        let labelled = table.has(&columns.label);
        let rows = texts(&table, &columns, labelled.then_some(&task.target))?;
        let device = device::choose(self.device)?;
        let model = folder.classifier(device, task.precision.compute_kind(device))?;
        let encoded = examples::encode(&rows, &folder.tokenizer, task.seq_len)?;
        let found = scores(&model, &encoded, device)?;
        let labels: Option<Vec<f64>> = labelled.then(|| rows.iter().map(|row| row.label).collect());
        let bytes = match format {
            Format::JsonLines => json_lines(&task.target, &found, labels.as_deref()),
            _ => csv(&task.target, &found, labels.as_deref()),
        };
        write_bytes(&self.out, &bytes)?;
        let mut named = Vec::new();
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            let predictions: Vec<f64> = found.iter().map(|scores| prediction(scores)).collect();
            let metrics = measures(&task.target, &labels, &predictions);
            named.extend(metrics.into_iter().map(|(metric, value)| (metric.name().to_owned(), value)));
            if task.target == Target::Number {
                named.push(("mean squared error".to_owned(), squared_error(&labels, &predictions)));
            }
        }
        Ok(Predicted { rows: rows.len(), measures: named })
    }
}

/// Probabilities of the classes: softmax of the scores.
fn probabilities(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

/// Predictions as CSV: `row` from 0, `prediction`, the label where it is known, and the probability of each class.
pub(crate) fn csv(target: &Target, scores: &[Vec<f64>], labels: Option<&[f64]>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = vec!["row".to_owned(), "prediction".to_owned()];
    header.extend(labels.map(|_| "label".to_owned()));
    if let Target::Classes(names) = target {
        header.extend(names.iter().map(|name| format!("p({name})")));
    }
    let full = "writing into memory does not fail";
    writer.write_record(&header).expect(full);
    for (row, scores) in scores.iter().enumerate() {
        let mut cells = vec![row.to_string(), target.show(prediction(scores))];
        cells.extend(labels.map(|labels| target.show(labels[row])));
        if let Target::Classes(_) = target {
            cells.extend(probabilities(scores).iter().map(|p| format!("{p:.6}")));
        }
        writer.write_record(&cells).expect(full);
    }
    writer.into_inner().expect(full)
}

/// The same as JSON lines.
fn json_lines(target: &Target, scores: &[Vec<f64>], labels: Option<&[f64]>) -> Vec<u8> {
    let value = |number: f64| match target {
        Target::Classes(_) => Value::String(target.show(number)),
        Target::Number => json!(number),
    };
    let mut text = Vec::new();
    for (row, scores) in scores.iter().enumerate() {
        let mut object = Map::new();
        object.insert("row".to_owned(), json!(row));
        object.insert("prediction".to_owned(), value(prediction(scores)));
        if let Some(labels) = labels {
            object.insert("label".to_owned(), value(labels[row]));
        }
        if let Target::Classes(names) = target {
            let of = names.iter().cloned().zip(probabilities(scores).into_iter().map(Value::from));
            object.insert("probabilities".to_owned(), Value::Object(of.collect()));
        }
        serde_json::to_writer(&mut text, &object).expect("writing into memory does not fail");
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_written_in_the_words_of_the_data() {
        let classes = Target::Classes(vec!["no, never".to_owned(), "yes".to_owned()]);
        let scores = vec![vec![0.0, 3f64.ln()], vec![1.0, 1.0]];
        let text = String::from_utf8(csv(&classes, &scores, Some(&[1.0, 0.0]))).unwrap();
        assert_eq!(
            text,
            "row,prediction,label,\"p(no, never)\",p(yes)\n0,yes,yes,0.250000,0.750000\n\
             1,\"no, never\",\"no, never\",0.500000,0.500000\n"
        );
        let text = String::from_utf8(json_lines(&Target::Number, &[vec![2.5]], None)).unwrap();
        assert_eq!(text, "{\"row\":0,\"prediction\":2.5}\n");
    }
}
