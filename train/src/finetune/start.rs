//! What a fine-tuning starts from: a pretrained encoder, whatever head it has.

use std::path::Path;
use std::sync::Once;

use model::config::Padding;
use model::{Head, ModelConfig, Parameters, SequenceClassifier};
use tch::{Device, Kind};

use super::FinetuneError;
use crate::error::Error;
use crate::model_folder::{ModelFolder, ModelIdentity, Origin};

/// Start of the names of a classifier's last map, which no other task can use.
const CLASSIFIER: &str = "classifier.";

/// A pretrained encoder with its tokenizer.
pub struct Start {
    /// Where it lies and what it came from.
    pub folder: ModelFolder,
    /// Which one it is.
    pub identity: ModelIdentity,
    /// Its architecture as it is fine-tuned: without computing on padding, which changes no result.
    pub config: ModelConfig,
    /// Said once: why the fused path cannot be used.
    reference_path: Once,
}

impl Start {
    /// The model in `path`: a run, a checkpoint, or a model folder.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`].
    pub fn open(path: &Path) -> Result<Start, Error> {
        let folder = ModelFolder::open(path, |error| eprintln!("{error}; trying the one before"))?;
        let config = ModelConfig { padding: Padding::Unpadded, ..folder.config.clone() };
        Ok(Start { identity: folder.identity(Vec::new())?, folder, config, reference_path: Once::new() })
    }

    /// Refuses examples the model cannot take: longer than its positions reach, pairs where it has one segment, or another
    /// tokenizer's ids.
    ///
    /// # Errors
    /// [`FinetuneError::Unfit`] or [`Error::Model`].
    pub fn check(&self, seq_len: usize, pairs: bool) -> Result<(), Error> {
        let unfit = |reason: String| {
            Err(Error::Finetune(FinetuneError::Unfit { path: self.folder.path.clone(), reason }))
        };
        let needed = i64::from(self.folder.tokenizer.info().vocab_size);
        if needed > self.config.vocab_size {
            let rows = self.config.vocab_size;
            return unfit(format!(
                "has embeddings for {rows} tokens and its tokenizer {needed}: it is a checkpoint of another vocabulary"
            ));
        }
        if pairs && self.config.type_vocab_size < 2 {
            return unfit("has one segment embedding; pairs of texts need two".to_owned());
        }
        Ok(self.config.check_seq_len(seq_len)?)
    }

    /// A classifier over the encoder, with a last map that is drawn from `seed`; so is the pooler where the encoder came
    /// without one. It computes on the fused path where that can be.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that does not fit.
    pub fn classifier(
        &self,
        num_labels: i64,
        seed: u64,
        device: Device,
        compute_kind: Kind,
    ) -> Result<SequenceClassifier, Error> {
        let mut tensors = self.folder.tensors()?;
        tensors.retain(|(name, _)| !name.starts_with(CLASSIFIER));
        let origin = self.folder.tensors_path().display().to_string();
        let head = Head::Classifier { num_labels };
        let (parameters, _) =
            Parameters::with_head(&self.config, head, tensors, &origin, seed, device, Kind::Float)?;
        let mut model =
            SequenceClassifier::from_parameters(&self.config, num_labels, parameters, compute_kind)?;
        if compute_kind == Kind::BFloat16
            && let Err(reason) = model.use_fused_path()
        {
            self.reference_path.call_once(|| {
                eprintln!("note: fine-tuning on the reference path, which is slower: {reason}");
            });
        }
        Ok(model)
    }

    /// The step of the run it is a checkpoint of, and the samples, tokens and seconds of training until then.
    pub fn progress(&self) -> Option<Progress> {
        match &self.folder.origin {
            Origin::Checkpoint(checkpoint) => {
                let state = &checkpoint.state;
                Some(Progress {
                    step: state.step,
                    samples: state.samples,
                    tokens: state.tokens,
                    elapsed_s: state.elapsed_s,
                })
            }
            Origin::Folder(_) => None,
        }
    }
}

/// How far a checkpoint's run had come.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
}
