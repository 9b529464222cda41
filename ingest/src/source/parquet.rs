//! Parquet files: only the columns that are wanted are read, row group by row group.
//!
//! A large file is divided into segments of whole row groups, each an input of its own, so that several workers can read
//! it. Where it is divided depends on the file alone.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;

use super::Source;
use super::table::{Progress, Table, Wanted, guarded};
use crate::error::Error;

/// Rows decoded at once.
const BATCH_ROWS: usize = 1024;
/// A segment ends with the row group in which it reaches this many unpacked bytes: about 30 million tokens of English,
/// so that one worker is busy for some seconds and a shard is not too small.
const SEGMENT_BYTES: u64 = 128 << 20;

/// A stretch of whole row groups of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The row groups.
    pub(crate) row_groups: Range<usize>,
    /// Their rows, counted from the beginning of the file.
    pub(crate) rows: Range<u64>,
    /// Bytes they take in the file.
    pub(crate) bytes: u64,
}

/// Divides a file; no segment at all for a file without rows.
///
/// # Errors
/// [`Error::Table`] when it is no Parquet file or is damaged.
pub(super) fn segments<R: ChunkReader>(file: &R, path: &Path) -> Result<Vec<Segment>, Error> {
    Ok(divide(load(file, path)?.metadata().row_groups(), SEGMENT_BYTES))
}

fn divide(row_groups: &[RowGroupMetaData], segment_bytes: u64) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let (mut row, mut unpacked) = (0, segment_bytes);
    for (index, group) in row_groups.iter().enumerate() {
        if unpacked >= segment_bytes {
            segments.push(Segment { row_groups: index..index, rows: row..row, bytes: 0 });
            unpacked = 0;
        }
        row += rows(group);
        unpacked += u64::try_from(group.total_byte_size()).unwrap_or(0);
        if let Some(segment) = segments.last_mut() {
            segment.row_groups.end = index + 1;
            segment.rows.end = row;
            segment.bytes += u64::try_from(group.compressed_size()).unwrap_or(0);
        }
    }
    segments.retain(|segment| !segment.rows.is_empty());
    segments
}

fn rows(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

fn load<R: ChunkReader>(file: &R, path: &Path) -> Result<ArrowReaderMetadata, Error> {
    // What the writer noted of Arrow's types says nothing about text, and may ask for what takes longer to read.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    guarded(|| Ok(ArrowReaderMetadata::load(file, options)?)).map_err(Error::table(path, 0))
}

/// Opens a file, or one segment of it.
///
/// # Errors
/// [`Error::Table`] or [`Error::NoColumn`].
pub(super) fn open<R: ChunkReader + 'static>(
    file: R,
    path: &Path,
    text_field: &str,
    segment: Option<&Segment>,
) -> Result<Box<dyn Source>, Error> {
    let bytes = file.len();
    let metadata = load(&file, path)?;
    let wanted = Wanted::find(metadata.schema(), path, text_field)?;
    let all = metadata.metadata().row_groups();
    let groups = segment.map_or(0..all.len(), |segment| segment.row_groups.clone());
    let changed = || Error::InputReplaced { path: path.to_owned() };
    let chosen = all.get(groups.clone()).ok_or_else(changed)?;
    let total_rows = chosen.iter().map(rows).sum();
    if segment.is_some_and(|segment| segment.rows.end - segment.rows.start != total_rows) {
        return Err(changed());
    }
    let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted.indices());
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_row_groups(groups.collect())
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|error| Error::table(path, 0)(error.into()))?;
    let batches =
        Batches { batches, bytes: segment.map_or(bytes, |segment| segment.bytes), rows: total_rows };
    let first_row = segment.map_or(0, |segment| segment.rows.start);
    Ok(Box::new(Table::new(path, wanted.projected(), batches, first_row)))
}

/// Opens a file on this machine.
///
/// # Errors
/// As [`open`], or an error of reading.
pub(super) fn open_file(
    path: &Path,
    text_field: &str,
    segment: Option<&Segment>,
) -> Result<Box<dyn Source>, Error> {
    open(File::open(path).map_err(Error::io("open", path))?, path, text_field, segment)
}

/// Batches of rows, with what they take in the file.
struct Batches {
    batches: ParquetRecordBatchReader,
    bytes: u64,
    rows: u64,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        guarded(|| self.batches.next().transpose()).transpose()
    }
}

impl Progress for Batches {
    fn position(&self, rows: u64) -> u64 {
        (self.bytes as f64 * (rows as f64 / self.rows.max(1) as f64)) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::bytes::Bytes;
    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use proptest::prelude::*;

    use super::super::Row;
    use super::*;

    /// A file of row groups of 10 rows.
    fn file(rows: usize) -> Bytes {
        let texts = StringArray::from_iter((0..rows).map(|row| (row != 13).then(|| format!("text {row}"))));
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
            ("timestamp", Arc::new(TimestampMillisecondArray::from(vec![1_556_197_074_000; rows]))),
            ("text", Arc::new(texts)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap().into()
    }

    fn rows(mut source: Box<dyn Source>) -> Vec<(u64, Option<String>, Option<String>)> {
        let mut rows = Vec::new();
        while let Some(row) = source.next_row().unwrap() {
            rows.push(match row {
                Row::Document(found) => {
                    (found.row, Some(found.text.into_owned()), found.timestamp.map(|time| time.into_owned()))
                }
                Row::Bad(bad) => (bad.row, None, None),
            });
        }
        rows
    }

    fn open_bytes(bytes: &Bytes, segment: Option<&Segment>) -> Result<Box<dyn Source>, Error> {
        open(bytes.clone(), Path::new("a.parquet"), "text", segment)
    }

    #[test]
    fn segments_together_are_the_file() {
        let bytes = file(95);
        let whole = rows(open_bytes(&bytes, None).unwrap());
        assert_eq!(whole.len(), 95);
        assert_eq!(whole[12], (12, Some("text 12".into()), Some("2019-04-25T12:57:54".into())));
        assert_eq!(whole[13], (13, None, None));
        let metadata = load(&bytes, Path::new("a")).unwrap();
        let groups = metadata.metadata().row_groups();
        let one = divide(groups, SEGMENT_BYTES);
        assert_eq!(one.len(), 1);
        assert_eq!((one[0].row_groups.clone(), one[0].rows.clone()), (0..10, 0..95));
        for limit in [1, 300, 900] {
            let segments = divide(groups, limit);
            assert!(segments.len() > 1);
            let parts: Vec<_> = segments
                .iter()
                .flat_map(|segment| rows(open_bytes(&bytes, Some(segment)).unwrap()))
                .collect();
            assert_eq!(parts, whole);
        }
        let mut other = one[0].clone();
        other.rows.end = 96;
        assert!(matches!(open_bytes(&bytes, Some(&other)), Err(Error::InputReplaced { .. })));
    }

    #[test]
    fn skipping_rows_is_reading_them() {
        let bytes = file(95);
        let whole = rows(open_bytes(&bytes, None).unwrap());
        for skipped in [0, 1, 10, 94, 95] {
            let mut source = open_bytes(&bytes, None).unwrap();
            source.skip_rows(skipped).unwrap();
            assert_eq!(source.rows(), skipped);
            assert_eq!(rows(source), whole[skipped as usize..]);
        }
        let mut source = open_bytes(&bytes, None).unwrap();
        assert!(matches!(source.skip_rows(96), Err(Error::InputChanged { found: 95, expected: 96, .. })));
    }

    #[test]
    fn a_table_without_text_names_what_it_has() {
        let said = open(file(5), Path::new("a.parquet"), "body", None).err().unwrap().to_string();
        assert_eq!(
            said,
            "a.parquet has the columns id, timestamp, text, expected a column \"body\" of strings; --text-field names another"
        );
        let said = open(file(5), Path::new("a.parquet"), "id", None).err().unwrap().to_string();
        assert!(said.starts_with("a.parquet has Int64 in it, expected a column"), "{said}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_changed_byte_is_survived(at in any::<prop::sample::Index>(), xor in 1u8..) {
            let mut bytes = file(40).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
            if let Ok(mut source) = open_bytes(&bytes.into(), None) {
                while let Ok(Some(_)) = source.next_row() {}
            }
        }
    }
}
