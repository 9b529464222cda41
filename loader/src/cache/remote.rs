//! A shard in an object store: what the manifest says of it, and how it is fetched and checked.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::object::{Location, Meta, Scheme};
use crate::shard::{HEADER_BYTES, Shard, ShardEntry, shard_tail};

/// Bytes taken from a connection at once.
const COPY_BYTES: usize = 1 << 20;

/// What is fetched of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The header, and the end with the last training documents, the held-out documents and the offsets of all.
    Tail,
}

/// A shard of a manifest that lies in a store.
#[derive(Clone, Debug)]
pub(crate) struct RemoteShard {
    location: Location,
    entry: ShardEntry,
    token_bytes: u8,
    /// The bytes of the tail.
    tail: Range<u64>,
}

impl RemoteShard {
    /// The shard of `entry` in the folder at `folder`.
    ///
    /// # Errors
    /// What is wrong with the entry.
    pub(crate) fn new(folder: &Location, entry: &ShardEntry, token_bytes: u8) -> Result<Self, String> {
        let (tail, bytes) =
            shard_tail(entry, token_bytes).ok_or_else(|| format!("{} is beyond all sizes", entry.file))?;
        if bytes != entry.bytes {
            return Err(format!("{} has {} bytes, but its counts make {bytes}", entry.file, entry.bytes));
        }
        Ok(Self { location: folder.join(&entry.file), entry: entry.clone(), token_bytes, tail: tail..bytes })
    }

    /// The name of its file in a cache.
    pub(crate) fn file_name(&self, part: Part) -> String {
        let kind = match part {
            Part::Whole => "tokens",
            Part::Tail => "tail",
        };
        format!("{}.{kind}", self.entry.blake3)
    }

    /// Bytes that a part takes on disk.
    pub(crate) fn bytes(&self, part: Part) -> u64 {
        match part {
            Part::Whole => self.entry.bytes,
            Part::Tail => HEADER_BYTES + self.tail.end - self.tail.start,
        }
    }

    /// Its URL, as a path for messages.
    pub(crate) fn name(&self) -> PathBuf {
        self.location.to_string().into()
    }

    /// Opens a file that [`fetch`](RemoteShard::fetch) has filled.
    ///
    /// # Errors
    /// When it is not the shard that the manifest describes, as far as its header tells.
    pub(crate) fn open(&self, path: &Path) -> Result<Shard, Error> {
        let shard = Shard::open_as(path, self.name())?;
        shard.check(&self.entry, self.token_bytes)?;
        Ok(shard)
    }

    /// Fills the empty file at `path` and compares it with the shard's checksums.
    ///
    /// # Errors
    /// When the store does not give it, the disk does not take it, or it is not what the manifest describes.
    pub(crate) fn fetch(&self, part: Part, file: &File, path: &Path) -> Result<(), Error> {
        match part {
            Part::Whole => self.fetch_whole(file, path),
            Part::Tail => self.fetch_tail(file, path),
        }
    }

    fn fetch_whole(&self, mut file: &File, path: &Path) -> Result<(), Error> {
        let mut reader = self.location.open()?;
        self.check_size(reader.meta())?;
        // An attempt before this one may have written some of it.
        file.seek(SeekFrom::Start(0)).map_err(Error::io("write", path))?;
        let (mut hasher, mut buffer, mut left) =
            (blake3::Hasher::new(), vec![0; COPY_BYTES], self.entry.bytes);
        loop {
            let read = reader.read(&mut buffer).map_err(|error| self.location.read_error(error))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(|source| Error::write(path, left, source))?;
            left = left.saturating_sub(read as u64);
        }
        let found = hasher.finalize().to_hex().to_string();
        if found == self.entry.blake3 {
            return Ok(());
        }
        let expected = self.entry.blake3.clone();
        Err(Error::NotAsInManifest {
            path: self.name(),
            what: "the BLAKE3 of what was fetched",
            found,
            expected,
        })
    }

    fn fetch_tail(&self, mut file: &File, path: &Path) -> Result<(), Error> {
        let meta = self.location.head()?;
        self.check_size(&meta)?;
        let header = self.read(&meta, 0..HEADER_BYTES)?;
        let tail = self.read(&meta, self.tail.clone())?;
        let mut write = || {
            file.set_len(self.tail.end)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.seek(SeekFrom::Start(self.tail.start))?;
            file.write_all(&tail)
        };
        write().map_err(|source| Error::write(path, tail.len() as u64, source))?;
        self.open(path)?.verify_from(self.tail.start)
    }

    /// Some bytes of the object.
    fn read(&self, meta: &Meta, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let wanted = (range.end - range.start) as usize;
        match self.location.read_range(meta, range.clone()) {
            // Simple web servers know no ranges: all of it is read, and the rest thrown away.
            Err(_) if self.location.scheme() == Scheme::Http => {
                let mut reader = self.location.open_as(meta);
                let mut bytes = Vec::with_capacity(wanted);
                std::io::copy(&mut (&mut reader).take(range.start), &mut std::io::sink())
                    .and_then(|_| reader.take(wanted as u64).read_to_end(&mut bytes))
                    .map_err(|error| self.location.read_error(error))?;
                Ok(bytes)
            }
            read => read,
        }
    }

    fn check_size(&self, meta: &Meta) -> Result<(), Error> {
        if meta.bytes == self.entry.bytes {
            return Ok(());
        }
        let (found, expected) = (meta.bytes.to_string(), self.entry.bytes.to_string());
        Err(Error::NotAsInManifest { path: self.name(), what: "its size in bytes", found, expected })
    }
}
