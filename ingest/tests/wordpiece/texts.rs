//! Texts for the property tests: stretches of every kind that the pipeline treats in its own way.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::pair::UNCASED;

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

pub(crate) fn text() -> impl Strategy<Value = String> {
    repeated(fragment(), 0..24)
}
