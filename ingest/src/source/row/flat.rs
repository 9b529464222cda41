//! Lines that are one object of strings: found with vector instructions, unescaped into memory that is used again.
//!
//! Anything else (other values, escaped names, lone surrogates, a field twice, any error) is nothing to it: the caller
//! then asks `serde_json`, which also says what is wrong. So this decides no question of validity in favour of a line
//! that `serde_json` would refuse, and no message is written here.

use std::borrow::Cow;

use super::{Field, Fields};

/// The fields of a line, if it is such an object.
pub(super) fn parse<'a>(line: &'a str, unescaped: &'a mut String, text_field: &str) -> Option<Fields<'a>> {
    let mut rest = Rest(line);
    let mut fields = Fields::default();
    // Where the text stands: between quotes, or in `unescaped`.
    let mut text = None;
    rest.sign(b'{')?;
    loop {
        let name = rest.string()?;
        if name.escaped {
            return None;
        }
        rest.sign(b':')?;
        let value = rest.string()?;
        if name.raw == text_field {
            if text.is_some() {
                return None;
            }
            if value.escaped {
                unescaped.clear();
                unescape(value.raw, unescaped)?;
            }
            text = Some(value);
        } else {
            let value = if value.escaped {
                let mut whole = String::with_capacity(value.raw.len());
                unescape(value.raw, &mut whole)?;
                Cow::Owned(whole)
            } else {
                Cow::Borrowed(value.raw)
            };
            match name.raw {
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
    if !rest.0.is_empty() {
        return None;
    }
    if let Some(text) = text {
        fields.text = Field::Text(Cow::Borrowed(if text.escaped { unescaped } else { text.raw }));
    }
    Some(fields)
}

/// What stands between two quotes.
#[derive(Clone, Copy)]
struct Quoted<'a> {
    raw: &'a str,
    escaped: bool,
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Passes over `sign`, which must come next.
    fn sign(&mut self, sign: u8) -> Option<()> {
        if self.0.as_bytes().first() != Some(&sign) {
            self.skip_space();
        }
        self.0 = self.0.strip_prefix(char::from(sign))?;
        Some(())
    }

    /// Passes over a string, whose escapes are yet to be looked at.
    fn string(&mut self) -> Option<Quoted<'a>> {
        self.sign(b'"')?;
        let bytes = self.0.as_bytes();
        let (mut at, mut escaped) = (0, false);
        loop {
            at += memchr::memchr2(b'"', b'\\', &bytes[at..])?;
            if bytes[at] == b'"' {
                break;
            }
            escaped = true;
            at += 2;
            if at > bytes.len() {
                return None;
            }
        }
        let raw = &self.0[..at];
        self.0 = &self.0[at + 1..];
        // Control characters must be escaped. Without a branch, so that many bytes are looked at in one step.
        let control = raw.bytes().fold(false, |any, byte| any | (byte < 0x20));
        (!control).then_some(Quoted { raw, escaped })
    }
}

/// Appends what `raw` stands for.
fn unescape(raw: &str, out: &mut String) -> Option<()> {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1..].first()?;
        let mut end = at + 2;
        out.push(match escape {
            b'"' | b'\\' | b'/' => char::from(*escape),
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let first = hexadecimal(rest, end)?;
                end += 4;
                if (0xd800..0xdc00).contains(&first) {
                    let second = rest[end..].strip_prefix("\\u").and_then(|_| hexadecimal(rest, end + 2))?;
                    end += 6;
                    char::decode_utf16([first, second]).next()?.ok()?
                } else {
                    char::from_u32(first.into())?
                }
            }
            _ => return None,
        });
        rest = &rest[end..];
    }
    out.push_str(rest);
    Some(())
}

/// Four hexadecimal digits.
fn hexadecimal(text: &str, at: usize) -> Option<u16> {
    let digits = text.as_bytes().get(at..at + 4)?;
    digits.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)? as u16))
}
