//! BertNormalizer on one piece of text, for characters outside ASCII.
//!
//! The steps and their order are those of the `tokenizers` crate: cleaning, Chinese spacing, NFD, dropping of
//! nonspacing marks, lower-casing. All but NFD look at one character at a time. NFD additionally sorts runs of
//! characters whose combining class is not zero; a character that neither decomposes nor has such a class ends a
//! run and passes unchanged. So NFD proper runs only on the runs between such characters, and everything else goes
//! through the class table alone.

use unicode_normalization_alignments::UnicodeNormalization;

use super::classes::Class;

/// The switches of BertNormalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Normalizer {
    /// Delete control characters, make every white space a space.
    pub(super) clean_text: bool,
    /// Put spaces around Chinese characters.
    pub(super) handle_chinese_chars: bool,
    /// Decompose and drop nonspacing marks (already resolved: `null` follows `lowercase`).
    pub(super) strip_accents: bool,
    /// Lower-case.
    pub(super) lowercase: bool,
}

impl Normalizer {
    /// Appends the normalised form of `piece` to `out`.
    pub(super) fn push(&self, piece: &str, run: &mut String, out: &mut String) {
        debug_assert!(run.is_empty());
        for c in piece.chars() {
            let class = Class::of(c);
            if self.clean_text {
                if class.is(Class::DELETED) {
                    continue;
                }
                if class.is(Class::SPACE) {
                    self.end_run(run, out);
                    out.push(' ');
                    continue;
                }
            }
            let spaced = self.handle_chinese_chars && class.is(Class::CHINESE);
            if spaced {
                self.end_run(run, out);
                out.push(' ');
            }
            if self.strip_accents && class.is(Class::NFD) {
                run.push(c);
            } else {
                self.end_run(run, out);
                self.finish(c, class, out);
            }
            if spaced {
                self.end_run(run, out);
                out.push(' ');
            }
        }
        self.end_run(run, out);
    }

    /// NFD of a run.
    #[inline]
    fn end_run(&self, run: &mut String, out: &mut String) {
        if !run.is_empty() {
            for (c, _) in run.nfd() {
                self.finish(c, Class::of(c), out);
            }
            run.clear();
        }
    }

    /// What comes after NFD: marks and case.
    #[inline]
    fn finish(&self, c: char, class: Class, out: &mut String) {
        if self.strip_accents && class.is(Class::MARK) {
            return;
        }
        if self.lowercase && class.is(Class::UPPER) {
            out.extend(c.to_lowercase());
        } else {
            out.push(c);
        }
    }

    /// What becomes of each ASCII character.
    pub(super) fn ascii(&self) -> [Ascii; 128] {
        let (mut run, mut out) = (String::new(), String::new());
        std::array::from_fn(|code| {
            let c = char::from(code as u8);
            out.clear();
            self.push(c.encode_utf8(&mut [0; 4]), &mut run, &mut out);
            match out.as_bytes() {
                [] => Ascii::Deleted,
                &[byte] => {
                    let class = Class::of(char::from(byte));
                    if class.is(Class::SPACE) {
                        Ascii::Space
                    } else if class.is(Class::PUNCTUATION) {
                        Ascii::Punctuation(byte)
                    } else {
                        Ascii::Word(byte)
                    }
                }
                _ => unreachable!("no ASCII character normalises to more than one byte"),
            }
        })
    }
}

/// The fate of an ASCII character, after normalisation and pre-tokenisation. None of them decomposes or combines,
/// so each can be looked at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ascii {
    /// Part of a word, as this byte.
    Word(u8),
    /// A pre-token by itself.
    Punctuation(u8),
    /// Ends a word.
    Space,
    /// Vanishes; its neighbours join.
    Deleted,
}
