//! The pipeline proper on a piece of text without added tokens: normalise, cut into pre-tokens, WordPiece.
//!
//! ASCII goes through a table of 128 entries, anything else through [`super::normalize`].
//!
//! Pieces that are not in the cache are mostly more than a word ("self-explanatory", addresses, what stands in quotes).
//! Their ASCII words are looked up in the same cache as raw chunks: such a word holds no punctuation, is already in the case the normalizer
//! gives it and normalises to itself, so as a raw chunk it encodes to the same ids, provided no added token could be
//! found in it ([`Definition::words_are_chunks`]).

use super::cache::{Cache, Front, Key, MAX_KEY, Slot};
use super::classes::Class;
use super::definition::Definition;
use super::ids::{is_miss, pack, unpack};
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
    pub(super) fn push<const NARROW: bool>(
        &mut self,
        definition: &Definition,
        front: &Front,
        cache: &mut Cache,
        piece: &str,
        ids: &mut Vec<u32>,
    ) {
        if !piece.is_ascii() {
            return self.push_unicode(definition, piece, ids);
        }
        let word = &mut self.word;
        word.clear();
        let mut push_word = |word: &mut Vec<u8>, ids: &mut Vec<u32>| {
            // A word that is the whole piece was looked up already.
            if definition.words_are_chunks && word.len() < piece.len() && (1..=MAX_KEY).contains(&word.len())
            {
                push_cached::<NARROW>(definition, front, cache, word, ids);
            } else {
                definition.push_word(word, ids);
            }
            word.clear();
        };
        for &byte in piece.as_bytes() {
            // One test for what most characters are: what becomes of each cannot be foreseen well.
            let fate = definition.ascii[usize::from(byte)];
            if let Ascii::Word(byte) = fate {
                word.push(byte);
                continue;
            }
            if fate != Ascii::Deleted {
                push_word(word, ids);
            }
            if let Ascii::Punctuation(byte) = fate {
                match definition.marks[usize::from(byte)].checked_sub(1) {
                    Some(id) => ids.push(id),
                    None => definition.push_word(&[byte], ids),
                }
            }
        }
        push_word(word, ids);
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

fn push_cached<const NARROW: bool>(
    definition: &Definition,
    front: &Front,
    cache: &mut Cache,
    word: &[u8],
    ids: &mut Vec<u32>,
) {
    let key = Key::new(word);
    let slot = Slot::of(key);
    // Half of such words are in front; the others wait for memory.
    let known = front.get(slot, key);
    let known = if is_miss(&known) { cache.sets().get(slot, key) } else { Some(&known) };
    if let Some(value) = known {
        return unpack::<NARROW>(value, ids);
    }
    let before = ids.len();
    definition.push_word(word, ids);
    if let Some(value) = pack(&ids[before..], NARROW) {
        cache.insert(slot, key, value);
    }
}
