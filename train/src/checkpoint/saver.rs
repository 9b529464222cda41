//! Saving while training goes on: the training thread copies its tensors to host memory, another thread writes, makes
//! durable, checks and renames, and removes what is no longer to be kept.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use model::Parameters;
use tch::Tensor;

use super::{Snapshot, State, list, retain, save};
use crate::config::Config;
use crate::error::Error;

/// The writer of one run's checkpoints. At most one is being written at a time.
#[derive(Debug)]
pub struct Saver {
    /// The folder of all checkpoints.
    dir: PathBuf,
    config: Config,
    /// The content of `tokenizer.json`.
    tokenizer: Arc<[u8]>,
    /// Memory for the next snapshot, unless it is being written.
    snapshot: Option<Snapshot>,
    writing: Option<Writing>,
    /// The step of the last one that has been written.
    written: Option<u64>,
}

/// A checkpoint that another thread is writing.
#[derive(Debug)]
struct Writing {
    step: u64,
    thread: JoinHandle<(Snapshot, Result<(), Error>)>,
}

impl Saver {
    /// A writer to `dir`; `config` and the content of a `tokenizer.json` go into every checkpoint, and the configuration says
    /// which ones are kept.
    pub fn new(dir: PathBuf, config: Config, tokenizer: &[u8]) -> Saver {
        Saver { dir, config, tokenizer: tokenizer.into(), snapshot: None, writing: None, written: None }
    }

    /// Begins to save a checkpoint of `parameters` and the optimizer's `moments`: waits for the one before, copies the tensors
    /// and returns. `metrics` is made durable
    /// before the checkpoint gets its name.
    ///
    /// # Errors
    /// [`Error::SaveFailed`], also for the checkpoint before; [`Error::NotFinite`] when the weights are not numbers, which no
    /// checkpoint may hold.
    pub fn begin(
        &mut self,
        state: State,
        parameters: &Parameters,
        moments: &[(String, Tensor)],
        metrics: File,
    ) -> Result<(), Error> {
        self.wait()?;
        let weights: Vec<_> = parameters.iter().map(|(_, tensor)| tensor.detach()).collect();
        let norm = model::torch::norm(&weights.iter().collect::<Vec<_>>())?.f_double_value(&[])?;
        if !norm.is_finite() {
            return Err(Error::NotFinite { step: state.step, last_good: self.last_good() });
        }
        let mut snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => Snapshot::allocate(parameters, moments)?,
        };
        snapshot.take(parameters, moments)?;
        let (dir, config, tokenizer) = (self.dir.clone(), self.config.clone(), Arc::clone(&self.tokenizer));
        let step = state.step;
        let write = move || {
            let written = metrics
                .sync_data()
                .map_err(|source| Error::Write { path: dir.clone(), source })
                .and_then(|()| save(&dir, state, &config, &tokenizer, &snapshot))
                .and_then(|_| retain(&dir, &config.checkpoint));
            (snapshot, written)
        };
        let thread = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(write)
            .map_err(|source| self.failed(step, Error::Write { path: self.dir.clone(), source }))?;
        self.writing = Some(Writing { step, thread });
        Ok(())
    }

    /// Reports how the last save went, if it is over.
    ///
    /// # Errors
    /// [`Error::SaveFailed`].
    pub fn poll(&mut self) -> Result<(), Error> {
        match &self.writing {
            Some(writing) if writing.thread.is_finished() => self.wait(),
            _ => Ok(()),
        }
    }

    /// Waits until the last save is over.
    ///
    /// # Errors
    /// [`Error::SaveFailed`].
    pub fn wait(&mut self) -> Result<(), Error> {
        let Some(Writing { step, thread }) = self.writing.take() else { return Ok(()) };
        let (snapshot, written) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.snapshot = Some(snapshot);
        written.map_err(|source| self.failed(step, source))?;
        self.written = Some(step);
        Ok(())
    }

    /// The step of the last checkpoint that this writer has finished.
    pub fn written(&self) -> Option<u64> {
        self.written
    }

    /// The newest checkpoint, as a part of a sentence.
    pub fn last_good(&self) -> String {
        match list(&self.dir).unwrap_or_default().pop() {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no earlier checkpoint".to_owned(),
        }
    }

    fn failed(&self, step: u64, source: Error) -> Error {
        Error::SaveFailed { step, last_good: self.last_good(), source: Box::new(source) }
    }
}

/// A run that ends by an error does not abandon a checkpoint half written.
impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(Writing { step, thread }) = self.writing.take()
            && let Ok((_, Err(error))) = thread.join()
        {
            eprintln!("the checkpoint of step {step} could not be saved: {error}");
        }
    }
}
