//! The table of documents beside each shard: where every token came from, as Parquet.
//!
//! Row `i` describes document `i` of the shard. DuckDB, pandas and Polars read it as it is:
//! `select url, tokens from 'shards/*.docs.parquet' order by tokens desc`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, FixedSizeBinaryBuilder, RecordBatch, StringBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use loader::atomic::AtomicFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use twox_hash::XxHash3_128;

use crate::error::Error;

/// Bytes of a [`content_hash`].
pub const HASH_BYTES: usize = size_of::<u128>();
/// Rows gathered before they are handed to the Parquet writer.
const BATCH_ROWS: usize = 4096;
/// Rows of a row group: few enough that the writer's memory stays small.
const ROW_GROUP_ROWS: usize = 64 << 10;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("url", DataType::Utf8, true),
        Field::new("timestamp", DataType::Utf8, true),
        Field::new("source", DataType::Utf8, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt32, false),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("held_out", DataType::Boolean, false),
        Field::new("xxh3_128", DataType::FixedSizeBinary(HASH_BYTES as i32), false),
    ]))
});

/// Tells texts apart: XXH3 of 128 bits, seed 0.
///
/// It says where a text is found again, in another corpus or by another program. It protects from no forger: the files have
/// their BLAKE3 in the manifest, and one of every text costs an ingest far more
/// (`records/2026-11-28-ingest`).
pub fn content_hash(text: &str) -> u128 {
    XxHash3_128::oneshot(text.as_bytes())
}

/// What the table says of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocRecord<'a> {
    /// Where it was found on the web, if the input says so.
    pub url: Option<&'a str>,
    /// When it was found, as the input writes it.
    pub timestamp: Option<&'a str>,
    /// The input file, by the name that the manifest has for it.
    pub source: &'a str,
    /// Its row in that file, counted from 0.
    pub row: u64,
    /// UTF-8 bytes of its text.
    pub bytes: u32,
    /// Tokens in the shard.
    pub tokens: u32,
    /// Whether it is kept from training.
    pub held_out: bool,
    /// The [`content_hash`] of its text, the highest byte first, as the `xxhash` packages write a digest.
    pub xxh3_128: [u8; HASH_BYTES],
}

/// A table under construction, in the order of its shard: held-out documents last.
pub(crate) struct DocsWriter {
    path: PathBuf,
    writer: ArrowWriter<Hashing<AtomicFile>>,
    training: Columns,
    held_out: Columns,
}

impl DocsWriter {
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        // Hashes are noise, which nothing makes smaller.
        let mut properties = WriterProperties::builder()
            .set_column_compression(ColumnPath::from("xxh3_128"), Compression::UNCOMPRESSED);
        for unique in ["url", "xxh3_128"].map(ColumnPath::from) {
            // A dictionary of values that never come again is work for nothing, as are the bounds of values in no order.
            properties = properties
                .set_column_dictionary_enabled(unique.clone(), false)
                .set_column_statistics_enabled(unique, EnabledStatistics::None);
        }
        for number in ["row", "bytes", "tokens"].map(ColumnPath::from) {
            properties = properties
                .set_column_dictionary_enabled(number.clone(), false)
                .set_column_encoding(number, Encoding::DELTA_BINARY_PACKED);
        }
        let properties = properties
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(crate::PROGRAM.to_owned())
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        let file = Hashing { file: AtomicFile::create(path)?, hasher: blake3::Hasher::new(), bytes: 0 };
        let writer = ArrowWriter::try_new(file, SCHEMA.clone(), Some(properties))
            .map_err(Error::write_docs(path, 0))?;
        Ok(Self { path: path.to_owned(), writer, training: Columns::default(), held_out: Columns::default() })
    }

    pub(crate) fn push(&mut self, record: &DocRecord<'_>) -> Result<(), Error> {
        if record.held_out {
            self.held_out.push(record);
            return Ok(());
        }
        self.training.push(record);
        if self.training.rows == BATCH_ROWS {
            let batch = self.training.take();
            self.write(batch)?;
        }
        Ok(())
    }

    /// Completes the table and gives it its name; returns its size in bytes and its BLAKE3.
    pub(crate) fn finish(mut self) -> Result<(u64, String), Error> {
        for batch in [self.training.take(), self.held_out.take()] {
            self.write(batch)?;
        }
        let unwritten = self.writer.in_progress_size() as u64;
        let file = self.writer.into_inner().map_err(Error::write_docs(&self.path, unwritten))?;
        let (bytes, blake3) = (file.bytes, file.hasher.finalize().to_hex().to_string());
        file.file.commit()?;
        Ok((bytes, blake3))
    }

    fn write(&mut self, batch: Result<RecordBatch, ArrowError>) -> Result<(), Error> {
        let unwritten = self.writer.in_progress_size() as u64;
        let written = batch.map_err(ParquetError::from).and_then(|batch| self.writer.write(&batch));
        written.map_err(Error::write_docs(&self.path, unwritten))
    }
}

/// Rows not yet written, column by column.
struct Columns {
    rows: usize,
    url: StringBuilder,
    timestamp: StringBuilder,
    source: StringBuilder,
    row: UInt64Builder,
    bytes: UInt32Builder,
    tokens: UInt32Builder,
    held_out: BooleanBuilder,
    xxh3_128: FixedSizeBinaryBuilder,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            rows: 0,
            url: StringBuilder::new(),
            timestamp: StringBuilder::new(),
            source: StringBuilder::new(),
            row: UInt64Builder::new(),
            bytes: UInt32Builder::new(),
            tokens: UInt32Builder::new(),
            held_out: BooleanBuilder::new(),
            xxh3_128: FixedSizeBinaryBuilder::new(HASH_BYTES as i32),
        }
    }
}

impl Columns {
    fn push(&mut self, record: &DocRecord<'_>) {
        self.rows += 1;
        self.url.append_option(record.url);
        self.timestamp.append_option(record.timestamp);
        self.source.append_value(record.source);
        self.row.append_value(record.row);
        self.bytes.append_value(record.bytes);
        self.tokens.append_value(record.tokens);
        self.held_out.append_value(record.held_out);
        self.xxh3_128.append_value(record.xxh3_128).expect("the column is as wide as the hash");
    }

    /// The rows as a batch, which leaves none.
    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.url.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(self.tokens.finish()),
            Arc::new(self.held_out.finish()),
            Arc::new(self.xxh3_128.finish()),
        ];
        RecordBatch::try_new(SCHEMA.clone(), columns)
    }
}

/// Hashes what is written.
struct Hashing<W> {
    file: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads what a table says of one document, and hands it to `use_record`.
///
/// # Errors
/// [`Error::Docs`] when the table cannot be read, has other columns, or has no such row.
pub fn read_record<T>(
    path: &Path,
    document: u64,
    use_record: impl FnOnce(&DocRecord<'_>) -> T,
) -> Result<T, Error> {
    let failed = |source| Error::Docs { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(Error::io("open", path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_offset(document as usize).with_limit(1).build())
        .map_err(failed)?;
    let wrong = |what: String| failed(ParquetError::General(what));
    let Some(batch) = { reader }.next() else {
        return Err(wrong(format!("it has no row {document}")));
    };
    let batch = batch.map_err(|error| failed(error.into()))?;
    let same_types = batch.num_columns() == SCHEMA.fields().len()
        && SCHEMA
            .fields()
            .iter()
            .zip(batch.schema_ref().fields())
            .all(|(ours, theirs)| ours.name() == theirs.name() && ours.data_type() == theirs.data_type());
    if !same_types {
        return Err(wrong(format!("its columns are {}, expected {}", batch.schema_ref(), *SCHEMA)));
    }
    let text = |column: usize| {
        let column = batch.column(column).as_string::<i32>();
        (!column.is_null(0)).then(|| column.value(0))
    };
    let count = |column: usize| batch.column(column).as_primitive::<UInt32Type>().value(0);
    let mut xxh3_128 = [0; HASH_BYTES];
    xxh3_128.copy_from_slice(batch.column(7).as_fixed_size_binary().value(0));
    Ok(use_record(&DocRecord {
        url: text(0),
        timestamp: text(1),
        source: text(2).unwrap_or_default(),
        row: batch.column(3).as_primitive::<UInt64Type>().value(0),
        bytes: count(4),
        tokens: count(5),
        held_out: batch.column(6).as_boolean().value(0),
        xxh3_128,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(row: u64, url: &str) -> DocRecord<'_> {
        DocRecord {
            url: (!url.is_empty()).then_some(url),
            timestamp: Some("2019-04-25T12:57:54Z"),
            source: "a.json.gz",
            row,
            bytes: 10 + row as u32,
            tokens: 3,
            held_out: row.is_multiple_of(5),
            xxh3_128: [row as u8; HASH_BYTES],
        }
    }

    fn write(path: &Path, rows: u64) -> (u64, String) {
        let mut writer = DocsWriter::create(path).unwrap();
        for row in 0..rows {
            writer.push(&record(row, if row == 3 { "" } else { "https://example.org" })).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn records_come_back_held_out_ones_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.docs.parquet");
        let (bytes, blake3) = write(&path, 10_000);
        let content = std::fs::read(&path).unwrap();
        assert_eq!((bytes, blake3), (content.len() as u64, blake3::hash(&content).to_hex().to_string()));
        // Rows 1 2 3 4 6 7 ... train, then 0 5 10 ...
        for (document, row, url) in [
            (0, 1, "https://example.org"),
            (2, 3, ""),
            (7999, 9999, "https://example.org"),
            (8000, 0, "https://example.org"),
            (8001, 5, "https://example.org"),
        ] {
            read_record(&path, document, |found| assert_eq!(*found, record(row, url))).unwrap();
        }
        let said = read_record(&path, 10_000, |_| ()).unwrap_err();
        assert!(matches!(said, Error::Docs { action: "read", .. }), "{said}");
    }

    #[test]
    fn hashes_are_those_of_other_programs() {
        // From the `xxhash` package of Python: `xxhash.xxh3_128_hexdigest(text)`.
        for (text, expected) in [
            ("", "99aa06d3014798d86001c324468d497f"),
            ("MosaicBERT", "d844a94d9ad4c64e78364b3981687681"),
            (&"A longer text. ".repeat(100), "032829788605c38ff47166b5b09a7a13"),
        ] {
            assert_eq!(format!("{:032x}", content_hash(text)), expected);
        }
    }

    #[test]
    fn the_same_records_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| write(&dir.path().join(name), 5000));
        assert_eq!(a, b);
    }
}
