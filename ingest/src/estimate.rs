//! What an ingest will come to, told before it starts from a sample of its inputs.

use std::time::Instant;

use crate::encoder::Encode;
use crate::error::Error;
use crate::pipeline::Job;
use crate::source::{Input, Row};

/// Inputs that are looked into, spread evenly over the list.
const FILES: usize = 8;
/// Bytes of text read from the beginning of each of them.
const TEXT_BYTES: u64 = 1 << 20;
/// A slow encoder gets no further than this in all of them.
const SECONDS: f64 = 1.0;
/// The share of the sampled text that only warms the encoder's caches up before time is taken.
const WARM_UP: f64 = 0.25;
/// Time of an ingest over that of reading and encoding alone: the rest checksums, packs the tables and waits for the
/// disk. Seen on C4.
const WRITING: f64 = 1.25;
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
        let mut encoder = job.encoder.worker();
        let mut sample = Sample::default();
        for i in 0..chosen {
            let input = files[(2 * i + 1) * files.len() / (2 * chosen)];
            let warm = sample.text_bytes as f64 >= WARM_UP * (chosen as u64 * TEXT_BYTES) as f64;
            sample.warm(warm || i + 1 == chosen);
            // An input that cannot be read is reported when its turn comes, after everything before it is sealed.
            let _ = sample.take(input, job, &mut *encoder);
            if sample.all_seconds >= SECONDS {
                break;
            }
        }
        Ok(sample.extrapolate(&files, job))
    }
}

/// What was seen.
#[derive(Default)]
struct Sample {
    input_bytes: u64,
    text_bytes: u64,
    documents: u64,
    tokens: u64,
    url_bytes: u64,
    all_seconds: f64,
    /// What only warmed up: text and time.
    cold: (u64, f64),
    is_warm: bool,
}

impl Sample {
    fn warm(&mut self, warm: bool) {
        if !self.is_warm && warm {
            self.is_warm = true;
            self.cold = (self.text_bytes, self.all_seconds);
        }
    }

    fn take(&mut self, input: &Input, job: &Job, encoder: &mut dyn Encode) -> Result<(), Error> {
        let started = Instant::now();
        let mut source = input.open(&job.options.text_field)?;
        let mut ids = Vec::new();
        let mut text_bytes = 0;
        while text_bytes < TEXT_BYTES && self.all_seconds + started.elapsed().as_secs_f64() < SECONDS {
            match source.next_row() {
                Ok(Some(Row::Document(document))) => {
                    ids.clear();
                    if encoder.encode(&document.text, &mut ids).is_err() {
                        break;
                    }
                    // As the ingest does, for the held-out share and the table.
                    std::hint::black_box(blake3::hash(document.text.as_bytes()));
                    self.documents += u64::from(!ids.is_empty());
                    self.tokens += ids.len() as u64;
                    self.url_bytes += document.url.as_ref().map_or(0, |url| url.len() as u64);
                    text_bytes += document.text.len() as u64;
                }
                Ok(Some(Row::Bad(_))) => {}
                Ok(None) | Err(_) => break,
            }
        }
        if text_bytes > 0 {
            self.text_bytes += text_bytes;
            self.input_bytes += source.position().clamp(1, input.bytes);
        }
        self.all_seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn extrapolate(&self, files: &[&Input], job: &Job) -> Option<Estimate> {
        if self.documents == 0 {
            return None;
        }
        let input_bytes: u64 = files.iter().map(|input| input.bytes).sum();
        let whole = |part: f64| part * input_bytes as f64 / self.input_bytes as f64;
        let text_bytes = whole(self.text_bytes as f64);
        let (cold_text, cold_seconds) = self.cold;
        let seconds_a_byte = match self.text_bytes - cold_text {
            0 => self.all_seconds / self.text_bytes as f64,
            warm_text => (self.all_seconds - cold_seconds) / warm_text as f64,
        };
        // One worker works on one file at a time, so a large one may be what all wait for.
        let largest = files.iter().map(|input| input.bytes).max().unwrap_or(0) as f64 / input_bytes as f64;
        let longest_share = (1.0 / job.workers as f64).max(largest);
        let documents = whole(self.documents as f64);
        let table = documents * TABLE_ROW_BYTES + whole(self.url_bytes as f64) * TABLE_URL_SHARE;
        let tokens = whole(self.tokens as f64);
        let shards = tokens * f64::from(job.tokenizer.token_bytes()) + documents * OFFSET_BYTES;
        let tokenizer = job.tokenizer.bytes().len() as f64;
        Some(Estimate {
            files: files.len() as u64,
            input_bytes,
            text_bytes: text_bytes.round() as u64,
            documents: documents.round() as u64,
            tokens: tokens.round() as u64,
            output_bytes: (shards + table + tokenizer).round() as u64,
            seconds: text_bytes * seconds_a_byte * WRITING * longest_share,
            sampled_text_bytes: self.text_bytes,
        })
    }
}
