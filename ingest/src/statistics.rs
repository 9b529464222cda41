//! What a corpus is like: how long its documents are, which tokens it has, what a sequence length makes of it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use loader::shard::{Manifest, Shard, ShardEntry, Tokens};
use serde::Serialize;

use crate::error::Error;
use crate::place::Place;
use crate::tokenizer::TokenizerFile;

/// Sequence lengths that are told of: those that encoders are trained with.
const SEQUENCE_LENGTHS: [u64; 5] = [128, 256, 512, 1024, 2048];
/// Tokens of a sample that are not text: `[CLS]` and `[SEP]`.
const FRAME_TOKENS: u64 = 2;
/// Bins of the histogram for each doubling of the length.
const BINS_A_DOUBLING: f64 = 4.0;
/// Most frequent tokens that are listed.
const LISTED_TOKENS: usize = 100;

/// The statistics of a finished folder, training and held-out documents together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// UTF-8 bytes of the text.
    pub text_bytes: u64,
    /// UTF-8 bytes of text for a token.
    pub bytes_a_token: f64,
    /// Tokens of a document.
    pub document_tokens: DocumentTokens,
    /// Text for which the vocabulary has no token.
    pub unknown: Unknown,
    /// Ids of the vocabulary.
    pub vocabulary: u64,
    /// Ids that occur.
    pub vocabulary_used: u64,
    /// What sequence lengths make of the documents.
    pub sequence_lengths: Vec<SequenceLength>,
    /// How many documents have how many tokens, in bins that grow with the length.
    pub lengths: Vec<LengthBin>,
    /// The most frequent tokens.
    pub most_frequent: Vec<TokenCount>,
    /// How often each id that occurs does, most frequent first.
    #[serde(skip)]
    pub counts: Vec<u64>,
    /// How many documents have exactly so many tokens.
    #[serde(skip)]
    pub exact_lengths: BTreeMap<u64, u64>,
}

/// Tokens of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DocumentTokens {
    /// Of the shortest.
    pub least: u64,
    /// On average.
    pub mean: f64,
    /// Half of the documents have no more.
    pub median: u64,
    /// 95 of 100 documents have no more.
    pub p95: u64,
    /// Of the longest.
    pub most: u64,
}

/// `[UNK]` in the documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Unknown {
    /// How often it occurs.
    pub tokens: u64,
    /// Its share of all tokens.
    pub share: f64,
    /// Documents that have any.
    pub documents: u64,
}

/// What a sequence length, `[CLS]` and `[SEP]` included, makes of the documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SequenceLength {
    /// Tokens of a sample.
    pub seq_len: u64,
    /// The share of tokens that training sees when every document is one sample, cut to this length.
    pub truncate_share: f64,
    /// The share of documents that fit.
    pub fitting_share: f64,
    /// Samples when documents are cut into consecutive ones and nothing is thrown away.
    pub chunk_samples: u64,
    /// Tokens of such a sample on average, `[CLS]` and `[SEP]` included.
    pub chunk_mean: f64,
}

/// Documents with `from` to `to` tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LengthBin {
    /// The least length.
    pub from: u64,
    /// The greatest length.
    pub to: u64,
    /// Documents.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
}

/// How often a token occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenCount {
    /// Its id.
    pub id: u32,
    /// What it stands for, as the tokenizer writes it.
    pub token: String,
    /// How often it occurs.
    pub count: u64,
    /// Its share of all tokens.
    pub share: f64,
}

impl Statistics {
    /// Reads every token of a finished folder, with all processors. `each_shard` hears the name of each shard before it
    /// is read.
    ///
    /// # Errors
    /// When the folder cannot be read or a token lies outside the vocabulary.
    pub fn of(dir: &Path, each_shard: impl Fn(&str) + Sync) -> Result<Self, Error> {
        let place = Place::of(dir)?;
        let manifest = place.manifest()?;
        let tokenizer = TokenizerFile::read(&place.fetch(&manifest.tokenizer.file)?.path)?;
        let counts = count(&place, &manifest, each_shard)?;
        Ok(Self::new(&manifest, &tokenizer, counts))
    }

    fn new(manifest: &Manifest, tokenizer: &TokenizerFile, counted: Counts) -> Self {
        let lengths: BTreeMap<u64, u64> = counted.lengths.into_iter().collect();
        let documents: u64 = lengths.values().sum();
        let tokens: u64 = lengths.iter().map(|(length, documents)| length * documents).sum();
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;

        let mut by_count: Vec<(u32, u64)> =
            (0..).zip(counted.tokens.iter().copied()).filter(|(_, count)| *count > 0).collect();
        by_count.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        let most_frequent = by_count.iter().take(LISTED_TOKENS).map(|&(id, count)| TokenCount {
            id,
            token: tokenizer.token(id).unwrap_or_default(),
            count,
            share: share(count, tokens),
        });
        let unknown = counted.tokens.get(manifest.tokenizer.special.unk as usize).copied().unwrap_or(0);
        Self {
            documents,
            tokens,
            text_bytes: manifest.text_bytes,
            bytes_a_token: share(manifest.text_bytes, tokens),
            document_tokens: DocumentTokens {
                least: lengths.keys().next().copied().unwrap_or(0),
                mean: share(tokens, documents),
                median: quantile(&lengths, documents, 0.5),
                p95: quantile(&lengths, documents, 0.95),
                most: lengths.keys().last().copied().unwrap_or(0),
            },
            unknown: Unknown {
                tokens: unknown,
                share: share(unknown, tokens),
                documents: counted.unknown_documents,
            },
            vocabulary: manifest.tokenizer.vocab_size.into(),
            vocabulary_used: by_count.len() as u64,
            sequence_lengths: SEQUENCE_LENGTHS.map(|seq_len| SequenceLength::of(&lengths, seq_len)).to_vec(),
            lengths: bins(&lengths),
            most_frequent: most_frequent.collect(),
            counts: by_count.iter().map(|(_, count)| *count).collect(),
            exact_lengths: lengths,
        }
    }
}

impl SequenceLength {
    fn of(lengths: &BTreeMap<u64, u64>, seq_len: u64) -> Self {
        let body = seq_len - FRAME_TOKENS;
        let sum =
            |of: &dyn Fn(u64) -> u64| lengths.iter().map(|(length, documents)| of(*length) * documents).sum();
        let (tokens, documents): (u64, u64) = (sum(&|length| length), sum(&|_| 1));
        let (kept, fitting): (u64, u64) =
            (sum(&|length| length.min(body)), sum(&|length| u64::from(length <= body)));
        let chunks: u64 = sum(&|length| length.div_ceil(body));
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        Self {
            seq_len,
            truncate_share: share(kept, tokens),
            fitting_share: share(fitting, documents),
            chunk_samples: chunks,
            chunk_mean: share(tokens + FRAME_TOKENS * chunks, chunks),
        }
    }
}

/// The least length that `share` of the documents do not exceed.
fn quantile(lengths: &BTreeMap<u64, u64>, documents: u64, share: f64) -> u64 {
    let rank = (documents as f64 * share).ceil() as u64;
    let mut seen = 0;
    let reached = lengths.iter().find(|(_, documents)| {
        seen += **documents;
        seen >= rank
    });
    reached.map_or(0, |(length, _)| *length)
}

/// The histogram, without the empty bins before the first and after the last length.
fn bins(lengths: &BTreeMap<u64, u64>) -> Vec<LengthBin> {
    let (Some(least), Some(most)) = (lengths.keys().next(), lengths.keys().last()) else { return Vec::new() };
    let edge = |bin: u32| 2f64.powf(f64::from(bin) / BINS_A_DOUBLING).ceil() as u64;
    let mut edges: Vec<u64> = (0..64 * BINS_A_DOUBLING as u32).map(edge).collect();
    edges.dedup();
    let ranges = edges.windows(2).map(|pair| (pair[0], pair[1] - 1));
    let ranges = ranges.filter(|(from, to)| to >= least && from <= most);
    let bin = |(from, to)| {
        let within = || lengths.range(from..=to);
        LengthBin {
            from,
            to,
            documents: within().map(|(_, documents)| documents).sum(),
            tokens: within().map(|(length, documents)| length * documents).sum(),
        }
    };
    ranges.map(bin).collect()
}

/// What is counted, of one worker or of all.
#[derive(Default)]
struct Counts {
    /// Length in tokens -> documents.
    lengths: HashMap<u64, u64>,
    /// How often each id occurs.
    tokens: Vec<u64>,
    unknown_documents: u64,
}

fn count(place: &Place, manifest: &Manifest, each_shard: impl Fn(&str) + Sync) -> Result<Counts, Error> {
    let vocabulary = manifest.tokenizer.vocab_size;
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Ok(Counts { tokens: vec![0; vocabulary as usize], ..Counts::default() }));
    let work = || {
        let mut counts = Counts { tokens: vec![0; vocabulary as usize], ..Counts::default() };
        let result = loop {
            let Some(entry) = manifest.shards.get(next.fetch_add(1, Ordering::Relaxed)) else { break Ok(()) };
            each_shard(&entry.file);
            if let Err(error) = counts.add_shard(place, entry, manifest.tokenizer.special.unk) {
                // The others find nothing left to do.
                next.store(manifest.shards.len(), Ordering::Relaxed);
                break Err(error);
            }
        };
        let mut all = all.lock().expect("nobody panics with the lock held");
        match (&mut *all, result) {
            (Ok(all), Ok(())) => all.add(&counts),
            (all @ Ok(_), Err(error)) => *all = Err(error),
            (Err(_), _) => {}
        }
    };
    let workers = thread::available_parallelism().map_or(1, |count| count.get()).min(manifest.shards.len());
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    all.into_inner().expect("nobody panicked with the lock held")
}

impl Counts {
    fn add_shard(&mut self, place: &Place, entry: &ShardEntry, unknown: u32) -> Result<(), Error> {
        let path = place.path().join(&entry.file);
        let file = place.fetch(&entry.file)?;
        let shard = Shard::open(&file.path)?;
        for document in 0..shard.documents() {
            let tokens = shard.tokens(document)?;
            *self.lengths.entry(tokens.len() as u64).or_default() += 1;
            let before = self.tokens[unknown as usize];
            let outside = match tokens {
                Tokens::U16(tokens) => self.add_tokens(tokens.iter().map(|token| u32::from(*token))),
                Tokens::U32(tokens) => self.add_tokens(tokens.iter().copied()),
            };
            if let Some(token) = outside {
                let vocab_size = self.tokens.len() as u32;
                return Err(
                    loader::Error::TokenOutsideVocabulary { path, document, token, vocab_size }.into()
                );
            }
            self.unknown_documents += u64::from(self.tokens[unknown as usize] > before);
        }
        Ok(())
    }

    /// Counts tokens; returns the first outside the vocabulary.
    fn add_tokens(&mut self, mut tokens: impl Iterator<Item = u32>) -> Option<u32> {
        tokens.find(|token| match self.tokens.get_mut(*token as usize) {
            Some(count) => {
                *count += 1;
                false
            }
            None => true,
        })
    }

    fn add(&mut self, other: &Self) {
        for (length, documents) in &other.lengths {
            *self.lengths.entry(*length).or_default() += documents;
        }
        for (count, more) in self.tokens.iter_mut().zip(&other.tokens) {
            *count += more;
        }
        self.unknown_documents += other.unknown_documents;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents of 1 to 1000 tokens, one each.
    fn lengths() -> BTreeMap<u64, u64> {
        (1..=1000).map(|length| (length, 1)).collect()
    }

    #[test]
    fn quantiles_are_lengths_that_occur() {
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| quantile(&lengths(), 1000, share)), [1, 500, 950, 1000]);
        assert_eq!(quantile(&BTreeMap::new(), 0, 0.5), 0);
        assert_eq!(quantile(&BTreeMap::from([(7, 3)]), 3, 0.95), 7);
    }

    #[test]
    fn bins_hold_every_document_once() {
        let bins = bins(&lengths());
        assert_eq!(bins.iter().map(|bin| bin.documents).sum::<u64>(), 1000);
        assert_eq!(bins.iter().map(|bin| bin.tokens).sum::<u64>(), 500_500);
        assert!(bins.windows(2).all(|pair| pair[0].to + 1 == pair[1].from));
        assert_eq!((bins[0].from, bins.last().unwrap().to), (1, 1023));
        assert!(bins.iter().any(|bin| bin.from == 128) && bins.iter().any(|bin| bin.from == 512));
    }

    #[test]
    fn a_sequence_length_keeps_the_beginning_of_documents_or_cuts_them() {
        let of = SequenceLength::of(&BTreeMap::from([(100, 2), (126, 1), (300, 1)]), 128);
        assert_eq!((of.fitting_share, of.truncate_share), (0.75, (200.0 + 252.0) / 626.0));
        // 300 tokens make pieces of 126, 126 and 48.
        assert_eq!((of.chunk_samples, of.chunk_mean), (6, (626.0 + 12.0) / 6.0));
    }
}
