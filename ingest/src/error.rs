//! Every way in which turning text into shards can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::task::Task;

/// The error of this crate. Messages name the file and the place in it, what was found, what was expected and what to
/// do; causes are in [`std::error::Error::source`], so print with the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shard, a manifest or another file of the output could not be written or read.
    #[error(transparent)]
    Loader(#[from] loader::Error),

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

    /// An input names nothing that exists.
    #[error("no file matches {input}; check the path, and quote a pattern if the shell should not expand it")]
    NothingMatches {
        /// The input as it was given.
        input: String,
    },

    /// An input is a pattern that cannot be understood.
    #[error("{input} is not a valid pattern; `*`, `?` and `[...]` are understood")]
    Pattern {
        /// The input as it was given.
        input: String,
        /// What is wrong with it, and where.
        source: glob::PatternError,
    },

    /// A folder holds no file that can be ingested.
    #[error("the folder {} holds no file named *{endings}; name the files themselves if theirs differ", dir.display())]
    NoInputIn {
        /// The folder.
        dir: PathBuf,
        /// The endings looked for.
        endings: String,
    },

    /// An input has no content.
    #[error("{} holds no rows: {found}; expected one JSON object a line, leave the file out or replace it", path.display())]
    EmptyInput {
        /// The input.
        path: PathBuf,
        /// What there is instead.
        found: &'static str,
    },

    /// An input is of no format that can be read.
    #[error("{} starts with {found}; expected {expected}", path.display())]
    UnknownFormat {
        /// The input.
        path: PathBuf,
        /// What its first bytes look like.
        found: String,
        /// What can be read.
        expected: &'static str,
    },

    /// A compressed input cannot be unpacked.
    #[error(
        "{} is damaged: it cannot be unpacked past byte {offset} of the file ({unpacked} bytes of text came out before); \
         fetch the file again or leave it out",
        path.display()
    )]
    Unpack {
        /// The input.
        path: PathBuf,
        /// Bytes of the compressed file consumed when it happened.
        offset: u64,
        /// Bytes unpacked before.
        unpacked: u64,
        /// What the decompressor says.
        source: io::Error,
    },

    /// A table has no text where it should be.
    #[error("{} has {found}, expected a column {field:?} of strings; --text-field names another", path.display())]
    NoColumn {
        /// The input.
        path: PathBuf,
        /// The column that was looked for.
        field: String,
        /// What there is instead.
        found: String,
    },

    /// A table cannot be read.
    #[error("{} cannot be read at row {row}; fetch the file again or leave it out", path.display())]
    Table {
        /// The input.
        path: PathBuf,
        /// The row, counted from 0.
        row: u64,
        /// What the Arrow library says.
        source: ArrowError,
    },

    /// Parquet came through a pipe.
    #[error(
        "standard input is a Parquet table, which is read from its end on; save it as a file and name that file"
    )]
    ParquetStream,

    /// What came through a pipe is gone.
    #[error(
        "{} was begun from standard input, which cannot be read again; choose another --out, or delete that folder and \
         start over",
        dir.display()
    )]
    StandardInputAgain {
        /// The output folder.
        dir: PathBuf,
    },

    /// Standard input is one stream.
    #[error("`-` stands for standard input and must be the only input")]
    StandardInputAmongOthers,

    /// A row cannot be used and may not be skipped.
    #[error(
        "{} line {line}, {reason}; expected one JSON object a line with a string in its text field. Mend the line, or leave \
         such lines out with --skip-bad-lines N ({allowed} allowed now, all are listed in the manifest)",
        path.display()
    )]
    BadLine {
        /// The input.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The column and what was found there.
        reason: String,
        /// How many bad lines were allowed.
        allowed: u64,
    },

    /// An input has fewer rows than were read from it before.
    #[error(
        "{} has {found} rows, but {expected} were already read from it in an earlier run: the file has changed; restore it, or \
         delete the output folder and start over",
        path.display()
    )]
    InputChanged {
        /// The input.
        path: PathBuf,
        /// Rows it has.
        found: u64,
        /// Rows that the sealed parts cover.
        expected: u64,
    },

    /// An input is not the one that was there when the ingest began.
    #[error(
        "{} is not the file that was there when this ingest began; restore it and run the same command again, or delete the \
         output folder and start over",
        path.display()
    )]
    InputReplaced {
        /// The input.
        path: PathBuf,
    },

    /// An input was written to while it was read.
    #[error(
        "{} changed while it was being read ({found} bytes now, {expected} when the ingest began); nothing of what was read of \
         it since its last shard is kept. Let nothing write to it, and start over in a new output folder if it has new content",
        path.display()
    )]
    InputWritten {
        /// The input.
        path: PathBuf,
        /// Its size now.
        found: u64,
        /// Its size when the ingest began.
        expected: u64,
    },

    /// A tokenizer file cannot be understood.
    #[error(
        "{name} is not a tokenizer that can be used: {reason}; expected a tokenizer.json as Hugging Face's tokenizers write it"
    )]
    Tokenizer {
        /// The file, or the name of the bundled tokenizer.
        name: String,
        /// What is wrong.
        reason: String,
    },

    /// A vocabulary of a size that tensor cores do not like.
    #[error(
        "--size {size} is no multiple of 64: tensor cores multiply in tiles, so a model would carry {padding} rows that stand \
         for no token, up to {larger}; use --size {nearest}"
    )]
    VocabSize {
        /// The size asked for.
        size: u32,
        /// What is missing to the next multiple.
        padding: u32,
        /// The next multiple.
        larger: u32,
        /// The nearest multiple.
        nearest: u32,
    },

    /// A sample has too few pieces for a vocabulary.
    #[error(
        "{text_bytes} bytes of text have {found} pieces that occur at least twice, fewer than --size {size}; give more text \
         (--sample-bytes), or use --size {largest}"
    )]
    SmallSample {
        /// UTF-8 bytes of the sample.
        text_bytes: u64,
        /// Pieces found.
        found: u32,
        /// Pieces asked for.
        size: u32,
        /// The largest multiple of 64 that can be had.
        largest: u32,
    },

    /// The fast encoder was asked for and does not support the tokenizer.
    #[error(
        "the fast encoder cannot stand in for {name}: {reason}; use --encoder auto or --encoder tokenizers"
    )]
    NoFastEncoder {
        /// The file, or the name of the bundled tokenizer.
        name: String,
        /// What of the definition it does not support.
        reason: String,
    },

    /// A tokenizer lacks tokens that masked-language modelling needs.
    #[error(
        "the tokenizer {name} has no {missing}; a masked language model needs [PAD], [UNK], [CLS], [SEP] and [MASK]: add the \
         missing to the file or choose a BERT tokenizer"
    )]
    MissingSpecialTokens {
        /// The file, or the name of the bundled tokenizer.
        name: String,
        /// The tokens that are missing.
        missing: String,
    },

    /// The tokenizer failed on a document.
    #[error("the tokenizer failed on {} line {line}: {reason}; please report it with that line", path.display())]
    Encode {
        /// The input.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What the tokenizer says.
        reason: String,
    },

    /// A table of documents cannot be written or read.
    #[error("cannot {action} the table of documents {}", path.display())]
    Docs {
        /// What was tried, as a verb.
        action: &'static str,
        /// The table.
        path: PathBuf,
        /// What the Parquet library says.
        source: ParquetError,
    },

    /// An option has a value that makes no sense.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option as it is written on the command line.
        option: &'static str,
        /// Its value.
        found: String,
        /// The values it may have.
        expected: &'static str,
    },

    /// A language that cannot be told from others.
    #[error("the language {found:?} is not known; expected some of {known}, or their codes of three letters")]
    Language {
        /// The code.
        found: String,
        /// Codes that are known.
        known: String,
    },

    /// The output folder holds files that are not ours.
    #[error(
        "{} is not empty and no shard folder ({found} is in it); choose a folder that does not exist yet with --out",
        dir.display()
    )]
    ForeignFolder {
        /// The folder.
        dir: PathBuf,
        /// One of the files in it.
        found: String,
    },

    /// Another process writes to the output folder.
    #[error("another ingest is writing to {}; wait for it to end or choose another --out", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },

    /// The disk has less room than the shards are expected to take.
    #[error(
        "{} has {free} bytes free, but the shards are expected to take {needed} more; free some space, choose another --out, or \
         go on with --no-space-check: if the disk fills up, finished shards are kept and the same command continues",
        dir.display()
    )]
    NoRoom {
        /// The folder.
        dir: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },

    /// Shards cannot be written to a web server.
    #[error("{url} is on a web server, which takes no files; name a folder, or an s3://, gs:// or az:// URL")]
    ReadOnlyStore {
        /// What was to be written to.
        url: String,
    },

    /// The output folder belongs to another ingest.
    #[error(
        "{} {state} from something else: {difference}; choose another --out, or delete that folder to replace it",
        dir.display()
    )]
    OtherIngest {
        /// The folder.
        dir: PathBuf,
        /// "was made" or "was begun".
        state: &'static str,
        /// What differs, old and new.
        difference: String,
    },

    /// The output folder holds the folders of tasks, and a whole ingest would lie between them.
    #[error(
        "{} holds folders of an ingest by {count} tasks; make one of them with `ingest merge {}`, or choose another --out",
        dir.display(), dir.display()
    )]
    TaskFolders {
        /// The folder.
        dir: PathBuf,
        /// The number of tasks.
        count: u32,
    },

    /// The output folder was divided among another number of tasks.
    #[error(
        "{} comes from an ingest by {other} tasks, this one is by {count}; say --task I/{other} to continue it (an array that          repeats some tasks only counts only those), or delete that folder",
        dir.display()
    )]
    OtherDivision {
        /// A task's folder.
        dir: PathBuf,
        /// The number of tasks now.
        count: u32,
        /// The number of tasks then.
        other: u32,
    },

    /// There are no tasks' folders to merge.
    #[error("{} holds no folder of a task (task-00000-of-...), so there is nothing to merge; check the path", dir.display())]
    MergeNothing {
        /// The folder.
        dir: PathBuf,
    },

    /// A task to be merged has not come to its end.
    #[error(
        "task {task} is not finished: {} has no manifest; run it again with --task {task} and merge then",
        dir.display()
    )]
    MergeUnfinished {
        /// The task.
        task: Task,
        /// Its folder.
        dir: PathBuf,
    },

    /// Tasks are missing in a merge.
    #[error(
        "of the {count} tasks these are missing: {missing}; run them with --task I/{count} and merge then"
    )]
    MergeGap {
        /// Their numbers.
        missing: String,
        /// The number of all tasks.
        count: u32,
    },

    /// A task is there twice in a merge.
    #[error("task {task} is there twice, as {} and as {}; name only one of them", first.display(), second.display())]
    MergeOverlap {
        /// The task.
        task: Task,
        /// One of its folders.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },

    /// A task's folder holds something else than its name says.
    #[error("{} holds {found}, which its name does not say; restore its name, or run that task again", dir.display())]
    MergeRenamed {
        /// The folder.
        dir: PathBuf,
        /// What it holds.
        found: String,
    },

    /// Two tasks do not belong to the same ingest.
    #[error(
        "{} and {} cannot be merged: {what} is {found} in the second, {expected} in the first; run the tasks of one ingest          with the same program, tokenizer, options and inputs",
        first.display(), second.display()
    )]
    MergeDiffers {
        /// The first folder.
        first: PathBuf,
        /// The folder that differs from it.
        second: PathBuf,
        /// What differs.
        what: &'static str,
        /// How it is in the second.
        found: String,
        /// How it is in the first.
        expected: String,
    },

    /// A task's shard is nowhere to be found.
    #[error("{} is missing or has not its {bytes} bytes; delete that folder and run the task again with --task {task}", path.display())]
    MergeLost {
        /// The task.
        task: Task,
        /// The file.
        path: PathBuf,
        /// The size it should have.
        bytes: u64,
    },

    /// A task's folder lies on another file system, to which files cannot be moved without copying them.
    #[error(
        "{} lies on another file system than {}: copy the folder of its task there and merge again",
        from.display(), out.display()
    )]
    MergeFar {
        /// The file.
        from: PathBuf,
        /// The common folder.
        out: PathBuf,
    },

    /// The notes of an unfinished ingest cannot be understood.
    #[error("{} cannot be understood: {reason}; delete the output folder and start over", path.display())]
    Notes {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// There is no document of that number.
    #[error("there is no document {index}: {} holds {count}, counted from 0", dir.display())]
    NoDocument {
        /// The shard folder.
        dir: PathBuf,
        /// The number asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },

    /// A worker thread panicked: a bug in this program.
    #[error("an ingest worker failed for a reason that is a bug of this program: {message}")]
    WorkerPanicked {
        /// The message of the panic.
        message: String,
    },
}

impl Error {
    /// For use in `map_err`: an input or output error of `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// For use in `map_err`: a table whose row `row` cannot be read. What an object store says is said as it is.
    pub(crate) fn table(path: &Path, row: u64) -> impl FnOnce(ArrowError) -> Error {
        let path = path.to_owned();
        move |source| match source {
            ArrowError::IoError(_, error) if is_ours(&error) => Error::of_reading(&path, error),
            ArrowError::ExternalError(error) => match error.downcast::<loader::Error>() {
                Ok(error) => Error::Loader(*error),
                Err(error) => Error::Table { path, row, source: ArrowError::ExternalError(error) },
            },
            source => Error::Table { path, row, source },
        }
    }

    /// An error of reading an input that may be an object, whose store explains itself.
    pub(crate) fn of_reading(path: &Path, source: io::Error) -> Error {
        match source.downcast::<loader::Error>() {
            Ok(error) => Error::Loader(error),
            Err(source) => Error::io("read", path)(source),
        }
    }

    /// An error of unpacking an input.
    pub(crate) fn unpack(path: &Path, offset: u64, unpacked: u64, source: io::Error) -> Error {
        if is_ours(&source) {
            return Error::of_reading(path, source);
        }
        Error::Unpack { path: path.to_owned(), offset, unpacked, source }
    }

    /// For use in `map_err`: an error of writing the table of documents at `path`; a full disk is told apart.
    pub(crate) fn write_docs(path: &Path, missing: u64) -> impl FnOnce(ParquetError) -> Error {
        let path = path.to_owned();
        move |source| {
            let action = "write";
            match source {
                ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                    Ok(source) => loader::Error::write(&path, missing, *source).into(),
                    Err(cause) => Error::Docs { action, path, source: ParquetError::External(cause) },
                },
                source => Error::Docs { action, path, source },
            }
        }
    }
}

/// Whether an error of reading holds one of ours.
fn is_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<loader::Error>())
}
