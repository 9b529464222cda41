//! Sorting more records than memory holds: sorted runs on disk, merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use loader::atomic;

use crate::error::Error;

/// Bytes of records that are sorted in memory.
const RUN_BYTES: usize = 32 << 20;
/// Runs merged at once: their files are open together.
const FAN_IN: usize = 128;

/// Gathers records, and writes them to sorted runs whenever there are many.
pub(super) struct Sorter<const N: usize> {
    /// The path of every run, up to its number.
    stem: PathBuf,
    records: Vec<[u8; N]>,
    runs: Vec<PathBuf>,
    run_records: usize,
}

impl<const N: usize> Sorter<N> {
    pub(super) fn new(stem: PathBuf) -> Self {
        Self { stem, records: Vec::new(), runs: Vec::new(), run_records: RUN_BYTES / N }
    }

    pub(super) fn push(&mut self, record: [u8; N]) -> Result<(), Error> {
        self.records.push(record);
        if self.records.len() >= self.run_records { self.write_run() } else { Ok(()) }
    }

    /// The runs, in which everything pushed lies.
    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>, Error> {
        if !self.records.is_empty() {
            self.write_run()?;
        }
        Ok(self.runs)
    }

    fn write_run(&mut self) -> Result<(), Error> {
        self.records.sort_unstable();
        let path = numbered(&self.stem, self.runs.len());
        atomic::write_file(&path, |file| self.records.iter().try_for_each(|record| file.write_all(record)))?;
        self.records.clear();
        self.runs.push(path);
        Ok(())
    }
}

/// The path of run `number`.
pub(super) fn numbered(stem: &Path, number: usize) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(format!("-{number:05}"));
    path.into()
}

/// All records of some runs, in order. The runs are removed as far as they had to be merged beforehand.
pub(super) fn merge<const N: usize>(mut runs: Vec<PathBuf>, stem: &Path) -> Result<Merged<N>, Error> {
    let mut number = 0;
    while runs.len() > FAN_IN {
        let first: Vec<_> = runs.drain(..FAN_IN).collect();
        let mut merged = Merged::<N>::open(&first)?;
        let path = numbered(stem, number);
        number += 1;
        let mut failed = None;
        atomic::write_file(&path, |file| {
            while let Some(record) = merged.next_record().unwrap_or_else(|error| {
                failed = Some(error);
                None
            }) {
                file.write_all(&record)?;
            }
            Ok(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        for run in &first {
            fs::remove_file(run).map_err(Error::io("remove", run))?;
        }
        runs.push(path);
    }
    Merged::open(&runs)
}

/// Records of several runs in one order.
pub(super) struct Merged<const N: usize> {
    runs: Vec<(PathBuf, BufReader<File>)>,
    /// The next record of each run.
    next: BinaryHeap<Reverse<([u8; N], usize)>>,
}

impl<const N: usize> Merged<N> {
    fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut merged = Self { runs: Vec::new(), next: BinaryHeap::new() };
        for path in paths {
            let file = File::open(path).map_err(Error::io("open", path))?;
            merged.runs.push((path.clone(), BufReader::with_capacity(64 << 10, file)));
            merged.refill(merged.runs.len() - 1)?;
        }
        Ok(merged)
    }

    pub(super) fn next_record(&mut self) -> Result<Option<[u8; N]>, Error> {
        let Some(Reverse((record, run))) = self.next.pop() else { return Ok(None) };
        self.refill(run)?;
        Ok(Some(record))
    }

    fn refill(&mut self, run: usize) -> Result<(), Error> {
        let (path, file) = &mut self.runs[run];
        let mut record = [0; N];
        match file.read_exact(&mut record) {
            Ok(()) => self.next.push(Reverse((record, run))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_pushed_comes_out_in_order(
            mut records in prop::collection::vec(any::<[u8; 3]>(), 0..2000),
            run_records in 1usize..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::<3>::new(dir.path().join("a"));
            sorter.run_records = run_records;
            records.iter().for_each(|record| sorter.push(*record).unwrap());
            let mut merged = merge::<3>(sorter.finish().unwrap(), &dir.path().join("b")).unwrap();
            let mut found = Vec::new();
            while let Some(record) = merged.next_record().unwrap() {
                found.push(record);
            }
            records.sort_unstable();
            prop_assert_eq!(found, records);
        }
    }
}
