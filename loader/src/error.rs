//! Every way in which reading, writing or batching shards can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use crate::cache::ByteSize;
use crate::object::ObjectError;

/// The error of this crate. Messages name the path, what was found, what was expected and what to do; the cause
/// reported by the operating system is in [`std::error::Error::source`], so print with the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason given by the operating system.
        source: io::Error,
    },

    /// The disk has no room for what is being written. The temporary file is gone when this is returned.
    #[error(
        "no space left for {}: at least {missing} more bytes are needed; nothing that was finished before is \
         lost, free some space and run the same command again",
        path.display()
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// Bytes known to be still unwritten, a lower bound.
        missing: u64,
        /// The reason given by the operating system.
        source: io::Error,
    },

    /// A folder has no manifest: it is no shard folder, or the ingest into it never finished.
    #[error(
        "{} has no manifest.json, so it is not a finished shard folder; check the path, or run ingest again to \
         finish it",
        dir.display()
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },

    /// There is no folder where a shard folder should be.
    #[error("{} is {found}, expected a shard folder: one that holds manifest.json; check the path", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },

    /// A file that a manifest names is not in its folder.
    #[error(
        "{} is missing, though the manifest of its folder names it; restore it from a copy, or ingest its input again",
        path.display()
    )]
    MissingFile {
        /// The file.
        path: PathBuf,
    },

    /// A manifest is not what this program writes.
    #[error("{} is not a valid manifest: {reason}; ingest again to replace it", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },

    /// Written by a program that speaks another version of the format.
    #[error(
        "{} has format version {found}, this program reads version {expected}; ingest again with this version or \
         use the program that wrote it",
        path.display()
    )]
    FormatVersion {
        /// The shard or the manifest.
        path: PathBuf,
        /// The version it carries.
        found: u64,
        /// The version this program reads.
        expected: u32,
    },

    /// A file does not start like a shard.
    #[error("{} is not a shard: it starts with {found:02x?}, expected {expected:02x?}", path.display())]
    NotAShard {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
        /// The first bytes of every shard.
        expected: Vec<u8>,
    },

    /// The bytes of a shard contradict themselves.
    #[error(
        "{} is damaged at byte {offset}: found {found}, expected {expected}; restore the file from a copy or ingest \
         its input again",
        path.display()
    )]
    Corrupt {
        /// The shard.
        path: PathBuf,
        /// Byte offset in the file of what is wrong.
        offset: u64,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },

    /// A file is intact but is not the one that the manifest describes.
    #[error(
        "{} does not match its manifest: {what} is {found}, the manifest says {expected}; restore the file that \
         belongs to this manifest or ingest again",
        path.display()
    )]
    NotAsInManifest {
        /// The file.
        path: PathBuf,
        /// The property that differs.
        what: &'static str,
        /// Its value in the file.
        found: String,
        /// Its value in the manifest.
        expected: String,
    },

    /// Two folders of one corpus cannot be mixed.
    #[error(
        "{} and {} cannot be one corpus: {what} is {found} in the second, {expected} in the first; ingest both with \
         the same tokenizer and the same --held-out",
        first.display(), second.display()
    )]
    FoldersDiffer {
        /// The first folder.
        first: PathBuf,
        /// The folder that differs from it.
        second: PathBuf,
        /// The property that differs.
        what: &'static str,
        /// Its value in the second folder.
        found: String,
        /// Its value in the first folder.
        expected: String,
    },

    /// A token id does not fit the token width that the shard was created with.
    #[error(
        "token id {token} does not fit the {token_bytes} bytes a token of {}; create the shard with 4 bytes a token",
        path.display()
    )]
    TokenTooLarge {
        /// The shard being written.
        path: PathBuf,
        /// The id.
        token: u32,
        /// Bytes a token of this shard.
        token_bytes: u8,
    },

    /// A document without tokens was given to the writer.
    #[error("a document without tokens was given to {}; documents that encode to nothing are left out", path.display())]
    EmptyDocument {
        /// The shard being written.
        path: PathBuf,
    },

    /// A shard was asked for a width other than two or four bytes a token.
    #[error("{token_bytes} bytes a token were asked for {}; a shard stores 2 or 4", path.display())]
    TokenWidth {
        /// The shard being written.
        path: PathBuf,
        /// The width asked for.
        token_bytes: u8,
    },

    /// A token id in a shard lies outside the vocabulary of its manifest.
    #[error(
        "{} holds token id {token} in document {document}, but its vocabulary has {vocab_size} ids; run `ingest verify` \
         on the folder and restore or ingest again what it names",
        path.display()
    )]
    TokenOutsideVocabulary {
        /// The shard.
        path: PathBuf,
        /// Index of the document in the shard.
        document: u64,
        /// The id.
        token: u32,
        /// Number of ids of the real vocabulary.
        vocab_size: u32,
    },

    /// An index beyond the end was asked for.
    #[error("there is no {what} {index}, there are {count} (counted from 0)")]
    OutOfRange {
        /// What was asked for: "document", "sample".
        what: &'static str,
        /// The index.
        index: u64,
        /// How many there are.
        count: u64,
    },

    /// The corpus has nothing on the side that is needed.
    #[error("the shards hold no {split} documents; ingest more text{hint}")]
    EmptySplit {
        /// "training" or "held-out".
        split: &'static str,
        /// What else may help, or nothing.
        hint: &'static str,
    },

    /// A setting is out of its range.
    #[error("{field} is {found}, expected {expected}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values it may have.
        expected: &'static str,
    },

    /// Some rank would get nothing.
    #[error(
        "{world_size} ranks cannot share a batch of {samples} samples, which is the smallest of this training; use at most \
         {samples} ranks, or raise train.batch_size, or train.batch_warmup_from where the batch grows"
    )]
    MoreRanksThanSamples {
        /// Samples of the smallest batch.
        samples: usize,
        /// Number of ranks.
        world_size: usize,
    },

    /// Whole words were to be masked with a tokenizer that does not say what a word is.
    #[error(
        "whole_word_masking needs a WordPiece tokenizer, whose continuations begin with `##`, but {file} of the shards is \
         none: {reason}; turn whole_word_masking off, or ingest with a WordPiece tokenizer"
    )]
    NoWords {
        /// The tokenizer file in the folder.
        file: String,
        /// What was found.
        reason: String,
    },

    /// The system gives no thread for a worker.
    #[error("cannot start a loader thread; ask for fewer loader.workers or raise the limit of processes")]
    Thread {
        /// The reason given by the operating system.
        source: io::Error,
    },

    /// The system has no memory for batches.
    #[error(
        "cannot get {bytes} bytes of memory for a batch; lower batch_size, seq_len or micro_batch_tokens, or ask for \
         fewer loader.slots"
    )]
    Memory {
        /// The bytes of one slot.
        bytes: usize,
        /// The reason given by the operating system.
        source: io::Error,
    },

    /// The shards that are needed at once do not fit into the cache.
    #[error(
        "one batch reads from {shards} shards of {}, but the shard cache {} may hold no more than {limit}; raise \
         --shard-cache-size, or let batches read from fewer shards: with loader.shuffle_block as large as a shard and a small \
         loader.shuffle_window",
        needed.about(), dir.display()
    )]
    CacheTooSmall {
        /// The folder of the cache.
        dir: PathBuf,
        /// The most that it may hold.
        limit: ByteSize,
        /// Number of shards.
        shards: usize,
        /// Their size.
        needed: ByteSize,
    },

    /// Batches were taken and none given back until none was left to fill.
    #[error(
        "all {slots} batches of the loader are held; drop one before asking for the next, or raise loader.slots"
    )]
    AllSlotsHeld {
        /// Number of slots.
        slots: usize,
    },

    /// Whoever wanted a shard of a store has gone while it was being fetched.
    #[error("a shard was not waited for any longer, since nobody takes the loader's batches")]
    Abandoned,

    /// An object store said no, or something that cannot be.
    #[error(transparent)]
    Object(#[from] Box<ObjectError>),

    /// A worker thread panicked: a bug in this program.
    #[error("a loader worker failed at step {step} for a reason that is a bug of this program: {message}")]
    WorkerPanicked {
        /// The step that it should have delivered.
        step: u64,
        /// The message of the panic.
        message: String,
    },
}

impl From<ObjectError> for Error {
    fn from(error: ObjectError) -> Self {
        Box::new(error).into()
    }
}

impl Error {
    /// For use in `map_err`: an input or output error of `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// For use in `map_err`: why the file of a manifest at `path` cannot be read.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Error::MissingFile { path },
            _ => Error::Io { action: "read", path, source },
        }
    }

    /// The error of a write to `path` with at least `missing` bytes still unwritten: [`Error::DiskFull`] when there is
    /// no room for them, else [`Error::Io`].
    pub fn write(path: &Path, missing: u64, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            // The limit of the file system, or that of `ulimit -f`.
            | io::ErrorKind::FileTooLarge => {
                Error::DiskFull { path, missing, source }
            }
            _ => Error::Io { action: "write", path, source },
        }
    }
}
