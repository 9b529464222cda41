//! The encoder: text to raw chunks, chunks to ids through the cache, in batches.
//!
//! One batch goes through three stages. *Gather* takes the chunks of a window of text, gives every one its key and looks it
//! up in the small front table, without a branch. *Turn*, once the batch is full, asks for the cache's sets of the few
//! that are not in front. While memory brings them the batch before it is finished and the next one gathered. *Emit* looks
//! into those sets, unpacks ids, and sends the few chunks that are not known through the pipeline proper ([`super::pieces`]).
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

use super::cache::{Cache, Front, Key, MAX_KEY, Sets, Slot};
use super::definition::{Definition, Unsupported};
use super::ids::{Staged, Value, is_miss, pack, unpack};
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
    known: Known,
    window: Window,
    /// Being gathered.
    batch: Box<Batch>,
    /// Full, and waiting for memory.
    before: Box<Batch>,
    /// Ids of the batch being emitted.
    staged: Box<Staged<{ BATCH + 1 }>>,
}

/// What is known of the text's language: its definition, and what of it was seen.
#[derive(Debug)]
struct Known {
    definition: Arc<Definition>,
    front: Front,
    cache: Cache,
    pieces: Pieces,
}

/// Chunks between gathering and emitting.
#[derive(Debug)]
struct Batch {
    len: usize,
    chunks: [Chunk; BATCH],
    /// What they encode to; a miss for one that is not known.
    values: [Value; BATCH],
    /// The places of the chunks that were not in front, of which there are so many.
    unknown: [u8; BATCH],
    unknown_count: usize,
}

/// A stretch of text between separators, shorter than a window.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// [`Key::NONE`] where the chunk is too long for a key.
    key: Key,
    slot: Slot,
    /// Where it starts in the text.
    start: usize,
    /// Its bytes, without the punctuation mark cut off its end.
    len: u32,
    /// The id of the punctuation mark cut off its end, plus one; 0 = none.
    mark: u32,
}

impl Batch {
    fn new() -> Box<Batch> {
        let none = Chunk { key: Key::NONE, slot: Slot::of(Key::NONE), start: 0, len: 0, mark: 0 };
        Box::new(Batch {
            len: 0,
            chunks: [none; BATCH],
            values: [[0; 2]; BATCH],
            unknown: [0; BATCH],
            unknown_count: 0,
        })
    }

    /// Adds the chunks of the window, which begins at `base` of the text, that begin at `start` and end at `ends`, leaving
    /// out empty ones, until the batch is full. Returns how many of the ends are done with and where the chunk behind the
    /// last of them begins.
    #[inline(always)]
    fn add(
        &mut self,
        known: &Known,
        window: &Window,
        base: usize,
        mut start: usize,
        ends: &[u16],
    ) -> (usize, usize) {
        let (marks, front) = (&known.definition.marks, &known.front);
        let (mut len, mut unknown_count) = (self.len, self.unknown_count);
        let mut done = 0;
        for &end in ends {
            let end = usize::from(end);
            let (from, length) = (start, end.wrapping_sub(start));
            (done, start) = (done + 1, end + 1);
            if length == 0 {
                continue;
            }
            let mark = if length > 1 { marks[usize::from(window.byte(end - 1))] } else { 0 };
            let length = length - usize::from(mark != 0);
            let key = if length > MAX_KEY { Key::NONE } else { Key::from_load(window.load(from), length) };
            let slot = Slot::of(key);
            let value = front.get(slot, key);
            let at = len % BATCH;
            self.values[at] = value;
            self.chunks[at] = Chunk { key, slot, start: base + from, len: length as u32, mark };
            self.unknown[unknown_count % BATCH] = at as u8;
            unknown_count += usize::from(is_miss(&value));
            len = at + 1;
            if len == BATCH {
                break;
            }
        }
        (self.len, self.unknown_count) = (len, unknown_count);
        (done, start)
    }

    /// The places of the chunks that were not in front.
    fn unknown(&self) -> &[u8] {
        &self.unknown[..self.unknown_count.min(BATCH)]
    }

    /// Asks for the sets of the chunks that were not in front.
    fn prefetch(&self, sets: Sets<'_>) {
        self.unknown().iter().for_each(|&at| sets.prefetch(self.chunks[usize::from(at) % BATCH].slot));
    }

    /// Looks for the chunks that were not in front in their sets.
    #[inline(always)]
    fn look_up(&mut self, sets: Sets<'_>, front: &mut Front) {
        for i in 0..self.unknown_count.min(BATCH) {
            let at = usize::from(self.unknown[i]) % BATCH;
            let Chunk { key, slot, .. } = self.chunks[at];
            if let Some(value) = sets.get(slot, key) {
                self.values[at] = *value;
                front.insert(slot, key, value);
            }
        }
        self.unknown_count = 0;
    }
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
        let known = Known { definition, front: Front::new(), cache: Cache::new(), pieces: Pieces::default() };
        FastEncoder {
            known,
            window: Window::new(),
            batch: Batch::new(),
            before: Batch::new(),
            staged: Box::new(Staged::new()),
        }
    }

    /// Appends the ids of `text` to `ids`, without special tokens around them. Memory beyond `ids` grows with the
    /// longest stretch of `text` without white space, not with the text.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) {
        if self.known.definition.narrow {
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
            self.window.fill(&rest[..rest.len().min(WINDOW)], self.known.definition.case);
            let mut start = self.gather::<NARROW>(text, base, ids);
            if rest.len() <= WINDOW {
                // The text ends as if a separator followed.
                self.batch.add(&self.known, &self.window, base, start, &[rest.len() as u16]);
                return self.finish::<NARROW>(text, ids);
            }
            if start == 0 {
                // A chunk longer than a window.
                let separator = rest[WINDOW..].iter().position(|&byte| is_separator(byte));
                let end = WINDOW + separator.unwrap_or(rest.len() - WINDOW);
                self.finish::<NARROW>(text, ids);
                let slot = Slot::of(Key::NONE);
                self.known.encode::<NARROW>(&text[base..base + end], slot, Key::NONE, ids);
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
            let FastEncoder { known, window, batch, .. } = self;
            let (done, next) = batch.add(known, window, base, start, &window.separators()[at..]);
            (at, start) = (at + done, next);
            if batch.len < BATCH {
                return start;
            }
            self.turn::<NARROW>(text, ids);
        }
    }

    /// Lets the batch wait for memory, emits the one that has waited and goes on with that.
    fn turn<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.batch.prefetch(self.known.cache.sets());
        self.emit_before::<NARROW>(text, ids);
        std::mem::swap(&mut self.batch, &mut self.before);
    }

    /// Emits all that was gathered.
    fn finish<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        self.turn::<NARROW>(text, ids);
        self.emit_before::<NARROW>(text, ids);
    }

    /// Emits the batch that waited, and empties it.
    #[inline(never)]
    fn emit_before<const NARROW: bool>(&mut self, text: &str, ids: &mut Vec<u32>) {
        let FastEncoder { known, before, staged, .. } = self;
        before.look_up(known.cache.sets(), &mut known.front);
        let count = std::mem::take(&mut before.len).min(BATCH);
        let mut filled = 0;
        for (chunk, value) in before.chunks[..count].iter().zip(&before.values) {
            if is_miss(value) {
                staged.copy::<NARROW>(filled, ids);
                let Chunk { key, slot, start, len, .. } = *chunk;
                known.encode::<NARROW>(&text[start..start + len as usize], slot, key, ids);
                filled = 0;
            } else {
                filled = staged.push::<NARROW>(filled, value);
            }
            filled = staged.push_below::<NARROW>(filled, chunk.mark);
        }
        staged.copy::<NARROW>(filled, ids);
    }
}

impl Known {
    /// Encodes a chunk that is not in the cache, and puts it there if it fits.
    #[cold]
    #[inline(never)]
    fn encode<const NARROW: bool>(&mut self, chunk: &str, slot: Slot, key: Key, ids: &mut Vec<u32>) {
        let Known { definition, front, cache, pieces } = self;
        // It may have come along for the first time a moment ago.
        if let Some(value) = cache.sets().get(slot, key) {
            return unpack::<NARROW>(value, ids);
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
