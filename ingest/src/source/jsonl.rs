//! JSON lines, such as C4: one object a line.

use std::io;
use std::path::{Path, PathBuf};

use super::{BadRow, Row, Source, Unpacked, row};
use crate::error::Error;

/// A longer line is refused: it is a file without line ends, not a document, and would fill the memory.
const MAX_LINE_BYTES: usize = 64 << 20;
/// Some editors start a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a stream as rows.
///
/// Most lines lie whole in what the reader has unpacked and are parsed there; only those across two of its buffers are
/// put together.
pub(crate) struct JsonLines<R> {
    reader: R,
    path: PathBuf,
    text_field: String,
    /// The line last read where it did not lie in the reader's buffer, without its end; cut when it was too long.
    line: Vec<u8>,
    /// Bytes of the reader's buffer that the line last read lies in, its end included.
    lent: usize,
    /// Whether the line last read may have control characters within.
    control: bool,
    /// The text of the row last parsed, where it had escapes.
    text: String,
    rows: u64,
    /// Bytes unpacked so far.
    unpacked: u64,
}

/// What reading a line came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// In the reader's buffer.
    Lent,
    /// Put together in a buffer of its own.
    Gathered,
    TooLong,
    End,
}

impl<R: Unpacked> JsonLines<R> {
    pub(crate) fn new(reader: R, path: &Path, text_field: &str) -> Self {
        Self {
            reader,
            path: path.to_owned(),
            text_field: text_field.to_owned(),
            line: Vec::new(),
            lent: 0,
            control: false,
            text: String::new(),
            rows: 0,
            unpacked: 0,
        }
    }

    fn next_line(&mut self) -> Result<Line, Error> {
        let line = self
            .read_line()
            .map_err(|source| Error::unpack(&self.path, self.reader.position(), self.unpacked, source))?;
        if line != Line::End {
            self.rows += 1;
        }
        Ok(line)
    }

    fn unpack_error(&self, source: io::Error) -> Error {
        let (offset, unpacked) = (self.reader.position(), self.unpacked);
        Error::Unpack { path: self.path.clone(), offset, unpacked, source }
    }

    fn read_line(&mut self) -> io::Result<Line> {
        self.consume(self.lent);
        self.lent = 0;
        self.control = false;
        self.line.clear();
        let mut read = 0;
        let mut line = Line::Gathered;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // The first control character of valid JSON lines is the end of the line: one search answers two questions.
            let end = match first_control(buffer) {
                Some(at) if buffer[at] != b'\n' => {
                    self.control = true;
                    memchr::memchr(b'\n', &buffer[at..]).map(|end| at + end)
                }
                end => end,
            };
            if let Some(end) = end
                && read == 0
            {
                self.lent = end + 1;
                return Ok(if end > MAX_LINE_BYTES { Line::TooLong } else { Line::Lent });
            }
            let piece = &buffer[..end.unwrap_or(buffer.len())];
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                line = Line::TooLong;
            } else {
                self.line.extend_from_slice(piece);
            }
            let consumed = end.map_or(piece.len(), |end| end + 1);
            self.consume(consumed);
            read += consumed;
            if end.is_some() || consumed == 0 {
                return Ok(if read == 0 { Line::End } else { line });
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.unpacked += bytes as u64;
    }
}

/// The place of the first byte below 0x20.
pub(super) fn first_control(bytes: &[u8]) -> Option<usize> {
    // The least of many bytes takes a few instructions.
    let least = |block: &[u8; 128]| block.iter().fold(u8::MAX, |least, &byte| least.min(byte));
    let (blocks, rest) = bytes.as_chunks();
    let clean = blocks
        .iter()
        .position(|block| least(block) < 0x20)
        .map_or(bytes.len() - rest.len(), |block| 128 * block);
    bytes[clean..].iter().position(|&byte| byte < 0x20).map(|at| clean + at)
}

/// The bytes of the line last read, the `rows`-th of its file.
fn bytes_of<'a>(
    line: Line,
    reader: &'a mut impl Unpacked,
    lent: usize,
    gathered: &'a [u8],
    rows: u64,
) -> io::Result<&'a [u8]> {
    let bytes = match line {
        // Nothing was consumed since, so this is the buffer that the line was found in.
        Line::Lent => &reader.fill_buf()?[..lent - 1],
        _ => gathered,
    };
    Ok(if rows == 1 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes })
}

impl<R: Unpacked> Source for JsonLines<R> {
    fn next_row(&mut self) -> Result<Option<Row<'_>>, Error> {
        let line = loop {
            let line = self.next_line()?;
            match line {
                Line::End => return Ok(None),
                Line::TooLong => {
                    let reason = format!(
                        "column {}: the line goes on beyond {} MiB",
                        MAX_LINE_BYTES + 1,
                        MAX_LINE_BYTES >> 20
                    );
                    return Ok(Some(Row::Bad(BadRow { row: self.rows - 1, reason })));
                }
                Line::Lent | Line::Gathered => {}
            }
            let Self { reader, line: gathered, lent, rows, .. } = self;
            let bytes = bytes_of(line, reader, *lent, gathered, *rows);
            match bytes.map(|bytes| bytes.trim_ascii_start().is_empty()) {
                Ok(true) => {}
                Ok(false) => break line,
                Err(source) => return Err(self.unpack_error(source)),
            }
        };
        let (offset, row) = (self.reader.position(), self.rows - 1);
        let Self { reader, path, text_field, line: gathered, lent, control, text, rows, unpacked } = self;
        let bytes = bytes_of(line, reader, *lent, gathered, *rows).map_err(|source| Error::Unpack {
            path: path.clone(),
            offset,
            unpacked: *unpacked,
            source,
        })?;
        Ok(Some(match row::parse_seen(bytes, *control, text, row, text_field) {
            Ok(document) => Row::Document(document),
            Err(reason) => Row::Bad(BadRow { row, reason }),
        }))
    }

    fn skip_rows(&mut self, rows: u64) -> Result<(), Error> {
        let expected = self.rows + rows;
        while self.rows < expected {
            if self.next_line()? == Line::End {
                return Err(Error::InputChanged { path: self.path.clone(), found: self.rows, expected });
            }
        }
        Ok(())
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn position(&self) -> u64 {
        self.reader.position()
    }
}

#[cfg(test)]
mod tests {
    use super::super::gzip::Counted;
    use super::*;

    fn source(text: &[u8]) -> JsonLines<Counted<&[u8]>> {
        JsonLines::new(Counted::new(text), Path::new("a.json"), "text")
    }

    /// Row numbers with their text, or nothing for a bad row.
    fn rows(source: &mut dyn Source) -> Vec<(u64, Option<String>)> {
        let mut rows = Vec::new();
        while let Some(row) = source.next_row().unwrap() {
            rows.push(match row {
                Row::Document(document) => (document.row, Some(document.text.into_owned())),
                Row::Bad(bad) => (bad.row, None),
            });
        }
        rows
    }

    #[test]
    fn rows_are_lines_blank_ones_counted_and_the_last_end_optional() {
        let text = b"\xef\xbb\xbf{\"text\":\"a\"}\r\n\n  \n{\"text\":\"b\"}\nx\n{\"text\":\"c\"}";
        let mut source = source(text);
        let texts = |row, text: &str| (row, Some(text.to_owned()));
        assert_eq!(rows(&mut source), [texts(0, "a"), texts(3, "b"), (4, None), texts(5, "c")]);
        assert_eq!((source.rows(), source.position()), (6, text.len() as u64));
    }

    #[test]
    fn the_first_control_character_is_found_wherever_it_is() {
        for len in [0, 1, 127, 128, 129, 500] {
            for at in 0..len {
                for (byte, found) in
                    [(0, Some(at)), (b'\n', Some(at)), (0x1f, Some(at)), (b' ', None), (0xff, None)]
                {
                    let mut bytes = vec![b'x'; len];
                    bytes[at] = byte;
                    assert_eq!(first_control(&bytes), found, "{byte} at {at} of {len}");
                    bytes[len - 1] = b'\n';
                    assert_eq!(first_control(&bytes), found.or(Some(len - 1)), "{byte} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn control_characters_may_stand_between_strings_and_not_in_them() {
        let long = "y".repeat(300);
        let text = format!(
            "{{\"text\":\t\"a\"}}\r\n{{\"text\":\"b\tc\"}}\n{{\"text\":\"{long}\"}}\n{{\"text\":\"{long}\u{1}\"}}\r\n\
             {{\"text\":\"d\\te\"}}"
        );
        let texts = |row, text: &str| (row, Some(text.to_owned()));
        let expected = [texts(0, "a"), (1, None), texts(2, &long), (3, None), texts(4, "d\te")];
        assert_eq!(rows(&mut source(text.as_bytes())), expected);
        // And where lines lie across two of the reader's buffers.
        for bytes in [1, 5, 64, 311] {
            let reader = io::BufReader::with_capacity(bytes, text.as_bytes());
            let mut source = JsonLines::new(Counted::new(reader), Path::new("a.json"), "text");
            assert_eq!(rows(&mut source), expected, "{bytes} bytes at a time");
        }
    }

    #[test]
    fn skipping_rows_is_reading_them() {
        let text = b"{\"text\":\"a\"}\n\nx\n{\"text\":\"b\"}\n";
        let whole = rows(&mut source(text));
        for skipped in 0..=4 {
            let mut source = source(text);
            source.skip_rows(skipped).unwrap();
            let rest: Vec<_> = whole.iter().filter(|(row, _)| *row >= skipped).cloned().collect();
            assert_eq!(rows(&mut source), rest);
        }
        assert_eq!(
            source(text).skip_rows(5).unwrap_err().to_string(),
            "a.json has 4 rows, but 5 were already read from it in an earlier run: the file has changed; restore it, or \
             delete the output folder and start over"
        );
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        struct Endless {
            left: usize,
        }
        impl io::Read for Endless {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                unreachable!("lines are read through the buffer")
            }
        }
        impl io::BufRead for Endless {
            fn fill_buf(&mut self) -> io::Result<&[u8]> {
                Ok(&[b'x'; 1 << 16][..self.left.min(1 << 16)])
            }
            fn consume(&mut self, bytes: usize) {
                self.left -= bytes;
            }
        }
        let endless = Counted::new(Endless { left: MAX_LINE_BYTES + (1 << 20) });
        let mut source = JsonLines::new(endless, Path::new("a.json"), "text");
        let Some(Row::Bad(bad)) = source.next_row().unwrap() else { panic!("a bad row") };
        assert_eq!(bad.reason, "column 67108865: the line goes on beyond 64 MiB");
        assert!(source.line.capacity() <= 2 * MAX_LINE_BYTES);
        assert!(source.next_row().unwrap().is_none());
    }
}
