//! The documents of one or several shard folders as one numbered whole.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::cache::{ByteSize, CacheConfig, Folder, Part, Pool, RemoteShard};
use crate::config::{SamplePolicy, invalid};
use crate::error::Error;
use crate::folder::{self, Place, ShardFolder};
use crate::hand::Hand;
use crate::samples::Samples;
use crate::shard::{MANIFEST_FILE, Manifest, Shard, ShardEntry, TokenizerInfo};

/// Threads that open shards, and the number of shards that one thread opens as fast.
const OPENERS: usize = 8;
const OPENED_ALONE: usize = 64;

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
    shards: Vec<ShardAt>,
    /// The shards that lie in stores, if any does.
    pool: Option<Arc<Pool>>,
    /// The number of the first training document of each shard, then their total.
    train_starts: Vec<u64>,
    /// The number of the first held-out document of each shard, then their total.
    held_out_starts: Vec<u64>,
}

/// Where a shard lies.
#[derive(Debug)]
pub(crate) enum ShardAt {
    /// On this machine; it is open.
    Here(Shard),
    /// In a store: its number in the pool.
    Stored(usize),
}

/// What of a corpus lies in object stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Number of shards.
    pub shards: usize,
    /// Their size.
    pub size: ByteSize,
    /// Where those in use are kept.
    pub cache: PathBuf,
    /// The most that may be kept.
    pub limit: ByteSize,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, cache, limit) = (self.size.about(), self.cache.display(), self.limit);
        match self.shards {
            1 => write!(f, "one shard of {size} lies in an object store; ")?,
            shards => write!(f, "{shards} shards of {size} lie in an object store; ")?,
        }
        write!(f, "those in use are kept in {cache}, up to {limit}")
    }
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
        Self::open_cached(folders, &CacheConfig::default())
    }

    /// As [`open_weighted`](Corpus::open_weighted); folders may lie in object stores. Of these only manifest and tokenizer
    /// are read now. Their shards are fetched when they are needed, and kept as `cache` says.
    ///
    /// # Errors
    /// Those of [`open_weighted`](Corpus::open_weighted); [`Error::Object`] when a store does not give what is asked for.
    pub fn open_cached(folders: &[ShardFolder], cache: &CacheConfig) -> Result<Arc<Self>, Error> {
        let mut corpus = Self {
            manifests: Vec::new(),
            weights: folder::weights(folders)?,
            folder_starts: vec![0],
            tokenizer_json: Vec::new(),
            shards: Vec::new(),
            pool: None,
            train_starts: vec![0],
            held_out_starts: vec![0],
        };
        check_distinct(folders)?;
        let (mut train, mut held_out) = (0u64, 0u64);
        let mut objects = Objects::default();
        for ShardFolder { path: dir, .. } in folders {
            let place = Place::of(dir)?;
            let manifest = place.manifest()?;
            let tokenizer_json = read_tokenizer(&place, &manifest.tokenizer)?;
            match corpus.manifests.first() {
                Some(first) => {
                    check_same_tokenizer((&folders[0].path, &first.tokenizer), (dir, &manifest.tokenizer))?;
                    check_same_held_out((&folders[0].path, first), (dir, &manifest))?;
                }
                None => corpus.tokenizer_json = tokenizer_json,
            }
            match &place {
                Place::Folder(dir) => {
                    corpus.shards.extend(open_shards(dir, &manifest)?.into_iter().map(ShardAt::Here));
                }
                Place::Store(location) => {
                    for entry in &manifest.shards {
                        let object = RemoteShard::new(location, entry, manifest.token_bytes);
                        let path = dir.join(MANIFEST_FILE);
                        let object = object.map_err(|reason| Error::Manifest { path, reason })?;
                        corpus.shards.push(ShardAt::Stored(objects.add(object)));
                    }
                }
            }
            for entry in &manifest.shards {
                // Each document needs eight bytes of a file, so these sums are far from overflow.
                train += entry.documents - entry.held_out;
                held_out += entry.held_out;
                corpus.train_starts.push(train);
                corpus.held_out_starts.push(held_out);
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
        if !objects.list.is_empty() {
            corpus.pool = Some(Arc::new(Pool::start(Folder::open(cache)?, objects.list)?));
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
    pub(crate) fn shards(&self) -> &[ShardAt] {
        &self.shards
    }

    /// Number of shards of all folders.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// What of the corpus lies in object stores; nothing when all of it is of this machine.
    pub fn stored(&self) -> Option<Stored> {
        let pool = self.pool.as_ref()?;
        let stored = || (0..self.shards.len()).filter_map(|number| self.object(number));
        Some(Stored {
            shards: stored().count(),
            size: ByteSize(stored().map(|object| pool.bytes(object)).sum()),
            cache: pool.folder().dir().to_owned(),
            limit: ByteSize(pool.folder().limit()),
        })
    }

    /// The shards that lie in stores, if any does.
    pub(crate) fn pool(&self) -> Option<&Arc<Pool>> {
        self.pool.as_ref()
    }

    /// The number in the pool of a shard that lies in a store.
    pub(crate) fn object(&self, shard: usize) -> Option<usize> {
        match self.shards[shard] {
            ShardAt::Here(_) => None,
            ShardAt::Stored(object) => Some(object),
        }
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
    /// [`Error::OutOfRange`] when there is no such document, [`Error::Corrupt`] when its offsets are wrong; why its shard
    /// cannot be fetched.
    pub fn document(self: &Arc<Self>, split: Split, index: u64) -> Result<Vec<u32>, Error> {
        let (shard, document) = self.locate(split, index)?;
        let hand = Hand::new(Arc::clone(self), Part::Whole);
        Ok(hand.shard(shard)?.tokens(document)?.to_vec())
    }

    /// The samples that a policy cuts from the documents of a split.
    ///
    /// # Errors
    /// [`Error::Config`] when `seq_len` has no room for a token; [`Error::Corrupt`] when counting the samples meets
    /// wrong offsets, or why a shard cannot be fetched.
    pub fn samples(
        self: &Arc<Self>,
        split: Split,
        policy: SamplePolicy,
        seq_len: usize,
    ) -> Result<Samples, Error> {
        Samples::new(self, split, policy, seq_len)
    }

    /// Numbers of the documents of each folder.
    pub(crate) fn folders(&self, split: Split) -> impl Iterator<Item = Range<u64>> {
        let starts = self.starts(split);
        self.folder_starts.windows(2).map(move |shards| starts[shards[0]]..starts[shards[1]])
    }

    /// The number of a document's shard and the document's number there.
    #[inline]
    pub(crate) fn locate(&self, split: Split, index: u64) -> Result<(usize, u64), Error> {
        let starts = self.starts(split);
        // The last start that is not above the index: shards without a document of this split share their start with
        // the next one, and are passed over.
        let at = starts.partition_point(|start| *start <= index) - 1;
        if at == self.shards.len() {
            return Err(Error::OutOfRange { what: "document", index, count: self.documents(split) });
        }
        let first = match split {
            Split::Train => 0,
            Split::HeldOut => self.train_starts[at + 1] - self.train_starts[at],
        };
        Ok((at, first + (index - starts[at])))
    }

    /// The documents of a split in a shard, by their numbers there.
    pub(crate) fn range_in(&self, shard: usize, split: Split) -> Range<u64> {
        let count = |starts: &[u64]| starts[shard + 1] - starts[shard];
        let train = count(&self.train_starts);
        match split {
            Split::Train => 0..train,
            Split::HeldOut => train..train + count(&self.held_out_starts),
        }
    }

    /// The number of the first document of a split in a shard, among those of the whole corpus.
    pub(crate) fn first_in(&self, shard: usize, split: Split) -> u64 {
        self.starts(split)[shard]
    }

    #[inline]
    fn starts(&self, split: Split) -> &[u64] {
        match split {
            Split::Train => &self.train_starts,
            Split::HeldOut => &self.held_out_starts,
        }
    }
}

/// A folder that is named twice would count twice, which weights can say better.
fn check_distinct(folders: &[ShardFolder]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for ShardFolder { path, .. } in folders {
        if !seen.insert(folder::absolute(path).unwrap_or_else(|_| path.clone())) {
            let found = format!("{} twice", path.display());
            return Err(invalid("--shards", found, "each folder once; weights say how often it is read"));
        }
    }
    Ok(())
}

/// Shards in stores, each content once.
#[derive(Default)]
struct Objects {
    list: Vec<RemoteShard>,
    numbers: HashMap<String, usize>,
}

impl Objects {
    fn add(&mut self, object: RemoteShard) -> usize {
        let number = *self.numbers.entry(object.file_name(Part::Whole)).or_insert(self.list.len());
        if number == self.list.len() {
            self.list.push(object);
        }
        number
    }
}

/// Opens the shards of a folder and compares each with the manifest. A few threads share them, since most of the time goes
/// into waiting for the first bytes of each file.
fn open_shards(dir: &Path, manifest: &Manifest) -> Result<Vec<Shard>, Error> {
    let open = |entry: &ShardEntry| {
        let path = dir.join(&entry.file);
        let shard = Shard::open(&path).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Error::MissingFile { path }
            }
            other => other,
        })?;
        shard.check(entry, manifest.token_bytes)?;
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
fn read_tokenizer(place: &Place, tokenizer: &TokenizerInfo) -> Result<Vec<u8>, Error> {
    let json = place.read(&tokenizer.file)?;
    let found = blake3::hash(&json).to_hex();
    if found.as_str() == tokenizer.blake3 {
        return Ok(json);
    }
    let (path, found, expected) =
        (place.path_of(&tokenizer.file), found.to_string(), tokenizer.blake3.clone());
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
