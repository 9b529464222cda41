//! What a model that ignores context can reach: the cross-entropy of the held-out tokens under the frequencies of the
//! training tokens. A masked-LM loss above it has learned nothing but frequencies.

use std::ops::Range;
use std::sync::Arc;

use crate::config::SamplePolicy;
use crate::corpus::{Corpus, Split};
use crate::error::Error;
use crate::samples::Samples;

/// How often each id occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCounts {
    /// Occurrences by id, one entry for each id of the real vocabulary.
    counts: Vec<u64>,
    /// Their sum.
    total: u64,
}

impl TokenCounts {
    /// Counts the text tokens of samples: ids that masking may choose. Under `limit` only about that many samples are read:
    /// of those held out an even spread, of those to train on the last ones of each shard, since the end of a shard is all
    /// that is fetched of one in a store.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::TokenOutsideVocabulary`] when a shard is damaged; why a shard cannot be fetched.
    pub fn of(samples: &Samples, limit: Option<u64>) -> Result<Self, Error> {
        match limit {
            Some(limit) => {
                let mut ends = samples.of_ends();
                ends.ask_for_all();
                let numbers = match samples.split() {
                    Split::HeldOut => spread(samples.len(), limit),
                    Split::Train => last_of_shards(&mut ends, limit)?,
                };
                // A document longer than the end of its shard leaves none; whole shards are read then.
                match numbers.is_empty() {
                    true => Self::of_numbers(&mut samples.clone(), &spread(samples.len(), limit)),
                    false => Self::of_numbers(&mut ends, &numbers),
                }
            }
            None => Self::of_numbers(&mut samples.clone(), &[(0..samples.len(), 1)]),
        }
    }

    /// Counts the samples of some ranges, in each every so many.
    fn of_numbers(samples: &mut Samples, numbers: &[(Range<u64>, u64)]) -> Result<Self, Error> {
        let tokenizer = samples.corpus().tokenizer().clone();
        let mut counts = vec![0u64; tokenizer.vocab_size as usize];
        for (range, stride) in numbers {
            for sample in range.clone().step_by(*stride as usize) {
                samples.move_to(sample)?;
                for token in samples.get(sample)?.iter() {
                    match counts.get_mut(token as usize) {
                        Some(count) => *count += 1,
                        None => return Err(samples.outside_vocabulary(sample, token)?),
                    }
                }
            }
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

/// About `limit` of so many samples, evenly spread.
fn spread(samples: u64, limit: u64) -> Vec<(Range<u64>, u64)> {
    vec![(0..samples, samples.div_ceil(limit.max(1)).max(1))]
}

/// The samples of the last training documents of each shard, in proportion to their number there: about `limit` in all, or
/// as many as stand in the ends of the shards.
fn last_of_shards(ends: &mut Samples, limit: u64) -> Result<Vec<(Range<u64>, u64)>, Error> {
    let corpus = Arc::clone(ends.corpus());
    let all = u128::from(corpus.train_documents().max(1));
    let mut numbers = Vec::new();
    for shard in 0..corpus.shard_count() {
        let documents = corpus.range_in(shard, Split::Train);
        if documents.is_empty() {
            continue;
        }
        let share = (u128::from(limit.min(ends.len())) * u128::from(documents.end)).div_ceil(all) as u64;
        let mut first = documents.end.saturating_sub(share);
        let beginning = ends.tokens_before_tail(shard)?;
        while first < documents.end && ends.document_range(shard, first)?.start < beginning {
            first += 1;
        }
        let start = corpus.first_in(shard, Split::Train);
        let range = ends.first_of(start + first)?..ends.first_of(start + documents.end)?;
        if !range.is_empty() {
            numbers.push((range, 1));
        }
        ends.release();
    }
    Ok(numbers)
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
