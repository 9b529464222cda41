//! Whether the disk has room for what is going to be written.

use std::fs;
use std::path::Path;

use crate::error::Error;

/// What an estimate may be off by and the shards still fit.
const MARGIN: f64 = 1.05;

/// Room on a disk, and what an ingest is expected to need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are still to be written.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

impl Space {
    /// Looks at the disk that `out`, or the nearest folder above it that exists, lies on, and at what an interrupted
    /// ingest has written there of the `output_bytes` expected.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn look(out: &Path, output_bytes: u64) -> Result<Self, Error> {
        let absolute = std::path::absolute(out).map_err(Error::io("resolve", out))?;
        let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(existing)
            .map_err(|error| Error::io("ask for the free space of", existing)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = (output_bytes as f64 * MARGIN) as u64;
        Ok(Self { needed: needed.saturating_sub(written(out)), free })
    }

    /// Whether it is expected to fit.
    ///
    /// # Errors
    /// [`Error::NoRoom`] with both numbers when it is not.
    pub fn check(&self, out: &Path) -> Result<(), Error> {
        if self.needed <= self.free {
            return Ok(());
        }
        let &Self { needed, free } = self;
        Err(Error::NoRoom { dir: out.to_owned(), needed, free })
    }
}

/// Bytes of the files in a folder; what cannot be looked at counts nothing.
fn written(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let files = entries.flatten().filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    files.map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_any_disk_has_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("not/yet/there");
        let space = Space::look(&out, 1000).unwrap();
        assert_eq!(space.needed, 1050);
        assert!(space.free > 1050);
        space.check(&out).unwrap();
        let said = Space::look(&out, 1 << 62).unwrap().check(&out).unwrap_err().to_string();
        assert!(said.contains("not/yet/there") && said.contains("--no-space-check"), "{said}");
    }

    #[test]
    fn what_is_written_already_is_not_needed_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("shard-00000-0000.tokens"), [0; 700]).unwrap();
        assert_eq!(Space::look(dir.path(), 1000).unwrap().needed, 350);
        assert_eq!(Space::look(dir.path(), 100).unwrap().needed, 0);
    }
}
