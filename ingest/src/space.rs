//! Whether the disk has room for what is going to be written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::estimate::Estimate;
use crate::pipeline::Job;
use crate::place::Place;

/// What an estimate may be off by and the shards still fit.
const MARGIN: f64 = 1.05;
/// Bytes that a shard's table and its last document may add to its tokens, which the options bound.
const BESIDES_TOKENS: u64 = 16 << 20;

/// Room on a disk, and what an ingest is expected to need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// The folder that is written to: that of the shards, or for shards in a store the one for temporary files.
    pub dir: PathBuf,
    /// Bytes that are still to be written.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

impl Space {
    /// Looks at the disk that the folder of `job` lies on, and at what an interrupted ingest has written there of what
    /// is expected. Of shards that go to a store, one a worker lies on the disk at a time.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn look(job: &Job, expected: &Estimate) -> Result<Self, Error> {
        match Place::of(&job.folder())? {
            Place::Folder(dir) => Self::look_at(&dir, expected.output_bytes),
            Place::Store(_) => {
                let shard = job.options.shard_tokens.saturating_mul(job.tokenizer.token_bytes().into());
                let shards = shard.saturating_add(BESIDES_TOKENS).saturating_mul(job.workers as u64);
                Self::look_at(&std::env::temp_dir(), shards.min(expected.output_bytes))
            }
        }
    }

    /// The disk of `dir`, or of the nearest folder above it that exists.
    fn look_at(dir: &Path, output_bytes: u64) -> Result<Self, Error> {
        let absolute = std::path::absolute(dir).map_err(Error::io("resolve", dir))?;
        let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(existing)
            .map_err(|error| Error::io("ask for the free space of", existing)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = (output_bytes as f64 * MARGIN) as u64;
        Ok(Self { dir: dir.to_owned(), needed: needed.saturating_sub(written(dir)), free })
    }

    /// Whether it is expected to fit.
    ///
    /// # Errors
    /// [`Error::NoRoom`] with both numbers when it is not.
    pub fn check(&self) -> Result<(), Error> {
        if self.needed <= self.free {
            return Ok(());
        }
        let &Self { ref dir, needed, free } = self;
        Err(Error::NoRoom { dir: dir.clone(), needed, free })
    }
}

/// Bytes of the shards and tables in a folder; what cannot be looked at counts nothing.
fn written(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("shard-"));
    let files = ours.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    files.map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_disk_has_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("not/yet/there");
        let space = Space::look_at(&out, 1000).unwrap();
        assert_eq!(space.needed, 1050);
        assert!(space.free > 1050);
        space.check().unwrap();
        let said = Space::look_at(&out, 1 << 62).unwrap().check().unwrap_err().to_string();
        assert!(said.contains("not/yet/there") && said.contains("--no-space-check"), "{said}");
    }

    #[test]
    fn what_is_written_already_is_not_needed_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("shard-00000-0000.tokens"), [0; 700]).unwrap();
        assert_eq!(Space::look_at(dir.path(), 1000).unwrap().needed, 350);
        assert_eq!(Space::look_at(dir.path(), 100).unwrap().needed, 0);
    }
}
