//! What a file is, told by its first bytes.

use std::path::Path;

use crate::error::Error;

/// What can be read, for messages.
const READABLE: &str =
    "JSON lines (plain, gzip or zstd), Parquet or Arrow (.json.gz, .jsonl, .jsonl.zst, .parquet, .arrow)";
/// The first bytes of every gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The first bytes of a zstd frame, and all but the first of a frame that is to be passed over.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];
/// The first bytes of every Parquet file.
const PARQUET_MAGIC: &[u8] = b"PAR1";
/// The first bytes of every Arrow file.
pub(super) const ARROW_MAGIC: &[u8] = b"ARROW1";
/// The first bytes of every message of an Arrow stream.
const ARROW_MESSAGE: [u8; 4] = [0xff; 4];
/// Bytes by which every format is recognised.
pub(super) const MAGIC_BYTES: usize = 8;
/// Formats that are known but not read, by their first bytes.
const UNREADABLE: [(&[u8], &str); 4] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"ORC", "an ORC file"),
];

/// Formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON lines as they are.
    Lines,
    /// JSON lines packed with gzip.
    Gzip,
    /// JSON lines packed with zstd.
    Zstd,
    /// A Parquet table.
    Parquet,
    /// An Arrow table with an index at its end.
    ArrowFile,
    /// An Arrow table as it is sent.
    ArrowStream,
}

impl Format {
    /// Recognises a file by its first bytes; its name only decides what to expect where they leave it open.
    pub(crate) fn recognise(start: &[u8], path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let unknown =
            |found: String, expected| Err(Error::UnknownFormat { path: path.to_owned(), found, expected });
        if start.is_empty() {
            return Err(Error::EmptyInput { path: path.to_owned(), found: "the file has 0 bytes" });
        }
        if let Some(format) = Self::of_magic(start) {
            return Ok(format);
        }
        if let Some((_, format)) = UNREADABLE.iter().find(|(magic, _)| start.starts_with(magic)) {
            return unknown(format!("the bytes of {format}"), READABLE);
        }
        let shown = &start[..start.len().min(4)];
        for (ending, expected) in [
            (".gz", "the gzip magic [1f, 8b], which its name promises"),
            (".zst", "the zstd magic [28, b5, 2f, fd], which its name promises"),
            (".parquet", "the Parquet magic [50, 41, 52, 31], which its name promises"),
        ] {
            if name.ends_with(ending) {
                return unknown(format!("the bytes {shown:02x?}"), expected);
            }
        }
        let first = start.trim_ascii_start().first();
        if first == Some(&b'{')
            || start.starts_with(b"\xef\xbb\xbf{")
            || name.ends_with(".json")
            || name.ends_with(".jsonl")
        {
            return Ok(Self::Lines);
        }
        unknown(format!("the bytes {:02x?}", &start[..start.len().min(MAGIC_BYTES)]), READABLE)
    }

    fn of_magic(start: &[u8]) -> Option<Self> {
        if start.starts_with(&GZIP_MAGIC) {
            Some(Self::Gzip)
        } else if start.starts_with(&ZSTD_MAGIC)
            || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == ZSTD_SKIPPED)
        {
            Some(Self::Zstd)
        } else if start.starts_with(PARQUET_MAGIC) {
            Some(Self::Parquet)
        } else if start.starts_with(ARROW_MAGIC) {
            Some(Self::ArrowFile)
        } else if start.starts_with(&ARROW_MESSAGE) {
            Some(Self::ArrowStream)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(start: &[u8], name: &str) -> Result<Format, String> {
        Format::recognise(start, Path::new(name)).map_err(|error| error.to_string())
    }

    #[test]
    fn content_decides_and_the_name_only_helps() {
        assert_eq!(recognised(b"\x1f\x8b\x08", "a.json"), Ok(Format::Gzip));
        assert_eq!(recognised(b"\x1f\x8b\x08", "download"), Ok(Format::Gzip));
        assert_eq!(recognised(b"\x28\xb5\x2f\xfd\x04", "a.json.gz"), Ok(Format::Zstd));
        assert_eq!(recognised(b"\x5e\x2a\x4d\x18\x04", "a"), Ok(Format::Zstd));
        assert_eq!(recognised(b"PAR1....", "a.json"), Ok(Format::Parquet));
        assert_eq!(recognised(b"ARROW1\0\0", "a.parquet"), Ok(Format::ArrowFile));
        assert_eq!(recognised(b"\xff\xff\xff\xff\x10\0", "a"), Ok(Format::ArrowStream));
        assert_eq!(recognised(b" {\"text\"", "download"), Ok(Format::Lines));
        assert_eq!(recognised(b"\xef\xbb\xbf{\"text\"", "download"), Ok(Format::Lines));
        assert_eq!(recognised(b"not json", "a.jsonl"), Ok(Format::Lines));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let said = recognised(b"BZh9....", "a.json.bz2").unwrap_err();
        assert_eq!(said, format!("a.json.bz2 starts with the bytes of bzip2 data; expected {READABLE}"));
        let said = recognised(b"{\"te", "a.json.gz").unwrap_err();
        assert_eq!(
            said,
            "a.json.gz starts with the bytes [7b, 22, 74, 65]; expected the gzip magic [1f, 8b], which its name promises"
        );
        assert!(recognised(b"{\"te", "a.parquet").unwrap_err().contains("the Parquet magic"));
        assert!(recognised(b"hello", "a.txt").unwrap_err().contains("expected JSON lines"));
        assert!(
            recognised(b"", "a.json").unwrap_err().contains("a.json holds no rows: the file has 0 bytes")
        );
    }
}
