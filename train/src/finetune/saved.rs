//! What a fine-tuned model folder knows of its task: `MODEL/task.json`, beside the files every model folder has.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::dataset::{Columns, Target};
use super::fit::Precision;
use crate::error::Error;
use crate::glue::results::{read_json, write_json};

/// Its name in the folder.
pub const TASK_FILE: &str = "task.json";

/// The task a model was fine-tuned for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTask {
    /// What it predicts.
    pub target: Target,
    /// The columns it was trained on, which predictions are made from unless others are named.
    pub columns: Columns,
    /// Longest example in tokens.
    pub seq_len: usize,
    /// What activations are computed in on CUDA.
    pub precision: Precision,
}

impl SavedTask {
    /// Reads it from a model's folder; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Json`] when it is not what this program writes.
    pub fn read(model: &Path) -> Result<Option<SavedTask>, Error> {
        let path = model.join(TASK_FILE);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Writes it into a model's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, model: &Path) -> Result<(), Error> {
        write_json(&model.join(TASK_FILE), self)
    }
}
