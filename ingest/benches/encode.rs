//! How many megabytes of text a second does one encoder turn into ids?
//!
//! `cargo bench -p ingest --bench encode`. The text is made here, with the shape of English web text; set
//! `ENCODE_TEXT` to a file of plain text to measure on real text instead.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ingest::wordpiece::FastEncoder;
use tokenizers::Tokenizer;

const TOKENIZER: &[u8] = include_bytes!("../assets/bert-base-uncased/tokenizer.json");
/// Bytes of text made when none is given.
const TEXT_BYTES: usize = 8 << 20;
/// Bytes of text the oracle gets; it is forty times slower.
const ORACLE_BYTES: usize = 256 << 10;

/// A small generator (xorshift64*), so that the text is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A rank below `bound` with probability about in inverse proportion to it (Zipf's law).
    fn zipf(&mut self, bound: usize) -> usize {
        let uniform = (self.next() & 0xffff_ffff) as f64 / f64::from(u32::MAX);
        ((bound as f64).powf(uniform) as usize).saturating_sub(1).min(bound - 1)
    }
}

/// Words of the vocabulary by Zipf's law, some compounded into rare ones, with capitals, punctuation and paragraphs.
fn web_text(tokenizer: &Tokenizer) -> String {
    let mut vocab: Vec<(u32, String)> =
        tokenizer.get_vocab(false).into_iter().map(|(token, id)| (id, token)).collect();
    vocab.sort_unstable();
    let words: Vec<&str> = vocab
        .iter()
        .map(|(_, token)| token.as_str())
        .filter(|token| token.len() > 1 && token.bytes().all(|byte| byte.is_ascii_lowercase()))
        .collect();
    let mut random = Random(0x5eed);
    let mut text = String::with_capacity(TEXT_BYTES + 64);
    while text.len() < TEXT_BYTES {
        let start = text.len();
        text.push_str(words[random.zipf(words.len())]);
        if random.below(25) == 0 {
            text.push_str(words[random.below(words.len())]);
        }
        if random.below(8) == 0 {
            text[start..start + 1].make_ascii_uppercase();
        }
        text.push_str(match random.below(60) {
            0..=3 => ", ",
            4..=6 => ". ",
            7 => "’s ",
            8 => ".\n",
            _ => " ",
        });
    }
    text
}

/// The first `bytes` of `text`, to a character boundary.
fn prefix(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn encode(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).expect("the bundled definition is valid");
    let text = match std::env::var_os("ENCODE_TEXT") {
        Some(path) => {
            String::from_utf8_lossy(&std::fs::read(path).expect("ENCODE_TEXT names a file")).into_owned()
        }
        None => web_text(&tokenizer),
    };
    let mut encoder = FastEncoder::from_tokenizer(&tokenizer).expect("the bundled definition is supported");
    let mut ids = Vec::with_capacity(text.len());

    let mut group = criterion.benchmark_group("how fast is text encoded");
    group.sampling_mode(SamplingMode::Flat).sample_size(20).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("by a new encoder (cold cache)", |bencher| {
        let run = |mut encoder: FastEncoder| {
            ids.clear();
            encoder.encode(black_box(&text), &mut ids);
            encoder
        };
        bencher.iter_batched(|| encoder.clone(), run, BatchSize::PerIteration);
    });
    group.bench_function("by one that has seen it (warm cache)", |bencher| {
        bencher.iter(|| {
            ids.clear();
            encoder.encode(black_box(&text), &mut ids);
            ids.len()
        });
    });
    let part = prefix(&text, ORACLE_BYTES);
    group.throughput(Throughput::Bytes(part.len() as u64));
    group.bench_function("by the tokenizers crate", |bencher| {
        bencher.iter(|| tokenizer.encode_fast(black_box(part), false).expect("it encodes everything").len());
    });
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
