//! Models of others: Hugging Face's BERT and MosaicBERT become a model folder.
//!
//! What a folder holds is told by its tensors, not by its name: `query`, `key` and `value` are Hugging Face's BERT, `Wqkv`
//! is MosaicBERT, three maps with ALiBi are JinaBERT. Their names become MosaicML's ([`names`]), `config.json` becomes a
//! [`ModelConfig`] ([`config`]), the vocabulary's rows are filled up to a multiple of 64 ([`vocabulary`]), and
//! `vocab.txt` becomes a `tokenizer.json` where there is none ([`tokenizer`]).

mod config;
mod names;
mod tokenizer;
mod vocabulary;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ingest::TokenizerFile;
use model::tensor_file::TensorFile;
use model::{Head, ModelConfig, Parameters};
use tch::{Device, Kind, Tensor};

use crate::error::Error;
use crate::model_folder::{ModelFolder, ModelProvenance, has_masked_lm_head, num_labels};

const TENSORS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files that hold tensors as Python objects. Reading one runs whatever it says, so they are not read.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// A tensor and its name.
type Entry = (String, Tensor);

/// What an import came to.
#[derive(Debug)]
pub struct Imported {
    /// What it was, in words.
    pub source: String,
    /// The architecture.
    pub config: ModelConfig,
    /// What was changed on the way, in sentences.
    pub notes: Vec<String>,
}

/// Makes the model folder `out` of the model in `from`. `tokenizer` is used in place of the tokenizer that lies there.
///
/// # Errors
/// [`Error::Import`] for what cannot be imported, [`Error::Model`] for tensors that do not fit their configuration.
/// Nothing is left at `out` then.
pub fn import(from: &Path, out: &Path, tokenizer: Option<&Path>) -> Result<Imported, Error> {
    let (files, tensors) = read_tensors(from)?;
    let named = names::translate(from, tensors)?;
    let mut notes = named.notes;
    let json = config::read(from)?;
    let layout = named.layout;
    let mut config = config::of(from, &json, layout)?;
    let tokenizer = tokenizer::find(from, tokenizer)?;

    let mut tensors = named.tensors;
    vocabulary::fill_up(from, &mut config, &tokenizer, &mut tensors, &mut notes)?;
    let parameters = check(from, &config, &tensors)?;
    if !has_masked_lm_head(&tensors) {
        notes.push(
            "It has no masked-LM head: where it is pretrained on (--init-from), the head begins fresh."
                .to_owned(),
        );
    }
    let source = layout.description().to_owned();
    let provenance = ModelProvenance::now(&source, from, &files, notes.clone())?;
    let entries = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor));
    ModelFolder::write(out, &config, tokenizer.bytes(), entries, &provenance)?;
    Ok(Imported { source, config, notes })
}

/// Reads all tensors of a folder; also returns the files they came from.
fn read_tensors(from: &Path) -> Result<(Vec<PathBuf>, Vec<Entry>), Error> {
    let refuse = |reason: String| Err(Error::Import { path: from.to_owned(), reason });
    if !from.is_dir() {
        return refuse("it is not a folder; give the one with config.json and model.safetensors".to_owned());
    }
    let files: Vec<PathBuf> = if from.join(TENSORS).exists() {
        vec![from.join(TENSORS)]
    } else if from.join(INDEX).exists() {
        let path = from.join(INDEX);
        let text = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let index: serde_json::Value =
            serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.clone(), source })?;
        let map = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
        let names: BTreeSet<&str> = map.filter_map(|name| name.as_str()).collect();
        // A name with a folder in it could lead anywhere.
        if names.is_empty() || names.iter().any(|name| name.contains('/')) {
            return refuse(format!("{INDEX} has no weight_map of files beside it"));
        }
        names.iter().map(|name| from.join(name)).collect()
    } else {
        let pickle = PICKLES.iter().copied().find(|name| from.join(name).exists());
        let other = || {
            let entries = fs::read_dir(from).ok()?.flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .find(|name| name.ends_with(".pt") || name.ends_with(".bin") || name.ends_with(".pth"))
        };
        return match pickle.map(str::to_owned).or_else(other) {
            Some(name) => refuse(convert(&name)),
            None => refuse(format!("it has no {TENSORS}")),
        };
    };
    let mut tensors = Vec::new();
    for file in &files {
        tensors.extend(TensorFile::read(file)?.tensors);
    }
    Ok((files, tensors))
}

/// How a file of pickled tensors becomes one that is data and nothing else.
fn convert(name: &str) -> String {
    format!(
        "its tensors are in {name}, a Python pickle, which may run anything when it is read. Convert it there once:\n  \
         python -c \"import torch, safetensors.torch as s; d = torch.load('{name}', map_location='cpu', \
         weights_only=True); d = d['state']['model'] if 'state' in d else d; s.save_file({{k: v.clone().contiguous() for \
         k, v in d.items()}}, '{TENSORS}')\""
    )
}

/// Refuses tensors that are not an encoder of `config` and known heads; returns them in float32.
fn check(
    from: &Path,
    config: &ModelConfig,
    tensors: &[(String, Tensor)],
) -> Result<Vec<(String, Tensor)>, Error> {
    let origin = from.display().to_string();
    let mut found: Vec<(String, Tensor)> = Vec::new();
    let mut heads = Vec::new();
    if has_masked_lm_head(tensors) {
        heads.push(Head::MaskedLm);
    }
    heads.push(Head::Classifier { num_labels: num_labels(tensors).unwrap_or(1) });
    for head in heads {
        let copy = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        let (parameters, fresh) =
            Parameters::with_head(config, head, copy, &origin, 0, Device::Cpu, Kind::Float)?;
        for (name, tensor) in parameters.iter() {
            let read = !fresh.iter().any(|fresh| fresh == name);
            if read && !found.iter().any(|(have, _)| have == name) {
                found.push((name.to_owned(), tensor.detach()));
            }
        }
    }
    // A head that is not whole, or whose shape is another than the encoder's, is no head.
    if let Some((name, tensor)) = tensors.iter().find(|(name, _)| !found.iter().any(|(have, _)| have == name))
    {
        let reason = format!(
            "tensor {name} of shape {:?} does not fit a model of hidden_size {} and vocab_size {}",
            tensor.size(),
            config.hidden_size,
            config.vocab_size
        );
        return Err(Error::Import { path: from.to_owned(), reason });
    }
    Ok(found)
}

/// The tokenizer's content, for a message about a file of it.
pub(crate) fn tokens_of(tokenizer: &TokenizerFile) -> i64 {
    i64::from(tokenizer.info().vocab_size)
}
