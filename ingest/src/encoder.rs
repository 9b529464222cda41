//! What turns text into ids: the fast WordPiece encoder where it can stand in, the `tokenizers` crate elsewhere.

use std::sync::{Mutex, PoisonError};

use loader::shard::Tokens;
use tokenizers::Tokenizer;

use crate::wordpiece::{FastEncoder, Unsupported};

/// Which encoder to use. Where both can be used they yield the same ids, so the choice is not part of an ingest's
/// identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncoderChoice {
    /// The fast one for tokenizers it supports in full, else the `tokenizers` crate.
    #[default]
    Auto,
    /// The fast one, or an error.
    Fast,
    /// The `tokenizers` crate.
    Tokenizers,
}

/// Turns text into token ids, without special tokens around it. One worker's own.
pub trait Encode: Send {
    /// Appends the ids of `text` to `ids`.
    ///
    /// # Errors
    /// The reason, when the tokenizer fails on this text.
    fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), String>;

    /// The same with ids of sixteen bits.
    ///
    /// # Errors
    /// As [`Self::encode`], and when an id is larger than that.
    fn encode_narrow(&mut self, text: &str, ids: &mut Vec<u16>) -> Result<(), String> {
        let mut wide = Vec::new();
        self.encode(text, &mut wide)?;
        let narrow = |id| u16::try_from(id).map_err(|_| format!("the id {id} is larger than {}", u16::MAX));
        ids.reserve(wide.len());
        wide.into_iter().try_for_each(|id| narrow(id).map(|id| ids.push(id)))
    }
}

/// The ids of a document, as wide as its shard has them.
#[derive(Debug)]
pub(crate) enum Ids {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl Ids {
    /// None yet, for a shard of `token_bytes` a token.
    pub(crate) fn new(token_bytes: u8) -> Self {
        if token_bytes == 2 { Self::U16(Vec::new()) } else { Self::U32(Vec::new()) }
    }

    /// Becomes those of `text`.
    pub(crate) fn encode(&mut self, encoder: &mut dyn Encode, text: &str) -> Result<(), String> {
        match self {
            Self::U16(ids) => {
                ids.clear();
                encoder.encode_narrow(text, ids)
            }
            Self::U32(ids) => {
                ids.clear();
                encoder.encode(text, ids)
            }
        }
    }

    pub(crate) fn tokens(&self) -> Tokens<'_> {
        match self {
            Self::U16(ids) => Tokens::U16(ids),
            Self::U32(ids) => Tokens::U32(ids),
        }
    }
}

/// The encoder of a run, from which each worker gets its own.
pub struct Encoder {
    kind: Kind,
    /// Those that were given back: their caches are warm.
    spare: Mutex<Vec<Box<dyn Encode>>>,
}

enum Kind {
    Fast(Box<FastEncoder>),
    Tokenizers { tokenizer: Box<Tokenizer>, because: Option<Unsupported> },
}

impl Encoder {
    /// The one for `tokenizer`, whose model has `tokens`.
    pub(crate) fn choose(
        tokenizer: &Tokenizer,
        tokens: &[(String, u32)],
        choice: EncoderChoice,
    ) -> Result<Self, Unsupported> {
        let reference = |because| Kind::Tokenizers { tokenizer: Box::new(tokenizer.clone()), because };
        let kind = if choice == EncoderChoice::Tokenizers {
            reference(None)
        } else {
            match FastEncoder::with_tokens(tokenizer, tokens) {
                Ok(fast) => Kind::Fast(Box::new(fast)),
                Err(because) if choice == EncoderChoice::Auto => reference(Some(because)),
                Err(because) => return Err(because),
            }
        };
        Ok(Self { kind, spare: Mutex::new(Vec::new()) })
    }

    /// One worker's encoder: one that was given back, or a new one.
    pub fn worker(&self) -> Box<dyn Encode> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| match &self.kind {
            Kind::Fast(fast) => Box::new(FastEncoder::clone(fast)),
            Kind::Tokenizers { tokenizer, .. } => Box::new(Reference(Tokenizer::clone(tokenizer))),
        })
    }

    /// Takes back an encoder of this run, for the next worker that needs one: what it has seen makes it faster and changes
    /// no id.
    pub(crate) fn give_back(&self, encoder: Box<dyn Encode>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
    }

    /// Time that a whole ingest takes for a byte of text over that of reading and encoding in a small sample. It also
    /// checksums and packs; but the fast encoder goes on learning words. Seen on C4.
    pub(crate) fn whole_over_sample(&self) -> f64 {
        match self.kind {
            Kind::Fast(_) => 0.8,
            Kind::Tokenizers { .. } => 1.05,
        }
    }

    /// Which one it is and, where the fast one had to step aside, why.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Fast(_) => "the fast WordPiece encoder".to_owned(),
            Kind::Tokenizers { because: None, .. } => "the tokenizers crate".to_owned(),
            Kind::Tokenizers { because: Some(because), .. } => format!("the tokenizers crate ({because})"),
        }
    }
}

impl Encode for FastEncoder {
    fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        FastEncoder::encode(self, text, ids);
        Ok(())
    }

    fn encode_narrow(&mut self, text: &str, ids: &mut Vec<u16>) -> Result<(), String> {
        FastEncoder::encode_narrow(self, text, ids)
            .ok_or_else(|| format!("the vocabulary has ids larger than {}", u16::MAX))
    }
}

/// The `tokenizers` crate: every kind of tokenizer, and what the fast encoder is compared with.
struct Reference(Tokenizer);

impl Encode for Reference {
    fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let encoding = self.0.encode_fast(text, false).map_err(|error| error.to_string())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}
