//! Names of tensors: Hugging Face's, MosaicML's and JinaBERT's become those of [`model::ParameterSpec`].

use std::path::Path;

use tch::Tensor;

use crate::error::Error;

const WORDS: &str = "embeddings.word_embeddings.weight";

/// Whose tensors they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Hugging Face's BERT: three maps to queries, keys and values, learned positions.
    Bert,
    /// MosaicML's: one map; positions and feed-forward as told by the tensors.
    MosaicBert { learned: bool, gated: bool },
    /// JinaBERT: three maps, ALiBi, gated feed-forward.
    JinaBert,
}

/// Tensors by our names.
pub(super) struct Named {
    pub(super) layout: Layout,
    pub(super) tensors: Vec<(String, Tensor)>,
    /// What was left out, in sentences.
    pub(super) notes: Vec<String>,
}

impl Layout {
    /// In words.
    pub(super) fn description(self) -> &'static str {
        match self {
            Layout::Bert => "Hugging Face BERT",
            Layout::MosaicBert { .. } => "MosaicBERT",
            Layout::JinaBert => "JinaBERT",
        }
    }

    fn of(tensors: &[(String, Tensor)]) -> Layout {
        let has = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
        let (gated, learned) = (has(".mlp.gated_layers."), has("embeddings.position_embeddings."));
        match (has(".attention.self.Wqkv."), gated && !learned) {
            (true, _) => Layout::MosaicBert { learned, gated },
            (false, true) => Layout::JinaBert,
            (false, false) => Layout::Bert,
        }
    }
}

/// Translates all names; parts that pretraining of this kind does not have are left out.
///
/// # Errors
/// [`Error::Import`] when there is no word embedding, or a decoder that is not tied to it.
pub(super) fn translate(from: &Path, tensors: Vec<(String, Tensor)>) -> Result<Named, Error> {
    let refuse = |reason: String| Error::Import { path: from.to_owned(), reason };
    let Some(prefix) = tensors.iter().find_map(|(name, _)| name.strip_suffix(WORDS)).map(str::to_owned)
    else {
        return Err(refuse(format!(
            "none of its {} tensors is called {WORDS}: it is no BERT",
            tensors.len()
        )));
    };
    // Around the whole model there may be another module, such as Composer's.
    let outer = prefix.strip_suffix("bert.").unwrap_or(&prefix).to_owned();
    let mut notes = Vec::new();
    let mut named: Vec<(String, Tensor)> = Vec::new();
    let mut left_out = Vec::new();
    let (mut decoder, mut biases) = (None, Vec::new());
    for (name, tensor) in tensors {
        let inner = name.strip_prefix(&outer).unwrap_or(&name);
        let inner = match ["embeddings.", "encoder.", "pooler."].iter().any(|part| inner.starts_with(part)) {
            true => format!("bert.{inner}"),
            false => inner.to_owned(),
        };
        // TensorFlow's names of LayerNorm's parameters, in the oldest checkpoints.
        let inner =
            inner.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias");
        match inner.as_str() {
            // Counters from 0 on, which some versions stored.
            "bert.embeddings.position_ids" | "bert.embeddings.token_type_ids" => {}
            "cls.predictions.decoder.weight" => decoder = Some(tensor),
            "cls.predictions.bias" | "cls.predictions.decoder.bias" => biases.push(tensor),
            _ if inner.starts_with("cls.seq_relationship.") => left_out.push(inner),
            _ => named.push((inner, tensor)),
        }
    }
    let layout = Layout::of(&named);
    let words = named.iter().find(|(name, _)| *name == format!("bert.{WORDS}"));
    if let (Some(decoder), Some((_, words))) = (&decoder, words)
        && !decoder.equal(words)
    {
        let reason = "cls.predictions.decoder.weight is not its word embedding; only models that tie the two can be used";
        return Err(refuse(reason.to_owned()));
    }
    if let Some(bias) = biases.pop() {
        named.push(("cls.predictions.bias".to_owned(), bias));
    }
    if !left_out.is_empty() {
        notes.push(format!("The head of next-sentence prediction ({}) was left out.", left_out.join(", ")));
    }
    match layout {
        Layout::JinaBert => fuse(&mut named, from)?,
        // With learned positions our attention has three maps, as Hugging Face's.
        Layout::MosaicBert { learned: true, .. } => split(&mut named),
        _ => {}
    }
    if !matches!(layout, Layout::Bert | Layout::MosaicBert { learned: true, .. }) {
        for (name, _) in &mut named {
            if name == "cls.predictions.bias" {
                *name = "cls.predictions.decoder.bias".to_owned();
            }
        }
    }
    Ok(Named { layout, tensors: named, notes })
}

/// Three maps become one: `[D, D]` each, `[3·D, D]` together, queries first.
fn fuse(tensors: &mut Vec<(String, Tensor)>, from: &Path) -> Result<(), Error> {
    let mut take = |name: &str| {
        let at = tensors.iter().position(|(have, _)| have == name);
        at.map(|at| tensors.swap_remove(at).1)
    };
    let mut fused = Vec::new();
    for layer in 0.. {
        let attention = format!("bert.encoder.layer.{layer}.attention.self");
        let mut found = 0;
        for part in ["weight", "bias"] {
            let parts = ["query", "key", "value"].map(|map| take(&format!("{attention}.{map}.{part}")));
            if let [Some(query), Some(key), Some(value)] = parts {
                fused.push((format!("{attention}.Wqkv.{part}"), Tensor::cat(&[query, key, value], 0)));
                found += 1;
            }
        }
        match found {
            0 => break,
            2 => {}
            _ => {
                let reason = format!("{attention} has no query, key and value with weight and bias");
                return Err(Error::Import { path: from.to_owned(), reason });
            }
        }
    }
    tensors.append(&mut fused);
    Ok(())
}

/// One map becomes three.
fn split(tensors: &mut Vec<(String, Tensor)>) {
    let (fused, mut rest): (Vec<_>, Vec<_>) =
        std::mem::take(tensors).into_iter().partition(|(name, _)| name.contains(".attention.self.Wqkv."));
    for (name, tensor) in fused {
        for (map, part) in ["query", "key", "value"].into_iter().zip(tensor.chunk(3, 0)) {
            rest.push((name.replace("Wqkv", map), part));
        }
    }
    *tensors = rest;
}
