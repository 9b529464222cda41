//! The encoder: text to raw chunks, chunks to ids through the cache, in batches.
//!
//! One batch goes through three stages. *Gather* takes the chunks of a window of text, gives every one its key and asks for
//! its line of the small front table. *Look up* finds them there, without a branch, and in the cache the few that are not
//! in front: it first reads one word of each of their sets, so that the cache misses overlap instead of following each
//! other. *Emit* unpacks ids, and sends the few chunks that are not known through the pipeline proper
//! ([`super::pieces`]).
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

use super::cache::{Cache, Front, Key, MAX_KEY, Slot};
use super::definition::{Definition, Unsupported};
use super::ids::{UNPACKED, Value, is_miss, pack, unpack};
use super::pieces::Pieces;
use super::split::{WINDOW, Window, is_separator};

/// Chunks looked up together.
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
    window: Window,
    batch: Box<Batch>,
}

/// Chunks between gathering and emitting.
#[derive(Debug)]
struct Batch {
    len: usize,
    chunks: [Chunk; BATCH],
    /// What they encode to; a miss for one that is not known.
    values: [Value; BATCH],
    /// The places of the chunks that were not in front.
    unknown: [u8; BATCH],
    /// Ids found so far; room for all of a batch and for the noise [`unpack`] writes behind the last.
    ids: [u32; BATCH * UNPACKED + UNPACKED],
}

/// A stretch of text between separators.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// [`Key::NONE`] where the chunk is too long for a key.
    key: Key,
    slot: Slot,
    /// Where it starts in the text.
    start: usize,
    /// Its bytes, without the punctuation mark cut off its end.
    len: usize,
    /// The id of the punctuation mark cut off its end, plus one; 0 = none.
    mark: u32,
}

impl Batch {
    /// Adds a chunk of the window, unless it is empty.
    #[inline(always)]
    fn add(
        &mut self,
        definition: &Definition,
        front: &Front,
        window: &Window,
        base: usize,
        start: usize,
        end: usize,
    ) {
        if end <= start {
            return;
        }
        let mark = if end - start > 1 { definition.marks[usize::from(window.byte(end - 1))] } else { 0 };
        let len = end - start - usize::from(mark != 0);
        let key = if len > MAX_KEY { Key::NONE } else { Key::from_load(window.load(start), len) };
        let slot = Slot::of(key);
        front.prefetch(slot);
        self.chunks[self.len % BATCH] = Chunk { key, slot, start: base + start, len, mark };
        self.len = self.len % BATCH + 1;
    }
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
        let none = Chunk { key: Key::NONE, slot: Slot::of(Key::NONE), start: 0, len: 0, mark: 0 };
        let batch = Batch {
            len: 0,
            chunks: [none; BATCH],
            values: [[0; 2]; BATCH],
            unknown: [0; BATCH],
            ids: [0; BATCH * UNPACKED + UNPACKED],
        };
        FastEncoder {
            definition,
            front: Front::new(),
            cache: Cache::new(),
            pieces: Pieces::default(),
            window: Window::new(),
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
        let bytes = text.as_bytes();
        let mut base = 0;
        loop {
            let rest = &bytes[base..];
            self.window.fill(&rest[..rest.len().min(WINDOW)], self.definition.case);
            let mut start = self.gather::<NARROW>(text, base, ids);
            if rest.len() <= WINDOW {
                // The text ends as if a separator followed.
                let FastEncoder { definition, front, window, batch, .. } = self;
                batch.add(definition, front, window, base, start, rest.len());
                return self.emit::<NARROW>(text, ids);
            }
            if start == 0 {
                // A chunk longer than a window.
                let separator = rest[WINDOW..].iter().position(|&byte| is_separator(byte));
                let end = WINDOW + separator.unwrap_or(rest.len() - WINDOW);
                self.emit::<NARROW>(text, ids);
                self.add_long(base, end);
                start = (end + 1).min(rest.len());
            }
            base += start;
        }
    }

    /// Sends the chunks of the window, which begins at `base` of the text, through the batch. Returns where in the window
    /// the chunk begins that may go on behind it. The batch has room for another chunk then.
    fn gather<const NARROW: bool>(&mut self, text: &str, base: usize, ids: &mut Vec<u32>) -> usize {
        let (mut at, mut start) = (0, 0);
        loop {
            let FastEncoder { definition, front, window, batch, .. } = self;
            for &separator in &window.separators()[at..] {
                let end = usize::from(separator);
                batch.add(definition, front, window, base, start, end);
                (at, start) = (at + 1, end + 1);
                if batch.len == BATCH {
                    break;
                }
            }
            if batch.len < BATCH {
                return start;
            }
            self.emit::<NARROW>(text, ids);
        }
    }

    /// Adds a chunk that is longer than a window to the batch, which is empty.
    fn add_long(&mut self, start: usize, len: usize) {
        self.batch.chunks[0] = Chunk { key: Key::NONE, slot: Slot::of(Key::NONE), start, len, mark: 0 };
        self.batch.len = 1;
    }

    /// Looks up the chunks of the batch.
    #[inline(never)]
    fn look_up(&mut self) {
        let FastEncoder { front, cache, batch, .. } = self;
        let Batch { len, chunks, values, unknown, .. } = &mut **batch;
        let mut count = 0;
        for (at, (chunk, value)) in chunks[..(*len).min(BATCH)].iter().zip(values.iter_mut()).enumerate() {
            *value = front.get(chunk.slot, chunk.key);
            unknown[count % BATCH] = at as u8;
            count += usize::from(is_miss(value));
        }
        let sets = cache.sets();
        let unknown = &unknown[..count.min(BATCH)];
        let chunk = |at: u8| &chunks[usize::from(at) % BATCH];
        black_box(unknown.iter().fold(0, |sum, &at| sum ^ sets.touch(chunk(at).slot)));
        for &at in unknown {
            let Chunk { key, slot, .. } = *chunk(at);
            if let Some(value) = sets.get(slot, key) {
                values[usize::from(at) % BATCH] = *value;
                front.insert(slot, key, value);
            }
        }
    }

    /// Encodes the batch and empties it.
    #[inline(never)]
    fn emit<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.look_up();
        let count = std::mem::take(&mut self.batch.len).min(BATCH);
        let mut staged = 0;
        for i in 0..count {
            let batch = &mut *self.batch;
            let mark = batch.chunks[i].mark;
            if is_miss(&batch.values[i]) {
                ids.extend_from_slice(&batch.ids[..staged]);
                staged = 0;
                let Chunk { key, slot, start, len, .. } = batch.chunks[i];
                self.encode_unknown::<NARROW>(&text[start..start + len], slot, key, ids);
            } else {
                let room = batch.ids[staged..].first_chunk_mut().expect("there is room for a whole batch");
                staged += unpack(&batch.values[i], NARROW, room);
            }
            self.batch.ids[staged] = mark.wrapping_sub(1);
            staged += usize::from(mark != 0);
        }
        ids.extend_from_slice(&self.batch.ids[..staged]);
    }

    /// Encodes a chunk that is not in the cache, and puts it there if it fits.
    #[cold]
    #[inline(never)]
    fn encode_unknown<const NARROW: bool>(&mut self, chunk: &str, slot: Slot, key: Key, ids: &mut Vec<u32>) {
        let FastEncoder { definition, front, cache, pieces, .. } = self;
        // It may have come along for the first time in this very batch.
        if let Some(value) = cache.sets().get(slot, key) {
            let mut unpacked = [0; UNPACKED];
            let count = unpack(value, NARROW, &mut unpacked);
            return ids.extend_from_slice(&unpacked[..count]);
        }
        let before = ids.len();
        let mut rest = chunk;
        while let Some((start, end, id)) = definition.find_added(rest) {
            pieces.push::<NARROW>(definition, front, cache, &rest[..start], ids);
            ids.push(id);
            rest = &rest[end..];
        }
        pieces.push::<NARROW>(definition, front, cache, rest, ids);
        if key != Key::NONE
            && let Some(value) = pack(&ids[before..], NARROW)
            && !(definition.case != 0 && definition.has_added_in_any_case(chunk))
        {
            cache.insert(slot, key, value);
        }
    }
}
