//! Where documents come from: a file or an object of any supported format, read row by row.

mod arrow;
mod format;
mod gzip;
mod inputs;
mod jsonl;
mod object;
mod parquet;
mod row;
mod table;
mod zstd;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;

pub use gzip::Gzip;
pub use inputs::{Input, Inputs, STANDARD_INPUT};
pub use parquet::Segment;
pub use row::parse as parse_line;

use loader::object::{Location, Meta};

use crate::error::Error;
use crate::profile::Timed;
use format::Format;
use gzip::Counted;
use jsonl::JsonLines;
use object::ObjectFile;
use zstd::Zstd;

/// Bytes of a file read at once.
const READ_BYTES: usize = 256 << 10;

/// One document of a source.
#[derive(Debug, PartialEq)]
pub struct Document<'a> {
    /// Its row in the source, counted from 0.
    pub row: u64,
    /// What will be encoded.
    pub text: Cow<'a, str>,
    /// Where it was found on the web, if the source says so.
    pub url: Option<Cow<'a, str>>,
    /// When it was found, as the source writes it.
    pub timestamp: Option<Cow<'a, str>>,
}

/// A row that gives no document because something is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its row in the source, counted from 0.
    pub row: u64,
    /// The column, and what was found there.
    pub reason: String,
}

/// What a row turned out to be.
#[derive(Debug, PartialEq)]
pub enum Row<'a> {
    /// A document.
    Document(Document<'a>),
    /// Something else, with the reason.
    Bad(BadRow),
}

/// A file that yields documents in a fixed order.
///
/// A row is what the format counts: a line, a record. The same bytes give the same rows, which is what lets an
/// interrupted ingest continue after a row.
pub trait Source {
    /// The next row that is not blank; nothing at the end.
    ///
    /// # Errors
    /// When the file cannot be read or unpacked. A row that makes no sense is no error but [`Row::Bad`].
    fn next_row(&mut self) -> Result<Option<Row<'_>>, Error>;

    /// Passes over rows without looking into them, blank ones counted.
    ///
    /// # Errors
    /// [`Error::InputChanged`] when there are not as many, or an error of reading.
    fn skip_rows(&mut self, rows: u64) -> Result<(), Error>;

    /// Rows read so far, blank and bad ones included.
    fn rows(&self) -> u64;

    /// Bytes of the file consumed so far.
    fn position(&self) -> u64;
}

/// Opens a file or an object as what its content says it is, from its first row to its last.
///
/// # Errors
/// [`Error::EmptyInput`], [`Error::UnknownFormat`], or an error of reading.
pub fn open(path: &Path, text_field: &str) -> Result<Box<dyn Source>, Error> {
    open_part(path, text_field, None, None)
}

/// Opens what lies in memory as what its content says it is; `path` is what messages call it.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(bytes: Bytes, path: &Path, text_field: &str) -> Result<Box<dyn Source>, Error> {
    let table = bytes.clone();
    open_stream(io::Cursor::new(bytes), path, text_field, |_| parquet::open(table, path, text_field, None))
}

/// Opens a segment of a file or an object, which must still be the one that `meta` describes.
fn open_part(
    path: &Path,
    text_field: &str,
    meta: Option<&Meta>,
    segment: Option<&Segment>,
) -> Result<Box<dyn Source>, Error> {
    let Some(location) = location(path)? else {
        let file = File::open(path).map_err(Error::io("open", path))?;
        return open_stream(file, path, text_field, |_| parquet::open_file(path, text_field, segment));
    };
    let meta = match meta {
        Some(meta) => meta.clone(),
        None => location.head()?,
    };
    open_stream(location.open_as(&meta), path, text_field, |stream| {
        // A table is read from its end on: the stream is of no use.
        drop(stream);
        parquet::open(ObjectFile::new(location, meta), path, text_field, segment)
    })
}

/// Opens what can be read from front to back only; `open_parquet` is for the one format that cannot.
fn open_stream<R: Read + 'static>(
    stream: R,
    path: &Path,
    text_field: &str,
    open_parquet: impl FnOnce(R) -> Result<Box<dyn Source>, Error>,
) -> Result<Box<dyn Source>, Error> {
    let mut stream = BufReader::with_capacity(READ_BYTES, Timed(stream));
    let start = stream.fill_buf().map_err(|error| Error::of_reading(path, error))?;
    Ok(match Format::recognise(start, path)? {
        Format::Lines => Box::new(JsonLines::new(Counted::new(stream), path, text_field)),
        Format::Gzip => Box::new(JsonLines::new(Gzip::new(stream), path, text_field)),
        Format::Zstd => {
            let stream = Zstd::new(stream).map_err(Error::io("unpack", path))?;
            Box::new(JsonLines::new(stream, path, text_field))
        }
        Format::Parquet => return open_parquet(stream.into_inner().0),
        Format::ArrowFile => return arrow::open(Counted::new(stream), path, text_field, true),
        Format::ArrowStream => return arrow::open(Counted::new(stream), path, text_field, false),
    })
}

/// The object that an input's path stands for; nothing for a file of this machine.
fn location(path: &Path) -> Result<Option<Location>, Error> {
    Ok(path.to_str().map(Location::parse).transpose()?.flatten())
}

/// A stream of unpacked bytes that knows how far it has come in its file.
pub(crate) trait Unpacked: Read + BufRead {
    /// Bytes of the file consumed so far.
    fn position(&self) -> u64;
}
