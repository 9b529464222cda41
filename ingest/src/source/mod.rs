//! Where documents come from: a file of any supported format, read row by row.

mod gzip;
mod inputs;
mod jsonl;
mod row;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

pub use gzip::Gzip;
pub use inputs::{Input, Inputs};
pub use row::parse as parse_line;

use crate::error::Error;
use crate::profile::Timed;
use gzip::Counted;
use jsonl::JsonLines;

/// Bytes of a file read at once.
const READ_BYTES: usize = 256 << 10;
/// The first bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What can be read, for messages.
const READABLE: &str = "JSON lines, plain or packed with gzip (.json.gz, .jsonl.gz, .json, .jsonl)";
/// Formats that are known but not read, by their first bytes.
const UNREADABLE: [(&[u8], &str); 6] = [
    (b"\x28\xb5\x2f\xfd", "a zstd frame"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
];

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

/// Opens an input as what its content says it is.
///
/// # Errors
/// [`Error::EmptyInput`], [`Error::UnknownFormat`], or an error of reading.
pub fn open(path: &Path, text_field: &str) -> Result<Box<dyn Source>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut file = BufReader::with_capacity(READ_BYTES, Timed(file));
    let start = file.fill_buf().map_err(Error::io("read", path))?;
    match recognise(start, path)? {
        Packing::Gzip => Ok(Box::new(JsonLines::new(Gzip::new(file), path, text_field))),
        Packing::None => Ok(Box::new(JsonLines::new(Counted::new(file), path, text_field))),
    }
}

/// A stream of unpacked bytes that knows how far it has come in its file.
pub(crate) trait Unpacked: Read + BufRead {
    /// Bytes of the file consumed so far.
    fn position(&self) -> u64;
}

/// How the lines of a file are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    None,
}

/// Recognises a file by its first bytes; its name only decides what to expect where they leave it open.
fn recognise(start: &[u8], path: &Path) -> Result<Packing, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let unknown =
        |found: String, expected| Err(Error::UnknownFormat { path: path.to_owned(), found, expected });
    if start.is_empty() {
        return Err(Error::EmptyInput { path: path.to_owned(), found: "the file has 0 bytes" });
    }
    if start.starts_with(&GZIP_MAGIC) {
        return Ok(Packing::Gzip);
    }
    if let Some((_, format)) = UNREADABLE.iter().find(|(magic, _)| start.starts_with(magic)) {
        return unknown(format!("the bytes of {format}"), READABLE);
    }
    if name.ends_with(".gz") {
        let shown = &start[..start.len().min(4)];
        return unknown(
            format!("the bytes {shown:02x?}"),
            "the gzip magic [1f, 8b], which its name promises",
        );
    }
    let first = start.trim_ascii_start().first();
    if first == Some(&b'{') || name.ends_with(".json") || name.ends_with(".jsonl") {
        return Ok(Packing::None);
    }
    unknown(format!("the bytes {:02x?}", &start[..start.len().min(8)]), READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(start: &[u8], name: &str) -> Result<Packing, String> {
        recognise(start, Path::new(name)).map_err(|error| error.to_string())
    }

    #[test]
    fn content_decides_and_the_name_only_helps() {
        assert_eq!(recognised(b"\x1f\x8b\x08", "a.json"), Ok(Packing::Gzip));
        assert_eq!(recognised(b"\x1f\x8b\x08", "download"), Ok(Packing::Gzip));
        assert_eq!(recognised(b" {\"text\"", "download"), Ok(Packing::None));
        assert_eq!(recognised(b"not json", "a.jsonl"), Ok(Packing::None));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let said = recognised(b"PAR1....", "a.parquet").unwrap_err();
        assert_eq!(said, format!("a.parquet starts with the bytes of a Parquet file; expected {READABLE}"));
        let said = recognised(b"{\"te", "a.json.gz").unwrap_err();
        assert_eq!(
            said,
            "a.json.gz starts with the bytes [7b, 22, 74, 65]; expected the gzip magic [1f, 8b], which its name promises"
        );
        assert!(recognised(b"hello", "a.txt").unwrap_err().contains("expected JSON lines"));
        assert!(
            recognised(b"", "a.json").unwrap_err().contains("a.json holds no rows: the file has 0 bytes")
        );
    }
}
