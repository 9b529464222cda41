//! Arrow tables as files and as streams. Both are read from front to back: a file is a stream with a frame around it.

use std::io::{self, BufRead, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;

use super::format::ARROW_MAGIC;
use super::table::{Progress, Table, Wanted, guarded};
use super::{Source, Unpacked};
use crate::error::Error;
use messages::Messages;

mod messages;

/// Everything in a file begins at a multiple of this.
const FRAME_BYTES: usize = 8;
/// What ends a stream: a message of no bytes.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Opens a table.
///
/// # Errors
/// [`Error::Table`] or [`Error::NoColumn`].
pub(super) fn open<R: Unpacked + 'static>(
    mut stream: R,
    path: &Path,
    text_field: &str,
    is_file: bool,
) -> Result<Box<dyn Source>, Error> {
    let failed = |error| Error::table(path, 0)(error);
    if is_file {
        skip_frame(&mut stream).map_err(|error| failed(error.into()))?;
    }
    let tail = Tail { stream, last: [0; END.len()] };
    let stream = guarded(|| StreamReader::try_new(Messages::new(tail), None)).map_err(failed)?;
    let wanted = Wanted::find(&stream.schema(), path, text_field)?;
    Ok(Box::new(Table::new(path, wanted, Batches { stream, is_file, ended: false }, 0)))
}

/// Passes over what stands before the stream in a file: the magic, and zeros up to a multiple of eight bytes that suits
/// the writer.
fn skip_frame(file: &mut impl BufRead) -> io::Result<()> {
    let mut bytes = [0; FRAME_BYTES];
    file.read_exact(&mut bytes)?;
    while file.fill_buf()?.starts_with(&[0]) {
        file.read_exact(&mut bytes)?;
    }
    Ok(())
}

/// Batches of rows, to an end that is marked as one.
struct Batches<R: Unpacked> {
    stream: StreamReader<Messages<Tail<R>>>,
    is_file: bool,
    ended: bool,
}

impl<R: Unpacked> Batches<R> {
    /// A table that was cut between two batches looks like a whole one, but for what ends it.
    fn check_end(&mut self) -> Result<(), ArrowError> {
        let tail = self.stream.get_mut().inner_mut();
        if tail.last != END {
            return Err(ArrowError::IpcError("it ends without the mark of its end: it was cut".to_owned()));
        }
        if self.is_file {
            io::copy(tail, &mut io::sink())?;
            if !tail.last.ends_with(ARROW_MAGIC) {
                return Err(ArrowError::IpcError("its index at the end is missing: it was cut".to_owned()));
            }
        }
        Ok(())
    }
}

impl<R: Unpacked> Iterator for Batches<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match guarded(|| self.stream.next().transpose()) {
            Ok(None) => self.ended = true,
            Ok(Some(batch)) => return Some(Ok(batch)),
            Err(error) => return Some(Err(error)),
        }
        self.check_end().err().map(Err)
    }
}

impl<R: Unpacked> Progress for Batches<R> {
    fn position(&self, _: u64) -> u64 {
        self.stream.get_ref().inner().stream.position()
    }
}

/// Remembers the last bytes read.
struct Tail<R> {
    stream: R,
    last: [u8; END.len()],
}

impl<R: BufRead> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        let new = read.min(END.len());
        self.last.rotate_left(new);
        self.last[END.len() - new..].copy_from_slice(&buffer[read - new..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, DictionaryArray, LargeStringArray, StringArray, StringViewArray};
    use arrow::datatypes::Int8Type;
    use arrow::ipc::writer::{FileWriter, StreamWriter};
    use proptest::prelude::*;

    use super::super::gzip::Counted;
    use super::super::{Row, format::Format};
    use super::*;

    const TEXTS: [&str; 4] = ["one", "two", "three", "one"];

    fn table(column: ArrayRef) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1, 2, 3, 4]));
        RecordBatch::try_from_iter([("number", numbers), ("text", column)]).unwrap()
    }

    /// Two batches as a file or as a stream.
    fn packed(column: ArrayRef, is_file: bool) -> Vec<u8> {
        let batch = table(column);
        if is_file {
            let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
            (0..2).for_each(|_| writer.write(&batch).unwrap());
            return writer.into_inner().unwrap();
        }
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        (0..2).for_each(|_| writer.write(&batch).unwrap());
        writer.into_inner().unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<String>, Error> {
        let is_file = Format::recognise(&bytes, Path::new("a"))? == Format::ArrowFile;
        let mut source = open(Counted::new(io::Cursor::new(bytes)), Path::new("a.arrow"), "text", is_file)?;
        let mut texts = Vec::new();
        while let Some(row) = source.next_row()? {
            if let Row::Document(document) = row {
                texts.push(document.text.into_owned());
            }
        }
        Ok(texts)
    }

    #[test]
    fn all_kinds_of_strings_are_read_from_files_and_streams() {
        let columns: [ArrayRef; 4] = [
            Arc::new(StringArray::from(TEXTS.to_vec())),
            Arc::new(LargeStringArray::from(TEXTS.to_vec())),
            Arc::new(StringViewArray::from(TEXTS.to_vec())),
            Arc::new(TEXTS.into_iter().collect::<DictionaryArray<Int8Type>>()),
        ];
        for column in columns {
            for is_file in [true, false] {
                assert_eq!(read(packed(column.clone(), is_file)).unwrap(), [TEXTS, TEXTS].concat());
            }
        }
    }

    #[test]
    fn a_buffer_that_claims_more_than_it_can_hold_is_refused_before_memory_is_asked_for() {
        use arrow::ipc::CompressionType;
        use arrow::ipc::writer::IpcWriteOptions;
        for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            let text = "the same again ".repeat(100);
            let batch = table(Arc::new(StringArray::from(vec![&*text; 4])));
            let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
            let mut writer =
                StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
            writer.write(&batch).unwrap();
            let mut bytes = writer.into_inner().unwrap();
            assert_eq!(read(bytes.clone()).unwrap(), vec![text; 4]);
            // What the buffer of the texts, the last, says it unpacks to.
            let claim = (4 * 1500i64).to_le_bytes();
            let at = bytes.windows(8).rposition(|window| window == claim).unwrap();
            bytes[at..at + 8].copy_from_slice(&(1i64 << 55).to_le_bytes());
            let said = format!("{:#}", anyhow::Error::from(read(bytes).unwrap_err()));
            assert!(said.contains("claims to be 36028797018963968 bytes"), "{said}");
        }
    }

    #[test]
    fn a_table_cut_anywhere_is_an_error() {
        for is_file in [true, false] {
            let whole = packed(Arc::new(StringArray::from(TEXTS.to_vec())), is_file);
            for end in 8..whole.len() {
                let said = read(whole[..end].to_vec()).expect_err("it was cut").to_string();
                assert!(said.starts_with("a.arrow cannot be read at row"), "{said}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_changed_byte_is_survived(at in any::<prop::sample::Index>(), xor in 1u8.., is_file: bool) {
            let mut bytes = packed(Arc::new(StringArray::from(TEXTS.to_vec())), is_file);
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            let _ = read(bytes);
        }
    }
}
