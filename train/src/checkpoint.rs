//! Checkpoints: everything that the rest of a run depends on, in a folder that exists whole or not at all.
//!
//! A checkpoint holds `model.safetensors` (names as in MosaicML's checkpoints), `optimizer.safetensors` (two moments
//! a parameter), `config.toml`, the tokenizer its ids come from and, written last, `state.json` with counters and the checksums
//! of the other files.
//! All files are written and made durable in a folder beside, which is then renamed: a crash leaves either the
//! whole checkpoint or a leftover that nobody reads. Order of samples, masks and dropout are functions of the seed and
//! the step, so the state of the generators is two numbers, the seed and what the next step derives from it.
//!
//! Training goes on while a checkpoint is written ([`Saver`]).

mod average;
mod saver;
mod snapshot;
mod state;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ingest::TokenizerFile;
use loader::ShardFolder;
use model::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use average::average;
pub use saver::Saver;
pub use snapshot::Snapshot;
pub use state::{FileSum, Spent, State, Window};

use crate::config::{CheckpointConfig, Config};
use crate::error::Error;
use crate::folder::{read_config, write_config};
use crate::host::Provenance;
use crate::optimizer::DecoupledAdamW;
use crate::step::step_seed;

/// Version of the layout above.
pub const FORMAT_VERSION: u32 = 2;

pub(crate) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG: &str = "config.toml";
const TOKENIZER: &str = "tokenizer.json";
pub(crate) const STATE: &str = "state.json";
/// Start of the name of a checkpoint under construction.
const UNFINISHED: &str = ".unfinished-";

/// What `state.json` holds: the state and the checksum of its text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    blake3: String,
    #[serde(borrow)]
    state: &'a RawValue,
}

/// The part of a state that every version has.
#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

/// A checkpoint whose files were all found to be what `state.json` says.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: State,
    /// The run's configuration.
    pub config: Config,
}

/// What a checkpoint must agree with to be used.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// BLAKE3 of the data's manifest.
    pub manifest_blake3: &'a str,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_blake3: &'a str,
}

/// Saves a checkpoint into `dir`, the folder of all checkpoints, and returns its path. `tokenizer` is the content of its
/// `tokenizer.json`. `state.files` is filled in.
///
/// # Errors
/// Whatever kept a file from being written; earlier checkpoints are untouched then.
pub fn save(
    dir: &Path,
    mut state: State,
    config: &Config,
    tokenizer: &[u8],
    snapshot: &Snapshot,
) -> Result<PathBuf, Error> {
    let path = dir.join(format!("step-{:06}", state.step));
    let beside = dir.join(format!("{UNFINISHED}step-{:06}", state.step));
    let io = |source| Error::Write { path: beside.clone(), source };
    remove(&beside)?;
    fs::create_dir_all(&beside).map_err(io)?;
    let written = write_files(&beside, &mut state, config, tokenizer, snapshot);
    if let Err(error) = written {
        // Frees the space again; when that fails too, the first error is the one worth telling.
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    // Only a checkpoint that was refused can stand in the way.
    remove(&path)?;
    fs::rename(&beside, &path).map_err(|source| Error::Write { path: path.clone(), source })?;
    loader::atomic::sync_dir(dir)?;
    Ok(path)
}

fn write_files(
    dir: &Path,
    state: &mut State,
    config: &Config,
    tokenizer: &[u8],
    snapshot: &Snapshot,
) -> Result<(), Error> {
    write_config(&dir.join(CONFIG), config)?;
    loader::atomic::write_file(&dir.join(TOKENIZER), |out| out.write_all(tokenizer))?;
    snapshot.write(&dir.join(MODEL), &dir.join(OPTIMIZER))?;
    seal(dir, state, &[CONFIG, TOKENIZER, MODEL, OPTIMIZER])
}

/// Writes `state.json` with the checksums of `files`, as they are read back from the disk.
fn seal(dir: &Path, state: &mut State, files: &[&str]) -> Result<(), Error> {
    for &name in files {
        state.files.insert(name.to_owned(), sum(&dir.join(name))?);
    }
    let text = serde_json::to_string_pretty(&state).expect("strings, numbers and maps");
    let raw = RawValue::from_string(text).expect("it was just serialised");
    let envelope = Envelope { blake3: blake3::hash(raw.get().as_bytes()).to_hex().to_string(), state: &raw };
    let envelope = serde_json::to_vec_pretty(&envelope).expect("strings, numbers and maps");
    loader::atomic::write_file(&dir.join(STATE), |out| out.write_all(&envelope))?;
    Ok(loader::atomic::sync_dir(dir)?)
}

/// Removes the oldest checkpoints until `keep` are left (0 keeps all). One of a step that `keep_every_steps` divides stays
/// and is not counted among them.
pub fn retain(dir: &Path, config: &CheckpointConfig) -> Result<(), Error> {
    let spared = |step: u64| config.keep_every_steps > 0 && step.is_multiple_of(config.keep_every_steps);
    let rest: Vec<PathBuf> =
        numbered(dir)?.into_iter().filter(|(step, _)| !spared(*step)).map(|(_, path)| path).collect();
    let surplus = if config.keep == 0 { 0 } else { rest.len().saturating_sub(config.keep) };
    rest[..surplus].iter().try_for_each(|path| remove(path))
}

/// Removes what saves that were killed have left behind.
pub fn remove_unfinished(dir: &Path) -> Result<(), Error> {
    names(dir)?
        .iter()
        .filter(|name| name.starts_with(UNFINISHED))
        .try_for_each(|name| remove(&dir.join(name)))
}

/// All checkpoints of `dir`, oldest first.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(numbered(dir)?.into_iter().map(|(_, path)| path).collect())
}

/// The step of the newest checkpoint of `dir`, usable or not.
pub fn newest_step(dir: &Path) -> Result<Option<u64>, Error> {
    Ok(numbered(dir)?.last().map(|(step, _)| *step))
}

/// All checkpoints of `dir` with their steps, oldest first.
fn numbered(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found: Vec<(u64, PathBuf)> = names(dir)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, dir.join(&name))))
        .collect();
    found.sort();
    Ok(found)
}

/// The newest usable checkpoint of the run in `run`, or none if the run has not saved yet. Each one that is torn or
/// altered is given to `refused`, and the one before it is tried.
///
/// # Errors
/// [`Error::NoCheckpoint`] when there are checkpoints and every one is refused.
pub fn latest(run: &Path, mut refused: impl FnMut(&Error)) -> Result<Option<Checkpoint>, Error> {
    let dir = run.join("checkpoints");
    let all = if dir.exists() { list(&dir)? } else { Vec::new() };
    let mut reasons = Vec::new();
    for path in all.iter().rev() {
        match Checkpoint::open(path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => {
                refused(&error);
                reasons.push(error.to_string());
            }
        }
    }
    match reasons.is_empty() {
        true => Ok(None),
        false => Err(Error::NoCheckpoint { path: run.to_owned(), refused: reasons.join("; ") }),
    }
}

impl Checkpoint {
    /// Opens a checkpoint and re-reads every file against its checksum.
    ///
    /// # Errors
    /// [`Error::BadCheckpoint`] with what is missing, torn or altered.
    pub fn open(path: &Path) -> Result<Checkpoint, Error> {
        let bad = |reason: String| Error::BadCheckpoint { path: path.to_owned(), reason };
        let text = fs::read_to_string(path.join(STATE)).map_err(|error| bad(format!("{STATE}: {error}")))?;
        let envelope: Envelope<'_> =
            serde_json::from_str(&text).map_err(|error| bad(format!("{STATE} is torn: {error}")))?;
        let raw = envelope.state.get();
        let found = blake3::hash(raw.as_bytes()).to_hex().to_string();
        if found != envelope.blake3 {
            return Err(bad(format!("{STATE} was altered: BLAKE3 is {found}, expected {}", envelope.blake3)));
        }
        let torn = |error| bad(format!("{STATE} is not of format version {FORMAT_VERSION}: {error}"));
        let Versioned { format_version } = serde_json::from_str(raw).map_err(torn)?;
        if format_version != FORMAT_VERSION {
            return Err(bad(format!("format version is {format_version}, expected {FORMAT_VERSION}")));
        }
        let state: State = serde_json::from_str(raw).map_err(torn)?;
        for (name, expected) in &state.files {
            let found = sum(&path.join(name)).map_err(|error| match error {
                Error::Read { source, .. } => bad(format!("{name}: {source}")),
                other => other,
            })?;
            if found.bytes != expected.bytes {
                return Err(bad(format!(
                    "{name} is torn: {} bytes, expected {}",
                    found.bytes, expected.bytes
                )));
            }
            if found != *expected {
                let (found, expected) = (found.blake3, &expected.blake3);
                return Err(bad(format!("{name} was altered: BLAKE3 is {found}, expected {expected}")));
            }
        }
        let config = read_config(&path.join(CONFIG))?;
        Ok(Checkpoint { path: path.to_owned(), state, config })
    }

    /// The checkpoint meant by `--from`: a checkpoint's own folder, or a run's, whose newest usable one is taken.
    ///
    /// # Errors
    /// [`Error::NotAModel`], [`Error::NoCheckpoint`] or [`Error::BadCheckpoint`].
    pub fn find(path: &Path, refused: impl FnMut(&Error)) -> Result<Checkpoint, Error> {
        if path.join(STATE).exists() {
            return Checkpoint::open(path);
        }
        if !path.join("checkpoints").exists() {
            let found = match path.is_dir() {
                true => "it has no checkpoints, as a run has, and no state.json, as a checkpoint has",
                false => "there is no such folder",
            };
            return Err(Error::NotAModel { path: path.to_owned(), found: found.to_owned() });
        }
        latest(path, refused)?
            .ok_or_else(|| Error::NoCheckpoint { path: path.to_owned(), refused: String::new() })
    }

    /// Refuses to be continued with another model or other data.
    ///
    /// # Errors
    /// [`Error::ForeignCheckpoint`] naming what differs.
    pub fn check(&self, config: &Config, identity: Identity<'_>) -> Result<(), Error> {
        let foreign = |what, found: String, expected: String, advice| {
            Err(Error::ForeignCheckpoint { path: self.path.clone(), what, found, expected, advice })
        };
        if self.config.model != config.model {
            let (found, expected) = difference(&self.config, config);
            return foreign("model", found, expected, "restore the run's config.toml or start a new run");
        }
        if self.state.seed != config.seed {
            let (found, expected) = (self.state.seed, config.seed);
            let found = format!("seed = {found}");
            return foreign("seed", found, format!("seed = {expected}"), "restore the run's config.toml");
        }
        if self.state.generator_seed != step_seed(config.seed, self.state.step) {
            let reason = format!("its generator seed {} is not this program's", self.state.generator_seed);
            return Err(Error::BadCheckpoint { path: self.path.clone(), reason });
        }
        if !self.state.mean_of.is_empty() {
            let reason = "it is a mean of checkpoints, which has no optimizer state to go on with".to_owned();
            return Err(Error::BadCheckpoint { path: self.path.clone(), reason });
        }
        self.check_tokenizer(identity.tokenizer_blake3)?;
        if self.state.manifest_blake3 != identity.manifest_blake3 {
            return foreign(
                "data set",
                format!("manifest {}", self.state.manifest_blake3),
                format!("manifest {}", identity.manifest_blake3),
                "give the shards the run was started with, unchanged, as --shards",
            );
        }
        Ok(())
    }

    /// Refuses data of another tokenizer: the ids would mean other words.
    ///
    /// # Errors
    /// [`Error::ForeignCheckpoint`].
    pub fn check_tokenizer(&self, tokenizer_blake3: &str) -> Result<(), Error> {
        if self.state.tokenizer_blake3 == tokenizer_blake3 {
            return Ok(());
        }
        Err(Error::ForeignCheckpoint {
            path: self.path.clone(),
            what: "tokenizer",
            found: self.state.tokenizer_blake3.clone(),
            expected: tokenizer_blake3.to_owned(),
            advice: "give shards that were ingested with the checkpoint's tokenizer",
        })
    }

    /// The tokenizer whose ids the model was trained on.
    ///
    /// # Errors
    /// [`Error::BadCheckpoint`] where there is none, or another.
    pub fn tokenizer(&self) -> Result<TokenizerFile, Error> {
        let path = self.path.join(TOKENIZER);
        let bad = |reason| Error::BadCheckpoint { path: self.path.clone(), reason };
        if !path.exists() {
            return Err(bad(format!(
                "it has no {TOKENIZER}; copy it there from the shards it was trained on"
            )));
        }
        let tokenizer = TokenizerFile::read(&path)?;
        let (found, expected) = (&tokenizer.info().blake3, &self.state.tokenizer_blake3);
        match found == expected {
            true => Ok(tokenizer),
            false => Err(bad(format!("{TOKENIZER} is another one: BLAKE3 is {found}, expected {expected}"))),
        }
    }

    /// The shards that the run was trained on which this checkpoint lies in.
    ///
    /// # Errors
    /// [`Error::NoShards`] when it lies in none.
    pub fn shards(&self) -> Result<Vec<ShardFolder>, Error> {
        let absolute = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let run = absolute.parent().and_then(Path::parent).map(|path| path.join("provenance.json"));
        match run.filter(|path| path.exists()) {
            Some(path) => Ok(Provenance::read(&path)?.data.folders()),
            None => Err(Error::NoShards { path: self.path.clone() }),
        }
    }

    /// Copies the weights into `parameters`.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that does not fit.
    pub fn load_parameters(&self, parameters: &Parameters) -> Result<(), Error> {
        Ok(parameters.load(&self.path.join(MODEL))?)
    }

    /// Copies the optimizer's state into `optimizer`.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::OptimizerState`] naming a tensor that does not fit.
    pub fn load_optimizer(&self, optimizer: &mut DecoupledAdamW) -> Result<(), Error> {
        optimizer.load(Some(&self.path.join(OPTIMIZER)), self.state.updates)
    }
}

/// The first line in which two model configurations differ, from each.
fn difference(one: &Config, other: &Config) -> (String, String) {
    let [one, other] = [one, other].map(|config| toml::to_string(&config.model).unwrap_or_default());
    one.lines()
        .zip(other.lines())
        .find(|(one, other)| one != other)
        .map_or((one.clone(), other.clone()), |(one, other)| (one.to_owned(), other.to_owned()))
}

/// Size and checksum of a file.
fn sum(path: &Path) -> Result<FileSum, Error> {
    let read = || -> std::io::Result<FileSum> {
        let mut hasher = blake3::Hasher::new();
        let bytes = std::io::copy(&mut fs::File::open(path)?, &mut hasher)?;
        Ok(FileSum { bytes, blake3: hasher.finalize().to_hex().to_string() })
    };
    read().map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().map_err(|source| Error::Read { path: dir.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Write { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
