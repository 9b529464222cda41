//! Lines that are one object of strings: found with vector instructions, unescaped into memory that is used again.
//!
//! Anything else (other values, escaped names, lone surrogates, a field twice, any error) is nothing to it: the caller
//! then asks `serde_json`, which also says what is wrong. So this decides no question of validity in favour of a line
//! that `serde_json` would refuse, and no message is written here.

use std::borrow::Cow;

use super::{Field, Fields};

/// The fields of a line, if it is such an object. Where it is known to have no control characters, none are looked for.
pub(super) fn parse<'a>(
    line: &'a str,
    may_have_control: bool,
    unescaped: &'a mut String,
    text_field: &str,
) -> Option<Fields<'a>> {
    let mut rest = Rest { text: line, may_have_control };
    let mut fields = Fields::default();
    let mut text = None;
    rest.sign(b'{')?;
    loop {
        let Quoted::AsItIs(name) = rest.string(&mut String::new())? else { return None };
        rest.sign(b':')?;
        if name == text_field {
            if text.is_some() {
                return None;
            }
            text = Some(rest.string(unescaped)?);
        } else {
            let mut own = String::new();
            let value = match rest.string(&mut own)? {
                Quoted::AsItIs(raw) => Cow::Borrowed(raw),
                Quoted::Unescaped => Cow::Owned(own),
            };
            match name {
                "url" => fields.url = Field::Text(value),
                "timestamp" => fields.timestamp = Field::Text(value),
                _ => {}
            }
        }
        if rest.sign(b',').is_none() {
            break;
        }
    }
    rest.sign(b'}')?;
    rest.skip_space();
    if !rest.text.is_empty() {
        return None;
    }
    if let Some(text) = text {
        fields.text = Field::Text(Cow::Borrowed(match text {
            Quoted::AsItIs(raw) => raw,
            Quoted::Unescaped => unescaped,
        }));
    }
    Some(fields)
}

/// What stands between two quotes.
#[derive(Clone, Copy)]
enum Quoted<'a> {
    /// Without escapes.
    AsItIs(&'a str),
    /// With some; what it stands for is where the caller wanted it.
    Unescaped,
}

/// What is left of a line.
struct Rest<'a> {
    text: &'a str,
    may_have_control: bool,
}

impl<'a> Rest<'a> {
    fn skip_space(&mut self) {
        self.text = self.text.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Passes over `sign`, which must come next.
    fn sign(&mut self, sign: u8) -> Option<()> {
        if self.text.as_bytes().first() != Some(&sign) {
            self.skip_space();
        }
        self.text = self.text.strip_prefix(char::from(sign))?;
        Some(())
    }

    /// Passes over a string. One with escapes replaces the content of `unescaped`.
    fn string(&mut self, unescaped: &mut String) -> Option<Quoted<'a>> {
        self.sign(b'"')?;
        let from = self.text;
        let mut escaped = false;
        loop {
            let (before, rest) = self.text.split_at(memchr::memchr2(b'"', b'\\', self.text.as_bytes())?);
            if let Some(behind) = rest.strip_prefix('"') {
                self.text = behind;
                let raw = &from[..from.len() - rest.len()];
                // They must be escaped in a string.
                if self.may_have_control && raw.bytes().any(|byte| byte < 0x20) {
                    return None;
                }
                if !escaped {
                    return Some(Quoted::AsItIs(raw));
                }
                unescaped.push_str(before);
                return Some(Quoted::Unescaped);
            }
            if !escaped {
                escaped = true;
                unescaped.clear();
                // Most addresses fit.
                unescaped.reserve(128);
            }
            unescaped.push_str(before);
            self.text = &rest[1..];
            unescaped.push(self.escape()?);
        }
    }

    /// Passes over what follows a backslash; what both stand for.
    fn escape(&mut self) -> Option<char> {
        let sign = *self.text.as_bytes().first()?;
        let (c, len) = match sign {
            b'"' | b'\\' | b'/' => (char::from(sign), 1),
            b'n' => ('\n', 1),
            b't' => ('\t', 1),
            b'r' => ('\r', 1),
            b'b' => ('\u{8}', 1),
            b'f' => ('\u{c}', 1),
            b'u' => {
                let first = hexadecimal(self.text, 1)?;
                if (0xd800..0xdc00).contains(&first) {
                    let second =
                        self.text[5..].strip_prefix("\\u").and_then(|_| hexadecimal(self.text, 7))?;
                    (char::decode_utf16([first, second]).next()?.ok()?, 11)
                } else {
                    (char::from_u32(first.into())?, 5)
                }
            }
            _ => return None,
        };
        self.text = &self.text[len..];
        Some(c)
    }
}

/// Four hexadecimal digits.
fn hexadecimal(text: &str, at: usize) -> Option<u16> {
    let digits = text.as_bytes().get(at..at + 4)?;
    digits.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)? as u16))
}
