//! Writes one shard front to back; memory holds the offsets and the held-out documents only.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::BLOCK_BYTES;
use super::header::{Counts, HEADER_BYTES, Header, Layout};
use crate::atomic::AtomicFile;
use crate::error::Error;

/// What a sealed shard holds: what the manifest says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSummary {
    /// Size of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file, in lower-case hexadecimal digits.
    pub blake3: String,
    /// Documents, held-out ones included.
    pub documents: u64,
    /// Documents held out from training.
    pub held_out: u64,
    /// Tokens, those of held-out documents included.
    pub tokens: u64,
    /// Tokens of the held-out documents.
    pub held_out_tokens: u64,
}

/// A shard under construction. Its bytes depend only on the documents pushed, in their order.
///
/// Nothing stands under its name until [`seal`](ShardWriter::seal); dropping it before removes what was written.
#[derive(Debug)]
pub struct ShardWriter {
    file: AtomicFile,
    token_bytes: u8,
    /// Where each training document ends, in tokens.
    ends: Vec<u64>,
    tokens: u64,
    /// The held-out documents, which follow the others in the file.
    held_out: Vec<u8>,
    /// Where each held-out document ends, in tokens from the first of them.
    held_out_ends: Vec<u64>,
    held_out_tokens: u64,
    checksums: BlockChecksums,
    /// One document as bytes, kept for its memory.
    encoded: Vec<u8>,
}

impl ShardWriter {
    /// Starts the shard `name`, such as [`tokens_file_name`](super::tokens_file_name) gives, in the folder `dir`.
    ///
    /// # Errors
    /// [`Error::TokenWidth`] unless `token_bytes` is 2 or 4; [`Error::Io`] or [`Error::DiskFull`] when the file
    /// cannot be created.
    pub fn create(dir: &Path, name: &str, token_bytes: u8) -> Result<Self, Error> {
        let path = dir.join(name);
        if !matches!(token_bytes, 2 | 4) {
            return Err(Error::TokenWidth { path, token_bytes });
        }
        let mut file = AtomicFile::create(&path)?;
        // Room for the header, which is known last.
        file.write_all(&[0; HEADER_BYTES as usize])
            .map_err(|source| Error::write(&path, HEADER_BYTES, source))?;
        Ok(Self {
            file,
            token_bytes,
            ends: Vec::new(),
            tokens: 0,
            held_out: Vec::new(),
            held_out_ends: Vec::new(),
            held_out_tokens: 0,
            checksums: BlockChecksums::default(),
            encoded: Vec::new(),
        })
    }

    /// Appends a training document.
    ///
    /// # Errors
    /// [`Error::EmptyDocument`], [`Error::TokenTooLarge`], or an error of writing.
    pub fn push(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.encoded.clear();
        encode(tokens, self.token_bytes, self.file.path(), &mut self.encoded)?;
        append(&mut self.file, &mut self.checksums, &self.encoded)?;
        self.tokens += tokens.len() as u64;
        self.ends.push(self.tokens);
        Ok(())
    }

    /// Appends a document that training never sees.
    ///
    /// # Errors
    /// [`Error::EmptyDocument`] or [`Error::TokenTooLarge`].
    pub fn push_held_out(&mut self, tokens: &[u32]) -> Result<(), Error> {
        encode(tokens, self.token_bytes, self.file.path(), &mut self.held_out)?;
        self.held_out_tokens += tokens.len() as u64;
        self.held_out_ends.push(self.held_out_tokens);
        Ok(())
    }

    /// The name that the shard will have.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Tokens pushed so far, those of held-out documents included.
    pub fn tokens(&self) -> u64 {
        self.tokens + self.held_out_tokens
    }

    /// Documents pushed so far, held-out ones included.
    pub fn documents(&self) -> u64 {
        (self.ends.len() + self.held_out_ends.len()) as u64
    }

    /// Completes the shard, makes it durable and gives it its name.
    ///
    /// # Errors
    /// An error of writing; the temporary file is removed then.
    pub fn seal(mut self) -> Result<ShardSummary, Error> {
        let path: PathBuf = self.file.path().to_owned();
        let counts = Counts {
            token_bytes: self.token_bytes.into(),
            documents: self.documents(),
            held_out: self.held_out_ends.len() as u64,
            tokens: self.tokens(),
            held_out_tokens: self.held_out_tokens,
        };
        let too_large = || Error::Io {
            action: "lay out",
            path: path.clone(),
            source: io::Error::from(io::ErrorKind::FileTooLarge),
        };
        let layout = Layout::of(&counts).ok_or_else(too_large)?;

        append(&mut self.file, &mut self.checksums, &self.held_out)?;
        let padding = (layout.offsets_at - layout.tokens_end) as usize;
        append(&mut self.file, &mut self.checksums, &[0; 8][..padding])?;
        let held_out_ends = self.held_out_ends.iter().map(|end| self.tokens + end);
        for offset in std::iter::once(0).chain(self.ends.iter().copied()).chain(held_out_ends) {
            append(&mut self.file, &mut self.checksums, &offset.to_le_bytes())?;
        }
        let table = self.checksums.finish();
        let header = Header { counts, layout, table_crc: crc32c::crc32c(&table) };
        let unwritten = self.file.buffered() + table.len() as u64;
        let finish = |file: &mut AtomicFile| -> io::Result<String> {
            file.write_all(&table)?;
            let file = file.file()?;
            file.rewind()?;
            file.write_all(&header.to_bytes())?;
            hash_file(file)
        };
        let blake3 = finish(&mut self.file).map_err(|source| Error::write(&path, unwritten, source))?;
        self.file.commit()?;
        Ok(ShardSummary {
            bytes: layout.file_bytes,
            blake3,
            documents: counts.documents,
            held_out: counts.held_out,
            tokens: counts.tokens,
            held_out_tokens: counts.held_out_tokens,
        })
    }
}

/// Appends bytes to the file and to its checksums.
fn append(file: &mut AtomicFile, checksums: &mut BlockChecksums, bytes: &[u8]) -> Result<(), Error> {
    checksums.update(bytes);
    let unwritten = file.buffered() + bytes.len() as u64;
    file.write_all(bytes).map_err(|source| Error::write(file.path(), unwritten, source))
}

/// Appends a document as it lies on disk; on an error `out` is as it was.
fn encode(tokens: &[u32], token_bytes: u8, path: &Path, out: &mut Vec<u8>) -> Result<(), Error> {
    if tokens.is_empty() {
        return Err(Error::EmptyDocument { path: path.to_owned() });
    }
    let start = out.len();
    out.resize(start + tokens.len() * usize::from(token_bytes), 0);
    if token_bytes == 2 {
        // All bits together first: that is one instruction for many tokens.
        if tokens.iter().fold(0, |bits, &token| bits | token) > u16::MAX.into() {
            out.truncate(start);
            let token = tokens.iter().copied().max().unwrap_or(0);
            return Err(Error::TokenTooLarge { path: path.to_owned(), token, token_bytes });
        }
        for (place, &token) in out[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
            *place = (token as u16).to_le_bytes();
        }
    } else {
        for (place, &token) in out[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
            *place = token.to_le_bytes();
        }
    }
    Ok(())
}

/// BLAKE3 of a whole file, read back because the header, which comes first, is written last.
fn hash_file(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK_BYTES as usize];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => hasher.update(&buffer[..read]),
        };
    }
}

/// CRC-32C of each block of what is appended.
#[derive(Debug, Default)]
struct BlockChecksums {
    finished: Vec<u32>,
    /// Of the block under way.
    crc: u32,
    /// Bytes in the block under way, fewer than a block.
    filled: usize,
}

impl BlockChecksums {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES as usize - self.filled));
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES as usize {
                self.finished.push(std::mem::take(&mut self.crc));
                self.filled = 0;
            }
            bytes = later;
        }
    }

    /// The table as it lies on disk.
    fn finish(&mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.finished.push(std::mem::take(&mut self.crc));
            self.filled = 0;
        }
        self.finished.iter().flat_map(|crc| crc.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_checksums_do_not_depend_on_the_pieces() {
        let bytes: Vec<u8> = (0..BLOCK_BYTES as usize * 2 + 5).map(|i| (i * 7 % 251) as u8).collect();
        let mut whole = BlockChecksums::default();
        whole.update(&bytes);
        let mut pieces = BlockChecksums::default();
        bytes.chunks(70_001).for_each(|piece| pieces.update(piece));
        let table = whole.finish();
        assert_eq!(table, pieces.finish());
        let blocks: Vec<u8> = bytes
            .chunks(BLOCK_BYTES as usize)
            .flat_map(|block| crc32c::crc32c(block).to_le_bytes())
            .collect();
        assert_eq!(table, blocks);
    }

    #[test]
    fn a_full_block_gets_no_empty_successor() {
        let mut checksums = BlockChecksums::default();
        checksums.update(&vec![1; BLOCK_BYTES as usize]);
        assert_eq!(checksums.finish().len(), 4);
    }
}
