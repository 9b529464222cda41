//! Plain chunks that are not in the cache: ASCII letters and digits with punctuation marks between.
//!
//! Most are more than a word ("self-explanatory", addresses, what stands in quotes). Their words are looked up in the same
//! cache as raw chunks: such a word holds no punctuation, is already in the case the normalizer gives it and normalises to
//! itself, so as a raw chunk it encodes to the same ids. No added token can be found in such a chunk
//! ([`Definition::plain`](super::definition::Definition::plain)).

use super::batch::Chunk;
use super::cache::{Cache, Key, MAX_KEY, Slot};
use super::definition::Definition;
use super::gather::Tables;
use super::ids::{is_miss, pack};
use super::split::places;

/// Bytes of the longest chunk that is looked at here.
const MAX_BYTES: usize = 32;

/// What it takes to encode them.
pub(super) struct Plain<'a> {
    pub(super) definition: &'a Definition,
    pub(super) cache: &'a mut Cache,
    pub(super) tables: &'a mut Tables,
    /// Of a word, while it is looked for in the vocabulary.
    pub(super) ids: &'a mut Vec<u32>,
}

impl Plain<'_> {
    /// Puts the ids of `chunk`, whose key is `key`, behind the first `len` emitted fields, and the chunk into the cache
    /// if it fits. Returns how many fields there are then, or nothing if the chunk is not plain.
    #[inline(never)]
    pub(super) fn push<const NARROW: bool>(&mut self, chunk: Chunk, key: Key, len: u32) -> Option<u32> {
        let Chunk { slot, start, len: bytes } = chunk;
        let bytes = usize::from(bytes);
        if bytes > MAX_BYTES || !self.definition.plain {
            return None;
        }
        let block: [u8; MAX_BYTES] = *self.tables.window.load(start);
        // Words end at these places, and at the end of the chunk.
        let mut ends = places(&block, |byte| !byte.is_ascii_alphanumeric()) | 1 << bytes;
        let (mut from, mut filled) = (0, len);
        loop {
            let until = ends.trailing_zeros() as usize;
            let word = &block[from..until];
            if word.len() == bytes {
                // It was just looked up.
                filled = self.push_unknown::<NARROW>(word, None, filled);
            } else if !word.is_empty() {
                filled = self.push_word::<NARROW>(start + from as u16, word, filled);
            }
            if until == bytes {
                break;
            }
            let mark = self.definition.marks[usize::from(block[until])];
            if mark == 0 {
                return None;
            }
            filled = self.tables.emitted.push_mark::<NARROW>(filled, mark);
            ends &= ends - 1;
            from = until + 1;
        }
        if bytes <= MAX_KEY
            && let Some(value) = self.tables.emitted.value::<NARROW>(len..filled)
        {
            self.cache.insert(slot, key, value);
        }
        Some(filled)
    }

    /// Puts the ids of `word`, which starts at `start` of the window, behind the first `len` emitted fields.
    #[inline(always)]
    fn push_word<const NARROW: bool>(&mut self, start: u16, word: &[u8], len: u32) -> u32 {
        let key = self.tables.key(start, word.len() as u16);
        if key == Key::NONE {
            return self.push_unknown::<NARROW>(word, None, len);
        }
        let slot = Slot::of(key);
        // Half of such words are in front; the others wait for memory.
        let mut known = self.tables.front.get(slot, key);
        if is_miss(&known) {
            known = self.cache.sets().get(slot, key);
        }
        if is_miss(&known) {
            return self.push_unknown::<NARROW>(word, Some((slot, key)), len);
        }
        self.tables.emitted.push::<NARROW>(len, &known)
    }

    /// The same for a word that is not in the cache, where it belongs to `place`.
    fn push_unknown<const NARROW: bool>(&mut self, word: &[u8], place: Option<(Slot, Key)>, len: u32) -> u32 {
        let Self { definition, cache, tables, ids } = self;
        ids.clear();
        definition.push_word(word, ids);
        let Some(value) = pack(ids, NARROW) else { return tables.emitted.push_ids::<NARROW>(len, ids) };
        if let Some((slot, key)) = place {
            cache.insert(slot, key, value);
        }
        tables.emitted.push::<NARROW>(len, &value)
    }
}
