//! A trained model, wherever it lies: what `--from` and `--init-from` name.
//!
//! It may be a run (its newest usable checkpoint is taken), a checkpoint's own folder, or a model folder, as
//! `train import` writes it:
//!
//! ```text
//! MODEL/model.toml          the architecture, a `ModelConfig`
//! MODEL/tokenizer.json      the tokenizer whose ids it was trained on
//! MODEL/model.safetensors   the parameters by MosaicML's names: an encoder and perhaps heads
//! MODEL/provenance.json     what it was made from
//! ```
//!
//! A model folder is written beside and renamed: it is there whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ingest::TokenizerFile;
use loader::Corpus;
use model::tensor_file::{self, TensorFile};
use model::{Head, MaskedLm, ModelConfig, Parameters, SequenceClassifier};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::error::Error;
use crate::finetune;
use crate::host;

const CONFIG: &str = "model.toml";
const TOKENIZER: &str = "tokenizer.json";
const PROVENANCE: &str = "provenance.json";
/// The masked-LM head's first parameter: where it is missing, there is no such head.
const MASKED_LM_HEAD: &str = "cls.predictions.transform.dense.weight";
/// The classifier's last map, `[num_labels, D]`.
const CLASSIFIER: &str = "classifier.weight";

/// A trained model: architecture, tokenizer and where its parameters lie.
pub struct ModelFolder {
    /// The folder it was found in: a checkpoint's or a model's.
    pub path: PathBuf,
    /// The architecture.
    pub config: ModelConfig,
    /// The tokenizer whose ids it was trained on.
    pub tokenizer: TokenizerFile,
    /// What it came from.
    pub origin: Origin,
}

/// What a model came from.
#[derive(Debug)]
pub enum Origin {
    /// A run of this program.
    Checkpoint(Box<Checkpoint>),
    /// Something else, which became a model folder.
    Folder(Box<ModelProvenance>),
}

/// What a model folder was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelProvenance {
    /// Program and version that wrote it.
    pub program: String,
    /// Commit of the source tree the program was built from, when there was one.
    pub commit: Option<String>,
    /// When, RFC 3339.
    pub created: String,
    /// The command line, program first.
    pub command: Vec<String>,
    /// What it was made from, in words: "Hugging Face BERT".
    pub source: String,
    /// Where that lay.
    pub path: PathBuf,
    /// BLAKE3 of the files it was made from.
    pub files: BTreeMap<String, String>,
    /// What was changed on the way, in sentences.
    pub notes: Vec<String>,
}

/// Which model it was that another began from, as a run's provenance keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Its folder, absolute.
    pub path: PathBuf,
    /// Steps it was trained for, where a run of this program made it.
    pub step: Option<u64>,
    /// BLAKE3 of its `model.safetensors`.
    pub model_blake3: String,
    /// BLAKE3 of its tokenizer.
    pub tokenizer_blake3: String,
    /// Parameters that it did not have and that began fresh.
    pub fresh: Vec<String>,
}

/// Weights for a run to begin with, checked against its configuration and its data.
#[derive(Debug)]
pub struct InitialWeights {
    parameters: Parameters,
    identity: ModelIdentity,
}

impl ModelFolder {
    /// Opens the model that `path` names. A checkpoint of a run that is torn or altered is given to `refused`, and the
    /// one before it is tried.
    ///
    /// # Errors
    /// [`Error::NotAModel`] for another folder, or what is wrong with the files of the model.
    pub fn open(path: &Path, refused: impl FnMut(&Error)) -> Result<ModelFolder, Error> {
        if path.join(CONFIG).exists() {
            return ModelFolder::open_folder(path);
        }
        // What `train finetune` wrote: results, and the model in a folder of its own.
        let tuned = path.join(finetune::job::MODEL);
        if tuned.join(CONFIG).exists() {
            return ModelFolder::open_folder(&tuned);
        }
        if path.join(checkpoint::STATE).exists() || path.join("checkpoints").exists() {
            return ModelFolder::of_checkpoint(Checkpoint::find(path, refused)?);
        }
        let found = match (path.is_dir(), path.join("config.json").exists()) {
            (false, _) if path.exists() => "it is a file, not a folder".to_owned(),
            (false, _) => "there is no such folder".to_owned(),
            (true, true) => format!(
                "it has a config.json, as Hugging Face writes it; make a model of it first: train import --from {} --out MODEL",
                path.display()
            ),
            (true, false) => {
                "it has no checkpoints (as a run), no state.json (as a checkpoint) and no model.toml (as what \
                 `train import` and `train finetune` write)"
                    .to_owned()
            }
        };
        Err(Error::NotAModel { path: path.to_owned(), found })
    }

    /// The model of a checkpoint.
    ///
    /// # Errors
    /// [`Error::BadCheckpoint`] when its tokenizer is missing or another.
    pub fn of_checkpoint(checkpoint: Checkpoint) -> Result<ModelFolder, Error> {
        Ok(ModelFolder {
            path: checkpoint.path.clone(),
            config: checkpoint.config.model.clone(),
            tokenizer: checkpoint.tokenizer()?,
            origin: Origin::Checkpoint(Box::new(checkpoint)),
        })
    }

    fn open_folder(path: &Path) -> Result<ModelFolder, Error> {
        let file = path.join(CONFIG);
        let text = fs::read_to_string(&file).map_err(|source| Error::Read { path: file.clone(), source })?;
        let config: ModelConfig = toml::from_str(&text)
            .map_err(|source| Error::ConfigSyntax { path: file, source: Box::new(source) })?;
        config.validate()?;
        let file = path.join(PROVENANCE);
        let text = fs::read(&file).map_err(|source| Error::Read { path: file.clone(), source })?;
        let provenance =
            serde_json::from_slice(&text).map_err(|source| Error::Json { path: file, source })?;
        let tokenizer = TokenizerFile::read(&path.join(TOKENIZER))?;
        let needed = i64::from(tokenizer.info().vocab_size);
        if needed > config.vocab_size {
            let found = format!(
                "its tokenizer has {needed} tokens, its model has rows for {}; restore the tokenizer it was made with",
                config.vocab_size
            );
            return Err(Error::NotAModel { path: path.to_owned(), found });
        }
        Ok(ModelFolder {
            path: path.to_owned(),
            config,
            tokenizer,
            origin: Origin::Folder(Box::new(provenance)),
        })
    }

    /// Writes a model folder. `tensors` have MosaicML's names: the encoder's of `config`, and perhaps heads'.
    ///
    /// # Errors
    /// [`Error::OutExists`] when there is something at `path`; whatever kept a file from being written, and then
    /// nothing is left behind.
    pub fn write<'a>(
        path: &Path,
        config: &ModelConfig,
        tokenizer: &[u8],
        tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        provenance: &ModelProvenance,
    ) -> Result<(), Error> {
        write_folder(path, |beside| {
            let architecture = toml::to_string(config).expect("a configuration has only strings and numbers");
            loader::atomic::write_file(&beside.join(CONFIG), |out| out.write_all(architecture.as_bytes()))?;
            loader::atomic::write_file(&beside.join(TOKENIZER), |out| out.write_all(tokenizer))?;
            tensor_file::write(&beside.join(checkpoint::MODEL), tensors)?;
            Ok(loader::atomic::write_file(&beside.join(PROVENANCE), |out| {
                Ok(serde_json::to_writer_pretty(out, provenance)?)
            })?)
        })
    }

    /// `model.safetensors`.
    pub fn tensors_path(&self) -> PathBuf {
        self.path.join(checkpoint::MODEL)
    }

    /// All its tensors, on the CPU.
    ///
    /// # Errors
    /// [`Error::Model`] when the file cannot be read.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        Ok(TensorFile::read(&self.tensors_path())?.tensors)
    }

    /// Its parameters under `head`; those of the head that it has not begin fresh from `seed`, and their names are
    /// returned too.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that is missing or does not fit.
    pub fn parameters(
        &self,
        head: Head,
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<(Parameters, Vec<String>), Error> {
        let origin = self.tensors_path().display().to_string();
        Ok(Parameters::with_head(&self.config, head, self.tensors()?, &origin, seed, device, kind)?)
    }

    /// The masked language model.
    ///
    /// # Errors
    /// [`Error::NoHead`] when it has no such head, [`Error::Model`] naming a tensor that does not fit.
    pub fn masked_lm(&self, device: Device, compute_kind: Kind) -> Result<MaskedLm, Error> {
        let (parameters, fresh) = self.parameters(Head::MaskedLm, 0, device, Kind::Float)?;
        if !fresh.is_empty() {
            return Err(Error::NoHead { path: self.path.clone(), head: "masked-LM" });
        }
        Ok(MaskedLm::from_parameters(&self.config, parameters, compute_kind)?)
    }

    /// The encoder, whatever its head: a masked language model, whose head may be fresh.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that does not fit.
    pub fn encoder(&self, device: Device, compute_kind: Kind) -> Result<MaskedLm, Error> {
        let (parameters, _) = self.parameters(Head::MaskedLm, 0, device, Kind::Float)?;
        Ok(MaskedLm::from_parameters(&self.config, parameters, compute_kind)?)
    }

    /// The classifier of a fine-tuned model.
    ///
    /// # Errors
    /// [`Error::NoHead`] when it has none, [`Error::Model`] naming a tensor that does not fit.
    pub fn classifier(&self, device: Device, compute_kind: Kind) -> Result<SequenceClassifier, Error> {
        let no_head = || Error::NoHead { path: self.path.clone(), head: "classification" };
        let tensors = self.tensors()?;
        let num_labels = num_labels(&tensors).ok_or_else(no_head)?;
        let (head, origin) = (Head::Classifier { num_labels }, self.tensors_path().display().to_string());
        let (parameters, fresh) =
            Parameters::with_head(&self.config, head, tensors, &origin, 0, device, Kind::Float)?;
        match fresh.is_empty() {
            true => {
                Ok(SequenceClassifier::from_parameters(&self.config, num_labels, parameters, compute_kind)?)
            }
            false => Err(no_head()),
        }
    }

    /// Which model it is, for the provenance of what begins from it.
    ///
    /// # Errors
    /// When the file of tensors cannot be read.
    pub fn identity(&self, fresh: Vec<String>) -> Result<ModelIdentity, Error> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let model_blake3 = match &self.origin {
            Origin::Checkpoint(checkpoint) => {
                checkpoint.state.files.get(checkpoint::MODEL).map(|sum| sum.blake3.clone())
            }
            Origin::Folder(_) => None,
        };
        Ok(ModelIdentity {
            path: fs::canonicalize(&self.path).map_err(read)?,
            step: self.step(),
            model_blake3: match model_blake3 {
                Some(sum) => sum,
                None => blake3_of(&self.tensors_path())?,
            },
            tokenizer_blake3: self.tokenizer.info().blake3.clone(),
            fresh,
        })
    }

    /// The weights for a run of `config` on `corpus` to begin with.
    ///
    /// # Errors
    /// [`Error::OtherVocabulary`] when the ids of the corpus mean other words, [`Error::Model`] naming a tensor that does
    /// not fit the configuration.
    pub fn initial(&self, config: &Config, corpus: &Corpus) -> Result<InitialWeights, Error> {
        let shards = TokenizerFile::from_bytes("the shards' tokenizer", corpus.tokenizer_json().to_vec())?;
        if !shards.same_vocabulary(&self.tokenizer) {
            return Err(Error::OtherVocabulary { path: self.path.clone() });
        }
        let origin = self.tensors_path().display().to_string();
        let (head, seed) = (Head::MaskedLm, config.seed);
        let (parameters, fresh) = Parameters::with_head(
            &config.model,
            head,
            self.tensors()?,
            &origin,
            seed,
            Device::Cpu,
            Kind::Float,
        )?;
        if let Some(first) = fresh.first() {
            eprintln!(
                "note: {} has no masked-LM head; its {} tensors begin fresh ({first}, ...)",
                self.path.display(),
                fresh.len()
            );
        }
        Ok(InitialWeights { parameters, identity: self.identity(fresh)? })
    }

    /// Steps it was trained for, where a run of this program made it.
    pub fn step(&self) -> Option<u64> {
        match &self.origin {
            Origin::Checkpoint(checkpoint) => Some(checkpoint.state.step),
            Origin::Folder(_) => None,
        }
    }
}

impl InitialWeights {
    /// Copies the weights into a model's parameters, in place, and says which they were.
    ///
    /// # Errors
    /// [`Error::Torch`] when there is no memory to copy them.
    pub fn load(self, into: &Parameters) -> Result<ModelIdentity, Error> {
        let _guard = no_grad_guard();
        for ((_, own), (_, initial)) in into.iter().zip(self.parameters.iter()) {
            own.shallow_clone().f_copy_(initial)?;
        }
        Ok(self.identity)
    }
}

impl ModelProvenance {
    /// The provenance of a model that this program makes now out of `path`; `files` are read for their checksums.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn now(source: &str, path: &Path, files: &[PathBuf], notes: Vec<String>) -> Result<Self, Error> {
        let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelProvenance {
            program: host::PROGRAM.to_owned(),
            commit: host::commit(),
            created: host::now(),
            command: std::env::args().collect(),
            source: source.to_owned(),
            path: fs::canonicalize(path).map_err(|source| Error::Read { path: path.to_owned(), source })?,
            files: files
                .iter()
                .map(|file| Ok((name(file), blake3_of(file)?)))
                .collect::<Result<_, Error>>()?,
            notes,
        })
    }
}

/// Whether there is a masked-LM head among `tensors`.
pub fn has_masked_lm_head(tensors: &[(String, Tensor)]) -> bool {
    tensors.iter().any(|(name, _)| name == MASKED_LM_HEAD)
}

/// Labels of the classifier among `tensors`, if there is one.
pub fn num_labels(tensors: &[(String, Tensor)]) -> Option<i64> {
    tensors.iter().find(|(name, _)| name == CLASSIFIER).and_then(|(_, weight)| weight.size().first().copied())
}

/// BLAKE3 of a file, in hexadecimal digits.
pub(crate) fn blake3_of(path: &Path) -> Result<String, Error> {
    let mut hasher = blake3::Hasher::new();
    let read = fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Makes the folder `path`: `fill` writes into one beside it, which is then renamed. What fails leaves nothing behind.
pub(crate) fn write_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    let empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !empty(path) {
        return Err(Error::OutExists { path: path.to_owned() });
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io)?;
    let beside = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(parent).map_err(io)?;
    // Temporary folders are private; this one is to be like any new folder.
    let inner = beside.path().join("folder");
    fs::create_dir(&inner).map_err(io)?;
    fill(&inner)?;
    loader::atomic::sync_dir(&inner)?;
    fs::rename(&inner, path).map_err(io)?;
    Ok(loader::atomic::sync_dir(parent)?)
}
