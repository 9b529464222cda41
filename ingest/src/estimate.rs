//! What an ingest will come to, told before it starts from a sample of its inputs.

use std::panic::resume_unwind;
use std::time::Instant;

use crate::docs::content_hash;
use crate::encoder::Encode;
use crate::error::Error;
use crate::pipeline::Job;
use crate::source::{Input, Row};

/// Inputs that are looked into, spread evenly over the list.
const FILES: usize = 8;
/// Bytes of text read from the beginning of each of them, at least: some hundred documents, which are enough for averages,
/// in a time that nobody notices.
const TEXT_BYTES: u64 = 256 << 10;
/// A slow encoder gets no further than this in all of them that one thread looks into.
const SECONDS: f64 = 1.0;
/// Bytes of a row in the table of documents without its url: mostly the hash and the timestamp. Seen on C4.
const TABLE_ROW_BYTES: f64 = 26.0;
/// Bytes that a byte of url takes in the table, which is packed. Seen on C4.
const TABLE_URL_SHARE: f64 = 0.45;
/// Bytes of a document's offset in its shard.
const OFFSET_BYTES: f64 = 8.0;

/// What is expected of an ingest. Everything but `files` and `input_bytes` is extrapolated from the sample.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Inputs.
    pub files: u64,
    /// Their size in bytes, as they lie there.
    pub input_bytes: u64,
    /// UTF-8 bytes of the text in them.
    pub text_bytes: u64,
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of all shards and tables, and the tokenizer's copy.
    pub output_bytes: u64,
    /// Time it takes, all workers together, if nothing else uses the machine.
    pub seconds: f64,
    /// Bytes of text in the sample.
    pub sampled_text_bytes: u64,
}

impl Estimate {
    /// Reads and encodes the beginning of some of the inputs. Nothing when they yield no document, whatever the reason:
    /// the ingest itself says what is wrong with them.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn of(job: &Job) -> Result<Option<Self>, Error> {
        // What comes through a pipe can be read only once, and its size is not known.
        let files: Vec<&Input> = job.share().filter(|input| !input.is_standard_input()).collect();
        let chosen = FILES.min(files.len());
        let chosen: Vec<&Input> =
            (0..chosen).map(|i| files[(2 * i + 1) * files.len() / (2 * chosen)]).collect();
        // As many at once as there will be workers, each of which finds an encoder then that has begun to learn.
        let threads = job.workers.clamp(1, chosen.len().max(1));
        let share = |thread: usize| chosen.iter().copied().skip(thread).step_by(threads);
        let sample = std::thread::scope(|scope| {
            let running: Vec<_> =
                (1..threads).map(|thread| scope.spawn(move || Sample::of(share(thread), job))).collect();
            let first = Sample::of(share(0), job);
            let others =
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            others.fold(first, Sample::and)
        });
        Ok(sample.extrapolate(&files, job))
    }
}

/// What was seen.
#[derive(Default)]
struct Sample {
    seen: Seen,
    all_seconds: f64,
    /// A byte of text, where that took least: the encoder's caches are warm and nothing else came between.
    seconds_a_byte: Option<f64>,
}

/// Bytes of inputs and what they hold.
#[derive(Clone, Copy, Default)]
struct Seen {
    input_bytes: u64,
    text_bytes: u64,
    documents: u64,
    tokens: u64,
    url_bytes: u64,
}

impl Sample {
    /// The beginnings of `inputs`.
    fn of<'a>(inputs: impl Iterator<Item = &'a Input>, job: &Job) -> Self {
        let mut encoder = job.encoder.worker();
        let mut sample = Sample::default();
        for input in inputs {
            // An input that cannot be read is reported when its turn comes, after everything before it is sealed.
            let _ = sample.take(input, job, &mut *encoder);
            if sample.all_seconds >= SECONDS {
                break;
            }
        }
        job.encoder.give_back(encoder);
        sample
    }

    /// What was seen in both.
    fn and(self, other: Self) -> Self {
        let (a, b) = (self.seen, other.seen);
        let least = self.seconds_a_byte.into_iter().chain(other.seconds_a_byte).reduce(f64::min);
        Self {
            seen: Seen {
                input_bytes: a.input_bytes + b.input_bytes,
                text_bytes: a.text_bytes + b.text_bytes,
                documents: a.documents + b.documents,
                tokens: a.tokens + b.tokens,
                url_bytes: a.url_bytes + b.url_bytes,
            },
            all_seconds: self.all_seconds + other.all_seconds,
            seconds_a_byte: least,
        }
    }

    fn take(&mut self, input: &Input, job: &Job, encoder: &mut dyn Encode) -> Result<(), Error> {
        let started = Instant::now();
        let mut source = input.open(&job.options.text_field)?;
        let mut ids = Vec::new();
        let (before, mut position) = (self.seen, 0);
        let at = |seen: Seen, position: u64| Seen {
            input_bytes: before.input_bytes + position.clamp(1, input.bytes.max(1)),
            ..seen
        };
        // An input is unpacked ahead of its rows. What is in front of a place is known when a row needs what lies behind
        // it: all rows before that one.
        let (mut seen, mut without_last, mut settled) = (before, before, None);
        loop {
            let now = source.position();
            if now > position {
                if without_last.documents > before.documents {
                    settled = Some(at(without_last, position));
                }
                position = now;
                if seen.text_bytes - before.text_bytes >= TEXT_BYTES {
                    break;
                }
            }
            if self.all_seconds + started.elapsed().as_secs_f64() >= SECONDS {
                break;
            }
            without_last = seen;
            match source.next_row() {
                Ok(Some(Row::Document(document))) => {
                    ids.clear();
                    if encoder.encode(&document.text, &mut ids).is_err() {
                        break;
                    }
                    // As the ingest does, for the held-out share and the table.
                    std::hint::black_box(content_hash(&document.text));
                    seen.documents += u64::from(!ids.is_empty());
                    seen.tokens += ids.len() as u64;
                    seen.url_bytes += document.url.as_ref().map_or(0, |url| url.len() as u64);
                    seen.text_bytes += document.text.len() as u64;
                }
                Ok(Some(Row::Bad(_))) => {}
                Ok(None) => {
                    settled = Some(at(seen, source.position()));
                    break;
                }
                Err(_) => break,
            }
        }
        let settled = settled.unwrap_or_else(|| at(seen, position));
        if settled.text_bytes > before.text_bytes {
            self.seen = settled;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.all_seconds += seconds;
        let read = seen.text_bytes - before.text_bytes;
        if read > 0 {
            let here = seconds / read as f64;
            self.seconds_a_byte = Some(self.seconds_a_byte.map_or(here, |least| least.min(here)));
        }
        Ok(())
    }

    fn extrapolate(&self, files: &[&Input], job: &Job) -> Option<Estimate> {
        if self.seen.documents == 0 {
            return None;
        }
        let input_bytes: u64 = files.iter().map(|input| input.bytes).sum();
        let whole = |part: f64| part * input_bytes as f64 / self.seen.input_bytes as f64;
        let text_bytes = whole(self.seen.text_bytes as f64);
        let seconds = text_bytes * self.seconds_a_byte? * job.encoder.whole_over_sample();
        // One worker works on one file at a time, so a large one may be what all wait for.
        let largest = files.iter().map(|input| input.bytes).max().unwrap_or(0) as f64 / input_bytes as f64;
        let longest_share = (1.0 / job.workers as f64).max(largest);
        let documents = whole(self.seen.documents as f64);
        let table = documents * TABLE_ROW_BYTES + whole(self.seen.url_bytes as f64) * TABLE_URL_SHARE;
        let tokens = whole(self.seen.tokens as f64);
        let shards = tokens * f64::from(job.tokenizer.token_bytes()) + documents * OFFSET_BYTES;
        let tokenizer = job.tokenizer.bytes().len() as f64;
        Some(Estimate {
            files: files.len() as u64,
            input_bytes,
            text_bytes: text_bytes.round() as u64,
            documents: documents.round() as u64,
            tokens: tokens.round() as u64,
            output_bytes: (shards + table + tokenizer).round() as u64,
            seconds: seconds * longest_share,
            sampled_text_bytes: self.seen.text_bytes,
        })
    }
}
