//! Where a run's records go: `metrics.jsonl`, which the run relies on, and what people watch it with.

use std::fs::File;
use std::path::PathBuf;

use crate::error::Error;
use crate::folder::RunFolder;
use crate::metrics::{MetricsWriter, Record};
use crate::prometheus::Prometheus;
use crate::tensorboard::EventFile;

/// What a run tells beside `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlets {
    /// Event files in `RUN/tensorboard`.
    pub tensorboard: bool,
    /// A file of Prometheus text.
    pub prometheus: Option<PathBuf>,
}

/// Takes a run's records.
#[derive(Debug)]
pub(crate) struct Journal {
    metrics: MetricsWriter,
    tensorboard: Option<EventFile>,
    prometheus: Option<Prometheus>,
    /// Whether the last attempt to write the Prometheus file failed.
    stale: bool,
}

impl Journal {
    /// The journal of a run that has `step` steps behind it; see [`MetricsWriter::resume`].
    pub(crate) fn resume(folder: &RunFolder, step: u64) -> Result<Journal, Error> {
        let metrics = MetricsWriter::resume(&folder.metrics(), step)?;
        Ok(Journal { metrics, tensorboard: None, prometheus: None, stale: false })
    }

    /// Opens the `outlets` of the run in `folder`, with `texts` about it.
    ///
    /// # Errors
    /// [`Error::Write`] when the Prometheus file cannot be written: at the start of a run, that is a mistake to be mended.
    pub(crate) fn publish(
        &mut self,
        outlets: &Outlets,
        folder: &RunFolder,
        step: u64,
        texts: Vec<(&'static str, String)>,
    ) -> Result<(), Error> {
        self.tensorboard = outlets.tensorboard.then(|| EventFile::new(folder.tensorboard(), step, texts));
        let create = |path: &PathBuf| {
            Prometheus::create(path, &folder.name())
                .map_err(|source| Error::Write { path: path.clone(), source })
        };
        self.prometheus = outlets.prometheus.as_ref().map(create).transpose()?;
        Ok(())
    }

    /// Takes a record. What is there to watch does not stop a run when it cannot be written: the reason is given to `say`,
    /// and training goes on without it.
    pub(crate) fn write(&mut self, record: &Record, say: impl Fn(&str)) -> Result<(), Error> {
        self.metrics.write(record)?;
        if let Some(error) = self.tensorboard.as_mut().and_then(|file| file.write(record).err()) {
            self.tensorboard = None;
            say(&format!("no more TensorBoard events are written: {error}"));
        }
        if let Some(file) = &mut self.prometheus {
            let written = file.write(record);
            let stale = written.is_err();
            // It may be possible again.
            if let (Err(error), false) = (written, self.stale) {
                say(&format!("{} is not up to date: {error}", file.path().display()));
            }
            self.stale = stale;
        }
        Ok(())
    }

    /// See [`MetricsWriter::handle`].
    pub(crate) fn handle(&self) -> Result<File, Error> {
        self.metrics.handle()
    }
}
