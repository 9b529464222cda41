//! `metrics.jsonl` while a run writes to it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::error::Error;
use crate::metrics::{EvalRecord, Record, TrainRecord};

/// The records of a run so far.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    /// What has been read of. It stays open, so that no other file can have its number.
    file: Option<File>,
    /// Bytes of whole lines that have been read, and their number.
    read: u64,
    lines: usize,
    pub(super) trains: Vec<TrainRecord>,
    pub(super) evals: Vec<EvalRecord>,
    /// When the file was last written to.
    pub(super) written: Option<SystemTime>,
}

impl Follower {
    pub(super) fn new(path: PathBuf) -> Follower {
        Follower { path, file: None, read: 0, lines: 0, trains: Vec::new(), evals: Vec::new(), written: None }
    }

    /// Reads what has been added. A line is taken when its end is there. A run that is resumed puts another file in this
    /// one's place, which is read from its beginning. No file holds no records.
    ///
    /// # Errors
    /// [`Error::MetricsLine`] for a line that is no record.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let refuse = |source| Error::Read { path: self.path.clone(), source };
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                *self = Follower::new(std::mem::take(&mut self.path));
                return Ok(());
            }
            Err(error) => return Err(refuse(error)),
        };
        let found = file.metadata().map_err(refuse)?;
        let known = self.file.as_ref().map(File::metadata).transpose().map_err(refuse)?;
        let same = known.is_some_and(|known| (known.dev(), known.ino()) == (found.dev(), found.ino()));
        if !same || found.len() < self.read {
            *self = Follower::new(std::mem::take(&mut self.path));
        }
        self.written = found.modified().ok();

        let mut added = Vec::new();
        let reading = file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut added));
        reading.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        self.file = Some(file);
        let whole = added.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in added[..whole].split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            match serde_json::from_slice(line) {
                Ok(Record::Train(record)) => self.trains.push(record),
                Ok(Record::Eval(record)) => self.evals.push(record),
                Err(source) => {
                    return Err(Error::MetricsLine { path: self.path.clone(), line: self.lines, source });
                }
            }
        }
        self.read += whole as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::watch::tests::{eval, train};

    fn line(record: &Record) -> Vec<u8> {
        let mut line = serde_json::to_vec(record).unwrap();
        line.push(b'\n');
        line
    }

    #[test]
    fn lines_are_taken_when_they_are_whole_and_a_resumed_run_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut follower = Follower::new(path.clone());
        let steps = |follower: &mut Follower| -> Vec<u64> {
            follower.refresh().unwrap();
            follower.trains.iter().map(|record| record.step).collect()
        };
        assert!(steps(&mut follower).is_empty(), "no file");

        let mut file = File::create(&path).unwrap();
        assert!(steps(&mut follower).is_empty(), "an empty file");
        let third = line(&Record::Train(train(30)));
        for record in [Record::Train(train(10)), Record::Eval(eval(10)), Record::Train(train(20))] {
            file.write_all(&line(&record)).unwrap();
        }
        file.write_all(&third[..17]).unwrap();
        assert_eq!(steps(&mut follower), [10, 20]);
        assert_eq!(follower.evals.len(), 1);
        file.write_all(&third[17..]).unwrap();
        assert_eq!(steps(&mut follower), [10, 20, 30]);

        // As a resumed run does it: another file of the same name, without the last steps.
        let again = dir.path().join("again");
        std::fs::write(&again, [line(&Record::Train(train(10))), line(&Record::Train(train(15)))].concat())
            .unwrap();
        std::fs::rename(&again, &path).unwrap();
        assert_eq!(steps(&mut follower), [10, 15]);
        assert!(follower.evals.is_empty() && follower.written.is_some());
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, [line(&Record::Train(train(1))), b"what\n".to_vec()].concat()).unwrap();
        let error = Follower::new(path).refresh().unwrap_err();
        assert!(matches!(error, Error::MetricsLine { line: 2, .. }), "{error}");
    }
}
