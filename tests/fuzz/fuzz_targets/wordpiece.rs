//! The fast encoder and `tokenizers` give equal ids for any bytes, read as UTF-8 as far as they are.
//!
//! The first byte chooses BertNormalizer's switches. The encoders live as long as the process, so caches carry
//! entries from input to input.

#![no_main]

use std::sync::{LazyLock, Mutex, OnceLock};

use ingest::wordpiece::FastEncoder;
use libfuzzer_sys::fuzz_target;
use tokenizers::Tokenizer;
use tokenizers::normalizers::BertNormalizer;

/// An oracle and a fast encoder.
type Pair = (Tokenizer, Mutex<FastEncoder>);

/// One for each setting of the switches, made when it is first asked for: with a sanitizer that takes seconds.
static PAIRS: [OnceLock<Pair>; 24] = [const { OnceLock::new() }; 24];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let bundled = include_bytes!("../../../ingest/assets/bert-base-uncased/tokenizer.json");
    let mut definition: serde_json::Value = serde_json::from_slice(bundled).expect("valid JSON");
    // Single characters of many scripts, so that a changed character changes the ids.
    let vocab = definition["model"]["vocab"].as_object_mut().expect("an object");
    for c in (0x20..0x3100).chain(0x4e00..0x4f00).chain(0x1d100..0x1d200).filter_map(char::from_u32) {
        for token in [c.to_string(), format!("##{c}")] {
            let next = vocab.len();
            vocab.entry(token).or_insert(serde_json::json!(next));
        }
    }
    let bytes = serde_json::to_vec(&definition).expect("JSON");
    Tokenizer::from_bytes(bytes).expect("a valid definition")
});

fn pair(switches: usize) -> Pair {
    let accents = [None, Some(false), Some(true)][switches / 8];
    let normalizer = BertNormalizer::new(switches & 1 == 0, switches & 2 == 0, accents, switches & 4 == 0);
    let mut oracle = TOKENIZER.clone();
    oracle.with_normalizer(Some(normalizer)).expect("no added token is normalized");
    let fast = FastEncoder::from_tokenizer(&oracle).expect("supported");
    (oracle, Mutex::new(fast))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let switches = usize::from(first) % PAIRS.len();
    let (oracle, fast) = PAIRS[switches].get_or_init(|| pair(switches));
    let text = String::from_utf8_lossy(rest);
    let expected = oracle.encode(&*text, false).expect("the oracle encodes everything");
    let mut fast = fast.lock().expect("one thread");
    // The second time from the cache.
    for _ in 0..2 {
        let mut ids = Vec::new();
        fast.encode(&text, &mut ids);
        assert_eq!(ids, expected.get_ids(), "{text:?}");
    }
    let mut narrow = Vec::new();
    fast.encode_narrow(&text, &mut narrow).expect("BERT's ids have sixteen bits");
    assert!(narrow.iter().map(|&id| u32::from(id)).eq(expected.get_ids().iter().copied()), "{text:?}");
});
