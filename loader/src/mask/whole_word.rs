//! Whole-word masking: all tokens of a word are chosen or none, as in the BERT models of that name and Hugging Face's
//! `DataCollatorForWholeWordMask`. Words are chosen with the same probability each, so the same fraction of tokens is
//! predicted on average; what becomes of each chosen token is decided by itself, 80/10/10 as ever.
//!
//! A word is a token and the continuations that follow it: in WordPiece those that begin with `##`. The word's first token
//! decides with its own random word, as it does when tokens are masked one by one, so text without continuations is masked
//! the same both ways.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::corpus::Corpus;
use crate::error::Error;
use crate::philox::LANES;

/// The ids that continue a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuations {
    /// A bit for each id.
    bits: Arc<[u64]>,
}

/// What is read of a `tokenizer.json`.
#[derive(Deserialize)]
struct TokenizerFile {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default = "double_hash")]
    continuing_subword_prefix: String,
    #[serde(default)]
    vocab: Vocabulary,
}

fn double_hash() -> String {
    "##".to_owned()
}

/// Tokens and ids of a WordPiece model, or what another model has in their place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Ids(HashMap<String, u32>),
    Other(IgnoredAny),
}

impl Default for Vocabulary {
    fn default() -> Self {
        Vocabulary::Other(IgnoredAny)
    }
}

impl Continuations {
    /// Those of a corpus's tokenizer.
    ///
    /// # Errors
    /// [`Error::NoWords`] when it is not a WordPiece tokenizer, which does not say what continues a word.
    pub fn of(corpus: &Corpus) -> Result<Self, Error> {
        let no_words = |reason: String| Error::NoWords { file: corpus.tokenizer().file.clone(), reason };
        let file: TokenizerFile =
            serde_json::from_slice(corpus.tokenizer_json()).map_err(|error| no_words(error.to_string()))?;
        let Model { kind, continuing_subword_prefix: prefix, vocab } = file.model;
        let Vocabulary::Ids(vocabulary) = vocab else {
            return Err(no_words(format!("its model is of type {kind:?}")));
        };
        if kind != "WordPiece" {
            return Err(no_words(format!("its model is of type {kind:?}")));
        }
        let ids =
            vocabulary.iter().filter(|(token, _)| token.len() > prefix.len() && token.starts_with(&prefix));
        Ok(Self::from_ids(ids.map(|(_, id)| *id), corpus.tokenizer().vocab_size))
    }

    /// The given ids, of a vocabulary of `vocab_size`; those outside it are left out.
    pub fn from_ids(ids: impl IntoIterator<Item = u32>, vocab_size: u32) -> Self {
        let mut bits = vec![0u64; vocab_size.div_ceil(64) as usize];
        ids.into_iter().filter(|id| *id < vocab_size).for_each(|id| bits[id as usize / 64] |= 1 << (id % 64));
        Self { bits: bits.into() }
    }

    /// Whether an id continues a word.
    #[inline]
    pub fn contains(&self, id: u32) -> bool {
        self.bits.get(id as usize / 64).is_some_and(|bits| bits >> (id % 64) & 1 == 1)
    }
}

/// Calls `each` with the index of every token, the token, and, if it is chosen, the random word that says what becomes of
/// it. Gives the largest token.
#[inline(always)]
fn walk<T: Copy + Into<u32>>(
    continuations: &Continuations,
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
    mut each: impl FnMut(usize, u32, Option<i32>),
) -> u32 {
    let (mut largest, mut word_chosen, mut after_special) = (0, false, true);
    for (index, text) in text.chunks(CHUNK).enumerate() {
        let words = rule.key.mask_words((index * LANES) as u32, counter);
        for (at, (token, word)) in text.iter().zip(words).enumerate() {
            let (token, word): (u32, i32) = ((*token).into(), word as i32);
            largest = largest.max(token);
            let special = rule.is_special(token);
            // What follows nothing or a special token begins a word, also the rest of one that was cut.
            let fate = if special {
                None
            } else if after_special || !continuations.contains(token) {
                word_chosen = word <= draw.chosen_last;
                word_chosen.then_some(word)
            } else {
                // Its own random word has not been used for a choice: spread over those that choose, it is as good as one.
                word_chosen.then(|| draw.among_choosing(word))
            };
            after_special = special;
            each(index * CHUNK + at, token, fate);
        }
    }
    largest
}

/// Masks a sample, see [`Masker::mask`](super::Masker::mask).
pub(super) fn mask<T: Copy + Into<u32>>(
    continuations: &Continuations,
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
    first: usize,
    room: Room<'_>,
) -> Masked {
    let Room { ids, positions, labels } = room;
    let mut chosen = 0;
    let largest = walk(continuations, rule, draw, counter, text, |at, token, fate| {
        ids[at] = match fate {
            Some(word) if word <= draw.mask_last => rule.mask as i32,
            Some(word) if word <= draw.random_last => draw.replacement(word) as i32,
            _ => token as i32,
        };
        if fate.is_some() {
            positions[chosen] = (first + at) as i32;
            labels[chosen] = token as i32;
            chosen += 1;
        }
    });
    Masked { chosen, largest }
}

/// Counts what [`mask`] would choose.
pub(super) fn count<T: Copy + Into<u32>>(
    continuations: &Continuations,
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
) -> Masked {
    let mut chosen = 0;
    let largest =
        walk(continuations, rule, draw, counter, text, |_, _, fate| chosen += usize::from(fate.is_some()));
    Masked { chosen, largest }
}
