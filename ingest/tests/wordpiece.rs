//! The fast encoder against its oracle, `tokenizers::Tokenizer::encode(text, false)`: equal ids on every text.

use std::sync::{LazyLock, Mutex, PoisonError};

use ingest::wordpiece::{FastEncoder, Unsupported};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use tokenizers::Tokenizer;
use tokenizers::normalizers::BertNormalizer;

/// The bundled definition: bert-base-uncased.
static UNCASED: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(include_bytes!("../assets/bert-base-uncased/tokenizer.json")).expect("valid JSON")
});

/// BertNormalizer's switches: clean_text, handle_chinese_chars, strip_accents, lowercase.
type Rules = (bool, bool, Option<bool>, bool);

const UNCASED_RULES: Rules = (true, true, None, true);
const CASED_RULES: Rules = (true, true, None, false);

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
struct Pair {
    name: String,
    oracle: Tokenizer,
    fast: FastEncoder,
}

impl Pair {
    fn new(name: &str, definition: &Value, rules: Rules) -> Pair {
        let mut definition = definition.clone();
        let (clean_text, handle_chinese_chars, strip_accents, lowercase) = rules;
        definition["normalizer"] = json!({
            "type": "BertNormalizer", "clean_text": clean_text, "handle_chinese_chars": handle_chinese_chars,
            "strip_accents": strip_accents, "lowercase": lowercase,
        });
        let bytes = serde_json::to_vec(&definition).expect("JSON");
        let oracle = Tokenizer::from_bytes(&bytes).expect("the oracle reads it");
        let fast = FastEncoder::from_tokenizer_json(&bytes).expect("supported");
        Pair { name: format!("{name}, {rules:?}"), oracle, fast }
    }

    /// The same vocabulary under other rules, without reading it again.
    fn with_rules(&mut self, rules: Rules) {
        let normalizer = BertNormalizer::new(rules.0, rules.1, rules.2, rules.3);
        self.oracle.with_normalizer(Some(normalizer)).expect("no added token is normalized");
        self.fast = FastEncoder::from_tokenizer(&self.oracle).expect("supported");
        self.name = format!("{}, {rules:?}", self.name.split(", ").next().unwrap_or_default());
    }

    /// Compares ids twice, since the second time they come from the cache.
    #[track_caller]
    fn check(&mut self, text: &str) {
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
    }
}

/// A vocabulary in which few characters are unknown, so that every change of a character shows in the ids: all of
/// the first two planes and the ideographs compatibility characters decompose to, as words and as continuations.
/// Has more than 65,536 ids.
fn alphabet() -> Value {
    let mut definition = UNCASED.clone();
    let vocab = definition["model"]["vocab"].as_object_mut().expect("an object");
    for code in (0x20..0x20000).chain(0x2f800..0x2fa20) {
        if let Some(c) = char::from_u32(code) {
            for token in [c.to_string(), format!("##{c}")] {
                let next = vocab.len();
                vocab.entry(token).or_insert(json!(next));
            }
        }
    }
    definition
}

/// A small vocabulary of single characters of every script the strategies draw from, and of some pairs.
fn letters() -> Value {
    let mut definition = UNCASED.clone();
    let vocab = definition["model"]["vocab"].as_object_mut().expect("an object");
    let ranges = [
        0x21..0x600,
        0x900..0x980,
        0xe00..0xe80,
        0x1100..0x1200,
        0x1e00..0x2070,
        0x3040..0x3100,
        0x4e00..0x4f00,
    ];
    for c in ranges.into_iter().flatten().filter_map(char::from_u32) {
        for token in [c.to_string(), format!("##{c}"), format!("{c}{c}"), format!("##{c}a")] {
            let next = vocab.len();
            vocab.entry(token).or_insert(json!(next));
        }
    }
    definition
}

/// A definition that is quick to read: only the short tokens of the bundled one.
fn small() -> Value {
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

fn each_pair(check: impl FnMut(&mut Pair)) {
    // A failed test must not fail the others.
    PAIRS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(check);
}

fn check_all(text: &str) {
    each_pair(|pair| pair.check(text));
}

fn check_each(texts: &[&str]) {
    texts.iter().for_each(|text| check_all(text));
}

/// Words of the vocabulary, without the continuation sign.
static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let vocab = UNCASED["model"]["vocab"].as_object().expect("an object");
    vocab.keys().map(|token| token.trim_start_matches("##").to_owned()).collect()
});

fn vocabulary_word() -> impl Strategy<Value = String> {
    any::<Index>().prop_map(|index| index.get(&WORDS).clone())
}

fn scalar_in(from: u32, to: u32) -> impl Strategy<Value = String> {
    (from..=to).prop_map(|code| char::from_u32(code).unwrap_or('\u{fffd}').to_string())
}

fn one_of(characters: &'static str) -> impl Strategy<Value = String> {
    select(characters.chars().collect::<Vec<_>>()).prop_map(String::from)
}

fn repeated(
    unit: impl Strategy<Value = String>,
    times: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec(unit, times).prop_map(|units| units.concat())
}

/// A short stretch of text of one kind.
fn fragment() -> impl Strategy<Value = String> {
    let plane = (0u32..=16).prop_flat_map(|plane| scalar_in(plane << 16, plane << 16 | 0xffff));
    let base = prop_oneof!["[a-zA-Z]", one_of("éÅǅſßıİΣσςѝИйกकख葛한글あ\u{1d15e}\u{fb1d}")];
    let marks = repeated(
        prop_oneof![
            scalar_in(0x300, 0x36f),
            one_of(
                "\u{327}\u{5b0}\u{64b}\u{93c}\u{94d}\u{e38}\u{f71}\u{f73}\u{20dd}\u{3099}\u{1d165}\u{344}"
            )
        ],
        0..5,
    );
    prop_oneof![
        4 => "[a-z]{1,9}",
        2 => "[A-Za-z0-9]{1,20}",
        3 => vocabulary_word(),
        2 => repeated(vocabulary_word(), 2..6),
        2 => "[!-/:-@\\[-`{-~]{1,4}",
        2 => prop_oneof![Just(" ".to_owned()), one_of(" \t\n\r\u{b}\u{c}\u{1c}\u{85}\u{a0}\u{1680}\u{2003}\u{2028}\u{202f}\u{3000}")],
        1 => one_of("\0\u{1}\u{8}\u{1b}\u{7f}\u{80}\u{9f}\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{fffd}\u{e000}\u{fdd0}\u{ffff}\u{10ffff}"),
        2 => plane,
        1 => scalar_in(0x80, 0x24f),
        2 => (base, marks).prop_map(|(base, marks)| base + &marks),
        1 => repeated(scalar_in(0x4e00, 0x9fff), 1..6),
        1 => prop_oneof![scalar_in(0x3400, 0x4dbf), scalar_in(0xf900, 0xfaff), scalar_in(0x2b700, 0x2cfff), scalar_in(0x2f800, 0x2fa1f)],
        1 => scalar_in(0xac00, 0xd7a3),
        1 => select(vec!["[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[mask]", "[MASK", "MASK]", "[[SEP]]", "[Sep]", "[unused1]", "##ing"]).prop_map(str::to_owned),
        1 => select(vec!["’", "“", "”", "…", "–", "don’t", "it's", "e.g.,", "U.S.A.", "http://a.b/c?d=e&f", "naïve", "Straße"]).prop_map(str::to_owned),
        1 => repeated("[a-zé]", 97..104),
    ]
}

fn text() -> impl Strategy<Value = String> {
    repeated(fragment(), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ids_are_equal_on_mixed_text(text in text()) {
        check_all(&text);
    }

    #[test]
    fn ids_are_equal_on_arbitrary_bytes_read_as_utf8(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn ids_are_equal_on_arbitrary_scalar_values(text in any::<String>()) {
        check_all(&text);
    }

    #[test]
    fn a_text_may_be_cut_at_ascii_white_space(left in text(), separator in select(vec![" ", "\t", "\n", "\r", "\r\n  "]), right in text()) {
        each_pair(|pair| {
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            pair.fast.encode(&format!("{left}{separator}{right}"), &mut whole);
            pair.fast.encode(&left, &mut parts);
            pair.fast.encode(&right, &mut parts);
            assert_eq!(whole, parts, "{}", pair.name);
        });
    }
}

/// Every scalar value alone, between letters (where a deleted character joins them), and after a letter that it may
/// combine with, under rules that between them use every switch both ways. Planes in which no character is assigned
/// are gone through once.
#[test]
fn every_scalar_value_encodes_equally_alone_and_between_letters() {
    let mut pair = Pair::new("alphabet", &alphabet(), UNCASED_RULES);
    let other_rules = [
        CASED_RULES,
        (true, true, Some(false), true),
        (false, false, Some(true), false),
        (false, false, None, true),
    ];
    for rules in [UNCASED_RULES].into_iter().chain(other_rules) {
        pair.with_rules(rules);
        let mut text = String::new();
        for c in '\0'..=char::MAX {
            if rules != UNCASED_RULES && !matches!(u32::from(c) >> 16, 0..=3 | 14) {
                continue;
            }
            text.extend([' ', c, ' ', 'a', c, 'B', c, '\u{301}']);
            if text.len() > 1 << 13 {
                pair.check(&text);
                text.clear();
            }
        }
        pair.check(&text);
    }
}

#[test]
fn accents_stripped_or_kept() {
    check_each(&[
        "é",
        "e\u{301}",
        "É",
        "E\u{301}\u{323}",
        "\u{301}",
        "\u{301}a",
        "a\u{301} \u{301}",
        "Ångström naïve façade",
        "ﬁ ﬀ ½ ①",
    ]);
}

#[test]
fn marks_are_reordered_within_a_run_only() {
    check_each(&[
        "a\u{301}\u{323}\u{5b0}",
        "a\u{0301}\0\u{323}",
        "a\u{301}\u{200b}\u{323}",
        "\u{f71}\u{f73}\u{f71}",
        "a\u{20dd}\u{301}\u{20dd}",
        "क\u{94d}\u{93c}",
        "\u{1d15e}\u{1d165}",
    ]);
}

#[test]
fn lower_case_of_special_letters() {
    check_each(&["İstanbul", "I\u{307}", "ΑΣ ΟΔΟΣ σς", "ẞß", "ǅǈ", "Kelvin Å Ω", "ꭰᎠ", "𐐀𐐨"]);
}

#[test]
fn control_characters_join_and_white_space_parts() {
    check_each(&[
        "a\u{b}b",
        "a\u{c}b",
        "a\0b",
        "a\u{85}b",
        "a\u{a0}b",
        "a\u{2028}b",
        "a\u{1c}b",
        "a\tb\nc\rd\r\n",
        "a\u{ad}b\u{200d}c",
        "\u{feff}a",
        "a\u{fffd}b",
        "\u{7f}",
        "a\u{e000}b\u{378}c",
    ]);
}

#[test]
fn chinese_characters_stand_alone() {
    check_each(&[
        "中文字符",
        "a中b文c",
        "中\u{301}文",
        "ひらがなカタカナ",
        "한국어",
        "豈更",
        "\u{2f800}\u{2f801}",
        "\u{2b81f}\u{2b820}\u{2b91f}\u{2b920}",
        "\u{20000}x\u{3400}",
        "，。「」",
    ]);
}

#[test]
fn words_around_the_longest_length() {
    for count in 98..=103 {
        check_all(&"a".repeat(count));
        check_all(&"é".repeat(count));
        check_all(&"e\u{301}".repeat(count));
        check_all(&format!("{}.", "q".repeat(count)));
        check_all(&format!("{}\0{}", "a".repeat(50), "a".repeat(count - 50)));
        check_all(&"\u{1f600}".repeat(count));
    }
    check_all(&"a".repeat(100_000));
    check_all(&"中".repeat(10_000));
    check_all(&"a\u{301}".repeat(10_000));
}

#[test]
fn added_tokens_in_the_text() {
    check_each(&[
        "[MASK]",
        "a[MASK]b",
        "[MASK].",
        "[MASK]]",
        "[[MASK]",
        "[MASK][SEP]",
        "[mask]",
        "[Mask] [MASK]",
        "[mask] [MASK] [mask]",
        "[MASK]\u{301}",
        "e[MASK]\u{301}",
        "[MA\0SK]",
        "[MASK ]",
        "[MA SK]",
        "É[CLS]É",
        "[PAD][UNK][PAD]",
        "[CLS",
        "CLS]",
        "[unused5]",
        "中[SEP]文",
        "x[SEP]. y",
        "[MASK],",
        "(long-word-with-[MASK]-inside)",
        "(long-word-with-[mask]-inside)",
    ]);
}

#[test]
fn added_tokens_of_other_shapes() {
    let token = |content: &str| {
        json!({"id": 40000, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": content.starts_with('<')})
    };
    let sets: [&[&str]; 5] = [
        &["<e>", "<e>x", "e>xy"],
        &["hello", "world", "LO"],
        &[",", "!", "a."],
        &["é", "中", "\u{301}"],
        &["aa", "aaa", "\u{b}", "\0"],
    ];
    for contents in sets {
        let mut definition = small();
        definition["added_tokens"]
            .as_array_mut()
            .expect("an array")
            .extend(contents.iter().map(|content| token(content)));
        let mut pair = Pair::new(&format!("{contents:?}"), &definition, UNCASED_RULES);
        for rules in [UNCASED_RULES, CASED_RULES, (false, false, Some(false), true)] {
            pair.with_rules(rules);
            for text in [
                "<e> <e>x <e>xy <E> a<e>xyz,",
                "hello HELLO Hello helloworld hell-o HelloWorldly well-hello-there hello, LO lo Lo",
                "a, b! a. A. A.. a.b a,!",
                "é e\u{301} É 中文 a中b e\u{301}\u{301} \u{301}",
                "aaaa aaaaa aAaa AAA a\u{b}a\0a \0",
                "self-explanatory-hello hello-self-explanatory hello self explanatory aa-aaa-aa-very-long",
            ] {
                pair.check(text);
            }
        }
    }
}

#[test]
fn punctuation_of_every_kind() {
    check_each(&[
        "a.b.c",
        "...",
        "a...",
        "...a",
        "\"Hi,\" he said.",
        "$5.00 + 3^2 = ~14`",
        "don’t “quote”—dash…",
        "¿qué? ¡sí!",
        "۔؟،",
        "a\u{b7}b",
        "\u{37e}",
        "\u{1fef}",
        "(e.g.,",
        "_a_b_",
        "a,,",
        "a.)",
        "€5 ©",
    ]);
}

#[test]
fn chunks_at_every_place_of_a_block_and_of_the_text() {
    let mut pair = Pair::new("bundled", &UNCASED, UNCASED_RULES);
    for before in 0..70 {
        for len in [1, 2, 14, 15, 16, 17, 31, 64, 65] {
            let filler = "x ".repeat(35);
            let word: String = "word,Ünï".chars().cycle().take(len).collect();
            for text in
                [format!("{}{word}", &filler[..before]), format!("{}{word} {filler}", &filler[..before])]
            {
                pair.check(&text);
            }
        }
    }
}

/// The encoder looks at 4096 bytes at a time.
#[test]
fn chunks_and_marks_where_a_window_ends() {
    let mut pair = Pair::new("bundled", &UNCASED, UNCASED_RULES);
    let filler = "a, ".repeat(1500);
    for before in 4070..4110 {
        for then in [
            ". b",
            ",c",
            "  d",
            "! ! e",
            "word, next",
            "self-explanatory, (f)",
            "[MASK], g",
            "Ünï, h",
            "\u{301}",
        ] {
            pair.check(&format!("{}{then}", &filler[..before]));
            pair.check(&format!("{}{then} {}", &filler[..before], &filler[..5000 - before]));
        }
    }
}

/// Letters, digits and marks, which have a way of their own when they are not in the cache: as long as it takes and longer, seen
/// for the first time, again in the same text, and in the next.
#[test]
fn plain_chunks_new_and_known() {
    for pieces in 1..6 {
        for len in [1, 2, 7, 14, 15, 16, 17, 29, 30, 31, 32, 33, 40] {
            let letters = "qzxjkvwyp0".chars().cycle().skip(pieces).take(len).collect::<String>();
            let chunk = vec![letters.as_str(); pieces].join("-");
            for text in [
                format!("{chunk} {chunk} ({chunk}) {letters}, {}", chunk.to_uppercase()),
                format!("\"{chunk}\" {chunk}... {letters}/{chunk}@x_{letters}"),
            ] {
                check_all(&text);
                check_all(&text);
            }
        }
    }
}

#[test]
fn texts_with_nothing_in_them() {
    check_each(&["", " ", "\n\n\n", "\0", "\u{200b}\u{200b}", "\u{301}", "   \t \u{a0} "]);
    check_all(&" ".repeat(1000));
}

#[test]
fn other_shapes_of_the_model() {
    type Change = fn(&mut Value);
    let variants: [(&str, Change); 6] = [
        ("no prefix", |model| model["continuing_subword_prefix"] = json!("")),
        ("a prefix of letters", |model| {
            model["continuing_subword_prefix"] = json!("in");
        }),
        ("a prefix that is not ASCII", |model| {
            model["continuing_subword_prefix"] = json!("é");
            for (i, token) in ["éa", "éb", "ab", "é", "éé"].into_iter().enumerate() {
                model["vocab"][token] = json!(31000 + i);
            }
        }),
        ("short words only", |model| model["max_input_chars_per_word"] = json!(3)),
        ("no words at all", |model| model["max_input_chars_per_word"] = json!(0)),
        ("another unknown token, large ids", |model| {
            model["unk_token"] = json!("the");
            model["vocab"]["of"] = json!(16_000_000);
        }),
    ];
    for (name, change) in variants {
        let mut definition = small();
        change(&mut definition["model"]);
        let mut pair = Pair::new(name, &definition, UNCASED_RULES);
        for rules in [UNCASED_RULES, CASED_RULES, (true, true, Some(false), true)] {
            pair.with_rules(rules);
            for text in [
                "the inning of an inner tokenization, unaffable inin",
                "ab abab éaéb aéb ab\u{301}",
                "of of, OF xyz",
                "a bc def ghij 中文 é...",
                "qqqzzz\u{1f600}",
            ] {
                pair.check(text);
            }
        }
    }
}

#[test]
fn a_clone_encodes_equally_and_on_its_own() {
    let mut pair = Pair::new("clone", &small(), UNCASED_RULES);
    pair.check("some words, some more");
    let first = pair.fast.clone();
    pair.fast = first;
    pair.check("some words, some more, and others");
}

#[test]
fn what_is_not_supported_is_said() {
    let refused = |change: fn(&mut Value)| {
        let mut definition = small();
        change(&mut definition);
        let bytes = serde_json::to_vec(&definition).expect("JSON");
        FastEncoder::from_tokenizer_json(&bytes).expect_err("refused").to_string()
    };
    assert_eq!(
        refused(|d| d["normalizer"] = json!({"type": "Lowercase"})),
        "the normalizer is Lowercase, not BertNormalizer"
    );
    assert_eq!(refused(|d| d["normalizer"] = Value::Null), "the normalizer is missing, not BertNormalizer");
    assert_eq!(
        refused(|d| d["pre_tokenizer"] = json!({"type": "Whitespace"})),
        "the pre-tokenizer is Whitespace, not BertPreTokenizer"
    );
    assert_eq!(
        refused(|d| d["model"] = json!({"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"})),
        "the model is WordLevel, not WordPiece"
    );
    assert_eq!(
        refused(|d| d["model"]["unk_token"] = json!("[NONE]")),
        "the unknown token \"[NONE]\" is not in the vocabulary"
    );
    assert_eq!(
        refused(|d| d["model"]["vocab"]["the"] = json!(u32::MAX)),
        "the vocabulary has id 4294967295, above the highest supported, 268435454"
    );
    for flag in ["lstrip", "rstrip", "single_word", "normalized"] {
        let mut definition = small();
        definition["added_tokens"][4][flag] = json!(true);
        let refused = FastEncoder::from_tokenizer_json(&serde_json::to_vec(&definition).expect("JSON"));
        assert_eq!(
            refused.expect_err("refused").to_string(),
            format!("the added token \"[MASK]\" has {flag:?} set")
        );
    }
    assert_eq!(
        refused(|d| {
            let mut token = d["added_tokens"][4].clone();
            token["content"] = json!("two words");
            d["added_tokens"].as_array_mut().expect("an array").push(token);
        }),
        "the added token \"two words\" contains white space"
    );
    assert!(
        refused(|d| d["truncation"] =
            json!({"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0}))
        .contains("truncates")
    );
    assert!(refused(|d| d["padding"] = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"})).contains("pads"));
    assert!(refused(|d| d["post_processor"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})).contains("post-processor"));
    assert!(
        refused(|d| {
            let twice = json!({"Sequence": {"id": "A", "type_id": 0}});
            d["post_processor"]["single"] = json!([twice, twice]);
        })
        .contains("post-processor")
    );
    assert!(matches!(FastEncoder::from_tokenizer_json(b"{"), Err(Unsupported::Unreadable(_))));

    let mut tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&small()).expect("JSON")).expect("valid");
    tokenizer.set_encode_special_tokens(true);
    assert!(matches!(FastEncoder::from_tokenizer(&tokenizer), Err(Unsupported::EncodedSpecialTokens)));
}
