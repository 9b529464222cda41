//! The fast encoder against its oracle, `tokenizers::Tokenizer::encode(text, false)`: equal ids on every text.

mod pair;
mod texts;

use ingest::wordpiece::{FastEncoder, Unsupported};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use pair::{CASED_RULES, Pair, UNCASED, UNCASED_RULES, alphabet, check_all, check_each, each_pair, small};
use texts::text;

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
