//! An object of a store as a file of which any part can be read: what Parquet asks for.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use loader::object::{Location, Meta};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

/// Bytes fetched with one request.
const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks that are kept: Parquet reads its columns a little at a time in turn, and there are three.
const BLOCKS: usize = 6;

/// Blocks by their number, the one used last in front.
type Blocks = VecDeque<(u64, Bytes)>;

/// An object, of which the blocks used last are kept.
#[derive(Clone)]
pub(super) struct ObjectFile {
    location: Location,
    meta: Meta,
    blocks: Arc<Mutex<Blocks>>,
}

impl ObjectFile {
    pub(super) fn new(location: Location, meta: Meta) -> Self {
        Self { location, meta, blocks: Arc::default() }
    }

    fn block(&self, number: u64) -> Result<Bytes, loader::Error> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let block = match blocks.iter().position(|(kept, _)| *kept == number) {
            Some(at) => blocks.remove(at).map(|(_, block)| block).unwrap_or_default(),
            None => {
                let start = number * BLOCK_BYTES;
                let end = (start + BLOCK_BYTES).min(self.meta.bytes);
                self.location.read_range(&self.meta, start..end)?.into()
            }
        };
        blocks.push_front((number, block.clone()));
        blocks.truncate(BLOCKS);
        Ok(block)
    }

    /// What there is from byte `at` to the end of its block; nothing at the end of the object.
    fn from(&self, at: u64) -> Result<Bytes, loader::Error> {
        if at >= self.meta.bytes {
            return Ok(Bytes::new());
        }
        let block = self.block(at / BLOCK_BYTES)?;
        Ok(block.slice((at % BLOCK_BYTES) as usize..))
    }
}

impl Length for ObjectFile {
    fn len(&self) -> u64 {
        self.meta.bytes
    }
}

impl ChunkReader for ObjectFile {
    type T = ObjectRead;

    fn get_read(&self, start: u64) -> Result<ObjectRead, ParquetError> {
        Ok(ObjectRead { file: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let failed = |error: loader::Error| ParquetError::External(Box::new(error));
        let first = self.from(start).map_err(failed)?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut bytes = Vec::with_capacity(length.min(self.meta.bytes as usize));
        while bytes.len() < length {
            let piece = self.from(start + bytes.len() as u64).map_err(failed)?;
            if piece.is_empty() {
                let (found, expected) = (bytes.len(), length);
                return Err(ParquetError::EOF(format!(
                    "{found} bytes from byte {start}, expected {expected}"
                )));
            }
            bytes.extend_from_slice(&piece[..piece.len().min(length - bytes.len())]);
        }
        Ok(bytes.into())
    }
}

/// Reads an [`ObjectFile`] from a place in it.
pub(super) struct ObjectRead {
    file: ObjectFile,
    at: u64,
}

impl Read for ObjectRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.file.from(self.at).map_err(io::Error::other)?;
        let read = piece.len().min(buffer.len());
        buffer[..read].copy_from_slice(&piece[..read]);
        self.at += read as u64;
        Ok(read)
    }
}
