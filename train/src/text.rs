//! Text as a model reads it: `[CLS]`, the tokens, `[SEP]`.

use ingest::{Encode, EncoderChoice, TokenizerFile};

use crate::error::Error;

/// Turns text into framed token ids.
pub struct Framed {
    name: String,
    encoder: Box<dyn Encode>,
    cls: i32,
    sep: i32,
    raw: Vec<u32>,
    ids: Vec<i32>,
}

impl Framed {
    /// For a model's tokenizer.
    ///
    /// # Errors
    /// [`Error::Ingest`] when it cannot encode.
    pub fn new(tokenizer: &TokenizerFile) -> Result<Framed, Error> {
        let special = tokenizer.info().special;
        Ok(Framed {
            name: tokenizer.name().to_owned(),
            encoder: tokenizer.encoder(EncoderChoice::Auto)?.worker(),
            cls: special.cls as i32,
            sep: special.sep as i32,
            raw: Vec::new(),
            ids: Vec::new(),
        })
    }

    /// The ids of `text`, framed.
    ///
    /// # Errors
    /// [`Error::Encode`] when the tokenizer fails on this text.
    pub fn encode(&mut self, text: &str) -> Result<&[i32], Error> {
        self.encode_at_most(text, usize::MAX).map(|(ids, _)| ids)
    }

    /// The ids of `text`, framed and cut to `max_tokens` (at least 2), `[SEP]` kept; and whether something was cut.
    ///
    /// # Errors
    /// [`Error::Encode`] when the tokenizer fails on this text.
    pub fn encode_at_most(&mut self, text: &str, max_tokens: usize) -> Result<(&[i32], bool), Error> {
        self.raw.clear();
        let failed = |reason| Error::Encode { tokenizer: self.name.clone(), reason };
        self.encoder.encode(text, &mut self.raw).map_err(failed)?;
        let kept = self.raw.len().min(max_tokens.saturating_sub(2));
        self.ids.clear();
        self.ids.push(self.cls);
        self.ids.extend(self.raw[..kept].iter().map(|&id| id as i32));
        self.ids.push(self.sep);
        Ok((&self.ids, kept < self.raw.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_framed_and_cut_from_behind() {
        let mut framed = Framed::new(&TokenizerFile::bundled().unwrap()).unwrap();
        // The ids of bert-base-uncased.
        assert_eq!(framed.encode("paris is [MASK]").unwrap(), [101, 3000, 2003, 103, 102]);
        assert_eq!(framed.encode("").unwrap(), [101, 102]);
        assert_eq!(
            framed.encode_at_most("paris is [MASK]", 4).unwrap(),
            ([101, 3000, 2003, 102].as_slice(), true)
        );
        assert_eq!(framed.encode_at_most("paris is", 4).unwrap(), ([101, 3000, 2003, 102].as_slice(), false));
    }
}
