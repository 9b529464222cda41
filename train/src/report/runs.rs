//! What a report knows of a run, read from its folder.

use std::path::Path;

use serde_json::Value;

use super::facts;
use crate::config::Config;
use crate::error::Error;
use crate::folder::RunFolder;
use crate::host::Provenance;
use crate::metrics::{self, EvalRecord, Record, TrainRecord};

/// A run's folder, read. There is at least one training record.
pub(crate) struct RunData {
    pub(crate) name: String,
    pub(crate) config: Config,
    /// The configuration, flattened to dotted keys.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) provenance: Provenance,
    pub(crate) trains: Vec<TrainRecord>,
    pub(crate) evals: Vec<EvalRecord>,
    /// Dollars an hour of the machine that trained.
    pub(crate) price: Option<f64>,
}

impl RunData {
    pub(crate) fn read(path: &Path) -> Result<RunData, Error> {
        let folder = RunFolder::open(path)?;
        let config = folder.read_config()?;
        let provenance = Provenance::read(&folder.provenance())?;
        let (mut trains, mut evals) = (Vec::new(), Vec::new());
        for record in metrics::read(&folder.metrics())? {
            match record {
                Record::Train(record) => trains.push(record),
                Record::Eval(record) => evals.push(record),
            }
        }
        if trains.is_empty() {
            return Err(Error::NoMetrics { path: path.to_owned() });
        }
        let mut settings = Vec::new();
        let tree =
            serde_json::to_value(&config).expect("a configuration has only strings, numbers and tables");
        flatten("", &tree, &mut settings);
        let (host, data) = (&provenance.host, &provenance.data);
        let machine = match provenance.device.as_str() {
            "cpu" => format!("{}, {} cores", host.cpu, host.cores),
            _ => host.gpus.join(", "),
        };
        let commit = provenance.commit.as_ref().map_or(String::new(), |commit| format!(" {commit}"));
        for (key, value) in [
            ("run.parameters", facts::count(provenance.parameters)),
            (
                "run.data",
                format!("{} tokens, {:.12}", facts::short(data.tokens as f64), data.manifest_blake3),
            ),
            ("run.machine", machine),
            ("run.program", format!("{}{commit}", provenance.program)),
        ] {
            settings.push((key.to_owned(), value));
        }
        Ok(RunData { name: folder.name(), config, settings, provenance, trains, evals, price: None })
    }

    /// The last training record.
    pub(crate) fn last(&self) -> &TrainRecord {
        self.trains.last().expect("a run is only read with at least one training record")
    }

    /// Seconds of training, the last evaluation included.
    pub(crate) fn elapsed_s(&self) -> f64 {
        self.evals.last().map_or(0.0, |record| record.elapsed_s).max(self.last().elapsed_s)
    }

    /// Median over the records that have the number, so that neither the first slow steps nor a busy moment count.
    pub(crate) fn median(&self, of: fn(&TrainRecord) -> Option<f64>) -> Option<f64> {
        let mut numbers: Vec<f64> = self.trains.iter().filter_map(of).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.get(numbers.len() / 2).copied()
    }

    /// What so many seconds of training have cost, where there is a price.
    pub(crate) fn dollars(&self, elapsed_s: f64) -> Option<f64> {
        self.price.map(|price| elapsed_s / 3600.0 * price)
    }

    /// Tokens seen when `step` steps were done: between two records, in a straight line.
    pub(crate) fn tokens_at(&self, step: u64) -> f64 {
        let after = self.trains.partition_point(|record| record.step < step);
        let before = match after {
            0 => (0, 0),
            after => (self.trains[after - 1].step, self.trains[after - 1].tokens),
        };
        let Some(after) = self.trains.get(after) else { return before.1 as f64 };
        let share = (step - before.0) as f64 / (after.step - before.0).max(1) as f64;
        before.1 as f64 + share * (after.tokens - before.1) as f64
    }

    /// The value of a dotted key, as text.
    pub(crate) fn setting(&self, key: &str) -> String {
        self.settings
            .iter()
            .find(|setting| setting.0 == key)
            .map_or("–".to_owned(), |setting| setting.1.clone())
    }

    /// The run in a sentence.
    pub(crate) fn sentence(&self) -> String {
        let (model, data) = (&self.config.model, &self.provenance.data);
        format!(
            "An encoder of {} parameters ({} layers, width {}), trained on {} documents for {} of {} steps of {} \
             samples. Loss is the mean cross-entropy of masked tokens in nats; the unigram line is what a model that \
             ignores context can reach.",
            facts::short(self.provenance.parameters as f64),
            model.num_hidden_layers,
            model.hidden_size,
            facts::count(data.documents - data.held_out_documents),
            facts::count(self.last().step),
            facts::count(self.config.train.steps),
            facts::count(self.config.train.batch_size as u64),
        )
    }
}

/// Runs of the same name get their number.
pub(super) fn distinguish(runs: &mut [RunData]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (number, run) in runs.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = format!("{} ({})", run.name, number + 1);
        }
    }
}

/// Appends all leaves with dotted keys, in the order in which the configuration declares them.
fn flatten(key: &str, value: &Value, settings: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                flatten(
                    &if key.is_empty() { name.clone() } else { format!("{key}.{name}") },
                    inner,
                    settings,
                );
            }
        }
        Value::String(text) => settings.push((key.to_owned(), text.clone())),
        other => settings.push((key.to_owned(), other.to_string())),
    }
}
