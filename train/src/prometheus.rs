//! A run's newest numbers as Prometheus text, in a file for the node exporter's textfile collector.
//!
//! The file is replaced as a whole with every record. A collector gives every series the same labels whenever it looks, so
//! what is not known (the MFU of a processor) is left out rather than written as zero. When the process ends, however it ends
//! by itself, `tessera_training` becomes 0; of one that was killed the timestamp tells.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::metrics::{EvalRecord, Record, TrainRecord};

/// A file of Prometheus text about one run.
#[derive(Debug)]
pub(crate) struct Prometheus {
    path: PathBuf,
    run: String,
    train: Option<TrainRecord>,
    eval: Option<EvalRecord>,
}

/// One series: its name, `gauge` or `counter`, what it is, and its value, if there is one.
type Series = (&'static str, &'static str, &'static str, Option<f64>);

impl Prometheus {
    /// Writes the first text of the run called `run` to `path`.
    pub(crate) fn create(path: &Path, run: &str) -> io::Result<Prometheus> {
        let file = Prometheus { path: path.to_owned(), run: run.to_owned(), train: None, eval: None };
        file.replace(true)?;
        Ok(file)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings the file up to date.
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Train(record) => self.train = Some(record.clone()),
            Record::Eval(record) => self.eval = Some(record.clone()),
        }
        self.replace(true)
    }

    /// Written beside and renamed, so that no collector sees half of it. It need not survive a crash of the machine.
    fn replace(&self, training: bool) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The collector runs as another user, and reads what ends in .prom.
        let permissions = std::fs::Permissions::from_mode(0o644);
        let mut file =
            tempfile::Builder::new().prefix(".tessera-").permissions(permissions).tempfile_in(dir)?;
        file.write_all(self.text(training).as_bytes())?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn text(&self, training: bool) -> String {
        let run = self.run.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let mut text = String::new();
        for (name, kind, help, value) in self.series(training) {
            if let Some(value) = value {
                let _ = writeln!(
                    text,
                    "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{run=\"{run}\"}} {value}"
                );
            }
        }
        text
    }

    fn series(&self, training: bool) -> Vec<Series> {
        let train = |of: fn(&TrainRecord) -> f64| self.train.as_ref().map(of);
        let eval = |of: fn(&EvalRecord) -> f64| self.eval.as_ref().map(of);
        let maybe = |of: fn(&TrainRecord) -> Option<f64>| self.train.as_ref().and_then(of);
        vec![
            (
                "tessera_training",
                "gauge",
                "1 while the process trains, 0 when it has ended",
                Some(f64::from(training)),
            ),
            (
                "tessera_record_timestamp_seconds",
                "gauge",
                "When these numbers were measured, Unix time",
                train(|r| r.time),
            ),
            ("tessera_step", "gauge", "Optimizer steps done", train(|r| r.step as f64)),
            (
                "tessera_last_step",
                "gauge",
                "The step at which the run ends, as far as known",
                maybe(|r| r.end.map(|end| end as f64)),
            ),
            ("tessera_remaining_seconds", "gauge", "Time left, as far as known", maybe(|r| r.remaining_s)),
            ("tessera_progress_ratio", "gauge", "Share of the budget used, 0 to 1", train(|r| r.progress)),
            ("tessera_loss_nats", "gauge", "Cross-entropy of masked tokens in training", train(|r| r.loss)),
            (
                "tessera_accuracy_ratio",
                "gauge",
                "Share of masked tokens predicted exactly in training",
                train(|r| r.accuracy),
            ),
            ("tessera_learning_rate", "gauge", "Learning rate", train(|r| r.lr)),
            (
                "tessera_mask_ratio",
                "gauge",
                "Fraction of tokens chosen for prediction",
                train(|r| r.mask_rate),
            ),
            ("tessera_gradient_norm", "gauge", "Euclidean norm of the gradient", train(|r| r.grad_norm)),
            (
                "tessera_samples_per_second",
                "gauge",
                "Samples trained on per second",
                train(|r| r.samples_per_s),
            ),
            (
                "tessera_tokens_per_second",
                "gauge",
                "Tokens trained on per second, no padding",
                train(|r| r.tokens_per_s),
            ),
            (
                "tessera_model_flops_per_second",
                "gauge",
                "Arithmetic of the model's matrix products",
                train(|r| r.model_tflops * 1e12),
            ),
            (
                "tessera_mfu_ratio",
                "gauge",
                "Model FLOPs utilisation: that over the cards' bf16 peak",
                maybe(|r| r.mfu),
            ),
            (
                "tessera_data_wait_ratio",
                "gauge",
                "Share of time spent waiting for data",
                train(|r| r.wait_share),
            ),
            ("tessera_samples_total", "counter", "Samples trained on", train(|r| r.samples as f64)),
            ("tessera_tokens_total", "counter", "Tokens trained on", train(|r| r.tokens as f64)),
            (
                "tessera_skipped_steps_total",
                "counter",
                "Steps skipped because loss or gradient were not finite",
                train(|r| r.skipped as f64),
            ),
            (
                "tessera_training_seconds_total",
                "counter",
                "Time of training, evaluations and checkpoints included",
                train(|r| r.elapsed_s),
            ),
            (
                "tessera_eval_loss_nats",
                "gauge",
                "Cross-entropy of masked tokens on held-out documents",
                eval(|r| r.loss),
            ),
            ("tessera_eval_accuracy_ratio", "gauge", "Accuracy on held-out documents", eval(|r| r.accuracy)),
            ("tessera_eval_step", "gauge", "The step that was evaluated", eval(|r| r.step as f64)),
        ]
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::watch::tests::{eval, train};

    /// Name and labels of every series with its value; every one is described before.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        let lines: Vec<&str> = text.lines().collect();
        assert!(text.ends_with('\n') && lines.len().is_multiple_of(3), "{text}");
        for lines in lines.chunks(3) {
            let [help, kind, sample] = lines else { panic!("{lines:?}") };
            let name = help.strip_prefix("# HELP ").unwrap().split(' ').next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            let (series, value) = sample.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&format!("{name}{{run=\"")) && series.ends_with("\"}"), "{series}");
            assert_eq!(found.insert(series.to_owned(), value.parse().unwrap()), None, "{series}");
        }
        found
    }

    #[test]
    fn the_file_holds_the_newest_records_and_says_when_the_process_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.prom");
        let read = || parse(&std::fs::read_to_string(&path).unwrap());
        let series = |name: &str| format!("{name}{{run=\"a \\\"b\\\" \\\\ c\"}}");
        let mut file = Prometheus::create(&path, "a \"b\" \\ c").unwrap();
        assert_eq!(read(), BTreeMap::from([(series("tessera_training"), 1.0)]));

        file.write(&Record::Train(train(10))).unwrap();
        file.write(&Record::Eval(eval(10))).unwrap();
        let mut unknown = train(20);
        (unknown.mfu, unknown.end, unknown.remaining_s) = (None, None, None);
        file.write(&Record::Train(unknown)).unwrap();
        let found = read();
        for (name, value) in [
            ("tessera_training", 1.0),
            ("tessera_step", 20.0),
            ("tessera_loss_nats", 9.0),
            ("tessera_samples_total", 81_920.0),
            ("tessera_eval_step", 10.0),
            ("tessera_model_flops_per_second", 412e12),
        ] {
            assert_eq!(found.get(&series(name)), Some(&value), "{name}");
        }
        assert!(!found.contains_key(&series("tessera_mfu_ratio")), "what is not known is left out");
        drop(file);
        assert_eq!(read()[&series("tessera_training")], 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Prometheus::create(&dir.path().join("no/run.prom"), "run").is_err());
    }
}
