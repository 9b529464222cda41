//! What decides the bytes of a shard folder: two ingests with the same identity write the same folder.

use std::collections::HashSet;

use loader::shard::{FORMAT_VERSION, Manifest};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::filter::Filters;
use crate::source::{Input, Inputs};

/// Default of [`Options::text_field`]: C4's name for it.
pub const DEFAULT_TEXT_FIELD: &str = "text";
/// Default of [`Options::held_out`]: of C4's 365 million documents that are 1.8 million, of a small corpus enough to
/// tell learning from memorising.
pub const DEFAULT_HELD_OUT: f64 = 0.005;
/// Default of [`Options::shard_tokens`]: 128 MiB at two bytes a token, so that a killed worker loses about a minute and
/// C4's English part makes some 2,500 shards.
pub const DEFAULT_SHARD_TOKENS: u64 = 64 << 20;

/// The options that decide what the shards hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The field of a row that holds the text.
    pub text_field: String,
    /// The share of documents kept from training, 0 to below 1. Which ones follows from their text alone.
    pub held_out: f64,
    /// A shard is closed once it holds this many tokens.
    pub shard_tokens: u64,
    /// What documents are left out.
    #[serde(default, skip_serializing_if = "Filters::is_off")]
    pub filters: Filters,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            text_field: DEFAULT_TEXT_FIELD.to_owned(),
            held_out: DEFAULT_HELD_OUT,
            shard_tokens: DEFAULT_SHARD_TOKENS,
            filters: Filters::default(),
        }
    }
}

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Option`] for the first value out of its range.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |option, found: String, expected| Err(Error::Option { option, found, expected });
        if !(0.0..1.0).contains(&self.held_out) {
            return wrong(
                "--held-out",
                self.held_out.to_string(),
                "a share from 0 to below 1, such as 0.005",
            );
        }
        if self.shard_tokens == 0 {
            return wrong("--shard-tokens", "0".to_owned(), "at least 1");
        }
        self.filters.validate()
    }

    /// Whether a document is kept from training, by the [`content_hash`](crate::docs::content_hash) of its text: equal
    /// documents, wherever they come from, land on the same side.
    pub fn holds_out(&self, hash: u128) -> bool {
        // 2^64 times the share; a float this large is converted exactly, up to saturation.
        let limit = (self.held_out * 2f64.powi(64)) as u64;
        ((hash >> 64) as u64) < limit
    }
}

/// One input, as far as it tells inputs apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputIdentity {
    name: String,
    bytes: u64,
    /// BLAKE3 of the beginning and the end of the file.
    sample: String,
}

/// Everything that decides the bytes of a shard folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    program: String,
    format_version: u32,
    options: Options,
    /// BLAKE3 of the tokenizer file.
    tokenizer: String,
    inputs: Vec<InputIdentity>,
}

impl Identity {
    /// The identity of an ingest of `inputs`; reads a little of each.
    ///
    /// # Errors
    /// When an input cannot be read.
    pub fn of(inputs: &Inputs, options: &Options, tokenizer_blake3: &str) -> Result<Self, Error> {
        let inputs = inputs.files.iter().map(|input| {
            let sample = input.sample()?;
            Ok(InputIdentity { name: input.name.clone(), bytes: input.bytes, sample })
        });
        Ok(Self {
            program: crate::PROGRAM.to_owned(),
            format_version: FORMAT_VERSION,
            options: options.clone(),
            tokenizer: tokenizer_blake3.to_owned(),
            inputs: inputs.collect::<Result<_, Error>>()?,
        })
    }

    /// Checks that an input is still the one that this identity was made of.
    ///
    /// # Errors
    /// [`Error::InputReplaced`] when it is not, or an error of reading.
    pub(crate) fn check_content(&self, index: u32, input: &Input) -> Result<(), Error> {
        let same = input.sample()? == self.inputs[index as usize].sample;
        if same { Ok(()) } else { Err(Error::InputReplaced { path: input.path.clone() }) }
    }

    /// BLAKE3 of the identity, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let json = serde_json::to_vec(self).expect("an identity has only string keys");
        blake3::hash(&json).to_hex().to_string()
    }

    /// The first thing in which this identity differs from an earlier one.
    pub fn difference(&self, earlier: &Identity) -> Option<String> {
        let samples = || {
            let changed =
                self.inputs.iter().zip(&earlier.inputs).find(|(now, then)| now.sample != then.sample);
            changed.map(|(now, _)| format!("the content of input {}", now.name))
        };
        self.visible_difference(&Visible::of(earlier)).or_else(samples)
    }

    /// The first thing in which this identity differs from that of a finished folder.
    pub fn difference_from(&self, manifest: &Manifest) -> Option<String> {
        if manifest.ingest.fingerprint == self.fingerprint() {
            return None;
        }
        let visible = self.visible_difference(&Visible {
            program: &manifest.program,
            options: manifest.ingest.options.clone(),
            tokenizer: &manifest.tokenizer.blake3,
            inputs: manifest.ingest.inputs.iter().map(|input| (&*input.path, input.bytes)).collect(),
        });
        Some(
            visible.unwrap_or_else(|| "the content of an input, whose name and size are the same".to_owned()),
        )
    }

    fn visible_difference(&self, earlier: &Visible<'_>) -> Option<String> {
        let now = Visible::of(self);
        let differ = |what: &str, now: &str, then: &str| Some(format!("{what} is {now} now, {then} then"));
        if now.program != earlier.program {
            return differ("the program", now.program, earlier.program);
        }
        if now.tokenizer != earlier.tokenizer {
            return differ("the BLAKE3 of the tokenizer", now.tokenizer, earlier.tokenizer);
        }
        for option in ["text_field", "held_out", "shard_tokens"] {
            let (now, then) = (&now.options[option], &earlier.options[option]);
            if now != then {
                let flag = format!("--{}", option.replace('_', "-"));
                return differ(&flag, &now.to_string(), &then.to_string());
            }
        }
        let filters = |options: &serde_json::Value| match &options["filters"] {
            serde_json::Value::Null => "none".to_owned(),
            filters => filters.to_string(),
        };
        if now.options["filters"] != earlier.options["filters"] {
            return differ("what filters leave out", &filters(&now.options), &filters(&earlier.options));
        }
        // One that came or went says more than all those that moved up for it.
        let only = |these: &Visible<'_>, those: &Visible<'_>| {
            let names: HashSet<_> = those.inputs.iter().map(|(name, _)| *name).collect();
            let missing = these.inputs.iter().find(|(name, _)| !names.contains(name));
            missing.map(|(name, _)| (*name).to_owned())
        };
        if let Some(gone) = only(earlier, &now) {
            return Some(format!("the input {gone} was there then and is gone now"));
        }
        if let Some(new) = only(&now, earlier) {
            return Some(format!("the input {new} is there now and was not then"));
        }
        if now.inputs.len() != earlier.inputs.len() {
            let counts = (now.inputs.len().to_string(), earlier.inputs.len().to_string());
            return differ("the number of inputs", &counts.0, &counts.1);
        }
        let changed = now.inputs.iter().zip(&earlier.inputs).find(|(now, then)| now != then);
        changed.and_then(|((now, now_bytes), (then, then_bytes))| {
            differ("an input", &format!("{now} ({now_bytes} bytes)"), &format!("{then} ({then_bytes} bytes)"))
        })
    }
}

/// What an identity and a manifest both tell.
struct Visible<'a> {
    program: &'a str,
    options: serde_json::Value,
    tokenizer: &'a str,
    inputs: Vec<(&'a str, u64)>,
}

impl<'a> Visible<'a> {
    fn of(identity: &'a Identity) -> Self {
        Self {
            program: &identity.program,
            options: serde_json::to_value(&identity.options).expect("options have only string keys"),
            tokenizer: &identity.tokenizer,
            inputs: identity.inputs.iter().map(|input| (&*input.name, input.bytes)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docs::content_hash;

    fn identity() -> Identity {
        let input = |name: &str| InputIdentity { name: name.into(), bytes: 5, sample: "s".into() };
        Identity {
            program: "p 1".into(),
            format_version: 1,
            options: Options::default(),
            tokenizer: "t".into(),
            inputs: vec![input("a"), input("b")],
        }
    }

    #[test]
    fn differences_are_named_with_both_values() {
        let then = identity();
        assert_eq!(identity().difference(&then), None);
        let named = |change: fn(&mut Identity)| {
            let mut now = identity();
            change(&mut now);
            assert_ne!(now.fingerprint(), then.fingerprint());
            now.difference(&then).unwrap()
        };
        assert_eq!(named(|now| now.program = "p 2".into()), "the program is p 2 now, p 1 then");
        assert_eq!(named(|now| now.tokenizer = "u".into()), "the BLAKE3 of the tokenizer is u now, t then");
        assert_eq!(named(|now| now.options.held_out = 0.25), "--held-out is 0.25 now, 0.005 then");
        assert_eq!(
            named(|now| now.options.text_field = "x".into()),
            "--text-field is \"x\" now, \"text\" then"
        );
        assert_eq!(named(|now| now.inputs.truncate(1)), "the input b was there then and is gone now");
        assert_eq!(
            named(|now| now.inputs[1].name = "c".into()),
            "the input b was there then and is gone now"
        );
        assert_eq!(
            named(|now| now.inputs.push(InputIdentity { name: "c".into(), ..now.inputs[0].clone() })),
            "the input c is there now and was not then"
        );
        assert_eq!(
            named(|now| now.inputs.push(now.inputs[0].clone())),
            "the number of inputs is 3 now, 2 then"
        );
        assert_eq!(
            named(|now| now.options.filters.min_chars = 5),
            "what filters leave out is {\"min_chars\":5,\"min_tokens\":0,\"dedup\":\"none\",\"languages\":[],\
             \"language_threshold\":0.5} now, none then"
        );
        assert_eq!(named(|now| now.inputs[1].bytes = 6), "an input is b (6 bytes) now, b (5 bytes) then");
        assert_eq!(named(|now| now.inputs[0].sample = "r".into()), "the content of input a");
    }

    #[test]
    fn the_held_out_share_is_kept_and_nested() {
        let share = |held_out| Options { held_out, ..Options::default() };
        let hashes: Vec<_> = (0..20_000u32).map(|i| content_hash(&i.to_string())).collect();
        let count = |options: &Options| hashes.iter().filter(|hash| options.holds_out(**hash)).count();
        assert_eq!(count(&share(0.0)), 0);
        let (small, large) = (share(0.05), share(0.2));
        // Five standard deviations of the binomial distribution are 154 and 283.
        assert!(count(&small).abs_diff(1000) < 154, "{}", count(&small));
        assert!(count(&large).abs_diff(4000) < 283, "{}", count(&large));
        assert!(hashes.iter().all(|&hash| !small.holds_out(hash) || large.holds_out(hash)));
    }

    #[test]
    fn shares_outside_the_range_are_refused() {
        for held_out in [-0.1, 1.0, f64::NAN] {
            let error = Options { held_out, ..Options::default() }.validate().unwrap_err();
            assert!(error.to_string().starts_with("--held-out is "), "{error}");
        }
        let error = Options { shard_tokens: 0, ..Options::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "--shard-tokens is 0, expected at least 1");
    }
}
