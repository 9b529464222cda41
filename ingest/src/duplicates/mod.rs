//! Finding duplicates before anything is written: a pass of its own over all inputs.
//!
//! ```text
//! inputs ──► (key, input, row) ──sorted in runs on disk──► merged: all but the first of each key
//!                                                            └──sorted──► rows to leave out, input by input
//! ```
//!
//! The first document, in the order of the inputs, is kept, and every later one that shares a key with an earlier one is
//! left out: so the result does not depend on the workers. Memory is bounded: what does not fit lies in the folder of
//! notes, 28 bytes a key, until the ingest is finished. An interrupted pass continues with the inputs it had not
//! finished, and an ingest continued after it has the result at hand.

mod keys;
mod sorted;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use loader::atomic;

use crate::error::Error;
use crate::filter::{Dedup, Filters, Sieve};
use crate::source::{Input, Inputs, Row};
use keys::{KEY_BYTES, Key, MinHash};
use sorted::Sorter;

/// Bytes of the number of an input and of a row.
const PLACE_BYTES: usize = 4 + 8;
const RECORD_BYTES: usize = KEY_BYTES + PLACE_BYTES;
/// Exists once the result is complete.
const DONE_FILE: &str = "done";
/// The folder in the folder of notes.
const DIR: &str = "duplicates";

/// The rows that are duplicates of earlier documents.
pub(crate) struct Duplicates {
    /// Nothing when they are not asked for.
    dir: Option<PathBuf>,
}

impl Duplicates {
    /// Finds them, or what an earlier run found of them, in a folder in `notes`.
    ///
    /// # Errors
    /// Those of reading the inputs and writing the notes.
    pub(crate) fn find(
        inputs: &Inputs,
        text_field: &str,
        filters: &Filters,
        workers: usize,
        notes: &Path,
    ) -> Result<Self, Error> {
        if filters.dedup == Dedup::None {
            return Ok(Self { dir: None });
        }
        let dir = notes.join(DIR);
        if !dir.join(DONE_FILE).exists() {
            fs::create_dir_all(&dir).map_err(Error::io("create the folder", &dir))?;
            let pass = Pass { text_field, filters, dir: &dir };
            let runs = pass.all_inputs(&inputs.files, workers)?;
            pass.write_rows(runs)?;
            atomic::write_file(&dir.join(DONE_FILE), |_| Ok(()))?;
        }
        Ok(Self { dir: Some(dir) })
    }

    /// The rows of an input that are to be left out, ascending.
    pub(crate) fn rows(&self, input: u32) -> Result<Vec<u64>, Error> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let path = rows_path(dir, input);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(Error::io("read", &path))?,
        };
        let (rows, _) = bytes.as_chunks::<8>();
        Ok(rows.iter().map(|row| u64::from_be_bytes(*row)).collect())
    }
}

fn rows_path(dir: &Path, input: u32) -> PathBuf {
    dir.join(format!("rows-{input:05}"))
}

/// One pass over the inputs.
struct Pass<'a> {
    text_field: &'a str,
    filters: &'a Filters,
    dir: &'a Path,
}

impl Pass<'_> {
    /// The runs of keys of all inputs.
    fn all_inputs(&self, inputs: &[Input], workers: usize) -> Result<Vec<PathBuf>, Error> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new(Vec::new());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(input) = inputs.get(index) else { return };
                let result = self.one_input(index as u32, input);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            }
        };
        thread::scope(|scope| {
            (0..workers.clamp(1, inputs.len().max(1))).for_each(|_| drop(scope.spawn(work)))
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(index, _)| *index);
        let runs: Result<Vec<Vec<PathBuf>>, Error> = done.into_iter().map(|(_, result)| result).collect();
        Ok(runs?.concat())
    }

    /// The runs of keys of an input, which may be there already.
    fn one_input(&self, index: u32, input: &Input) -> Result<Vec<PathBuf>, Error> {
        let stem = self.dir.join(format!("keys-{index:05}"));
        let note = stem.with_extension("runs");
        if let Some(runs) = fs::read_to_string(&note).ok().and_then(|runs| runs.parse::<usize>().ok()) {
            let runs: Vec<_> = (0..runs).map(|run| sorted::numbered(&stem, run)).collect();
            if runs.iter().all(|run| run.exists()) {
                return Ok(runs);
            }
        }
        let mut sorter = Sorter::<RECORD_BYTES>::new(stem);
        let sieve = Sieve::new(self.filters, Vec::new())?;
        let mut min_hash = MinHash::new();
        let mut source = input.open(self.text_field)?;
        while let Some(row) = source.next_row()? {
            let Row::Document(document) = row else { continue };
            // What is left out anyway must not take the place of one that is kept.
            if sieve.judge_text(&document.text).is_some() {
                continue;
            }
            let mut push = |key: Key| {
                let mut record = [0; RECORD_BYTES];
                record[..KEY_BYTES].copy_from_slice(&key);
                record[KEY_BYTES..KEY_BYTES + 4].copy_from_slice(&index.to_be_bytes());
                record[KEY_BYTES + 4..].copy_from_slice(&document.row.to_be_bytes());
                sorter.push(record)
            };
            if self.filters.dedup == Dedup::Exact {
                push(keys::exact(&document.text))?;
            } else {
                min_hash.keys(&document.text).into_iter().try_for_each(push)?;
            }
        }
        let runs = sorter.finish()?;
        atomic::write_file(&note, |file| write!(file, "{}", runs.len()))?;
        Ok(runs)
    }

    /// Writes the rows to leave out, one file an input.
    fn write_rows(&self, runs: Vec<PathBuf>) -> Result<(), Error> {
        let mut records = sorted::merge::<RECORD_BYTES>(runs, &self.dir.join("merged-keys"))?;
        let mut places = Sorter::<PLACE_BYTES>::new(self.dir.join("places"));
        let mut last: Option<Key> = None;
        while let Some(record) = records.next_record()? {
            let (key, place) = split(&record);
            if last == Some(key) {
                places.push(place)?;
            }
            last = Some(key);
        }
        let mut places = sorted::merge::<PLACE_BYTES>(places.finish()?, &self.dir.join("merged-places"))?;
        let mut place = places.next_record()?;
        while let Some([a, b, c, d, ..]) = place {
            let input = u32::from_be_bytes([a, b, c, d]);
            let mut failed = Ok(());
            atomic::write_file(&rows_path(self.dir, input), |file| {
                let mut last = None;
                while let Some(now) = place.filter(|place| place[..4] == [a, b, c, d]) {
                    // One document may be like several others.
                    if last != place {
                        file.write_all(&now[4..])?;
                    }
                    last = place;
                    place = places.next_record().unwrap_or_else(|error| {
                        failed = Err(error);
                        None
                    });
                }
                Ok(())
            })?;
            failed?;
        }
        Ok(())
    }
}

fn split(record: &[u8; RECORD_BYTES]) -> (Key, [u8; PLACE_BYTES]) {
    let (mut key, mut place) = ([0; KEY_BYTES], [0; PLACE_BYTES]);
    key.copy_from_slice(&record[..KEY_BYTES]);
    place.copy_from_slice(&record[KEY_BYTES..]);
    (key, place)
}
