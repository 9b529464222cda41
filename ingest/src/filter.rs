//! Filters that web text needs. All are off unless asked for, and all that they leave out is counted by reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use whatlang::Lang;

use crate::error::Error;
use crate::source::Document;

/// Default of [`Filters::language_threshold`].
pub const DEFAULT_LANGUAGE_THRESHOLD: f64 = 0.5;
/// Characters from the beginning of a text that its language is told by: more change little but take long.
const LANGUAGE_CHARS: usize = 2000;
/// Two-letter codes of the languages that can be told apart, with those of three letters.
const TWO_LETTERS: &[(&str, Lang)] = &[
    ("af", Lang::Afr),
    ("ar", Lang::Ara),
    ("az", Lang::Aze),
    ("be", Lang::Bel),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("eo", Lang::Epo),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hr", Lang::Hrv),
    ("hu", Lang::Hun),
    ("hy", Lang::Hye),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("ka", Lang::Kat),
    ("ko", Lang::Kor),
    ("la", Lang::Lat),
    ("lt", Lang::Lit),
    ("lv", Lang::Lav),
    ("mk", Lang::Mkd),
    ("nl", Lang::Nld),
    ("no", Lang::Nob),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("sk", Lang::Slk),
    ("sl", Lang::Slv),
    ("sr", Lang::Srp),
    ("sv", Lang::Swe),
    ("th", Lang::Tha),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("vi", Lang::Vie),
    ("zh", Lang::Cmn),
];

/// Which duplicates are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// None.
    #[default]
    None,
    /// Documents whose text is that of an earlier one, but for case and white space.
    Exact,
    /// Documents whose text is much like that of an earlier one.
    Near,
}

/// What is asked of a document. The default asks nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// Characters that the text must have.
    pub min_chars: u64,
    /// Tokens that it must have.
    pub min_tokens: u64,
    /// Which duplicates are left out.
    pub dedup: Dedup,
    /// Codes of languages, such as `en`; one of them it must be in, unless there is none.
    pub languages: Vec<String>,
    /// How sure that must be, from 0 to 1.
    pub language_threshold: f64,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            min_chars: 0,
            min_tokens: 0,
            dedup: Dedup::None,
            languages: Vec::new(),
            language_threshold: DEFAULT_LANGUAGE_THRESHOLD,
        }
    }
}

impl Filters {
    /// Whether nothing is asked.
    pub fn is_off(&self) -> bool {
        *self == Self { language_threshold: self.language_threshold, ..Self::default() }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Option`] or [`Error::Language`].
    pub fn validate(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.language_threshold) {
            let (option, found) = ("--language-threshold", self.language_threshold.to_string());
            return Err(Error::Option { option, found, expected: "a number from 0 to 1" });
        }
        self.languages.iter().try_for_each(|code| language(code).map(drop))
    }
}

fn language(code: &str) -> Result<Lang, Error> {
    let short = TWO_LETTERS.iter().find(|(two, _)| *two == code).map(|(_, language)| *language);
    short.or_else(|| Lang::from_code(code)).ok_or_else(|| {
        let known: Vec<_> = TWO_LETTERS.iter().map(|(two, _)| *two).collect();
        Error::Language { found: code.to_owned(), known: known.join(" ") }
    })
}

/// Why a document was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    FewChars,
    Language,
    Duplicate,
    NearDuplicate,
    FewTokens,
}

impl Reason {
    /// Its name in the manifest.
    fn name(self) -> &'static str {
        match self {
            Self::FewChars => "too few characters",
            Self::Language => "another language",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near duplicate",
            Self::FewTokens => "too few tokens",
        }
    }
}

/// Documents left out, by reason.
pub(crate) type Counts = BTreeMap<String, u64>;

pub(crate) fn count(counts: &mut Counts, reason: Reason) {
    *counts.entry(reason.name().to_owned()).or_default() += 1;
}

/// Judges the documents of one input.
pub(crate) struct Sieve {
    filters: Filters,
    languages: Vec<Lang>,
    /// Rows, ascending, of duplicates of earlier documents.
    duplicates: Vec<u64>,
}

impl Sieve {
    pub(crate) fn new(filters: &Filters, duplicates: Vec<u64>) -> Result<Self, Error> {
        let languages = filters.languages.iter().map(|code| language(code)).collect::<Result<_, _>>()?;
        Ok(Self { filters: filters.clone(), languages, duplicates })
    }

    /// Why a document is to be left out, if it is.
    pub(crate) fn judge(&self, document: &Document<'_>) -> Option<Reason> {
        self.judge_text(&document.text).or_else(|| {
            let is_duplicate =
                !self.duplicates.is_empty() && self.duplicates.binary_search(&document.row).is_ok();
            let reason =
                if self.filters.dedup == Dedup::Exact { Reason::Duplicate } else { Reason::NearDuplicate };
            is_duplicate.then_some(reason)
        })
    }

    /// What can be told without looking at other documents.
    pub(crate) fn judge_text(&self, text: &str) -> Option<Reason> {
        let least = self.filters.min_chars;
        if least > 0 && (text.chars().take(least as usize).count() as u64) < least {
            return Some(Reason::FewChars);
        }
        if !self.languages.is_empty() {
            let end = text.char_indices().nth(LANGUAGE_CHARS).map_or(text.len(), |(end, _)| end);
            let found = whatlang::detect(&text[..end]);
            let is_wanted = found.is_some_and(|found| {
                self.languages.contains(&found.lang())
                    && found.confidence() >= self.filters.language_threshold
            });
            if !is_wanted {
                return Some(Reason::Language);
            }
        }
        None
    }

    /// Why a document of so many tokens is to be left out, if it is.
    pub(crate) fn judge_tokens(&self, tokens: usize) -> Option<Reason> {
        ((tokens as u64) < self.filters.min_tokens).then_some(Reason::FewTokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(filters: &Filters, text: &str) -> Option<Reason> {
        filters.validate().unwrap();
        Sieve::new(filters, Vec::new()).unwrap().judge_text(text)
    }

    #[test]
    fn by_default_nothing_is_left_out() {
        assert!(Filters::default().is_off());
        assert_eq!(judged(&Filters::default(), ""), None);
        assert_eq!(Sieve::new(&Filters::default(), Vec::new()).unwrap().judge_tokens(0), None);
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let filters = Filters { min_chars: 4, ..Filters::default() };
        assert_eq!(judged(&filters, "äöü"), Some(Reason::FewChars));
        assert_eq!(judged(&filters, "äöüß"), None);
    }

    #[test]
    fn languages_are_told_apart() {
        let filters = Filters { languages: vec!["en".into(), "deu".into()], ..Filters::default() };
        assert_eq!(
            judged(
                &filters,
                "The weather was fine, and the children were playing in the garden. Their grandmother watched them \
                 through the kitchen window and thought of the summers when she had been as young as they were."
            ),
            None
        );
        assert_eq!(
            judged(
                &filters,
                "Das Wetter war schön, und die Kinder spielten den ganzen Tag im Garten. Ihre Großmutter sah ihnen durch \
                 das Küchenfenster zu und dachte an die Sommer, in denen sie selbst so jung gewesen war."
            ),
            None
        );
        let french = "Il faisait beau, et les enfants jouaient dans le jardin toute la journée.";
        assert_eq!(judged(&filters, french), Some(Reason::Language));
        assert_eq!(judged(&filters, "12345"), Some(Reason::Language));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let said = |filters: Filters| filters.validate().unwrap_err().to_string();
        let languages = said(Filters { languages: vec!["xx".into()], ..Filters::default() });
        assert!(
            languages.starts_with("the language \"xx\" is not known; expected some of af ar"),
            "{languages}"
        );
        let threshold = said(Filters { language_threshold: 2.0, ..Filters::default() });
        assert_eq!(threshold, "--language-threshold is 2, expected a number from 0 to 1");
    }
}
