//! The samples that a policy cuts from the documents of a corpus.

use std::ops::Range;
use std::sync::Arc;

use crate::batch_size::TOKEN_FRACTION;
use crate::cache::Part as ShardPart;
use crate::config::{SamplePolicy, check_seq_len, invalid};
use crate::corpus::{Corpus, Split};
use crate::error::Error;
use crate::hand::{Abandon, Hand};
use crate::plan::Part;
use crate::shard::Tokens;

/// Documents a block of the index that counts samples, where a document can be several. Small enough that walking half
/// a block costs less than masking the sample, at half a byte a document.
const INDEX_BLOCK: u64 = 16;

/// Samples that are looked up side by side: enough to hide how long memory takes, few enough that what it gave is still there.
const TOGETHER: usize = 64;

/// Samples whose lengths are averaged: enough for a mean that is right to a fifth of a percent where lengths vary by a
/// quarter, and a second of reading from a disk that has none of them in memory.
const MEASURED: u64 = 1 << 14;

/// Tokens of a sample that are not text: `[CLS]` and `[SEP]`.
pub(crate) const FRAME_TOKENS: usize = 2;

/// The samples of a split: `[CLS]`, a piece of a document, `[SEP]`. Only the piece is stored and returned.
#[derive(Clone, Debug)]
pub struct Samples {
    hand: Hand,
    split: Split,
    /// Most tokens of a piece.
    body: usize,
    /// Where a document can be several samples.
    index: Option<ChunkIndex>,
    len: u64,
}

impl Samples {
    /// The samples of a split.
    ///
    /// # Errors
    /// As [`Corpus::samples`].
    pub(crate) fn new(
        corpus: &Arc<Corpus>,
        split: Split,
        policy: SamplePolicy,
        seq_len: usize,
    ) -> Result<Self, Error> {
        check_seq_len(seq_len)?;
        let body = seq_len - FRAME_TOKENS;
        let (len, index) = match policy {
            SamplePolicy::Truncate => (corpus.documents(split), None),
            SamplePolicy::Chunk => {
                let index = ChunkIndex::count(corpus, split, body)?;
                (index.samples, Some(index))
            }
        };
        let part = match split {
            Split::Train => ShardPart::Whole,
            Split::HeldOut => ShardPart::Tail,
        };
        Ok(Samples { hand: Hand::new(Arc::clone(corpus), part), split, body, index, len })
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The corpus they are cut from.
    pub fn corpus(&self) -> &Arc<Corpus> {
        self.hand.corpus()
    }

    /// The split they are cut from.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Most tokens of a sample, `[CLS]` and `[SEP]` included.
    pub fn seq_len(&self) -> usize {
        self.body + FRAME_TOKENS
    }

    /// What a plan must know of them: all together, or each folder by itself where folders have weights. Their lengths
    /// are looked up when `measured`, which a batch counted in tokens needs, and zero else.
    ///
    /// # Errors
    /// [`Error::Config`] for a folder that has a weight and no samples, [`Error::Corrupt`] when offsets are wrong; why a
    /// shard cannot be fetched.
    pub fn parts(&self, measured: bool) -> Result<Vec<Part>, Error> {
        let mut ends = self.of_ends();
        let part = |ends: &mut Self, range: Range<u64>, weight| {
            let samples = range.end - range.start;
            Ok(Part { samples, weight, mean_len: if measured { ends.mean_len(range)? } else { 0.0 } })
        };
        let Some(weights) = self.corpus().weights() else {
            return Ok(vec![part(&mut ends, 0..self.len, 1.0)?]);
        };
        let folders = self.corpus().folders(self.split).zip(weights);
        folders
            .map(|(documents, &weight)| {
                let range = ends.first_of(documents.start)?..ends.first_of(documents.end)?;
                if range.is_empty() {
                    return Err(invalid(
                        "a weight of --shards",
                        weight,
                        "none for a folder without training documents",
                    ));
                }
                part(&mut ends, range, weight)
            })
            .collect()
    }

    /// The same samples for a reader that needs no more than the ends of shards: where samples lie, how long they are, and the
    /// text of those that stand there.
    pub(crate) fn of_ends(&self) -> Self {
        Self { hand: Hand::new(Arc::clone(self.corpus()), ShardPart::Tail), ..self.clone() }
    }

    /// The mean length of samples in tokens, `[CLS]` and `[SEP]` included, from at most [`MEASURED`] of them, which are
    /// spread evenly; nothing when there are none.
    fn mean_len(&mut self, range: Range<u64>) -> Result<f64, Error> {
        let count = range.end - range.start;
        let measured = count.min(MEASURED);
        let mut tokens = 0u64;
        self.hand.ask_for(0..self.corpus().shards().len());
        for index in 0..measured {
            let sample = range.start + (u128::from(index) * u128::from(count) / u128::from(measured)) as u64;
            self.move_to(sample)?;
            tokens += self.place(sample)?.len() as u64;
        }
        self.release();
        let fraction = tokens as f64 / measured.max(1) as f64;
        Ok((fraction * TOKEN_FRACTION as f64).round() / TOKEN_FRACTION as f64)
    }

    /// The number of a document's first sample; of the document after the last, the number of samples.
    pub(crate) fn first_of(&self, document: u64) -> Result<u64, Error> {
        let Some(index) = &self.index else { return Ok(document) };
        if document == self.corpus().documents(self.split) {
            return Ok(self.len);
        }
        let block = document / INDEX_BLOCK;
        let mut sample = index.starts[block as usize];
        for before in block * INDEX_BLOCK..document {
            let (shard, at) = self.corpus().locate(self.split, before)?;
            sample += self.hand.shard(shard)?.document_len(at)?.div_ceil(self.body) as u64;
        }
        Ok(sample)
    }

    /// The piece of text of a sample: 1 to `seq_len - 2` tokens. The shard it lies in stays open for as long as these samples
    /// live.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such sample, [`Error::Corrupt`] when offsets are wrong; why a shard cannot be
    /// fetched.
    pub fn get(&self, sample: u64) -> Result<Tokens<'_>, Error> {
        self.text(self.place(sample)?)
    }

    /// Where the text of a sample lies.
    ///
    /// # Errors
    /// As [`get`](Samples::get).
    #[inline]
    pub(crate) fn place(&self, sample: u64) -> Result<Place, Error> {
        self.place_from(self.start(sample)?)
    }

    /// Where the texts of many samples lie, in place of what stands in `places`. The offsets that this takes are fetched for
    /// several samples before the first of them is waited for.
    ///
    /// # Errors
    /// As [`get`](Samples::get).
    pub(crate) fn look_up(
        &self,
        samples: impl Iterator<Item = u64>,
        places: &mut Vec<Place>,
    ) -> Result<(), Error> {
        let mut samples = samples.peekable();
        let mut starts = [Start::default(); TOGETHER];
        places.clear();
        while samples.peek().is_some() {
            let mut count = 0;
            for (start, sample) in starts.iter_mut().zip(&mut samples) {
                *start = self.start(sample)?;
                self.prefetch(*start);
                count += 1;
            }
            for start in &starts[..count] {
                places.push(self.place_from(*start)?);
            }
        }
        Ok(())
    }

    /// The place of the sample that a look-up starts for.
    #[inline]
    fn place_from(&self, start: Start) -> Result<Place, Error> {
        let (shard, document, piece) = self.piece(start)?;
        let range = self.hand.shard(shard)?.range(document)?;
        let start = range.start + piece * self.body as u64;
        let text = range.end.saturating_sub(start).min(self.body as u64);
        Ok(Place { start, shard: shard as u32, text: text as u32 })
    }

    /// Has the processor fetch the text at a place.
    #[inline]
    pub(crate) fn prefetch_text(&self, place: Place) {
        let Place { start, shard, text } = place;
        if let Some(shard) = self.hand.present(shard as usize)
            && let Ok(text) = shard.tokens_in(start..start + u64::from(text))
        {
            text.prefetch();
        }
    }

    /// The text at a place.
    #[inline(always)]
    pub(crate) fn text(&self, place: Place) -> Result<Tokens<'_>, Error> {
        let Place { start, shard, text } = place;
        self.hand.shard(shard as usize)?.tokens_in(start..start + u64::from(text))
    }

    /// Has the processor fetch the offsets that a look-up reads.
    #[inline]
    fn prefetch(&self, start: Start) {
        if let Some(shard) = self.hand.present(start.shard) {
            shard.prefetch(start.document, if self.index.is_some() { INDEX_BLOCK } else { 1 });
        }
    }

    /// The error for a token of a sample that no tokenizer of this vocabulary gives.
    pub(crate) fn outside_vocabulary(&self, sample: u64, token: u32) -> Result<Error, Error> {
        let (shard, document, _) = self.piece(self.start(sample)?)?;
        let path = self.hand.shard(shard)?.path().to_owned();
        let vocab_size = self.corpus().tokenizer().vocab_size;
        Ok(Error::TokenOutsideVocabulary { path, document, token, vocab_size })
    }

    /// Where looking up a sample starts.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such sample.
    #[inline]
    fn start(&self, sample: u64) -> Result<Start, Error> {
        if sample >= self.len {
            return Err(Error::OutOfRange { what: "sample", index: sample, count: self.len });
        }
        let (document, pieces) = match &self.index {
            None => (sample, 0),
            Some(index) => {
                let block = index.block_of(sample);
                (block as u64 * INDEX_BLOCK, sample - index.starts[block])
            }
        };
        let (shard, document) = self.corpus().locate(self.split, document)?;
        Ok(Start { sample, shard, document, pieces })
    }

    /// The shard of a sample, its document there, and which piece of it the sample is.
    #[inline]
    fn piece(&self, start: Start) -> Result<(usize, u64, u64), Error> {
        let Start { sample, mut shard, mut document, mut pieces } = start;
        if self.index.is_none() {
            return Ok((shard, document, pieces));
        }
        let corpus = self.corpus();
        let mut range = corpus.range_in(shard, self.split);
        for _ in 0..INDEX_BLOCK {
            if document == range.end {
                let next = corpus.first_in(shard, self.split) + (range.end - range.start);
                (shard, document) = corpus.locate(self.split, next)?;
                range = corpus.range_in(shard, self.split);
            }
            let here = self.hand.shard(shard)?.document_len(document)?.div_ceil(self.body) as u64;
            if pieces < here {
                return Ok((shard, document, pieces));
            }
            pieces -= here;
            document += 1;
        }
        Err(Error::OutOfRange { what: "sample", index: sample, count: self.len })
    }

    /// The shards that looking up and reading a sample takes.
    fn shards_of(&self, sample: u64) -> Result<Range<usize>, Error> {
        let shard = |document| Ok::<_, Error>(self.corpus().locate(self.split, document)?.0);
        let Some(index) = &self.index else {
            let shard = shard(sample)?;
            return Ok(shard..shard + 1);
        };
        let first = index.block_of(sample) as u64 * INDEX_BLOCK;
        let last = (first + INDEX_BLOCK).min(self.corpus().documents(self.split)) - 1;
        Ok(shard(first)?..shard(last)? + 1)
    }

    /// The numbers of the shards that some samples take, rising.
    fn shards_for(&self, samples: impl Iterator<Item = u64>, numbers: &mut Vec<usize>) {
        numbers.clear();
        let mut last = 0..0;
        for sample in samples {
            // A sample that is not there is an error when it is looked up.
            let Ok(shards) = self.shards_of(sample) else { continue };
            if shards != last {
                numbers.extend(shards.clone());
                last = shards;
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
    }

    /// Which objects of the pool some samples take.
    pub(crate) fn stored_shards(&self, samples: impl Iterator<Item = u64>, objects: &mut Vec<usize>) {
        self.shards_for(samples, objects);
        let corpus = self.corpus();
        let stored: Vec<usize> = objects.iter().filter_map(|number| corpus.object(*number)).collect();
        *objects = stored;
    }

    /// Takes the shards that some samples take, fetched if they lie in a store, in place of those taken before.
    ///
    /// # Errors
    /// [`Error::CacheTooSmall`]; why one of them cannot be had.
    pub(crate) fn hold(&mut self, samples: impl Iterator<Item = u64>) -> Result<(), Error> {
        if !self.hand.is_remote() {
            return Ok(());
        }
        let mut numbers = Vec::new();
        self.shards_for(samples, &mut numbers);
        self.hand.hold(&numbers)
    }

    /// Has the shards that some samples take fetched, without waiting for them.
    pub(crate) fn ask_for(&self, samples: impl Iterator<Item = u64>) {
        if self.hand.is_remote() {
            let mut numbers = Vec::new();
            self.shards_for(samples, &mut numbers);
            self.hand.ask_for(numbers.into_iter());
        }
    }

    /// Has the shards fetched that hold the ends of all, without waiting for them.
    pub(crate) fn ask_for_all(&self) {
        self.hand.ask_for(0..self.corpus().shards().len());
    }

    /// Gives back what reading other samples than this one took.
    pub(crate) fn move_to(&mut self, sample: u64) -> Result<(), Error> {
        if self.hand.is_remote() {
            self.hand.keep(self.shards_of(sample)?.start);
        }
        Ok(())
    }

    /// What ends the waiting for shards of these samples and of all copies of them.
    pub(crate) fn abandon(&self) -> Abandon {
        self.hand.abandon()
    }

    /// Gives all shards of a store back.
    pub(crate) fn release(&mut self) {
        self.hand.release();
    }

    /// The tokens of a shard's documents before the end that its tail holds.
    pub(crate) fn tokens_before_tail(&self, shard: usize) -> Result<u64, Error> {
        Ok(self.hand.shard(shard)?.tokens_before_tail())
    }

    /// Where the tokens of a document stand in its shard.
    pub(crate) fn document_range(&self, shard: usize, document: u64) -> Result<Range<u64>, Error> {
        self.hand.shard(shard)?.range(document)
    }
}

/// Where looking up a sample starts: at its document, or at the first one of the block that its document lies in.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    sample: u64,
    shard: usize,
    /// The document's number in its shard.
    document: u64,
    /// How many samples to pass over from there.
    pieces: u64,
}

/// Where the text of a sample lies: its tokens among those of a shard, looked up and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    start: u64,
    shard: u32,
    text: u32,
}

impl Place {
    /// Tokens of the sample, `[CLS]` and `[SEP]` included.
    pub(crate) fn len(&self) -> usize {
        self.text as usize + FRAME_TOKENS
    }
}

/// How many samples come before each block of documents.
#[derive(Clone, Debug)]
struct ChunkIndex {
    starts: Arc<[u64]>,
    samples: u64,
}

impl ChunkIndex {
    /// Reads the offsets of every document of a split once.
    fn count(corpus: &Arc<Corpus>, split: Split, body: usize) -> Result<Self, Error> {
        let mut starts = Vec::with_capacity(corpus.documents(split).div_ceil(INDEX_BLOCK) as usize);
        let (mut samples, mut document) = (0u64, 0u64);
        let mut hand = Hand::new(Arc::clone(corpus), ShardPart::Tail);
        let shards = 0..corpus.shards().len();
        hand.ask_for(shards.clone());
        for number in shards {
            let shard = hand.shard(number)?;
            for at in corpus.range_in(number, split) {
                if document.is_multiple_of(INDEX_BLOCK) {
                    starts.push(samples);
                }
                samples += shard.document_len(at)?.div_ceil(body) as u64;
                document += 1;
            }
            hand.release();
        }
        Ok(Self { starts: starts.into(), samples })
    }

    /// The block that a sample's document lies in.
    fn block_of(&self, sample: u64) -> usize {
        self.starts.partition_point(|start| *start <= sample) - 1
    }
}
