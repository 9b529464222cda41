//! The documents of one or several shard folders as one numbered whole, and the samples cut from them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::config::{SamplePolicy, check_seq_len};
use crate::error::Error;
use crate::shard::{Manifest, Shard, ShardEntry, TokenizerInfo, Tokens};

/// Documents a block of the index that counts samples, where a document can be several. Small enough that walking half
/// a block costs less than masking the sample, at half a byte a document.
const INDEX_BLOCK: u64 = 16;

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
        let mut corpus = Self {
            manifests: Vec::new(),
            tokenizer_json: Vec::new(),
            shards: Vec::new(),
            train_starts: vec![0],
            held_out_starts: vec![0],
        };
        let (mut train, mut held_out) = (0u64, 0u64);
        for dir in dirs {
            let dir = dir.as_ref();
            let manifest = Manifest::read(dir)?;
            let tokenizer_json = read_tokenizer(dir, &manifest.tokenizer)?;
            if let Some(first) = corpus.manifests.first() {
                check_same_tokenizer((dirs[0].as_ref(), &first.tokenizer), (dir, &manifest.tokenizer))?;
            } else {
                corpus.tokenizer_json = tokenizer_json;
            }
            for entry in &manifest.shards {
                let shard = Shard::open(&dir.join(&entry.file))?;
                check_shard(&shard, entry, &manifest)?;
                // Each document needs eight bytes of a file, so these sums are far from overflow.
                train += shard.documents() - shard.held_out();
                held_out += shard.held_out();
                corpus.train_starts.push(train);
                corpus.held_out_starts.push(held_out);
                corpus.shards.push(shard);
            }
            corpus.manifests.push(manifest);
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

    /// The tokenizer of all folders.
    pub fn tokenizer(&self) -> &TokenizerInfo {
        &self.manifests[0].tokenizer
    }

    /// The `tokenizer.json` that lies in each folder.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer_json
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
        shard.tokens(document)
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

    /// The shard of a document and its number there.
    fn locate(&self, split: Split, index: u64) -> Result<(&Shard, u64), Error> {
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
        Ok((shard, first + (index - starts[at])))
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

    /// The piece of text of a sample: 1 to `seq_len - 2` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such sample, [`Error::Corrupt`] when offsets are wrong.
    pub fn get(&self, sample: u64) -> Result<Tokens<'_>, Error> {
        if sample >= self.len {
            return Err(Error::OutOfRange { what: "sample", index: sample, count: self.len });
        }
        let (document, piece) = self.place(sample)?;
        let start = piece * self.body;
        Ok(self.corpus.document(self.split, document)?.slice(start..start + self.body))
    }

    /// Reads where the document of a sample begins, when that takes no search: a loop over several samples lets their
    /// fetches overlap.
    pub(crate) fn touch(&self, sample: u64) {
        if self.index.is_none()
            && let Ok((shard, document)) = self.corpus.locate(self.split, sample)
        {
            shard.touch(document);
        }
    }

    /// The error for a token of a sample that no tokenizer of this vocabulary gives.
    pub(crate) fn outside_vocabulary(&self, sample: u64, token: u32) -> Result<Error, Error> {
        let (document, _) = self.place(sample)?;
        let (shard, document) = self.corpus.locate(self.split, document)?;
        let vocab_size = self.corpus.tokenizer().vocab_size;
        Ok(Error::TokenOutsideVocabulary { path: shard.path().to_owned(), document, token, vocab_size })
    }

    /// The document of a sample and which piece of it the sample is.
    fn place(&self, sample: u64) -> Result<(u64, usize), Error> {
        let Some(index) = &self.index else { return Ok((sample, 0)) };
        let block = index.starts.partition_point(|start| *start <= sample) - 1;
        let mut piece = sample - index.starts[block];
        let first = block as u64 * INDEX_BLOCK;
        let (mut shard, mut at) = self.corpus.locate(self.split, first)?;
        for document in first..first + INDEX_BLOCK {
            if at == shard.end_of(self.split) {
                (shard, at) = self.corpus.locate(self.split, document)?;
            }
            let pieces = shard.document_len(at)?.div_ceil(self.body) as u64;
            if piece < pieces {
                return Ok((document, piece as usize));
            }
            piece -= pieces;
            at += 1;
        }
        Err(Error::OutOfRange { what: "sample", index: sample, count: self.len })
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

/// The tokenizer in the folder must be the one that made the ids.
fn read_tokenizer(dir: &Path, tokenizer: &TokenizerInfo) -> Result<Vec<u8>, Error> {
    let path = dir.join(&tokenizer.file);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    let found = blake3::hash(&bytes).to_hex();
    if found.as_str() == tokenizer.blake3 {
        return Ok(bytes);
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
