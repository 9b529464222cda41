//! How fast is each part of ingest by itself: unpack, parse, encode, write?
//!
//! `cargo bench -p ingest --bench parts`. The corpus is made here, with the shape of English web text. With `PART=NAME`
//! set, that part runs once and nothing else does: `tests/bench/instructions.sh` counts its instructions so.

use std::hint::black_box;
use std::io::{BufRead, Write};

use criterion::{Criterion, Throughput};
use flate2::{Compression, write::GzEncoder};
use ingest::source::{Gzip, parse_line};
use ingest::wordpiece::FastEncoder;
use loader::shard::ShardWriter;

const TOKENIZER: &[u8] = include_bytes!("../assets/bert-base-uncased/tokenizer.json");
const DOCUMENTS: usize = 2000;

/// What each part gets.
struct Corpus {
    packed: Vec<u8>,
    lines: Vec<String>,
    texts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    encoder: FastEncoder,
}

impl Corpus {
    /// Words of the vocabulary, the first ones often (Zipf's law), in documents of about two kilobytes.
    fn new() -> Self {
        let mut encoder =
            FastEncoder::from_tokenizer_json(TOKENIZER).expect("the bundled definition is supported");
        let definition: serde_json::Value = serde_json::from_slice(TOKENIZER).expect("it is JSON");
        let vocab = definition["model"]["vocab"].as_object().expect("it has a vocabulary");
        let words: Vec<&String> = vocab
            .keys()
            .filter(|word| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
            .collect();
        let mut state = 0x5eed_u64;
        let mut below = |bound: usize| {
            // xorshift64*, so that the text is the same everywhere.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as f64 / f64::from(u32::MAX) * bound as f64)
                as usize
        };
        let texts: Vec<String> = (0..DOCUMENTS)
            .map(|_| {
                let mut text = String::new();
                for _ in 0..350 {
                    let rank =
                        (words.len() as f64).powf(below(1 << 20) as f64 / f64::from(1 << 20)) as usize - 1;
                    text.push_str(words[rank.min(words.len() - 1)]);
                    text.push_str([" ", " ", " ", " ", " ", ", ", ". ", "’s ", ".\n"][below(9)]);
                }
                text
            })
            .collect();
        let line = |text: &String| {
            let row = serde_json::json!({ "text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org/" });
            row.to_string()
        };
        let lines: Vec<String> = texts.iter().map(line).collect();
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(lines.join("\n").as_bytes()).expect("memory takes everything");
        let tokens = texts.iter().map(|text| {
            let mut ids = Vec::new();
            encoder.encode(text, &mut ids);
            ids
        });
        let tokens = tokens.collect();
        Self { packed: packed.finish().expect("memory takes everything"), lines, texts, tokens, encoder }
    }

    /// Bytes of text.
    fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }

    fn unpack(&mut self) -> usize {
        let mut gzip = Gzip::new(&self.packed[..]);
        let mut sum = 0;
        loop {
            let unpacked = gzip.fill_buf().expect("the file is whole").len();
            gzip.consume(unpacked);
            sum += unpacked;
            if unpacked == 0 {
                return sum;
            }
        }
    }

    fn parse(&mut self) -> usize {
        let mut unescaped = String::new();
        let bytes = |line: &String| {
            parse_line(line.as_bytes(), &mut unescaped, 0, "text")
                .expect("every line is a document")
                .text
                .len()
        };
        self.lines.iter().map(bytes).sum()
    }

    fn encode(&mut self) -> usize {
        let mut ids = Vec::new();
        for text in &self.texts {
            ids.clear();
            self.encoder.encode(text, &mut ids);
        }
        ids.len()
    }

    fn write(&mut self) -> usize {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut shard = ShardWriter::create(dir.path(), "shard", 2).expect("the folder is there");
        for tokens in &self.tokens {
            shard.push(tokens).expect("the disk has room");
        }
        shard.seal().expect("the disk has room").bytes as usize
    }
}

type Part = fn(&mut Corpus) -> usize;
const PARTS: [(&str, Part); 4] = [
    ("unpack", Corpus::unpack),
    ("parse", Corpus::parse),
    ("encode", Corpus::encode),
    ("write", Corpus::write),
];

/// A name for the instruction counter to switch itself on at.
#[inline(never)]
fn counted_part(part: Part, corpus: &mut Corpus) -> usize {
    black_box(part(corpus))
}

fn main() {
    let mut corpus = Corpus::new();
    if let Ok(wanted) = std::env::var("PART") {
        let (name, part) = PARTS.iter().find(|(name, _)| *name == wanted).expect("PART names a part");
        counted_part(*part, &mut corpus);
        println!("{name}: {} bytes of text", corpus.bytes());
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("how fast is a part of ingest by itself (bytes of text)");
    group.throughput(Throughput::Bytes(corpus.bytes() as u64)).sample_size(20);
    for (name, part) in PARTS {
        group.bench_function(name, |bencher| bencher.iter(|| part(black_box(&mut corpus))));
    }
    group.finish();
}
