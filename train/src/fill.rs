//! Filling in masked words, for a person to try a model.

use model::TokenBatch;
use serde::Serialize;
use tch::{Kind, no_grad_guard};

use crate::config::DeviceChoice;
use crate::device;
use crate::error::Error;
use crate::model_folder::ModelFolder;
use crate::text::Framed;

/// How a sentence names the word to be filled in.
pub const MASK: &str = "[MASK]";

/// What a model proposes for one sentence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filled {
    /// One entry for each masked word, in their order.
    pub masks: Vec<MaskedWord>,
}

/// What a model proposes for one masked word.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaskedWord {
    /// The likeliest tokens, likeliest first.
    pub candidates: Vec<Candidate>,
}

/// A token and how likely it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// As the tokenizer writes it: `##ing` continues a word.
    pub token: String,
    /// Its share of the probability of all tokens.
    pub probability: f64,
}

/// The `top` likeliest tokens for every `[MASK]` of every sentence. Each mask is filled on its own, with the others masked.
///
/// # Errors
/// [`Error::NoMask`] for a sentence without `[MASK]`, [`Error::Model`] for one longer than the model's positions reach,
/// [`Error::NoHead`] for a model that predicts no words.
pub fn fill(
    folder: &ModelFolder,
    sentences: &[String],
    top: usize,
    device: DeviceChoice,
) -> Result<Vec<Filled>, Error> {
    let info = folder.tokenizer.info();
    let mut framed = Framed::new(&folder.tokenizer)?;
    let (mut ids, mut ends, mut positions) = (Vec::new(), vec![0], Vec::new());
    let mut masks_of = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        let tokens = framed.encode(sentence)?;
        folder.config.check_seq_len(tokens.len())?;
        let start = ids.len();
        let masked = (start as i64..).zip(tokens).filter(|(_, id)| **id == info.special.mask as i32);
        let before = positions.len();
        positions.extend(masked.map(|(position, _)| position));
        masks_of.push(positions.len() - before);
        if positions.len() == before {
            return Err(Error::NoMask { sentence: sentence.clone() });
        }
        ids.extend_from_slice(tokens);
        ends.push(ids.len() as i32);
    }

    let device = device::choose(device)?;
    let model = folder.masked_lm(device, device::compute_kind(device))?;
    let _guard = no_grad_guard();
    let labels = vec![0; positions.len()];
    let batch = TokenBatch::from_host(&ids, &ends, &positions, &labels, device)?;
    let logits = model.logits(&batch)?.to_kind(Kind::Float); // [M, V]
    // Rows beyond the vocabulary stand for no token.
    let words = i64::from(info.vocab_size);
    let probabilities = logits.narrow(1, 0, words).softmax(-1, Kind::Float); // [M, words]
    let top = (top as i64).min(words);
    let (values, tokens) = probabilities.topk(top, -1, true, true); // [M, top] each
    let values = Vec::<f64>::try_from(values.flatten(0, -1).to_kind(Kind::Double))?;
    let tokens = Vec::<i64>::try_from(tokens.flatten(0, -1))?;

    let mut candidates =
        values.chunks(top as usize).zip(tokens.chunks(top as usize)).map(|(values, tokens)| {
            let candidates = tokens.iter().zip(values).map(|(&id, &probability)| {
                let token = u32::try_from(id).ok().and_then(|id| folder.tokenizer.token(id));
                // An id between those of the vocabulary that no token has.
                Candidate { token: token.unwrap_or_else(|| format!("[{id}]")), probability }
            });
            MaskedWord { candidates: candidates.collect() }
        });
    Ok(masks_of
        .into_iter()
        .map(|count| Filled { masks: candidates.by_ref().take(count).collect() })
        .collect())
}

impl Filled {
    /// The sentence with the likeliest token in the place of each mask.
    pub fn sentence(&self, sentence: &str) -> String {
        let mut text = sentence.to_owned();
        for mask in &self.masks {
            let Some(best) = mask.candidates.first() else { continue };
            text = match best.token.strip_prefix("##") {
                // It continues the word before it.
                Some(rest) => text.replacen(&format!(" {MASK}"), rest, 1),
                None => text.replacen(MASK, &best.token, 1),
            };
        }
        text
    }
}
