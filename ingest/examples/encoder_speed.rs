//! How fast one thread of the fast encoder goes through documents it has not seen, and through them again.
//!
//! `encoder_speed FILE.json.gz...` prints one JSON line a pass. `tests/bench/encoder.py` runs it beside others.

use std::time::Instant;

use ingest::source::{self, Row};
use ingest::wordpiece::FastEncoder;

const TOKENIZER: &[u8] = include_bytes!("../assets/bert-base-uncased/tokenizer.json");
/// The first is cold, the others are warm.
const PASSES: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut texts = Vec::new();
    for path in std::env::args_os().skip(1) {
        let mut source = source::open(path.as_ref(), "text")?;
        while let Some(row) = source.next_row()? {
            if let Row::Document(document) = row {
                texts.push(document.text.into_owned());
            }
        }
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut encoder = FastEncoder::from_tokenizer_json(TOKENIZER)?;
    let mut ids = Vec::new();
    for pass in 0..PASSES {
        let (mut tokens, mut sum) = (0, 0u64);
        let started = Instant::now();
        for text in &texts {
            ids.clear();
            encoder.encode(text, &mut ids);
            tokens += ids.len();
            // So that the ids are used, and a difference between passes shows.
            sum = sum.wrapping_mul(31).wrapping_add(ids.iter().map(|&id| u64::from(id)).sum());
        }
        let mb_per_s = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!(r#"{{"pass": {pass}, "mb_per_s": {mb_per_s:.1}, "tokens": {tokens}, "sum": {sum}}}"#);
    }
    Ok(())
}
