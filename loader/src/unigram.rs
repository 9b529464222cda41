//! What a model that ignores context can reach: the cross-entropy of the held-out tokens under the frequencies of the
//! training tokens. A masked-LM loss above it has learned nothing but frequencies.

use std::sync::Arc;

use crate::config::SamplePolicy;
use crate::corpus::{Corpus, Samples, Split};
use crate::error::Error;

/// How often each id occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCounts {
    /// Occurrences by id, one entry for each id of the real vocabulary.
    counts: Vec<u64>,
    /// Their sum.
    total: u64,
}

impl TokenCounts {
    /// Counts the text tokens of samples: ids that masking may choose. Under `limit` only about that many samples are
    /// read, evenly spread over all.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::TokenOutsideVocabulary`] when a shard is damaged.
    pub fn of(samples: &Samples, limit: Option<u64>) -> Result<Self, Error> {
        let tokenizer = samples.corpus().tokenizer();
        let mut counts = vec![0u64; tokenizer.vocab_size as usize];
        let stride = samples.len().div_ceil(limit.unwrap_or(u64::MAX).max(1)).max(1);
        let mut sample = 0;
        while sample < samples.len() {
            for token in samples.get(sample)?.iter() {
                match counts.get_mut(token as usize) {
                    Some(count) => *count += 1,
                    None => return Err(samples.outside_vocabulary(sample, token)?),
                }
            }
            sample = sample.saturating_add(stride);
        }
        for id in tokenizer.special.ids() {
            counts[id as usize] = 0;
        }
        let total = counts.iter().sum();
        Ok(Self { counts, total })
    }

    /// Occurrences of an id.
    pub fn count(&self, token: u32) -> u64 {
        self.counts.get(token as usize).copied().unwrap_or(0)
    }

    /// Tokens counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Cross-entropy in nats a token of `other` under these frequencies, each count raised by one so that no token is
    /// impossible: `-sum over ids of p_other(id) ln((count(id) + 1) / (total + vocabulary))`. Zero when `other` is
    /// empty.
    pub fn cross_entropy(&self, other: &TokenCounts) -> f64 {
        let denominator = (self.total + self.counts.len() as u64) as f64;
        let nats: f64 = other
            .counts
            .iter()
            .zip(&self.counts)
            .filter(|(occurrences, _)| **occurrences > 0)
            .map(|(occurrences, count)| *occurrences as f64 * (denominator / (*count + 1) as f64).ln())
            .sum();
        nats / other.total.max(1) as f64
    }
}

/// Cross-entropy in nats a token of the held-out samples under the frequencies of the training samples, both as the
/// policy cuts them, since the labels of masked-LM are drawn from just these tokens. `limit` bounds the samples that
/// are read of each.
///
/// # Errors
/// [`Error::EmptySplit`] when there are no training or no held-out documents, [`Error::Config`] or [`Error::Corrupt`]
/// as for [`Corpus::samples`].
pub fn unigram_entropy(
    corpus: &Arc<Corpus>,
    policy: SamplePolicy,
    seq_len: usize,
    limit: Option<u64>,
) -> Result<f64, Error> {
    let count = |split, name| {
        let counts = TokenCounts::of(&corpus.samples(split, policy, seq_len)?, limit)?;
        if counts.total == 0 { Err(Error::EmptySplit { split: name, hint: "" }) } else { Ok(counts) }
    };
    Ok(count(Split::Train, "training")?.cross_entropy(&count(Split::HeldOut, "held-out")?))
}
