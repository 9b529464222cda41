//! What BERT's pipeline needs to know of a character, as one byte looked up in two steps.
//!
//! The facts come from the very functions and crates the `tokenizers` crate calls (`unicode_categories`,
//! `unicode-normalization-alignments`, `char`), so both sides agree on every character, old Unicode versions
//! included. Those functions search several tables a character; here each page of 256 characters is asked for
//! once, when a text first needs it, and kept for the life of the program (about a megabyte if all of Unicode is
//! seen).

use std::sync::OnceLock;

use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

/// Facts about one character, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class(u8);

impl Class {
    /// Deleted by cleaning: U+0000, U+FFFD and the categories Cc, Cf, Cs, Co and Cn, but for tab, LF and CR.
    pub(super) const DELETED: Class = Class(1);
    /// White space to `char`: a space after cleaning, and where the pre-tokenizer splits.
    pub(super) const SPACE: Class = Class(2);
    /// One of the CJK blocks that BERT surrounds with spaces.
    pub(super) const CHINESE: Class = Class(4);
    /// A nonspacing mark (Mn), dropped with the accents.
    pub(super) const MARK: Class = Class(8);
    /// ASCII or Unicode punctuation: a pre-token by itself.
    pub(super) const PUNCTUATION: Class = Class(16);
    /// Takes part in NFD: it decomposes, or its combining class is not zero.
    pub(super) const NFD: Class = Class(32);
    /// Changes when lower-cased.
    pub(super) const UPPER: Class = Class(64);

    /// The class of `c`.
    #[inline]
    pub(super) fn of(c: char) -> Class {
        static PAGES: [OnceLock<Box<[Class; 256]>>; 0x1100] = [const { OnceLock::new() }; 0x1100];
        let code = c as usize;
        let page = PAGES[code >> 8].get_or_init(|| {
            Box::new(std::array::from_fn(|low| {
                // A page of surrogates is never asked for.
                char::from_u32((code & !0xff | low) as u32).map_or(Class(0), Class::compute)
            }))
        });
        page[code & 0xff]
    }

    /// Whether any of the facts `any` holds.
    #[inline]
    pub(super) fn is(self, any: Class) -> bool {
        self.0 & any.0 != 0
    }

    /// Both sets of facts.
    pub(super) const fn or(self, other: Class) -> Class {
        Class(self.0 | other.0)
    }

    fn compute(c: char) -> Class {
        let kept_control = matches!(c, '\t' | '\n' | '\r');
        let deleted = c == '\0' || c == '\u{fffd}' || (!kept_control && c.is_other());
        let mut decomposed = 0;
        let mut same = true;
        decompose_canonical(c, |part| {
            decomposed += 1;
            same &= part == c;
        });
        let facts = [
            (Class::DELETED, deleted),
            (Class::SPACE, c.is_whitespace()),
            (Class::CHINESE, is_chinese(c)),
            (Class::MARK, c.is_mark_nonspacing()),
            (Class::PUNCTUATION, c.is_ascii_punctuation() || c.is_punctuation()),
            (Class::NFD, decomposed != 1 || !same || canonical_combining_class(c) != 0),
            (Class::UPPER, !c.to_lowercase().eq([c])),
        ];
        facts.iter().filter(|(_, holds)| *holds).fold(Class(0), |class, (fact, _)| class.or(*fact))
    }
}

/// The blocks that BERT calls Chinese: CJK ideographs with their first four extensions and compatibility forms.
/// Extension E begins at U+2B920 here, as in the original code, although Unicode begins it at U+2B820.
fn is_chinese(c: char) -> bool {
    matches!(
        c,
        '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{2a6df}'
            | '\u{2a700}'..='\u{2b73f}'
            | '\u{2b740}'..='\u{2b81f}'
            | '\u{2b920}'..='\u{2ceaf}'
            | '\u{2f800}'..='\u{2fa1f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_characters_have_the_facts_the_pipeline_is_known_for() {
        assert_eq!(Class::of('a'), Class(0));
        assert_eq!(Class::of('A'), Class::UPPER);
        assert_eq!(Class::of('\t'), Class::SPACE);
        assert_eq!(Class::of('\u{b}'), Class::DELETED.or(Class::SPACE));
        assert_eq!(Class::of('$'), Class::PUNCTUATION);
        assert_eq!(Class::of('é'), Class::NFD);
        assert_eq!(Class::of('\u{301}'), Class::MARK.or(Class::NFD));
        assert_eq!(Class::of('語'), Class::CHINESE);
        assert_eq!(Class::of('\u{2b820}'), Class::of('\u{2b91f}'), "the gap before extension E");
    }
}
