//! An encoder beside its oracle, with the definitions that the tests read.

use std::sync::{LazyLock, Mutex, PoisonError};

use ingest::wordpiece::FastEncoder;
use serde_json::{Value, json};
use tokenizers::Tokenizer;
use tokenizers::normalizers::BertNormalizer;

/// The bundled definition: bert-base-uncased.
pub(crate) static UNCASED: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(include_bytes!("../../assets/bert-base-uncased/tokenizer.json"))
        .expect("valid JSON")
});

/// BertNormalizer's switches: clean_text, handle_chinese_chars, strip_accents, lowercase.
pub(crate) type Rules = (bool, bool, Option<bool>, bool);

pub(crate) const UNCASED_RULES: Rules = (true, true, None, true);
pub(crate) const CASED_RULES: Rules = (true, true, None, false);

/// Every switch in both positions, with the combinations people use first.
const ALL_RULES: [Rules; 9] = [
    UNCASED_RULES,
    CASED_RULES,
    (true, true, Some(false), true),
    (true, true, Some(true), false),
    (true, false, None, true),
    (false, true, None, true),
    (false, false, None, false),
    (false, false, Some(true), true),
    (false, true, Some(false), true),
];

/// An encoder beside its oracle.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) oracle: Tokenizer,
    pub(crate) fast: FastEncoder,
    /// Whether all ids have sixteen bits.
    narrow: bool,
}

impl Pair {
    pub(crate) fn new(name: &str, definition: &Value, rules: Rules) -> Pair {
        let mut definition = definition.clone();
        let (clean_text, handle_chinese_chars, strip_accents, lowercase) = rules;
        definition["normalizer"] = json!({
            "type": "BertNormalizer", "clean_text": clean_text, "handle_chinese_chars": handle_chinese_chars,
            "strip_accents": strip_accents, "lowercase": lowercase,
        });
        let bytes = serde_json::to_vec(&definition).expect("JSON");
        let oracle = Tokenizer::from_bytes(&bytes).expect("the oracle reads it");
        let fast = FastEncoder::from_tokenizer_json(&bytes).expect("supported");
        let narrow = oracle.get_vocab(true).into_values().all(|id| id <= u16::MAX.into());
        Pair { name: format!("{name}, {rules:?}"), oracle, fast, narrow }
    }

    /// The same vocabulary under other rules, without reading it again.
    pub(crate) fn with_rules(&mut self, rules: Rules) {
        let normalizer = BertNormalizer::new(rules.0, rules.1, rules.2, rules.3);
        self.oracle.with_normalizer(Some(normalizer)).expect("no added token is normalized");
        self.fast = FastEncoder::from_tokenizer(&self.oracle).expect("supported");
        self.name = format!("{}, {rules:?}", self.name.split(", ").next().unwrap_or_default());
    }

    /// Compares ids twice, since the second time they come from the cache, then narrow ones where all are.
    #[track_caller]
    pub(crate) fn check(&mut self, text: &str) {
        let expected = self.oracle.encode(text, false).expect("the oracle encodes everything");
        for pass in ["first", "second"] {
            let mut ids = vec![7];
            self.fast.encode(text, &mut ids);
            assert_eq!(ids[0], 7, "what was in the vector stays");
            if &ids[1..] != expected.get_ids() {
                panic!(
                    "{}, {pass} pass: {text:?}\n fast {:?}\n slow {:?}",
                    self.name,
                    &ids[1..],
                    expected.get_ids()
                );
            }
        }
        let mut narrow = vec![7];
        assert_eq!(self.fast.encode_narrow(text, &mut narrow).is_some(), self.narrow, "{}", self.name);
        if self.narrow {
            let ids: Vec<u32> = narrow.into_iter().map(u32::from).collect();
            assert_eq!((ids[0], &ids[1..]), (7, expected.get_ids()), "{}, narrow: {text:?}", self.name);
        }
    }
}

/// The bundled definition with more tokens.
fn with_tokens(tokens: impl Iterator<Item = String>) -> Value {
    let mut definition = UNCASED.clone();
    let vocab = definition["model"]["vocab"].as_object_mut().expect("an object");
    for token in tokens {
        let next = vocab.len();
        vocab.entry(token).or_insert(json!(next));
    }
    definition
}

/// A vocabulary in which few characters are unknown, so that every change of a character shows in the ids: all of
/// the first two planes and the ideographs compatibility characters decompose to, as words and as continuations.
/// Has more than 65,536 ids.
pub(crate) fn alphabet() -> Value {
    let characters = (0x20..0x20000).chain(0x2f800..0x2fa20).filter_map(char::from_u32);
    with_tokens(characters.flat_map(|c| [c.to_string(), format!("##{c}")]))
}

/// A small vocabulary of single characters of every script the strategies draw from, and of some pairs.
fn letters() -> Value {
    let ranges = [
        0x21..0x600,
        0x900..0x980,
        0xe00..0xe80,
        0x1100..0x1200,
        0x1e00..0x2070,
        0x3040..0x3100,
        0x4e00..0x4f00,
    ];
    let characters = ranges.into_iter().flatten().filter_map(char::from_u32);
    with_tokens(
        characters.flat_map(|c| [c.to_string(), format!("##{c}"), format!("{c}{c}"), format!("##{c}a")]),
    )
}

/// A definition that is quick to read: only the short tokens of the bundled one.
pub(crate) fn small() -> Value {
    let mut definition = UNCASED.clone();
    let vocab = definition["model"]["vocab"].as_object_mut().expect("an object");
    vocab.retain(|token, _| token.chars().count() <= 5 || token == "[MASK]");
    definition
}

/// The property tests' pairs, one set for all threads: the real vocabulary under the two usual rules, and one in
/// which accents and case show under all of them.
static PAIRS: LazyLock<Mutex<Vec<Pair>>> = LazyLock::new(|| {
    let bundled = [UNCASED_RULES, CASED_RULES].map(|rules| Pair::new("bundled", &UNCASED, rules));
    let letters = letters();
    let letters = ALL_RULES.map(|rules| Pair::new("letters", &letters, rules));
    Mutex::new(bundled.into_iter().chain(letters).collect())
});

pub(crate) fn each_pair(check: impl FnMut(&mut Pair)) {
    // A failed test must not fail the others.
    PAIRS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(check);
}

pub(crate) fn check_all(text: &str) {
    each_pair(|pair| pair.check(text));
}

pub(crate) fn check_each(texts: &[&str]) {
    texts.iter().for_each(|text| check_all(text));
}
