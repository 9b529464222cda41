//! The encoder: text to raw chunks, chunks to ids through the cache, in batches.
//!
//! One batch goes through three stages. *Gather* cuts the text at separators, gives every chunk its key and looks it up
//! in the small front table, without a branch. *Look up* does so in the cache for the quarter that is not in front: it
//! first reads one word of each of their sets, so that the cache misses overlap instead of following each other. *Emit*
//! unpacks ids, and sends the few chunks that are not known through the pipeline proper ([`super::pieces`]).
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

use std::hint::black_box;
use std::sync::Arc;

use tokenizers::Tokenizer;

use super::cache::{Cache, Front, Key, MAX_KEY, MISS, Slot, Value, is_miss};
use super::definition::{Definition, Unsupported};
use super::ids::{UNPACKED, pack, unpack};
use super::pieces::Pieces;
use super::split::{BLOCK, separators};

/// Chunks looked up together. A block has at most [`BLOCK`] / 2 of them.
const BATCH: usize = 64;

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
    definition: Arc<Definition>,
    front: Front,
    cache: Cache,
    pieces: Pieces,
    batch: Box<Batch>,
}

/// Chunks between gathering and emitting.
#[derive(Debug)]
struct Batch {
    len: usize,
    /// Where each chunk starts in the text.
    starts: [usize; BATCH],
    /// Its bytes, without the punctuation mark cut off its end.
    lens: [usize; BATCH],
    /// The id of that mark, plus one; 0 = none.
    marks: [u32; BATCH],
    /// [`Key::NONE`] where the chunk is too long for a key.
    keys: [Key; BATCH],
    slots: [Slot; BATCH],
    /// What they encode to, as far as it is known.
    values: [Value; BATCH],
    /// The chunks that were not in front, of which there are `unknown_len`.
    unknown: [u8; BATCH],
    unknown_len: usize,
    /// Ids found so far; room for all of a batch and for the noise [`unpack`] writes behind the last.
    ids: [u32; BATCH * UNPACKED + UNPACKED],
}

/// A new encoder for the same definition, its cache empty. The definition is shared.
impl Clone for FastEncoder {
    fn clone(&self) -> FastEncoder {
        FastEncoder::new(Arc::clone(&self.definition))
    }
}

impl FastEncoder {
    /// An encoder for the definition in a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] says which part of the definition this encoder does not handle.
    pub fn from_tokenizer_json(json: &[u8]) -> Result<FastEncoder, Unsupported> {
        let tokenizer =
            Tokenizer::from_bytes(json).map_err(|error| Unsupported::Unreadable(error.to_string()))?;
        FastEncoder::from_tokenizer(&tokenizer)
    }

    /// An encoder that does what `tokenizer` does now, its settings included.
    ///
    /// # Errors
    ///
    /// As [`Self::from_tokenizer_json`].
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<FastEncoder, Unsupported> {
        Ok(FastEncoder::new(Arc::new(Definition::new(tokenizer)?)))
    }

    fn new(definition: Arc<Definition>) -> FastEncoder {
        let batch = Batch {
            len: 0,
            starts: [0; BATCH],
            lens: [0; BATCH],
            marks: [0; BATCH],
            keys: [Key::NONE; BATCH],
            slots: [Slot::FIRST; BATCH],
            values: [MISS; BATCH],
            unknown: [0; BATCH],
            unknown_len: 0,
            ids: [0; BATCH * UNPACKED + UNPACKED],
        };
        FastEncoder {
            definition,
            front: Front::new(),
            cache: Cache::new(),
            pieces: Pieces::default(),
            batch: Box::new(batch),
        }
    }

    /// Appends the ids of `text` to `ids`, without special tokens around them. Memory beyond `ids` grows with the
    /// longest stretch of `text` without white space, not with the text.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) {
        if self.definition.narrow {
            self.encode_as::<true>(text, ids);
        } else {
            self.encode_as::<false>(text, ids);
        }
    }

    fn encode_as<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        let (blocks, rest) = text.as_bytes().as_chunks::<BLOCK>();
        // The rest of the text, closed by a separator.
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);

        let mut start = 0;
        for (i, block) in blocks.iter().chain([&last]).enumerate() {
            start = self.gather(text.as_bytes(), i * BLOCK, start, separators(block));
            if self.batch.len > BATCH - BLOCK / 2 {
                self.emit::<NARROW>(text, ids);
            }
        }
        self.emit::<NARROW>(text, ids);
    }

    /// Adds the chunks that end before one of the separators to the batch. The separators are bits of a block that
    /// begins at `base`; the first chunk begins at `start`. Returns where the next chunk begins.
    #[inline]
    fn gather(&mut self, text: &[u8], base: usize, mut start: usize, mut separators: u64) -> usize {
        let FastEncoder { definition, front, batch, .. } = self;
        let mut count = batch.len;
        let mut unknown = batch.unknown_len;
        while separators != 0 {
            let end = base + separators.trailing_zeros() as usize;
            separators &= separators - 1;
            if end > start {
                let mark = if end - start > 1 { definition.marks[usize::from(text[end - 1])] } else { 0 };
                let len = end - start - usize::from(mark != 0);
                let key = if len > MAX_KEY {
                    Key::NONE
                } else if let Some(load) = text[start..].first_chunk::<16>() {
                    Key::from_load(*load, len, definition.case)
                } else {
                    Key::new(&text[start..start + len], definition.case)
                };
                let at = count % BATCH;
                batch.starts[at] = start;
                batch.lens[at] = len;
                batch.marks[at] = mark;
                batch.keys[at] = key;
                let slot = Slot::of(key);
                batch.slots[at] = slot;
                let value = front.get(slot, key);
                batch.values[at] = value;
                batch.unknown[unknown % BATCH] = at as u8;
                unknown += usize::from(is_miss(&value));
                count += 1;
            }
            start = end + 1;
        }
        batch.len = count;
        batch.unknown_len = unknown;
        start
    }

    /// Looks up in the cache what was not in front.
    #[inline(never)]
    fn look_up<const NARROW: bool>(&mut self) {
        let FastEncoder { front, cache, batch, .. } = self;
        let sets = cache.sets();
        let count = std::mem::take(&mut batch.unknown_len).min(BATCH);
        let unknown = batch.unknown[..count].iter().map(|&at| usize::from(at) % BATCH);
        black_box(unknown.clone().fold(0, |sum, at| sum ^ sets.touch(batch.slots[at])));
        for at in unknown {
            let (slot, key) = (batch.slots[at], batch.keys[at]);
            if let Some(value) = sets.get(slot, key) {
                batch.values[at] = *value;
                front.insert(slot, key, value, NARROW);
            }
        }
    }

    /// Encodes the batch and empties it.
    #[inline(never)]
    fn emit<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.look_up::<NARROW>();
        let count = std::mem::take(&mut self.batch.len).min(BATCH);
        let mut staged = 0;
        for i in 0..count {
            let batch = &mut *self.batch;
            if is_miss(&batch.values[i]) {
                ids.extend_from_slice(&batch.ids[..staged]);
                staged = 0;
                let chunk = &text[batch.starts[i]..batch.starts[i] + batch.lens[i]];
                let (slot, key) = (batch.slots[i], batch.keys[i]);
                self.miss::<NARROW>(chunk, slot, key, ids);
            } else {
                let room = batch.ids[staged..].first_chunk_mut().expect("there is room for a whole batch");
                staged += unpack(&batch.values[i], NARROW, room);
            }
            let mark = self.batch.marks[i];
            self.batch.ids[staged] = mark.wrapping_sub(1);
            staged += usize::from(mark != 0);
        }
        ids.extend_from_slice(&self.batch.ids[..staged]);
    }

    /// Encodes a chunk that is not in the cache, and puts it there if it fits.
    #[cold]
    #[inline(never)]
    fn miss<const NARROW: bool>(&mut self, chunk: &str, slot: Slot, key: Key, ids: &mut Vec<u32>) {
        let FastEncoder { definition, cache, pieces, .. } = self;
        // It may have come along for the first time in this very batch.
        if let Some(value) = cache.sets().get(slot, key) {
            let mut unpacked = [0; UNPACKED];
            let count = unpack(value, NARROW, &mut unpacked);
            return ids.extend_from_slice(&unpacked[..count]);
        }
        let before = ids.len();
        let mut rest = chunk;
        while let Some((start, end, id)) = definition.find_added(rest) {
            pieces.push::<NARROW>(definition, cache, &rest[..start], ids);
            ids.push(id);
            rest = &rest[end..];
        }
        pieces.push::<NARROW>(definition, cache, rest, ids);
        if key != Key::NONE
            && let Some(value) = pack(&ids[before..], NARROW)
            && !(definition.case != 0 && definition.has_added_in_any_case(chunk))
        {
            cache.insert(slot, key, value);
        }
    }
}
