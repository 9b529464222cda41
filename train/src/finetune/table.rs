//! Tables of text: CSV, JSON lines, Parquet, and GLUE's tab-separated files, read whole into columns of strings.
//!
//! GLUE's files are not CSV with tabs: a quotation mark is a character like any other, and a line ends a row whatever
//! stands in it. They have a reader of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::FinetuneError;
use crate::error::Error;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header and quotation marks (RFC 4180).
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
    /// Tabs between cells, no quoting: GLUE's own format. Columns without a header are called `0`, `1`, ….
    Tsv {
        /// Whether the first line names the columns.
        header: bool,
    },
}

impl Format {
    /// The format of a file by the end of its name.
    ///
    /// # Errors
    /// [`FinetuneError::Table`] for another one.
    pub fn of(path: &Path) -> Result<Format, Error> {
        match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
            "csv" => Ok(Format::Csv),
            "jsonl" | "json" | "ndjson" => Ok(Format::JsonLines),
            "parquet" | "pq" => Ok(Format::Parquet),
            "tsv" => Ok(Format::Tsv { header: true }),
            other => Err(Error::Finetune(FinetuneError::Table {
                path: path.to_owned(),
                format: "a table",
                reason: format!("its name ends in {other:?}, expected csv, jsonl, parquet or tsv"),
            })),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Csv => "CSV",
            Format::JsonLines => "JSON lines",
            Format::Parquet => "Parquet",
            Format::Tsv { .. } => "tab-separated lines",
        }
    }
}

/// A table in memory. A cell is `None` where the file has null, or nothing.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    names: Vec<String>,
    columns: Vec<Vec<Option<String>>>,
    /// Lines of a tab-separated file that have another number of cells than the first; they are no rows.
    pub ragged: Vec<usize>,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Read`], or [`FinetuneError::Table`] with the line that is to blame.
    pub fn read(path: &Path, format: Format) -> Result<Table, Error> {
        let mut table =
            Table { path: path.to_owned(), names: Vec::new(), columns: Vec::new(), ragged: Vec::new() };
        let refused = |reason: String| {
            Error::Finetune(FinetuneError::Table { path: path.to_owned(), format: format.name(), reason })
        };
        let read = |source| Error::Read { path: path.to_owned(), source };
        match format {
            Format::Csv => table.read_csv(File::open(path).map_err(read)?).map_err(refused)?,
            Format::Parquet => table.read_parquet(File::open(path).map_err(read)?).map_err(refused)?,
            Format::JsonLines => {
                table.read_json_lines(&fs::read_to_string(path).map_err(read)?).map_err(refused)?;
            }
            Format::Tsv { header } => {
                let bytes = fs::read(path).map_err(read)?;
                let text = String::from_utf8(bytes).map_err(|error| {
                    refused(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
                })?;
                table.read_tsv(&text, header);
            }
        }
        Ok(table)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Whether there is a column of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The cells of a column.
    ///
    /// # Errors
    /// [`FinetuneError::Column`] with those there are.
    pub fn column(&self, name: &str) -> Result<&[Option<String>], Error> {
        match self.names.iter().position(|known| known == name) {
            Some(at) => Ok(&self.columns[at]),
            None => Err(Error::Finetune(FinetuneError::Column {
                path: self.path.clone(),
                column: name.to_owned(),
                columns: self.names.join(", "),
            })),
        }
    }

    /// The cells of a column that has text in every row.
    ///
    /// # Errors
    /// [`FinetuneError::Column`], or [`FinetuneError::Cell`] for the first empty one.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>, Error> {
        let cells = self.column(name)?.iter().enumerate();
        cells
            .map(|(row, cell)| match cell.as_deref() {
                Some(text) => Ok(text),
                None => Err(self.refuse(row, name, "empty", "text")),
            })
            .collect()
    }

    /// The error for a cell.
    pub(crate) fn refuse(&self, row: usize, column: &str, found: &str, expected: &str) -> Error {
        Error::Finetune(FinetuneError::Cell {
            path: self.path.clone(),
            row: row + 1,
            column: column.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        })
    }

    fn name_columns<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.names = names.map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
        self.columns = vec![Vec::new(); self.names.len()];
    }

    fn read_csv(&mut self, file: File) -> Result<(), String> {
        // Rows of unequal length are refused by the reader, with their line.
        let mut reader = csv::Reader::from_reader(file);
        let header = reader.headers().map_err(|error| error.to_string())?.clone();
        self.name_columns(header.iter());
        for record in reader.records() {
            let record = record.map_err(|error| error.to_string())?;
            for (column, cell) in self.columns.iter_mut().zip(&record) {
                column.push((!cell.is_empty()).then(|| cell.to_owned()));
            }
        }
        Ok(())
    }

    fn read_json_lines(&mut self, text: &str) -> Result<(), String> {
        let lines = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
        for (rows, (line, text)) in lines.enumerate() {
            let line = line + 1;
            let object = match serde_json::from_str(text) {
                Ok(Value::Object(object)) => object,
                Ok(_) => return Err(format!("line {line} is not an object")),
                Err(error) => return Err(format!("line {line}: {error}")),
            };
            for (name, value) in object {
                let cell = match value {
                    Value::Null => None,
                    Value::String(text) => Some(text),
                    Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
                    // Kept as JSON: only a column that is asked for has to be text.
                    Value::Array(_) | Value::Object(_) => Some(value.to_string()),
                };
                let at = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    self.names.push(name.clone());
                    self.columns.push(vec![None; rows]);
                    self.names.len() - 1
                });
                self.columns[at].push(cell);
                if self.columns[at].len() != rows + 1 {
                    return Err(format!("line {line} has the key {name:?} twice"));
                }
            }
            // A key that a line does not have is null there.
            self.columns.iter_mut().for_each(|column| column.resize(rows + 1, None));
        }
        Ok(())
    }

    fn read_parquet(&mut self, file: File) -> Result<(), String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        let schema = builder.schema().clone();
        self.name_columns(schema.fields().iter().map(|field| field.name().as_str()));
        let options = FormatOptions::default();
        for batch in builder.build().map_err(|error| error.to_string())? {
            let batch = batch.map_err(|error| error.to_string())?;
            for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
                let cells = ArrayFormatter::try_new(array, &options).map_err(|error| error.to_string())?;
                column.extend(
                    (0..array.len()).map(|row| array.is_valid(row).then(|| cells.value(row).to_string())),
                );
            }
        }
        Ok(())
    }

    fn read_tsv(&mut self, text: &str, header: bool) {
        // Only a line feed ends a row: other characters that some call line ends occur inside sentences.
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
        let numbers: Vec<String>;
        match header {
            true => self.name_columns(lines.next().map_or("", |line| line.1).split('\t')),
            false => {
                let cells = text.split('\n').next().unwrap_or_default().split('\t').count();
                numbers = (0..cells).map(|number| number.to_string()).collect();
                self.name_columns(numbers.iter().map(String::as_str));
            }
        }
        for (line, cells) in lines.filter(|(_, line)| !line.is_empty()) {
            let cells: Vec<&str> = cells.split('\t').collect();
            if cells.len() != self.names.len() {
                self.ragged.push(line + 1);
                continue;
            }
            for (column, cell) in self.columns.iter_mut().zip(cells) {
                column.push((!cell.is_empty()).then(|| cell.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str, format: Format) -> Result<Table, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        Table::read(&path, format).map_err(|error| error.to_string())
    }

    fn cells<'a>(table: &'a Table, column: &str) -> Vec<&'a str> {
        table.column(column).unwrap().iter().map(|cell| cell.as_deref().unwrap_or("–")).collect()
    }

    #[test]
    fn csv_has_quotes_and_lines_inside_cells() {
        let table = read("t.csv", "a,b\n\"one, \"\"two\"\"\nthree\",4\n,5\n", Format::Csv).unwrap();
        assert_eq!((table.rows(), cells(&table, "a")), (2, vec!["one, \"two\"\nthree", "–"]));
        assert_eq!(cells(&table, "b"), ["4", "5"]);
        let error = read("t.csv", "a,b\n1,2\n3\n", Format::Csv).unwrap_err();
        assert!(error.contains("t.csv cannot be read as CSV") && error.contains("line: 3"), "{error}");
    }

    #[test]
    fn tab_separated_quotes_are_characters_and_ragged_lines_are_told() {
        let text = "\u{feff}a\tb\n\"x\ty\u{2028}z\nonly one\n1\t\n\n";
        let table = read("t.tsv", text, Format::Tsv { header: true }).unwrap();
        assert_eq!((cells(&table, "a"), cells(&table, "b")), (vec!["\"x", "1"], vec!["y\u{2028}z", "–"]));
        assert_eq!(table.ragged, [3]);
        let table = read("t.tsv", "1\t2\n3\t4", Format::Tsv { header: false }).unwrap();
        assert_eq!(cells(&table, "1"), ["2", "4"]);
    }

    #[test]
    fn json_lines_may_leave_keys_out() {
        let table =
            read("t.jsonl", "{\"a\": \"x\", \"b\": 1}\n\n{\"c\": true, \"a\": null}\n", Format::JsonLines)
                .unwrap();
        assert_eq!(cells(&table, "a"), ["x", "–"]);
        assert_eq!((cells(&table, "b"), cells(&table, "c")), (vec!["1", "–"], vec!["–", "true"]));
        let error = read("t.jsonl", "{}\n[1]\n", Format::JsonLines).unwrap_err();
        assert!(error.contains("line 2 is not an object"), "{error}");
    }

    #[test]
    fn a_missing_column_and_an_empty_text_are_named() {
        let table = read("t.csv", "a,b\nx,1\n,2\n", Format::Csv).unwrap();
        let error = table.column("text").unwrap_err().to_string();
        assert!(error.ends_with("t.csv has no column \"text\"; it has a, b"), "{error}");
        let error = table.texts("a").unwrap_err().to_string();
        assert!(error.ends_with("t.csv, row 2: a is empty, expected text"), "{error}");
        assert!(Format::of(Path::new("x.xlsx")).unwrap_err().to_string().contains("csv, jsonl, parquet"));
    }
}
