//! The pipeline proper on a piece of text without added tokens: normalise, cut into pre-tokens, WordPiece.
//!
//! ASCII goes through a table of 128 entries, anything else through [`super::normalize`].

use super::classes::Class;
use super::definition::Definition;
use super::normalize::Ascii;

/// Buffers that keep their capacity from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    word: Vec<u8>,
    run: String,
    normalized: String,
}

impl Pieces {
    /// Appends the ids of `piece` to `ids`.
    pub(super) fn push(&mut self, definition: &Definition, piece: &str, ids: &mut Vec<u32>) {
        if !piece.is_ascii() {
            return self.push_unicode(definition, piece, ids);
        }
        let word = &mut self.word;
        word.clear();
        for &byte in piece.as_bytes() {
            // One test for what most characters are: what becomes of each cannot be foreseen well.
            let fate = definition.ascii[usize::from(byte)];
            if let Ascii::Word(byte) = fate {
                word.push(byte);
                continue;
            }
            if fate != Ascii::Deleted {
                definition.push_word(word, ids);
                word.clear();
            }
            if let Ascii::Punctuation(byte) = fate {
                definition.push_word(&[byte], ids);
            }
        }
        definition.push_word(word, ids);
    }

    fn push_unicode(&mut self, definition: &Definition, piece: &str, ids: &mut Vec<u32>) {
        let Pieces { run, normalized, .. } = self;
        normalized.clear();
        definition.normalizer.push(piece, run, normalized);
        let bytes = normalized.as_bytes();
        let mut start = 0;
        for (at, c) in normalized.char_indices() {
            let class = Class::of(c);
            if class.is(Class::SPACE.or(Class::PUNCTUATION)) {
                definition.push_word(&bytes[start..at], ids);
                start = at + c.len_utf8();
                if !class.is(Class::SPACE) {
                    definition.push_word(&bytes[at..start], ids);
                }
            }
        }
        definition.push_word(&bytes[start..], ids);
    }
}
