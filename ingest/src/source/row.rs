//! One line of JSON lines: a document, or the reason why it is none.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Document;
use super::jsonl::first_control;

mod flat;

/// How many of a row's fields a message lists.
const FIELDS_SHOWN: usize = 8;

/// Reads one line as a document; the error is a reason that starts with the column, where there is one. A text with
/// escapes is put into `unescaped`.
///
/// What a line means is what `serde_json` makes of it. Lines that are nothing but strings in an object, as C4's are,
/// are read by [`flat`], which leaves all others alone.
///
/// # Errors
/// The reason, such as `column 10: not JSON as expected: expected value`.
pub fn parse<'a>(
    line: &'a [u8],
    unescaped: &'a mut String,
    row: u64,
    text_field: &str,
) -> Result<Document<'a>, String> {
    parse_seen(line, first_control(line).is_some(), unescaped, row, text_field)
}

/// The same of a line that was looked at before: whether it may have control characters.
pub(super) fn parse_seen<'a>(
    line: &'a [u8],
    may_have_control: bool,
    unescaped: &'a mut String,
    row: u64,
    text_field: &str,
) -> Result<Document<'a>, String> {
    let line = simdutf8::compat::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        format!("column {}: byte 0x{:02x} is not valid UTF-8", at + 1, line[at])
    })?;
    let fields = match flat::parse(line, may_have_control, unescaped, text_field) {
        Some(fields) => fields,
        None => general(line, text_field).map_err(|error| reason(&error))?,
    };
    match fields.text {
        Field::Text(text) => {
            Ok(Document { row, text, url: fields.url.into_text(), timestamp: fields.timestamp.into_text() })
        }
        Field::Other(found) => Err(format!("field {text_field:?} is {found}, not a string")),
        Field::Absent => Err(missing(line, text_field)),
    }
}

/// The fields of any line.
fn general<'a>(line: &'a str, text_field: &str) -> serde_json::Result<Fields<'a>> {
    let mut json = serde_json::Deserializer::from_str(line);
    let fields = Wanted { text_field }.deserialize(&mut json)?;
    json.end()?;
    Ok(fields)
}

/// `serde_json` counts lines within the one line it is given; only the column says something.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
    format!("column {}: not JSON as expected: {message}", error.column().max(1))
}

/// The row is a JSON object without text: says what it has instead.
fn missing(line: &str, text_field: &str) -> String {
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap_or_default();
    let mut names: Vec<&str> = row.keys().map(String::as_str).take(FIELDS_SHOWN).collect();
    if row.len() > FIELDS_SHOWN {
        names.push("...");
    }
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("no field {text_field:?} (fields: {found}; --text-field names another)")
}

/// The fields of a row that are kept.
#[derive(Debug, Default, PartialEq)]
struct Fields<'a> {
    text: Field<'a>,
    url: Field<'a>,
    timestamp: Field<'a>,
}

/// A field's value: its text, borrowed from the line where it has no escapes, or what it is instead.
#[derive(Debug, Default, PartialEq)]
enum Field<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Other(&'static str),
}

impl<'a> Field<'a> {
    /// Provenance that is no string is left out.
    fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Field::Text(text) => Some(text),
            Field::Other(_) | Field::Absent => None,
        }
    }
}

/// Picks the wanted fields out of a JSON object.
struct Wanted<'f> {
    text_field: &'f str,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Fields<'de>, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object with a field {:?}", self.text_field)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
        let mut fields = Fields::default();
        while let Some(Text(name)) = map.next_key()? {
            // The text comes first: it may be named "url" just as well.
            let field = match &*name {
                name if name == self.text_field => &mut fields.text,
                "url" => &mut fields.url,
                "timestamp" => &mut fields.timestamp,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = map.next_value()?;
        }
        Ok(fields)
    }
}

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        match json.deserialize_str(AnyValue)? {
            Field::Text(text) => Ok(Text(text)),
            Field::Other(found) => Err(de::Error::custom(format_args!("{found} where a name belongs"))),
            Field::Absent => Err(de::Error::custom("nothing where a name belongs")),
        }
    }
}

impl<'de> de::Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Field<'de>, E> {
        Ok(Field::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
        Ok(Field::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Field<'de>, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_seq<S: de::SeqAccess<'de>>(self, mut seq: S) -> Result<Field<'de>, S::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an array"))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Field<'de>, M::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bad(line: &[u8]) -> String {
        parse(line, &mut String::new(), 0, "text").unwrap_err()
    }

    #[test]
    fn a_c4_row_is_a_document() {
        let line = br#"{"text":"a b","timestamp":"2019-04-25T12:57:54Z","url":"https:\/\/example.org\/1"}"#;
        let mut unescaped = String::new();
        let document = parse(line, &mut unescaped, 7, "text").unwrap();
        assert!(matches!(document.text, Cow::Borrowed("a b")));
        assert_eq!(document.row, 7);
        assert_eq!(document.url.as_deref(), Some("https://example.org/1"));
        assert_eq!(document.timestamp.as_deref(), Some("2019-04-25T12:57:54Z"));
    }

    #[test]
    fn other_fields_are_passed_over_and_provenance_may_be_anything() {
        let line = br#"{"id":[1,{"text":"inner"}],"url":3,"timestamp":null,"body":"x"}"#;
        let mut unescaped = String::new();
        let document = parse(line, &mut unescaped, 0, "body").unwrap();
        assert_eq!((&*document.text, document.url, document.timestamp), ("x", None, None));
        assert_eq!(parse(br#"{"url":"u"}"#, &mut unescaped, 0, "url").unwrap().text, "u");
    }

    #[test]
    fn reasons_name_the_column_and_what_was_found() {
        assert_eq!(bad(b"{\"text\": oops}"), "column 10: not JSON as expected: expected value");
        assert_eq!(bad(b"{\"text\": \"a\""), "column 12: not JSON as expected: EOF while parsing an object");
        assert_eq!(bad(b"{\"text\": \"a\"} {"), "column 15: not JSON as expected: trailing characters");
        assert_eq!(bad(b"{\"text\": \"a\xff\"}"), "column 12: byte 0xff is not valid UTF-8");
        assert_eq!(bad(b"{\"text\": null}"), "field \"text\" is null, not a string");
        assert_eq!(bad(b"{\"text\": [\"a\"]}"), "field \"text\" is an array, not a string");
        assert_eq!(
            bad(b"{\"body\":\"x\",\"url\":1}"),
            "no field \"text\" (fields: body, url; --text-field names another)"
        );
        assert!(
            bad(b"[1]").starts_with("column 1: not JSON as expected: invalid type: sequence"),
            "{}",
            bad(b"[1]")
        );
        assert!(
            bad(br#"{"text":"\ud800"}"#).contains("surrogate")
                || bad(br#"{"text":"\ud800"}"#).contains("escape")
        );
    }

    /// Pieces of JSON, right and wrong, of which a line is put together.
    fn piece() -> impl Strategy<Value = String> {
        let fixed = [
            "{",
            "}",
            ",",
            ":",
            "\"",
            " ",
            "\t",
            "\r",
            "[",
            "]",
            "null",
            "true",
            "1",
            "-0.5e3",
            "\\",
            "\u{1}",
            "\u{7f}",
            "\"text\"",
            "\"url\"",
            "\"timestamp\"",
            "\"te\\u0078t\"",
            "\"text\":",
            "{\"text\":\"",
            "\",\"url\":\"",
            "\"}",
            "\\n",
            "\\\"",
            "\\/",
            "\\u00e9",
            "\\u0000",
            "\\ud83d\\ude00",
            "\\ud800",
            "\\udc00",
            "\\ud800\\u0041",
            "\\uD83D",
            "\\u12",
            "\\x",
            "é",
            "\u{2028}",
            "\u{1f600}",
        ];
        prop_oneof![
            6 => proptest::sample::select(fixed.to_vec()).prop_map(str::to_owned),
            2 => "[a-z \"\\\\/]{0,12}",
            1 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            1 => any::<char>().prop_map(String::from),
        ]
    }

    fn line() -> impl Strategy<Value = String> {
        let free = proptest::collection::vec(piece(), 0..14).prop_map(|pieces| pieces.concat());
        let value = prop_oneof![
            4 => proptest::collection::vec(piece(), 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat())),
            4 => any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            1 => piece(),
        ];
        let name = proptest::sample::select(vec!["text", "url", "timestamp", "other", "a\\u0062", ""]);
        let pairs = proptest::collection::vec((name, value), 0..5).prop_map(|pairs| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{{}}}", pairs.join(","))
        });
        prop_oneof![1 => free, 3 => pairs]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn flat_lines_mean_what_serde_json_says(line in line()) {
            let mut unescaped = String::new();
            let control = first_control(line.as_bytes()).is_some();
            if let Some(fields) = flat::parse(&line, control, &mut unescaped, "text") {
                prop_assert_eq!(fields, general(&line, "text").unwrap());
            }
        }

        #[test]
        fn any_bytes_are_survived(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line, &mut String::new(), 0, "text");
        }

        #[test]
        fn any_text_comes_back(text in any::<String>(), url in any::<String>()) {
            let line = serde_json::json!({ "url": url, "text": text }).to_string();
            let mut unescaped = String::from("of the row before");
            prop_assert!(flat::parse(&line, false, &mut unescaped, "text").is_some());
            let document = parse(line.as_bytes(), &mut unescaped, 0, "text").unwrap();
            prop_assert_eq!(&*document.text, &*text);
            prop_assert_eq!(document.url.as_deref(), Some(&*url));
        }
    }
}
