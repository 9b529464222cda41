//! Where a run stands: what a checkpoint knows beside its tensors, `state.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, Identity};
use crate::host::PROGRAM;
use crate::pace::Pace;
use crate::step::step_seed;

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 in hexadecimal.
    pub blake3: String,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Program that wrote it.
    pub program: String,
    /// Steps done, skipped ones included; also the index of the next step.
    pub step: u64,
    /// Updates the optimizer has made.
    pub updates: u64,
    /// Samples seen.
    pub samples: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// How many of them were the last ones.
    pub skipped_in_a_row: u64,
    /// Seconds of training, evaluations and waiting for checkpoints included.
    pub elapsed_s: f64,
    /// Of these, seconds of evaluations and waiting for checkpoints.
    pub paused_s: f64,
    /// Progress by step, as decided so far.
    pub pace: Pace,
    /// What had been used where `pace` begins: nothing, or what a branch's trunk had.
    pub origin: Spent,
    /// What had been used where the measurement for the next leg of `pace` begins.
    pub mark: Spent,
    /// The run's seed: sample order, masks and dropout are functions of it and the step.
    pub seed: u64,
    /// What torch's generators are seeded with for the next step. A program that derives another number from the seed and
    /// the step would not go on exactly.
    pub generator_seed: i64,
    /// Sums since the last line of `metrics.jsonl`.
    pub window: Window,
    /// The steps of the checkpoints that this one is the mean of; none for a checkpoint of training. A mean has no
    /// optimizer state and cannot be resumed.
    pub mean_of: Vec<u64>,
    /// BLAKE3 of the data's manifest.
    pub manifest_blake3: String,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_blake3: String,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, FileSum>,
}

/// What a run has used up at some step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// Steps.
    pub step: u64,
    /// Samples.
    pub samples: u64,
    /// Tokens.
    pub tokens: u64,
    /// Seconds, pauses included.
    pub elapsed_s: f64,
    /// Seconds of pauses.
    pub paused_s: f64,
}

/// Sums over the steps since the last training record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Sum of the cross-entropies of all masked tokens, in nats. In the file it is a text, which gives every bit back.
    #[serde(with = "exact")]
    pub loss: f64,
    /// Masked tokens predicted exactly.
    pub correct: u64,
    /// Masked tokens.
    pub masked: u64,
}

impl State {
    /// The state of a run that has not begun.
    pub fn start(identity: Identity<'_>, seed: u64, pace: Pace) -> State {
        State {
            format_version: FORMAT_VERSION,
            program: PROGRAM.to_owned(),
            step: 0,
            updates: 0,
            samples: 0,
            tokens: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            elapsed_s: 0.0,
            paused_s: 0.0,
            pace,
            origin: Spent::default(),
            mark: Spent::default(),
            seed,
            generator_seed: step_seed(seed, 0),
            window: Window::default(),
            mean_of: Vec::new(),
            manifest_blake3: identity.manifest_blake3.to_owned(),
            tokenizer_blake3: identity.tokenizer_blake3.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// What has been used up.
    pub fn spent(&self) -> Spent {
        let &State { step, samples, tokens, elapsed_s, paused_s, .. } = self;
        Spent { step, samples, tokens, elapsed_s, paused_s }
    }
}

/// A float as text with all its bits; a JSON number may lose the last one on its way back.
mod exact {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &f64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_bit_of_a_sum_comes_back(loss: f64) {
            prop_assume!(loss.is_finite());
            let window = Window { loss, correct: 3, masked: 4 };
            let text = serde_json::to_string_pretty(&window).unwrap();
            let back: Window = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.loss.to_bits(), loss.to_bits());
        }
    }
}
