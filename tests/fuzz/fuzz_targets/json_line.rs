//! A line of JSON lines is a document with the fields that `serde_json` finds in it, or is refused where that refuses it.

#![no_main]

use ingest::source::parse_line;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The names and values of an object, in order.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, Box<RawValue>)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// Of equal names the last counts, but every value of a wanted name must be one.
fn expected(line: &[u8]) -> Option<[Option<String>; 3]> {
    let mut json = serde_json::Deserializer::from_str(std::str::from_utf8(line).ok()?);
    let pairs = json.deserialize_map(Pairs).ok()?;
    json.end().ok()?;
    let mut fields = [None, None, None];
    for (name, value) in &pairs {
        let Some(field) = ["text", "url", "timestamp"].iter().position(|wanted| wanted == name) else {
            continue;
        };
        // What is in an array or an object is passed over.
        let nested = value.get().starts_with(['[', '{']);
        let value = if nested { Value::Null } else { serde_json::from_str(value.get()).ok()? };
        fields[field] = value.as_str().map(str::to_owned);
    }
    fields[0].is_some().then_some(fields)
}

fuzz_target!(|line: &[u8]| {
    let mut unescaped = String::from("left from the row before");
    let found = parse_line(line, &mut unescaped, 7, "text");
    let found = found.map(|document| {
        [Some(document.text), document.url, document.timestamp]
            .map(|field| field.map(|text| text.into_owned()))
    });
    assert_eq!(found.as_ref().ok(), expected(line).as_ref(), "{found:?}");
});
