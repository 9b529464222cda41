//! Tables as rows: what Parquet and Arrow files have in common.

use std::borrow::Cow;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Once;

use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use super::{BadRow, Document, Row, Source};
use crate::error::Error;

/// Fields besides the text that are kept.
const URL: &str = "url";
const TIMESTAMP: &str = "timestamp";
/// How many of a table's columns a message lists.
const COLUMNS_SHOWN: usize = 12;

/// The columns of a table that are wanted, by their index in it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    text_field: String,
    text: usize,
    url: Option<usize>,
    timestamp: Option<usize>,
}

impl Wanted {
    /// Finds them in a table.
    ///
    /// # Errors
    /// [`Error::NoColumn`] when it has no text, or something else under its name.
    pub(super) fn find(schema: &Schema, path: &Path, text_field: &str) -> Result<Self, Error> {
        let index = |name: &str| schema.fields().iter().position(|field| field.name() == name);
        let missing = |found| Error::NoColumn { path: path.to_owned(), field: text_field.to_owned(), found };
        let Some(text) = index(text_field) else {
            let mut names: Vec<&str> =
                schema.fields().iter().map(|field| field.name().as_str()).take(COLUMNS_SHOWN).collect();
            if schema.fields().len() > COLUMNS_SHOWN {
                names.push("...");
            }
            return Err(missing(format!("the columns {}", names.join(", "))));
        };
        let kind = schema.field(text).data_type();
        if !holds_strings(kind) {
            return Err(missing(format!("{kind} in it")));
        }
        // A column of text that is named "url" is the text.
        let other = |name| index(name).filter(|column| *column != text);
        Ok(Self { text_field: text_field.to_owned(), text, url: other(URL), timestamp: other(TIMESTAMP) })
    }

    /// Their indices in the table.
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        [Some(self.text), self.url, self.timestamp].into_iter().flatten()
    }

    /// The same columns in a table that has only them, in the order they had.
    pub(super) fn projected(&self) -> Self {
        let before = |column: usize| self.indices().filter(|other| *other < column).count();
        Self {
            text_field: self.text_field.clone(),
            text: before(self.text),
            url: self.url.map(before),
            timestamp: self.timestamp.map(before),
        }
    }
}

fn holds_strings(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => holds_strings(value),
        _ => false,
    }
}

/// A column of strings as it lies in memory.
enum Strings {
    Short(StringArray),
    Large(LargeStringArray),
    View(StringViewArray),
}

impl Strings {
    fn of(column: &ArrayRef) -> Result<Self, ArrowError> {
        Ok(match column.data_type() {
            DataType::Utf8 => Self::Short(column.as_string::<i32>().clone()),
            DataType::LargeUtf8 => Self::Large(column.as_string::<i64>().clone()),
            DataType::Utf8View => Self::View(column.as_string_view().clone()),
            _ => Self::Short(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    /// The string of a row, unless it is null.
    fn get(&self, row: usize) -> Option<&str> {
        match self {
            Self::Short(strings) => strings.is_valid(row).then(|| strings.value(row)),
            Self::Large(strings) => strings.is_valid(row).then(|| strings.value(row)),
            Self::View(strings) => strings.is_valid(row).then(|| strings.value(row)),
        }
    }
}

/// The wanted columns of some rows.
struct Columns {
    text: Strings,
    url: Option<Strings>,
    timestamp: Option<Strings>,
    rows: usize,
}

impl Columns {
    fn of(batch: &RecordBatch, wanted: &Wanted) -> Result<Self, ArrowError> {
        // Provenance of a kind that is no text is left out.
        let optional =
            |column: Option<usize>| column.and_then(|column| Strings::of(batch.column(column)).ok());
        Ok(Self {
            text: Strings::of(batch.column(wanted.text))?,
            url: optional(wanted.url),
            timestamp: optional(wanted.timestamp),
            rows: batch.num_rows(),
        })
    }
}

thread_local! {
    /// Whether this thread is in a call whose panics are answers.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls the Arrow libraries, which meet some kinds of damage with a panic. What it would print is kept back: the error
/// that becomes of it says what matters.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                others(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    GUARDED.set(outer);
    result.unwrap_or_else(|_| {
        Err(ArrowError::ParseError("it is damaged in a way that the reader does not understand".to_owned()))
    })
}

/// How far a table's file has been read.
pub(super) trait Progress {
    /// Bytes of the file consumed when `rows` rows have been taken.
    fn position(&self, rows: u64) -> u64;
}

/// The rows of a table, batch by batch.
pub(super) struct Table<B> {
    path: PathBuf,
    wanted: Wanted,
    batches: B,
    columns: Option<Columns>,
    /// Rows of `columns` taken.
    taken: usize,
    /// Rows taken of all.
    rows: u64,
    /// The number in the file of the first row.
    first_row: u64,
}

impl<B: Iterator<Item = Result<RecordBatch, ArrowError>> + Progress> Table<B> {
    pub(super) fn new(path: &Path, wanted: Wanted, batches: B, first_row: u64) -> Self {
        Self { path: path.to_owned(), wanted, batches, columns: None, taken: 0, rows: 0, first_row }
    }

    /// Makes sure that there is a row to take; false at the end.
    fn fill(&mut self) -> Result<bool, Error> {
        while self.columns.as_ref().is_none_or(|columns| self.taken == columns.rows) {
            let failed = Error::table(&self.path, self.first_row + self.rows);
            let Some(batch) = self.batches.next() else { return Ok(false) };
            let columns = batch.and_then(|batch| Columns::of(&batch, &self.wanted)).map_err(failed)?;
            (self.columns, self.taken) = (Some(columns), 0);
        }
        Ok(true)
    }
}

impl<B: Iterator<Item = Result<RecordBatch, ArrowError>> + Progress> Source for Table<B> {
    fn next_row(&mut self) -> Result<Option<Row<'_>>, Error> {
        if !self.fill()? {
            return Ok(None);
        }
        let (at, row) = (self.taken, self.first_row + self.rows);
        self.taken += 1;
        self.rows += 1;
        let Some(columns) = &self.columns else { return Ok(None) };
        let Some(text) = columns.text.get(at) else {
            let reason = format!("field {:?} is null, not a string", self.wanted.text_field);
            return Ok(Some(Row::Bad(BadRow { row, reason })));
        };
        let other = |strings: &'_ Option<Strings>| -> Option<Cow<'_, str>> {
            strings.as_ref()?.get(at).map(|text| Cow::Owned(text.to_owned()))
        };
        Ok(Some(Row::Document(Document {
            row,
            text: Cow::Borrowed(text),
            url: other(&columns.url),
            timestamp: other(&columns.timestamp),
        })))
    }

    fn skip_rows(&mut self, rows: u64) -> Result<(), Error> {
        let expected = self.rows + rows;
        while self.rows < expected {
            if !self.fill()? {
                return Err(Error::InputChanged { path: self.path.clone(), found: self.rows, expected });
            }
            let left = self.columns.as_ref().map_or(0, |columns| columns.rows - self.taken);
            let passed = (expected - self.rows).min(left as u64);
            self.taken += passed as usize;
            self.rows += passed;
        }
        Ok(())
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn position(&self) -> u64 {
        self.batches.position(self.rows)
    }
}
