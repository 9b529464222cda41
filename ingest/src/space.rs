//! Whether the disk has room for what is going to be written.

use std::path::Path;

use crate::error::Error;
use crate::source::Inputs;

/// Bytes written for each byte of a packed input: English text packs to about 2.6:1 and has 4.2 bytes a token, two of
/// which are stored; the table of documents and a margin come on top.
const OUT_PER_PACKED: f64 = 1.5;
/// The same for an input that is not packed.
const OUT_PER_PLAIN: f64 = 0.6;

/// Room on a disk, and what an ingest is expected to need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the shards will take, estimated from the size of the inputs.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

impl Space {
    /// Looks at the disk that `out`, or the nearest folder above it that exists, lies on.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn look(inputs: &Inputs, token_bytes: u8, out: &Path) -> Result<Self, Error> {
        let absolute = std::path::absolute(out).map_err(Error::io("resolve", out))?;
        let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(existing)
            .map_err(|error| Error::io("ask for the free space of", existing)(error.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(Self { needed: needed(inputs, token_bytes), free })
    }

    /// Whether it is expected to fit.
    pub fn is_enough(&self) -> bool {
        self.needed <= self.free
    }
}

fn needed(inputs: &Inputs, token_bytes: u8) -> u64 {
    let bytes = inputs.files.iter().map(|input| {
        let ratio = if input.name.ends_with(".gz") { OUT_PER_PACKED } else { OUT_PER_PLAIN };
        input.bytes as f64 * ratio * f64::from(token_bytes) / 2.0
    });
    bytes.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Input;

    #[test]
    fn more_than_any_disk_has_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = |bytes| Inputs {
            files: vec![Input { path: "a".into(), name: "a.json.gz".into(), bytes, ..Input::default() }],
            ignored: Vec::new(),
        };
        let look = |bytes| Space::look(&inputs(bytes), 2, &dir.path().join("not/yet/there")).unwrap();
        assert!(look(1).is_enough());
        assert!(look(1).free > 0);
        assert!(!look(1 << 62).is_enough());
    }
}
