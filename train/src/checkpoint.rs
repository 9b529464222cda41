//! Checkpoints: everything that the rest of a run depends on, in a folder that exists whole or not at all.
//!
//! A checkpoint holds `model.safetensors` (names as in MosaicML's checkpoints), `optimizer.safetensors` (two moments
//! a parameter), `config.toml`, the tokenizer its ids come from and, written last, `state.json` with counters and the checksums of the other files.
//! All files are written and made durable in a folder beside, which is then renamed: a crash leaves either the
//! whole checkpoint or a leftover that nobody reads. Order of samples, masks and dropout are functions of the seed and
//! the step, so there is no generator state to keep.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ingest::TokenizerFile;
use model::Parameters;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::Config;
use crate::error::Error;
use crate::folder::{read_config, write_config};
use crate::host::PROGRAM;
use crate::optimizer::DecoupledAdamW;

/// Version of the layout above.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG: &str = "config.toml";
const TOKENIZER: &str = "tokenizer.json";
pub(crate) const STATE: &str = "state.json";
/// Start of the name of a checkpoint under construction.
const UNFINISHED: &str = ".unfinished-";

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

/// Where a run stands: what a checkpoint knows beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Program that wrote it.
    pub program: String,
    /// Steps done, skipped ones included; also the index of the next step.
    pub step: u64,
    /// Updates the optimizer has made.
    pub updates: u64,
    /// Samples seen.
    pub samples: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// How many of them were the last ones.
    pub skipped_in_a_row: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Sums since the last line of `metrics.jsonl`.
    pub window: Window,
    /// BLAKE3 of the data's manifest.
    pub manifest_blake3: String,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_blake3: String,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, FileSum>,
}

/// Sums over the steps since the last training record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Sum of the cross-entropies of all masked tokens, in nats.
    pub loss: f64,
    /// Masked tokens predicted exactly.
    pub correct: u64,
    /// Masked tokens.
    pub masked: u64,
}

/// What `state.json` holds: the state and the checksum of its text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    blake3: String,
    #[serde(borrow)]
    state: &'a RawValue,
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
    parameters: &Parameters,
    optimizer: &DecoupledAdamW,
) -> Result<PathBuf, Error> {
    let path = dir.join(format!("step-{:06}", state.step));
    let beside = dir.join(format!("{UNFINISHED}step-{:06}", state.step));
    let io = |source| Error::Write { path: beside.clone(), source };
    remove(&beside)?;
    fs::create_dir_all(&beside).map_err(io)?;
    let written = write_files(&beside, &mut state, config, tokenizer, parameters, optimizer);
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
    parameters: &Parameters,
    optimizer: &DecoupledAdamW,
) -> Result<(), Error> {
    write_config(&dir.join(CONFIG), config)?;
    loader::atomic::write_file(&dir.join(TOKENIZER), |out| out.write_all(tokenizer))?;
    parameters.save(&dir.join(MODEL))?;
    optimizer.save(&dir.join(OPTIMIZER))?;
    for name in [CONFIG, TOKENIZER, MODEL, OPTIMIZER] {
        state.files.insert(name.to_owned(), sum(&dir.join(name))?);
    }
    let text = serde_json::to_string_pretty(&state).expect("strings, numbers and maps");
    let raw = RawValue::from_string(text).expect("it was just serialised");
    let envelope = Envelope { blake3: blake3::hash(raw.get().as_bytes()).to_hex().to_string(), state: &raw };
    let envelope = serde_json::to_vec_pretty(&envelope).expect("strings, numbers and maps");
    loader::atomic::write_file(&dir.join(STATE), |out| out.write_all(&envelope))?;
    Ok(loader::atomic::sync_dir(dir)?)
}

/// Removes the oldest checkpoints until `keep` are left (0 keeps all), and what killed saves have left behind.
pub fn retain(dir: &Path, keep: usize) -> Result<(), Error> {
    let all = list(dir)?;
    let surplus = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
    all[..surplus].iter().try_for_each(|path| remove(path))
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
    let mut found: Vec<(u64, PathBuf)> = names(dir)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("step-")?.parse().ok()?, dir.join(&name))))
        .collect();
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
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
        let state: State = serde_json::from_str(raw)
            .map_err(|error| bad(format!("{STATE} is not of format version {FORMAT_VERSION}: {error}")))?;
        if state.format_version != FORMAT_VERSION {
            return Err(bad(format!(
                "format version is {}, expected {FORMAT_VERSION}",
                state.format_version
            )));
        }
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
    /// [`Error::NoCheckpoint`] or [`Error::BadCheckpoint`].
    pub fn find(path: &Path, refused: impl FnMut(&Error)) -> Result<Checkpoint, Error> {
        if path.join(STATE).exists() || !path.join("checkpoints").exists() {
            return Checkpoint::open(path);
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
        optimizer.load(&self.path.join(OPTIMIZER), self.state.updates)
    }
}

impl State {
    /// The state of a run that has not begun.
    pub fn start(identity: Identity<'_>) -> State {
        State {
            format_version: FORMAT_VERSION,
            program: PROGRAM.to_owned(),
            step: 0,
            updates: 0,
            samples: 0,
            tokens: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            elapsed_s: 0.0,
            window: Window::default(),
            manifest_blake3: identity.manifest_blake3.to_owned(),
            tokenizer_blake3: identity.tokenizer_blake3.to_owned(),
            files: BTreeMap::new(),
        }
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
