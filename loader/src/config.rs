//! The settings of the loader, with their defaults and ranges.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Default of [`LoaderConfig::seq_len`].
pub const DEFAULT_SEQ_LEN: usize = 128;
/// Default of [`LoaderConfig::batch_size`].
pub const DEFAULT_BATCH_SIZE: usize = 4096;
/// Default of [`LoaderConfig::micro_batch_tokens`].
pub const DEFAULT_MICRO_BATCH_TOKENS: usize = 16_384;
/// Default of [`LoaderConfig::mask_rate`].
pub const DEFAULT_MASK_RATE: f64 = 0.30;
/// Default of [`LoaderConfig::seed`].
pub const DEFAULT_SEED: u64 = 17;
/// Default of [`LoaderConfig::batch_warmup_from`].
pub const DEFAULT_BATCH_WARMUP_FROM: f64 = 0.1;
/// Default of [`LoaderConfig::workers`].
pub const DEFAULT_WORKERS: usize = 2;
/// Default of [`LoaderConfig::slots`].
pub const DEFAULT_SLOTS: usize = 8;
/// Default of [`LoaderConfig::shuffle_block`].
pub const DEFAULT_SHUFFLE_BLOCK: u64 = 1024;
/// Default of [`LoaderConfig::shuffle_window`].
pub const DEFAULT_SHUFFLE_WINDOW: u64 = 4096;

/// The fraction of evaluation tokens that is predicted: BERT's 15 %, whatever the training rate, so that losses compare.
pub const HELD_OUT_MASK_RATE: f64 = 0.15;
/// The seed of the evaluation masks: fixed, so that losses of runs with different seeds compare.
pub const HELD_OUT_SEED: u64 = 0x5eed_0f0e_7a1d_a7a5;

/// How documents become samples. A sample is `[CLS] tokens… [SEP]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplePolicy {
    /// One sample a document, cut to the sequence length. What MosaicBERT does, hence the default.
    #[default]
    Truncate,
    /// Every document cut into consecutive samples; nothing is thrown away.
    Chunk,
}

/// The fraction of tokens chosen for prediction: a number, or `{ from, to, steps }`.
///
/// A line from 0.30 to 0.15 over the whole training reaches the same downstream scores in about half the steps that a
/// constant 0.15 takes: Ankner et al., "Dynamic Masking Rate Schedules for MLM Pretraining", 2023.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a mask rate is a number such as 0.3 or a table { from, to, steps }")]
pub enum MaskRate {
    /// The same at every step.
    Constant(f64),
    /// A straight line over the steps.
    Linear(LinearMaskRate),
}

/// A mask rate that moves in a straight line; before and after it stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearMaskRate {
    /// Rate at step `first_step` and before it.
    pub from: f64,
    /// Rate `steps` steps later, and after that.
    pub to: f64,
    /// The step at which the rate begins to move.
    #[serde(default)]
    pub first_step: u64,
    /// Steps over which the rate moves.
    pub steps: u64,
}

impl MaskRate {
    /// The rate at `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        match *self {
            MaskRate::Constant(rate) => rate,
            MaskRate::Linear(LinearMaskRate { from, to, first_step, steps }) => {
                let into = step.saturating_sub(first_step);
                if into >= steps { to } else { from + (to - from) * (into as f64 / steps as f64) }
            }
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let rates = match *self {
            MaskRate::Constant(rate) => [rate, rate],
            MaskRate::Linear(LinearMaskRate { from, to, .. }) => [from, to],
        };
        match rates.into_iter().find(|rate| !(*rate > 0.0 && *rate <= 1.0)) {
            Some(rate) => Err(invalid("mask_rate", rate, "above 0 and at most 1")),
            None => Ok(()),
        }
    }
}

impl Default for MaskRate {
    fn default() -> Self {
        MaskRate::Constant(DEFAULT_MASK_RATE)
    }
}

/// What the loader makes of a corpus. Two loaders with equal values of everything but `workers`, `slots` and
/// `micro_batch_tokens` give the same samples with the same masks at the same step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Longest sample in tokens, `[CLS]` and `[SEP]` included. 128: MosaicBERT's.
    pub seq_len: usize,
    /// How documents become samples. `truncate`: MosaicBERT's.
    pub policy: SamplePolicy,
    /// Samples in the global batch, that is over all ranks. 4096: MosaicBERT's.
    pub batch_size: usize,
    /// Tokens in the global batch, on average over the steps, in place of `batch_size`. 0: `batch_size` counts.
    pub batch_tokens: usize,
    /// Steps over which the batch grows in a straight line to its full size. 0: none, as MosaicBERT.
    pub batch_warmup_steps: u64,
    /// Size of the batch at step 0 of that, as a fraction of the full one.
    pub batch_warmup_from: f64,
    /// Most tokens in one micro-batch; a sample longer than this is a micro-batch of its own.
    /// 16,384: 128 full samples of 128 tokens, MosaicBERT's micro-batch on 40 GB.
    pub micro_batch_tokens: usize,
    /// Fraction of the tokens chosen for prediction. 0.30: MosaicBERT's.
    pub mask_rate: MaskRate,
    /// Whether all tokens of a word are chosen or none, which needs a WordPiece tokenizer. No: as MosaicBERT.
    pub whole_word_masking: bool,
    /// Decides order and masks. 17: MosaicBERT's.
    pub seed: u64,
    /// Threads that gather and mask. 2: one is fast enough for eight GPUs, the second hides the first one's page faults.
    pub workers: usize,
    /// Batches that may be in the making, ready or held at a time, over all workers. 8: enough to ride out a checkpoint or a slow read.
    pub slots: usize,
    /// Samples in a shuffle block. Blocks are what is read as a whole: 1024 documents of C4 are about 900 kB.
    pub shuffle_block: u64,
    /// Blocks that are shuffled together, sample by sample. 4096: with the block above 4 M samples, about 3.7 GB of
    /// C4, which a page cache holds; a corpus smaller than that is shuffled as a whole.
    pub shuffle_window: u64,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            seq_len: DEFAULT_SEQ_LEN,
            policy: SamplePolicy::default(),
            batch_size: DEFAULT_BATCH_SIZE,
            batch_tokens: 0,
            batch_warmup_steps: 0,
            batch_warmup_from: DEFAULT_BATCH_WARMUP_FROM,
            micro_batch_tokens: DEFAULT_MICRO_BATCH_TOKENS,
            mask_rate: MaskRate::default(),
            whole_word_masking: false,
            seed: DEFAULT_SEED,
            workers: DEFAULT_WORKERS,
            slots: DEFAULT_SLOTS,
            shuffle_block: DEFAULT_SHUFFLE_BLOCK,
            shuffle_window: DEFAULT_SHUFFLE_WINDOW,
        }
    }
}

/// Largest batch in samples or tokens, and longest warm-up in steps: keeps products of them within 128 bits.
const MOST_IN_A_BATCH: u64 = u32::MAX as u64;

/// Most workers, and most batches that are in memory: more are a slip of the finger, and would fill it.
const MOST_AT_A_TIME: usize = 1024;

impl LoaderConfig {
    /// Refuses values outside their range.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        check_seq_len(self.seq_len)?;
        check_micro_batch_tokens(self.micro_batch_tokens)?;
        self.mask_rate.validate()?;
        let most = MOST_IN_A_BATCH;
        for (field, value, least) in
            [("batch_size", self.batch_size, 1), ("batch_tokens", self.batch_tokens, 0)]
        {
            if !(least..=most as usize).contains(&value) {
                return Err(invalid(field, value, "1 to 4294967295"));
            }
        }
        if self.batch_warmup_steps > most {
            return Err(invalid("batch_warmup_steps", self.batch_warmup_steps, "0 to 4294967295"));
        }
        let from = self.batch_warmup_from;
        if !(from > 0.0 && from <= 1.0) {
            return Err(invalid(
                "batch_warmup_from",
                from,
                "above 0 and at most 1, a fraction of the full batch",
            ));
        }
        for (field, value) in [("workers", self.workers), ("slots", self.slots)] {
            if !(1..=MOST_AT_A_TIME).contains(&value) {
                return Err(invalid(field, value, "1 to 1024"));
            }
        }
        let at_least_one = [("shuffle_block", self.shuffle_block), ("shuffle_window", self.shuffle_window)];
        match at_least_one.into_iter().find(|(_, value)| *value == 0) {
            Some((field, value)) => Err(invalid(field, value, "at least 1")),
            None => Ok(()),
        }
    }
}

/// How held-out documents are turned into evaluation batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeldOutConfig {
    /// Longest sample in tokens, `[CLS]` and `[SEP]` included. 128: MosaicBERT's.
    pub seq_len: usize,
    /// How documents become samples, as in training.
    pub policy: SamplePolicy,
    /// Most tokens in one micro-batch, as in training.
    pub micro_batch_tokens: usize,
    /// Fraction of the tokens chosen for prediction. See [`HELD_OUT_MASK_RATE`].
    pub mask_rate: f64,
    /// Decides the masks, and which samples are taken under a limit. See [`HELD_OUT_SEED`].
    pub seed: u64,
    /// Most samples to evaluate; all of them when absent.
    pub limit: Option<u64>,
}

impl Default for HeldOutConfig {
    fn default() -> Self {
        Self {
            seq_len: DEFAULT_SEQ_LEN,
            policy: SamplePolicy::default(),
            micro_batch_tokens: DEFAULT_MICRO_BATCH_TOKENS,
            mask_rate: HELD_OUT_MASK_RATE,
            seed: HELD_OUT_SEED,
            limit: None,
        }
    }
}

impl HeldOutConfig {
    /// Refuses values outside their range.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        check_seq_len(self.seq_len)?;
        check_micro_batch_tokens(self.micro_batch_tokens)?;
        MaskRate::Constant(self.mask_rate).validate()
    }
}

/// Room for `[CLS]`, one token and `[SEP]`; the upper end keeps positions far from any overflow.
pub(crate) fn check_seq_len(seq_len: usize) -> Result<(), Error> {
    match seq_len {
        3..=1_048_576 => Ok(()),
        _ => Err(invalid("seq_len", seq_len, "3 to 1048576")),
    }
}

/// `cu_seqlens` is 32 bits wide, and a sample may exceed the budget by itself.
fn check_micro_batch_tokens(tokens: usize) -> Result<(), Error> {
    match tokens {
        1..=1_073_741_824 => Ok(()),
        _ => Err(invalid("micro_batch_tokens", tokens, "1 to 1073741824")),
    }
}

/// The error for a setting out of its range.
pub(crate) fn invalid(field: &'static str, found: impl ToString, expected: &'static str) -> Error {
    Error::Config { field, found: found.to_string(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        LoaderConfig::default().validate().unwrap();
        HeldOutConfig::default().validate().unwrap();
    }

    #[test]
    fn values_out_of_range_are_named() {
        let ok = LoaderConfig::default();
        let too_high = MaskRate::Linear(LinearMaskRate { from: 0.3, to: 1.5, first_step: 0, steps: 9 });
        for (field, config) in [
            ("seq_len", LoaderConfig { seq_len: 2, ..ok.clone() }),
            ("micro_batch_tokens", LoaderConfig { micro_batch_tokens: 0, ..ok.clone() }),
            ("mask_rate", LoaderConfig { mask_rate: MaskRate::Constant(f64::NAN), ..ok.clone() }),
            ("mask_rate", LoaderConfig { mask_rate: too_high, ..ok.clone() }),
            ("batch_size", LoaderConfig { batch_size: 0, ..ok.clone() }),
            ("batch_tokens", LoaderConfig { batch_tokens: 1 << 40, ..ok.clone() }),
            ("batch_warmup_steps", LoaderConfig { batch_warmup_steps: 1 << 40, ..ok.clone() }),
            ("batch_warmup_from", LoaderConfig { batch_warmup_from: 0.0, ..ok.clone() }),
            ("batch_warmup_from", LoaderConfig { batch_warmup_from: f64::NAN, ..ok.clone() }),
            ("workers", LoaderConfig { workers: 0, ..ok.clone() }),
            ("slots", LoaderConfig { slots: 0, ..ok.clone() }),
            ("slots", LoaderConfig { slots: 100_000, ..ok.clone() }),
            ("shuffle_block", LoaderConfig { shuffle_block: 0, ..ok.clone() }),
            ("shuffle_window", LoaderConfig { shuffle_window: 0, ..ok.clone() }),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
    }

    #[test]
    fn linear_rate_moves_from_end_to_end_and_stays() {
        let rate = MaskRate::Linear(LinearMaskRate { from: 0.30, to: 0.15, first_step: 0, steps: 100 });
        assert_eq!(rate.at(0), 0.30);
        assert!((rate.at(50) - 0.225).abs() < 1e-12);
        assert_eq!((rate.at(100), rate.at(u64::MAX)), (0.15, 0.15));
    }

    #[test]
    fn mask_rate_reads_a_number_or_a_table_and_refuses_the_rest() {
        let read = |text: &str| serde_json::from_str::<LoaderConfig>(text);
        assert_eq!(read(r#"{"mask_rate": 0.2}"#).unwrap().mask_rate, MaskRate::Constant(0.2));
        let linear = read(r#"{"mask_rate": {"from": 0.3, "to": 0.15, "steps": 7}}"#).unwrap().mask_rate;
        assert_eq!(linear, MaskRate::Linear(LinearMaskRate { from: 0.3, to: 0.15, first_step: 0, steps: 7 }));
        assert!(read(r#"{"mask_rate": "high"}"#).unwrap_err().to_string().contains("a mask rate is"));
        assert!(read(r#"{"mask_rates": 0.2}"#).unwrap_err().to_string().contains("mask_rates"));
    }
}
