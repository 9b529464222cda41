//! Writes one shard front to back; memory holds the offsets, the held-out documents and two pieces of the file only.

use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use blake3::hazmat::ChainingValue;
use zerocopy::IntoBytes;

use super::hash::{self, PIECE_BYTES};
use super::header::{Counts, HEADER_BYTES, Header, Layout};
use super::{BLOCK_BYTES, Tokens};
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
    pieces: Pieces,
    token_bytes: u8,
    /// Where each training document ends, in tokens.
    ends: Vec<u64>,
    tokens: u64,
    /// The held-out documents, which follow the others in the file.
    held_out: Vec<u8>,
    /// Where each held-out document ends, in tokens from the first of them.
    held_out_ends: Vec<u64>,
    held_out_tokens: u64,
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
        Ok(Self {
            pieces: Pieces::create(&path)?,
            token_bytes,
            ends: Vec::new(),
            tokens: 0,
            held_out: Vec::new(),
            held_out_ends: Vec::new(),
            held_out_tokens: 0,
        })
    }

    /// Appends a training document.
    ///
    /// # Errors
    /// [`Error::EmptyDocument`], [`Error::TokenTooLarge`], or an error of writing.
    pub fn push(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.append(Tokens::U32(tokens), false)
    }

    /// Appends a document that training never sees.
    ///
    /// # Errors
    /// [`Error::EmptyDocument`] or [`Error::TokenTooLarge`].
    pub fn push_held_out(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.append(Tokens::U32(tokens), true)
    }

    /// Appends a document: one for training, or one that is `held_out` from it.
    ///
    /// # Errors
    /// [`Error::EmptyDocument`], [`Error::TokenTooLarge`], or an error of writing.
    pub fn append(&mut self, tokens: Tokens<'_>, held_out: bool) -> Result<(), Error> {
        if held_out {
            encode(tokens, self.token_bytes, self.pieces.file.path(), &mut self.held_out)?;
            self.held_out_tokens += tokens.len() as u64;
            self.held_out_ends.push(self.held_out_tokens);
            return Ok(());
        }
        let Pieces { file, pending, .. } = &mut self.pieces;
        encode(tokens, self.token_bytes, file.path(), pending)?;
        self.pieces.write_full()?;
        self.tokens += tokens.len() as u64;
        self.ends.push(self.tokens);
        Ok(())
    }

    /// Waits until the disk has what is written so far, so that [`seal`](Self::seal) has less to wait for.
    ///
    /// # Errors
    /// An error of writing. The system tells it once, so [`seal`](Self::seal) would not see it again.
    pub fn sync(&self) -> Result<(), Error> {
        self.pieces.file.sync()
    }

    /// The name that the shard will have.
    pub fn path(&self) -> &Path {
        self.pieces.file.path()
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
        let path: PathBuf = self.path().to_owned();
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

        self.pieces.append(&self.held_out)?;
        let padding = (layout.offsets_at - layout.tokens_end) as usize;
        self.pieces.append(&[0; 8][..padding])?;
        let held_out_ends = self.held_out_ends.iter().map(|end| self.tokens + end);
        for offset in std::iter::once(0).chain(self.ends.iter().copied()).chain(held_out_ends) {
            self.pieces.append(&offset.to_le_bytes())?;
        }
        let blake3 =
            self.pieces.finish(|table| Header { counts, layout, table_crc: crc32c::crc32c(table) })?;
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

/// The bytes of the file on their way to the disk, in pieces that are checked and hashed as they leave.
#[derive(Debug)]
struct Pieces {
    file: AtomicFile,
    /// What is not yet written; begins where a piece does.
    pending: Vec<u8>,
    /// Bytes of `pending` that are in the checksums.
    checked: usize,
    checksums: BlockChecksums,
    /// The first piece once it is written, but for its header, which is known last.
    first: Vec<u8>,
    /// Of the pieces written after it.
    hashes: Vec<ChainingValue>,
}

impl Pieces {
    fn create(path: &Path) -> Result<Self, Error> {
        let mut pending = Vec::with_capacity(2 * PIECE_BYTES);
        pending.resize(HEADER_BYTES as usize, 0);
        Ok(Self {
            file: AtomicFile::create(path)?,
            checked: pending.len(),
            pending,
            checksums: BlockChecksums::default(),
            first: Vec::new(),
            hashes: Vec::new(),
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.pending.extend_from_slice(bytes);
        self.write_full()
    }

    /// Writes the pieces that are full, all of them in the checksums.
    #[inline]
    fn write_full(&mut self) -> Result<(), Error> {
        if self.pending.len() < PIECE_BYTES {
            return Ok(());
        }
        self.check();
        self.write_checked()
    }

    /// Adds what is pending to the checksums.
    fn check(&mut self) {
        self.checksums.update(&self.pending[self.checked..]);
        self.checked = self.pending.len();
    }

    fn write_checked(&mut self) -> Result<(), Error> {
        let mut unwritten = self.pending.len();
        for piece in self.pending.chunks_exact(PIECE_BYTES) {
            if self.first.is_empty() {
                self.first.extend_from_slice(piece);
            } else {
                self.hashes.push(hash::piece(self.hashes.len() + 1, piece));
            }
            write(&mut self.file, piece, unwritten)?;
            unwritten -= PIECE_BYTES;
        }
        let written = self.pending.len() - unwritten;
        self.pending.drain(..written);
        self.checked = self.checked.saturating_sub(written);
        Ok(())
    }

    /// Completes the file with the table of checksums and the header that goes with it, makes it durable and gives it its
    /// name. Its BLAKE3, in lower-case hexadecimal digits.
    fn finish(mut self, header: impl FnOnce(&[u8]) -> Header) -> Result<String, Error> {
        self.check();
        let table = self.checksums.finish();
        let header = header(&table).to_bytes();
        self.pending.extend_from_slice(&table);
        self.write_checked()?;
        let Self { mut file, mut pending, mut first, hashes, .. } = self;
        let in_pending = first.is_empty();
        let start = if in_pending { &mut pending } else { &mut first };
        start[..header.len()].copy_from_slice(&header);

        let blake3 = if in_pending {
            blake3::hash(&pending)
        } else if hashes.is_empty() && pending.is_empty() {
            blake3::hash(&first)
        } else {
            let mut all = vec![hash::piece(0, &first)];
            all.extend(hashes);
            if !pending.is_empty() {
                all.push(hash::piece(all.len(), &pending));
            }
            hash::whole(&all)
        };
        write(&mut file, &pending, pending.len())?;
        if !in_pending {
            let rewound = file.file().and_then(|file| file.rewind());
            rewound.map_err(|source| Error::write(file.path(), HEADER_BYTES, source))?;
            write(&mut file, &header, header.len())?;
        }
        file.commit()?;
        Ok(blake3.to_hex().to_string())
    }
}

/// Writes `bytes` past the file's buffer; `unwritten` is what an error says is missing.
fn write(file: &mut AtomicFile, bytes: &[u8], unwritten: usize) -> Result<(), Error> {
    let written = file.file().and_then(|file| file.write_all(bytes));
    written.map_err(|source| Error::write(file.path(), unwritten as u64, source))
}

/// Appends a document as it lies on disk; on an error `out` is as it was.
fn encode(tokens: Tokens<'_>, token_bytes: u8, path: &Path, out: &mut Vec<u8>) -> Result<(), Error> {
    if tokens.is_empty() {
        return Err(Error::EmptyDocument { path: path.to_owned() });
    }
    // Numbers lie in memory as in the file; see the reader.
    match (tokens, token_bytes) {
        (Tokens::U16(tokens), 2) => out.extend_from_slice(tokens.as_bytes()),
        (Tokens::U16(tokens), _) => {
            out.extend(tokens.iter().flat_map(|&token| u32::from(token).to_le_bytes()))
        }
        (Tokens::U32(tokens), 2) => return narrow(tokens, path, out),
        (Tokens::U32(tokens), _) => out.extend_from_slice(tokens.as_bytes()),
    }
    Ok(())
}

/// The same for tokens that get fewer bytes than they have.
fn narrow(tokens: &[u32], path: &Path, out: &mut Vec<u8>) -> Result<(), Error> {
    // All bits together first: that is one instruction for many tokens.
    if tokens.iter().fold(0, |bits, &token| bits | token) > u16::MAX.into() {
        let token = tokens.iter().copied().max().unwrap_or(0);
        return Err(Error::TokenTooLarge { path: path.to_owned(), token, token_bytes: 2 });
    }
    let start = out.len();
    out.resize(start + 2 * tokens.len(), 0);
    for (place, &token) in out[start..].as_chunks_mut().0.iter_mut().zip(tokens) {
        *place = (token as u16).to_le_bytes();
    }
    Ok(())
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
