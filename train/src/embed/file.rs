//! Where embeddings go: a NumPy array, or a Parquet table that says which row of which file each belongs to.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;

use crate::error::Error;

/// Bytes before the first number of an array: magic, version, and a header that is filled in at the end.
const NPY_HEADER: usize = 128;

/// A file's format, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.npy`: float32 `[texts, D]`.
    Npy,
    /// `.parquet`: file, row, tokens, embedding.
    Parquet,
}

/// Which text an embedding belongs to.
pub(super) struct Place {
    /// Number of its file, as [`EmbeddingFile::name`] gave it.
    pub(super) file: u32,
    /// Its row there, counted from 0.
    pub(super) row: u64,
    /// Its tokens.
    pub(super) tokens: u32,
}

/// A file under construction; it takes its name when it is finished.
pub(super) struct EmbeddingFile {
    path: PathBuf,
    width: usize,
    names: Vec<String>,
    writer: Writer,
}

enum Writer {
    Npy { out: BufWriter<NamedTempFile>, rows: u64 },
    Parquet(Box<ArrowWriter<NamedTempFile>>),
}

impl Format {
    /// The format of a file of this name.
    ///
    /// # Errors
    /// [`Error::EmbeddingFormat`].
    pub fn of(path: &Path) -> Result<Format, Error> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Format::Npy),
            Some("parquet") => Ok(Format::Parquet),
            _ => Err(Error::EmbeddingFormat { path: path.to_owned() }),
        }
    }
}

impl EmbeddingFile {
    pub(super) fn create(path: &Path, format: Format, width: usize) -> Result<EmbeddingFile, Error> {
        if path.exists() {
            return Err(Error::OutExists { path: path.to_owned() });
        }
        let io = |source| Error::Write { path: path.to_owned(), source };
        let temporary = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666)) // less what umask takes away, as for any new file
            .tempfile_in(folder_of(path))
            .map_err(io)?;
        let writer = match format {
            Format::Npy => {
                let mut out = BufWriter::with_capacity(1 << 20, temporary);
                out.write_all(&[0; NPY_HEADER]).map_err(io)?;
                Writer::Npy { out, rows: 0 }
            }
            Format::Parquet => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    // Numbers that hardly ever repeat.
                    .set_column_dictionary_enabled("embedding.list.element".into(), false)
                    .build();
                let writer = ArrowWriter::try_new(temporary, schema(width), Some(properties));
                Writer::Parquet(Box::new(writer.map_err(|error| parquet_error(path, error))?))
            }
        };
        Ok(EmbeddingFile { path: path.to_owned(), width, names: Vec::new(), writer })
    }

    /// The number of an input file in [`Place::file`].
    pub(super) fn name(&mut self, name: &str) -> u32 {
        if self.names.last().is_none_or(|last| last != name) {
            self.names.push(name.to_owned());
        }
        self.names.len() as u32 - 1
    }

    /// Appends rows; `values` are theirs, `width` each.
    pub(super) fn write(
        &mut self,
        places: impl ExactSizeIterator<Item = Place>,
        values: Vec<f32>,
    ) -> Result<(), Error> {
        let path = &self.path;
        match &mut self.writer {
            Writer::Npy { out, rows } => {
                *rows += places.len() as u64;
                let io = |source| Error::Write { path: path.clone(), source };
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())).map_err(io)
            }
            Writer::Parquet(writer) => {
                let places: Vec<Place> = places.collect();
                if places.is_empty() {
                    return Ok(());
                }
                let field = Arc::new(element());
                let values: ArrayRef = Arc::new(Float32Array::from(values));
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(StringArray::from_iter_values(
                        places.iter().map(|place| &self.names[place.file as usize]),
                    )),
                    Arc::new(UInt64Array::from_iter_values(places.iter().map(|place| place.row))),
                    Arc::new(UInt32Array::from_iter_values(places.iter().map(|place| place.tokens))),
                    Arc::new(FixedSizeListArray::new(field, self.width as i32, values, None)),
                ];
                let batch =
                    RecordBatch::try_new(schema(self.width), columns).expect("columns of equal length");
                writer.write(&batch).map_err(|error| parquet_error(path, error))
            }
        }
    }

    /// Completes the file, makes it durable and gives it its name.
    pub(super) fn finish(self) -> Result<(), Error> {
        let EmbeddingFile { path, width, writer, .. } = self;
        let io = |source| Error::Write { path: path.clone(), source };
        let temporary = match writer {
            Writer::Npy { out, rows } => {
                let mut temporary = out.into_inner().map_err(|error| io(error.into_error()))?;
                temporary.seek(SeekFrom::Start(0)).map_err(io)?;
                temporary.write_all(&npy_header(rows, width)).map_err(io)?;
                temporary
            }
            Writer::Parquet(writer) => writer.into_inner().map_err(|error| parquet_error(&path, error))?,
        };
        temporary.as_file().sync_all().map_err(io)?;
        temporary.persist_noclobber(&path).map_err(|error| io(error.error))?;
        let folder = folder_of(&path);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Version 1.0 of <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>: magic, version, the length of
/// what follows in two bytes, a Python dictionary, blanks, a line end.
fn npy_header(rows: u64, width: usize) -> [u8; NPY_HEADER] {
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut header = [b' '; NPY_HEADER];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&((NPY_HEADER - 10) as u16).to_le_bytes());
    header[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
    header[NPY_HEADER - 1] = b'\n';
    header
}

fn element() -> Field {
    Field::new("element", DataType::Float32, false)
}

fn schema(width: usize) -> Arc<Schema> {
    let embedding = DataType::FixedSizeList(Arc::new(element()), width as i32);
    Arc::new(Schema::new(vec![
        Field::new("file", DataType::Utf8, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("embedding", embedding, false),
    ]))
}

fn parquet_error(path: &Path, error: parquet::errors::ParquetError) -> Error {
    Error::Write { path: path.to_owned(), source: std::io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys() {
        let header = npy_header(3, 384);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 384), }"), "{text}");
        assert!(text.ends_with(" \n") && header.len().is_multiple_of(64));
    }

    #[test]
    fn a_file_that_is_there_is_not_touched_and_an_unfinished_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        drop(EmbeddingFile::create(&path, Format::Npy, 4).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(EmbeddingFile::create(&path, Format::Npy, 4), Err(Error::OutExists { .. })));
        assert!(matches!(Format::of(Path::new("a.csv")), Err(Error::EmbeddingFormat { .. })));
    }
}
