//! What turns text into ids: the fast WordPiece encoder where it can stand in, the `tokenizers` crate elsewhere.

use std::sync::{Mutex, PoisonError};

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
}

/// The encoder of a run, from which each worker gets its own.
pub struct Encoder {
    kind: Kind,
    /// One that was given back: its caches are warm.
    spare: Mutex<Option<Box<dyn Encode>>>,
}

enum Kind {
    Fast(Box<FastEncoder>),
    Tokenizers { tokenizer: Box<Tokenizer>, because: Option<Unsupported> },
}

impl Encoder {
    pub(crate) fn choose(tokenizer: &Tokenizer, choice: EncoderChoice) -> Result<Self, Unsupported> {
        let reference = |because| Kind::Tokenizers { tokenizer: Box::new(tokenizer.clone()), because };
        let kind = if choice == EncoderChoice::Tokenizers {
            reference(None)
        } else {
            match FastEncoder::from_tokenizer(tokenizer) {
                Ok(fast) => Kind::Fast(Box::new(fast)),
                Err(because) if choice == EncoderChoice::Auto => reference(Some(because)),
                Err(because) => return Err(because),
            }
        };
        Ok(Self { kind, spare: Mutex::new(None) })
    }

    /// One worker's encoder: the one that was given back, or a new one.
    pub fn worker(&self) -> Box<dyn Encode> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.unwrap_or_else(|| match &self.kind {
            Kind::Fast(fast) => Box::new(FastEncoder::clone(fast)),
            Kind::Tokenizers { tokenizer, .. } => Box::new(Reference(Tokenizer::clone(tokenizer))),
        })
    }

    /// Takes back an encoder of this run, for the next worker that needs one: what it has seen makes it faster and changes
    /// no id.
    pub(crate) fn give_back(&self, encoder: Box<dyn Encode>) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(encoder);
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
