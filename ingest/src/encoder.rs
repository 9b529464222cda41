//! What turns text into ids: the fast WordPiece encoder where it can stand in, the `tokenizers` crate elsewhere.

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
pub struct Encoder(Kind);

enum Kind {
    Fast(Box<FastEncoder>),
    Tokenizers { tokenizer: Box<Tokenizer>, because: Option<Unsupported> },
}

impl Encoder {
    pub(crate) fn choose(tokenizer: &Tokenizer, choice: EncoderChoice) -> Result<Self, Unsupported> {
        let reference = |because| Self(Kind::Tokenizers { tokenizer: Box::new(tokenizer.clone()), because });
        if choice == EncoderChoice::Tokenizers {
            return Ok(reference(None));
        }
        match FastEncoder::from_tokenizer(tokenizer) {
            Ok(fast) => Ok(Self(Kind::Fast(Box::new(fast)))),
            Err(because) if choice == EncoderChoice::Auto => Ok(reference(Some(because))),
            Err(because) => Err(because),
        }
    }

    /// One worker's encoder.
    pub fn worker(&self) -> Box<dyn Encode> {
        match &self.0 {
            Kind::Fast(fast) => Box::new(FastEncoder::clone(fast)),
            Kind::Tokenizers { tokenizer, .. } => Box::new(Reference(Tokenizer::clone(tokenizer))),
        }
    }

    /// Which one it is and, where the fast one had to step aside, why.
    pub fn describe(&self) -> String {
        match &self.0 {
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
