//! The documents of one or several shard folders as one numbered whole, and the samples cut from them.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::batch_size::TOKEN_FRACTION;
use crate::config::{SamplePolicy, check_seq_len, invalid};
use crate::error::Error;
use crate::folder::{self, ShardFolder};
use crate::plan::Part;
use crate::shard::{Manifest, Shard, ShardEntry, TokenizerInfo, Tokens};

/// Documents a block of the index that counts samples, where a document can be several. Small enough that walking half
/// a block costs less than masking the sample, at half a byte a document.
const INDEX_BLOCK: u64 = 16;

/// Samples whose lengths are averaged: enough for a mean that is right to a fifth of a percent where lengths vary by a
/// quarter, and a second of reading from a disk that has none of them in memory.
const MEASURED: u64 = 1 << 14;

/// Threads that open shards, and the number of shards that one thread opens as fast.
const OPENERS: usize = 8;
const OPENED_ALONE: usize = 64;

/// Tokens of a sample that are not text: `[CLS]` and `[SEP]`.
pub(crate) const FRAME_TOKENS: usize = 2;

/// Which documents: those for training, or those held out from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Documents to train on.
    Train,
    /// Documents that training never sees.
    HeldOut,
}

/// Shard folders, opened and checked against their manifests.
#[derive(Debug)]
pub struct Corpus {
    manifests: Vec<Manifest>,
    /// The share of each folder, where they have one.
    weights: Option<Vec<f64>>,
    /// The number of the first shard of each folder, then the number of shards.
    folder_starts: Vec<usize>,
    /// The content of the first folder's tokenizer file.
    tokenizer_json: Vec<u8>,
    shards: Vec<Shard>,
    /// The number of the first training document of each shard, then their total.
    train_starts: Vec<u64>,
    /// The number of the first held-out document of each shard, then their total.
    held_out_starts: Vec<u64>,
}

impl Corpus {
    /// Opens shard folders as one corpus: the documents of the first folder come first. Every shard is opened and its
    /// header and size are compared with the manifest; the tokens are not read.
    ///
    /// # Errors
    /// What is wrong with the first folder, file or header that is wrong: see [`Error`].
    pub fn open<P: AsRef<Path>>(dirs: &[P]) -> Result<Arc<Self>, Error> {
        let folders: Vec<ShardFolder> = dirs.iter().map(|dir| dir.as_ref().to_owned().into()).collect();
        Self::open_weighted(&folders)
    }

    /// As [`open`](Corpus::open), with a weight for each folder or for none. Weights decide what training batches hold;
    /// documents are numbered as without them.
    ///
    /// # Errors
    /// Those of [`open`](Corpus::open); [`Error::Config`] when only some folders have a weight, or a folder is named twice.
    pub fn open_weighted(folders: &[ShardFolder]) -> Result<Arc<Self>, Error> {
        let mut corpus = Self {
            manifests: Vec::new(),
            weights: folder::weights(folders)?,
            folder_starts: vec![0],
            tokenizer_json: Vec::new(),
            shards: Vec::new(),
            train_starts: vec![0],
            held_out_starts: vec![0],
        };
        check_distinct(folders)?;
        let (mut train, mut held_out) = (0u64, 0u64);
        for ShardFolder { path: dir, .. } in folders {
            let manifest = Manifest::read(dir)?;
            let tokenizer_json = read_tokenizer(dir, &manifest.tokenizer)?;
            match corpus.manifests.first() {
                Some(first) => {
                    check_same_tokenizer((&folders[0].path, &first.tokenizer), (dir, &manifest.tokenizer))?;
                    check_same_held_out((&folders[0].path, first), (dir, &manifest))?;
                }
                None => corpus.tokenizer_json = tokenizer_json,
            }
            for shard in open_shards(dir, &manifest)? {
                // Each document needs eight bytes of a file, so these sums are far from overflow.
                train += shard.documents() - shard.held_out();
                held_out += shard.held_out();
                corpus.train_starts.push(train);
                corpus.held_out_starts.push(held_out);
                corpus.shards.push(shard);
            }
            corpus.manifests.push(manifest);
            corpus.folder_starts.push(corpus.shards.len());
        }
        if corpus.manifests.is_empty() {
            return Err(Error::Config {
                field: "shards",
                found: "an empty list".into(),
                expected: "at least one folder",
            });
        }
        Ok(Arc::new(corpus))
    }

    /// The manifests of the folders, in their order; there is at least one.
    pub fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// The share of each folder in a batch, where they have weights.
    pub fn weights(&self) -> Option<&[f64]> {
        self.weights.as_deref()
    }

    /// The content of the tokenizer file of all folders.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer_json
    }

    /// The tokenizer of all folders.
    pub fn tokenizer(&self) -> &TokenizerInfo {
        &self.manifests[0].tokenizer
    }

    /// The shards of all folders, in the order of their documents.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Number of documents to train on.
    pub fn train_documents(&self) -> u64 {
        self.documents(Split::Train)
    }

    /// Number of documents held out from training.
    pub fn held_out_documents(&self) -> u64 {
        self.documents(Split::HeldOut)
    }

    /// Number of documents of a split.
    pub fn documents(&self, split: Split) -> u64 {
        *self.starts(split).last().unwrap_or(&0)
    }

    /// The tokens of a document, numbered within its split.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such document, [`Error::Corrupt`] when its offsets are wrong.
    pub fn document(&self, split: Split, index: u64) -> Result<Tokens<'_>, Error> {
        let (shard, document) = self.locate(split, index)?;
        self.shards[shard].tokens(document)
    }

    /// The samples that a policy cuts from the documents of a split.
    ///
    /// # Errors
    /// [`Error::Config`] when `seq_len` has no room for a token, [`Error::Corrupt`] when counting the samples meets
    /// wrong offsets.
    pub fn samples(
        self: &Arc<Self>,
        split: Split,
        policy: SamplePolicy,
        seq_len: usize,
    ) -> Result<Samples, Error> {
        check_seq_len(seq_len)?;
        let body = seq_len - FRAME_TOKENS;
        let documents = self.documents(split);
        let (len, index) = match policy {
            SamplePolicy::Truncate => (documents, None),
            SamplePolicy::Chunk => {
                let index = ChunkIndex::count(self, split, body)?;
                (index.samples, Some(index))
            }
        };
        Ok(Samples { corpus: Arc::clone(self), split, body, index, len })
    }

    /// Numbers of the documents of each folder.
    fn folders(&self, split: Split) -> impl Iterator<Item = Range<u64>> {
        let starts = self.starts(split);
        self.folder_starts.windows(2).map(move |shards| starts[shards[0]]..starts[shards[1]])
    }

    /// The number of a document's shard and the document's number there.
    fn locate(&self, split: Split, index: u64) -> Result<(usize, u64), Error> {
        let starts = self.starts(split);
        // The last start that is not above the index: shards without a document of this split share their start with
        // the next one, and are passed over.
        let at = starts.partition_point(|start| *start <= index) - 1;
        let Some(shard) = self.shards.get(at) else {
            return Err(Error::OutOfRange { what: "document", index, count: self.documents(split) });
        };
        let first = match split {
            Split::Train => 0,
            Split::HeldOut => shard.documents() - shard.held_out(),
        };
        Ok((at, first + (index - starts[at])))
    }

    fn starts(&self, split: Split) -> &[u64] {
        match split {
            Split::Train => &self.train_starts,
            Split::HeldOut => &self.held_out_starts,
        }
    }
}

/// The samples of a split: `[CLS]`, a piece of a document, `[SEP]`. Only the piece is stored and returned.
#[derive(Clone, Debug)]
pub struct Samples {
    corpus: Arc<Corpus>,
    split: Split,
    /// Most tokens of a piece.
    body: usize,
    /// Where a document can be several samples.
    index: Option<ChunkIndex>,
    len: u64,
}

impl Samples {
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
        &self.corpus
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
    /// [`Error::Config`] for a folder that has a weight and no samples, [`Error::Corrupt`] when offsets are wrong.
    pub fn parts(&self, measured: bool) -> Result<Vec<Part>, Error> {
        let part = |range: Range<u64>, weight| {
            let samples = range.end - range.start;
            Ok(Part { samples, weight, mean_len: if measured { self.mean_len(range)? } else { 0.0 } })
        };
        let Some(weights) = self.corpus.weights() else {
            return Ok(vec![part(0..self.len, 1.0)?]);
        };
        let folders = self.corpus.folders(self.split).zip(weights);
        folders
            .map(|(documents, &weight)| {
                let range = self.first_of(documents.start)?..self.first_of(documents.end)?;
                if range.is_empty() {
                    return Err(invalid(
                        "a weight of --shards",
                        weight,
                        "none for a folder without training documents",
                    ));
                }
                part(range, weight)
            })
            .collect()
    }

    /// The mean length of samples in tokens, `[CLS]` and `[SEP]` included, from at most [`MEASURED`] of them, which are
    /// spread evenly; nothing when there are none.
    fn mean_len(&self, range: Range<u64>) -> Result<f64, Error> {
        let count = range.end - range.start;
        let measured = count.min(MEASURED);
        let mut tokens = 0u64;
        for index in 0..measured {
            let sample = range.start + (u128::from(index) * u128::from(count) / u128::from(measured)) as u64;
            tokens += self.place(sample)?.len() as u64;
        }
        let fraction = tokens as f64 / measured.max(1) as f64;
        Ok((fraction * TOKEN_FRACTION as f64).round() / TOKEN_FRACTION as f64)
    }

    /// The number of a document's first sample; of the document after the last, the number of samples.
    fn first_of(&self, document: u64) -> Result<u64, Error> {
        let Some(index) = &self.index else { return Ok(document) };
        if document == self.corpus.documents(self.split) {
            return Ok(self.len);
        }
        let block = document / INDEX_BLOCK;
        let mut sample = index.starts[block as usize];
        for before in block * INDEX_BLOCK..document {
            let (shard, at) = self.corpus.locate(self.split, before)?;
            sample += self.corpus.shards[shard].document_len(at)?.div_ceil(self.body) as u64;
        }
        Ok(sample)
    }

    /// The piece of text of a sample: 1 to `seq_len - 2` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such sample, [`Error::Corrupt`] when offsets are wrong.
    pub fn get(&self, sample: u64) -> Result<Tokens<'_>, Error> {
        self.text(self.place(sample)?)
    }

    /// Where the text of a sample lies.
    ///
    /// # Errors
    /// As [`get`](Samples::get).
    pub(crate) fn place(&self, sample: u64) -> Result<Place, Error> {
        if sample >= self.len {
            return Err(Error::OutOfRange { what: "sample", index: sample, count: self.len });
        }
        let (shard, document, piece) = self.piece(sample)?;
        let range = self.corpus.shards[shard].range(document)?;
        let start = range.start + piece * self.body as u64;
        let text = range.end.saturating_sub(start).min(self.body as u64);
        Ok(Place { start, shard: shard as u32, text: text as u32 })
    }

    /// The text at a place.
    #[inline]
    pub(crate) fn text(&self, place: Place) -> Result<Tokens<'_>, Error> {
        let Place { start, shard, text } = place;
        self.corpus.shards[shard as usize].tokens_in(start..start + u64::from(text))
    }

    /// Reads where the document of a sample begins, when that takes no search: a loop over several samples lets their
    /// fetches overlap.
    pub(crate) fn touch(&self, sample: u64) {
        if self.index.is_none()
            && let Ok((shard, document)) = self.corpus.locate(self.split, sample)
        {
            self.corpus.shards[shard].touch(document);
        }
    }

    /// The error for a token of a sample that no tokenizer of this vocabulary gives.
    pub(crate) fn outside_vocabulary(&self, sample: u64, token: u32) -> Result<Error, Error> {
        let (shard, document, _) = self.piece(sample)?;
        let path = self.corpus.shards[shard].path().to_owned();
        let vocab_size = self.corpus.tokenizer().vocab_size;
        Ok(Error::TokenOutsideVocabulary { path, document, token, vocab_size })
    }

    /// The shard of a sample, its document there, and which piece of it the sample is.
    fn piece(&self, sample: u64) -> Result<(usize, u64, u64), Error> {
        let Some(index) = &self.index else {
            let (shard, document) = self.corpus.locate(self.split, sample)?;
            return Ok((shard, document, 0));
        };
        let block = index.starts.partition_point(|start| *start <= sample) - 1;
        let mut piece = sample - index.starts[block];
        let first = block as u64 * INDEX_BLOCK;
        let (mut shard, mut at) = self.corpus.locate(self.split, first)?;
        for document in first..first + INDEX_BLOCK {
            if at == self.corpus.shards[shard].end_of(self.split) {
                (shard, at) = self.corpus.locate(self.split, document)?;
            }
            let pieces = self.corpus.shards[shard].document_len(at)?.div_ceil(self.body) as u64;
            if piece < pieces {
                return Ok((shard, at, piece));
            }
            piece -= pieces;
            at += 1;
        }
        Err(Error::OutOfRange { what: "sample", index: sample, count: self.len })
    }
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
    fn count(corpus: &Corpus, split: Split, body: usize) -> Result<Self, Error> {
        let mut starts = Vec::with_capacity(corpus.documents(split).div_ceil(INDEX_BLOCK) as usize);
        let (mut samples, mut document) = (0u64, 0u64);
        for shard in &corpus.shards {
            let train = shard.documents() - shard.held_out();
            let range = match split {
                Split::Train => 0..train,
                Split::HeldOut => train..shard.documents(),
            };
            for at in range {
                if document.is_multiple_of(INDEX_BLOCK) {
                    starts.push(samples);
                }
                samples += shard.document_len(at)?.div_ceil(body) as u64;
                document += 1;
            }
        }
        Ok(Self { starts: starts.into(), samples })
    }
}

impl Shard {
    /// The number of the first document after those of a split.
    fn end_of(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.documents() - self.held_out(),
            Split::HeldOut => self.documents(),
        }
    }
}

/// A folder that is named twice would count twice, which weights can say better.
fn check_distinct(folders: &[ShardFolder]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for ShardFolder { path, .. } in folders {
        if !seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())) {
            let found = format!("{} twice", path.display());
            return Err(invalid("--shards", found, "each folder once; weights say how often it is read"));
        }
    }
    Ok(())
}

/// Opens the shards of a folder and compares each with the manifest. A few threads share them, since most of the time goes
/// into waiting for the first bytes of each file.
fn open_shards(dir: &Path, manifest: &Manifest) -> Result<Vec<Shard>, Error> {
    let open = |entry: &ShardEntry| {
        let shard = Shard::open(&dir.join(&entry.file))?;
        check_shard(&shard, entry, manifest)?;
        Ok(shard)
    };
    let entries = &manifest.shards;
    if entries.len() < OPENED_ALONE {
        return entries.iter().map(open).collect();
    }
    let each = entries.len().div_ceil(OPENERS);
    thread::scope(|scope| {
        let threads: Vec<_> = entries
            .chunks(each)
            .map(|entries| scope.spawn(move || entries.iter().map(open).collect::<Result<Vec<_>, Error>>()))
            .collect();
        let mut shards = Vec::with_capacity(entries.len());
        for thread in threads {
            shards.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(shards)
    })
}

/// Reads the tokenizer in the folder, which must be the one that made the ids.
fn read_tokenizer(dir: &Path, tokenizer: &TokenizerInfo) -> Result<Vec<u8>, Error> {
    let path = dir.join(&tokenizer.file);
    let json = fs::read(&path).map_err(Error::io("read", &path))?;
    let found = blake3::hash(&json).to_hex();
    if found.as_str() == tokenizer.blake3 {
        return Ok(json);
    }
    let (found, expected) = (found.to_string(), tokenizer.blake3.clone());
    Err(Error::NotAsInManifest { path, what: "the BLAKE3", found, expected })
}

/// Ids of different tokenizers have nothing to do with each other.
fn check_same_tokenizer(
    first: (&Path, &TokenizerInfo),
    second: (&Path, &TokenizerInfo),
) -> Result<(), Error> {
    let special = |tokenizer: &TokenizerInfo| format!("{:?}", tokenizer.special.ids());
    let ((first_dir, first), (second_dir, second)) = (first, second);
    for (what, found, expected) in [
        ("the tokenizer's BLAKE3", second.blake3.clone(), first.blake3.clone()),
        ("the vocabulary size", second.vocab_size.to_string(), first.vocab_size.to_string()),
        ("the list of special ids", special(second), special(first)),
    ] {
        if found != expected {
            let (first, second) = (first_dir.to_owned(), second_dir.to_owned());
            return Err(Error::FoldersDiffer { first, second, what, found, expected });
        }
    }
    Ok(())
}

/// Documents are held out by a hash of their text, so a document that is in both folders is on the same side in both,
/// provided that the same share was held out.
fn check_same_held_out(first: (&Path, &Manifest), second: (&Path, &Manifest)) -> Result<(), Error> {
    let share =
        |manifest: &Manifest| manifest.ingest.options.get("held_out").and_then(|share| share.as_f64());
    match (share(first.1), share(second.1)) {
        (Some(expected), Some(found)) if expected != found => Err(Error::FoldersDiffer {
            first: first.0.to_owned(),
            second: second.0.to_owned(),
            what: "the share of documents held out",
            found: found.to_string(),
            expected: expected.to_string(),
        }),
        _ => Ok(()),
    }
}

/// A shard must be the one that the manifest describes, as far as its header tells.
fn check_shard(shard: &Shard, entry: &ShardEntry, manifest: &Manifest) -> Result<(), Error> {
    let properties = [
        ("its size in bytes", shard.bytes(), entry.bytes),
        ("its number of bytes a token", shard.token_bytes().into(), manifest.token_bytes.into()),
        ("its number of documents", shard.documents(), entry.documents),
        ("its number of held-out documents", shard.held_out(), entry.held_out),
        ("its number of tokens", shard.token_count(), entry.tokens),
        ("its number of held-out tokens", shard.held_out_tokens(), entry.held_out_tokens),
    ];
    match properties.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => Err(Error::NotAsInManifest {
            path: shard.path().to_owned(),
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }),
    }
}
