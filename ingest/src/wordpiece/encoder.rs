//! The encoder: text to raw chunks, chunks to ids through the cache, a window of text at a time.
//!
//! A window goes through two stages. *Gather* ([`super::gather`]) gives each of its chunks a key, looks it up in the small
//! front table and puts its ids behind those of the chunks before; a chunk that is not in front leaves a gap, and the cache
//! is asked for its set. *Emit* looks into those sets, copies the ids to their destination and fills the gaps: from the sets
//! or, for the few chunks that are not known, from the vocabulary ([`super::plain`], else [`super::pieces`]).
//!
//! Two liberties make many chunks share an entry, which raises the share of lookups that stay in the processor's own
//! caches (the 16,384 most frequent keys cover 91 % of web text instead of 86 %):
//!
//! - *One ASCII punctuation mark at the end* of a longer chunk is cut off and its id put behind ("word," is "word"
//!   and ","). It is a pre-token by itself, takes no part in NFD and changes no neighbour, so only an added token
//!   could reach across the cut; marks that end an added token stay on.
//! - *ASCII letters are lower-cased in the key* where the normalizer lower-cases. They neither decompose nor combine,
//!   so nothing before lower-casing tells "A" from "a", but for added tokens: a chunk that contains one, in whatever
//!   case, is never put into the cache.

use std::sync::Arc;

use tokenizers::Tokenizer;

use super::batch::Chunk;
use super::cache::{Cache, Key, Slot};
use super::definition::{Definition, Unsupported};
use super::gather::{Gathered, Gatherer, Tables};
use super::ids::{Id, is_miss, pack};
use super::pieces::Pieces;
use super::plain::Plain;
use super::split::{WINDOW, is_separator};
use crate::tokenizer::{load, tokens};

/// Encodes text exactly as the `tokenizers` crate does, for definitions made of BertNormalizer, BertPreTokenizer and
/// WordPiece. One per worker: encoding writes to its caches.
///
/// ```no_run
/// # use ingest::wordpiece::FastEncoder;
/// let mut encoder = FastEncoder::from_tokenizer_json(&std::fs::read("tokenizer.json")?)?;
/// let mut ids = Vec::new();
/// encoder.encode("Hello, world", &mut ids);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FastEncoder {
    known: Known,
    gatherer: Gatherer,
}

/// What is known of the text's language: its definition, and what of it was seen.
#[derive(Debug)]
struct Known {
    definition: Arc<Definition>,
    cache: Cache,
    pieces: Pieces,
    /// Ids of a word or a chunk on their way.
    word: Vec<u32>,
}

/// A new encoder for the same definition, its cache empty. The definition is shared.
impl Clone for FastEncoder {
    fn clone(&self) -> FastEncoder {
        FastEncoder::new(Arc::clone(&self.known.definition))
    }
}

impl FastEncoder {
    /// An encoder for the definition in a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] says which part of the definition this encoder does not handle.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<FastEncoder, Unsupported> {
        let tokenizer = load(json).map_err(|error| Unsupported::Unreadable(error.to_string()))?;
        FastEncoder::from_tokenizer(&tokenizer)
    }

    /// An encoder that does what `tokenizer` does now, its settings included.
    ///
    /// # Errors
    ///
    /// As [`Self::from_tokenizer_json`].
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<FastEncoder, Unsupported> {
        FastEncoder::with_tokens(tokenizer, &tokens(tokenizer.get_model()))
    }

    /// The same, where the tokens of its model are at hand.
    pub(crate) fn with_tokens(
        tokenizer: &Tokenizer,
        tokens: &[(String, u32)],
    ) -> Result<FastEncoder, Unsupported> {
        Ok(FastEncoder::new(Arc::new(Definition::new(tokenizer, tokens)?)))
    }

    fn new(definition: Arc<Definition>) -> FastEncoder {
        let gatherer = Gatherer::new(&definition.marks);
        FastEncoder {
            known: Known { definition, cache: Cache::new(), pieces: Pieces::default(), word: Vec::new() },
            gatherer,
        }
    }

    /// Appends the ids of `text` to `ids`, without special tokens around them. Memory beyond `ids` grows with the
    /// longest stretch of `text` without white space, not with the text.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) {
        if self.known.definition.narrow {
            self.encode_as::<true, u32>(text, ids);
        } else {
            self.encode_as::<false, u32>(text, ids);
        }
    }

    /// The same with ids of sixteen bits, if all ids of the definition are so narrow; else nothing is done.
    pub fn encode_narrow(&mut self, text: &str, ids: &mut Vec<u16>) -> Option<()> {
        self.known.definition.narrow.then(|| self.encode_as::<true, u16>(text, ids))
    }

    fn encode_as<const NARROW: bool, I: Id>(&mut self, text: &str, ids: &mut Vec<I>) {
        let FastEncoder { known, gatherer } = self;
        let tables = gatherer.tables();
        let mut rest = text;
        loop {
            let ends = rest.len() <= WINDOW;
            let bytes = rest.as_bytes();
            tables.window.fill(&bytes[..bytes.len().min(WINDOW)], known.definition.case, ends);
            let gathered = tables.gather::<NARROW>(known.cache.sets());
            known.emit::<NARROW, I>(rest, tables, gathered, ids);
            if ends {
                return;
            }
            let mut start = gathered.rest as usize;
            if start == 0 {
                // A chunk longer than a window.
                let separator = bytes[WINDOW..].iter().position(|&byte| is_separator(byte));
                let end = WINDOW + separator.unwrap_or(bytes.len() - WINDOW);
                let slot = Slot::of(Key::NONE);
                let word = known.encode::<NARROW>(&rest[..end], slot, Key::NONE);
                ids.extend(word.iter().map(|&id| I::of(id)));
                start = (end + 1).min(bytes.len());
            }
            rest = &rest[start..];
        }
    }
}

impl Known {
    /// Appends the staged ids to `ids`, and where there is a gap those of the chunk. The window lies at the start of `text`.
    #[inline(never)]
    fn emit<const NARROW: bool, I: Id>(
        &mut self,
        text: &str,
        tables: &mut Tables,
        gathered: Gathered,
        ids: &mut Vec<I>,
    ) {
        tables.look_up_gaps(gathered, self.cache.sets());
        let (mut copied, mut len) = (0, 0);
        for at in 0..gathered.gaps as usize {
            let (gap, value) = (tables.gaps[at], tables.values[at]);
            len = tables.emitted.copy(len, &tables.staged, copied..gap.staged);
            copied = gap.staged;
            len = tables.emitted.push::<NARROW>(len, &value);
            if is_miss(&value) {
                let Known { definition, cache, word, .. } = self;
                let Chunk { slot, start, len: bytes } = gap.chunk;
                let key = tables.key(start, bytes);
                // It may have come along for the first time a moment ago.
                let known = cache.sets().get(slot, key);
                if !is_miss(&known) {
                    len = tables.emitted.push::<NARROW>(len, &known);
                    continue;
                }
                let mut plain = Plain { definition, cache, tables, ids: word };
                len = plain.push::<NARROW>(gap.chunk, key, len).unwrap_or_else(|| {
                    let chunk = &text[usize::from(start)..usize::from(start) + usize::from(bytes)];
                    tables.emitted.push_ids::<NARROW>(len, self.encode::<NARROW>(chunk, slot, key))
                });
            }
        }
        len = tables.emitted.copy(len, &tables.staged, copied..gathered.staged);
        tables.emitted.append::<NARROW, I>(len, ids);
    }

    /// Encodes a chunk that is not in the cache, and not plain or too long, and puts it there if it fits. Returns its ids.
    #[cold]
    #[inline(never)]
    fn encode<const NARROW: bool>(&mut self, chunk: &str, slot: Slot, key: Key) -> &[u32] {
        let Known { definition, cache, pieces, word: ids } = self;
        ids.clear();
        let mut rest = chunk;
        while let Some((start, end, id)) = definition.find_added(rest) {
            pieces.push(definition, &rest[..start], ids);
            ids.push(id);
            rest = &rest[end..];
        }
        pieces.push(definition, rest, ids);
        if key != Key::NONE
            && let Some(value) = pack(ids, NARROW)
            && !(definition.case != 0 && definition.has_added_in_any_case(chunk))
        {
            cache.insert(slot, key, value);
        }
        ids
    }
}
