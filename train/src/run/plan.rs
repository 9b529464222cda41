//! What rank 0 of a job tells the others of a run, before all of them build it.

use std::path::PathBuf;

use loader::ShardFolder;
use serde::{Deserialize, Serialize};

use crate::checkpoint::State;
use crate::config::Config;
use crate::distributed::Ranks;
use crate::error::Error;
use crate::folder::RunFolder;
use crate::host::Data;

/// How a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Beginning {
    /// With initial weights.
    New,
    /// With the weights of a model.
    Weights,
    /// With a checkpoint's.
    Checkpoint,
    /// With a checkpoint's of another run, which are saved at once.
    Branch,
}

/// All that a rank needs to know to take part.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// As TOML, which is how configurations are read and written everywhere.
    config: String,
    /// Where rank 0 writes: for messages.
    pub(super) folder: PathBuf,
    /// The shard folders, each with its weight, if it has one.
    shards: Vec<(PathBuf, Option<f64>)>,
    pub(super) state: State,
    pub(super) beginning: Beginning,
}

impl Plan {
    pub(super) fn of(
        folder: &RunFolder,
        config: &Config,
        data: &Data,
        state: &State,
        beginning: Beginning,
    ) -> Plan {
        Plan {
            config: config.to_toml(),
            folder: folder.path().to_owned(),
            shards: data.folders().into_iter().map(|ShardFolder { path, weight }| (path, weight)).collect(),
            state: state.clone(),
            beginning,
        }
    }

    /// Tells the others, if there are any.
    pub(super) fn tell(&self, ranks: &Ranks) -> Result<(), Error> {
        ranks.share_text(|| Ok(serde_json::to_string(self).expect("strings, numbers and lists"))).map(|_| ())
    }

    /// What rank 0 tells.
    pub(super) fn hear(ranks: &Ranks) -> Result<Plan, Error> {
        let text = ranks.share_text(|| unreachable!("rank 0 does not listen"))?;
        serde_json::from_str(&text).map_err(|error| incomprehensible(&error))
    }

    /// The shard folders where rank 0 has them.
    pub(super) fn folders(&self) -> Vec<ShardFolder> {
        self.shards.iter().cloned().map(|(path, weight)| ShardFolder { path, weight }).collect()
    }

    pub(super) fn config(&self) -> Result<Config, Error> {
        toml::from_str(&self.config).map_err(|error| incomprehensible(&error))
    }
}

/// Rank 0 is another program, most likely.
fn incomprehensible(error: &dyn std::error::Error) -> Error {
    let reason = format!(
        "what rank 0 tells of the run makes no sense here ({error}); start the same program on all ranks"
    );
    Error::Join { reason }
}
