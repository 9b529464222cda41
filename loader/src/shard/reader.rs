//! A shard as a memory map: opened without reading it, every access checked.

// The memory map of `Shard::open`, the only unsafe code of the format.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use zerocopy::FromBytes;

use super::header::{HEADER_BYTES, Header};
use super::manifest::ShardEntry;
use super::offsets::Offsets;
use super::{BLOCK_BYTES, FORMAT_VERSION};
use crate::error::Error;

// Tokens are borrowed from the file as they lie there.
#[cfg(not(target_endian = "little"))]
compile_error!(
    "shards are little-endian and read without conversion: this machine needs a converting reader"
);

/// The tokens of a document, borrowed from the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// Two bytes a token.
    U16(&'a [u16]),
    /// Four bytes a token.
    U32(&'a [u32]),
}

impl<'a> Tokens<'a> {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Tokens::U16(tokens) => tokens.len(),
            Tokens::U32(tokens) => tokens.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens in `range`, cut to what there is.
    pub fn slice(&self, range: Range<usize>) -> Tokens<'a> {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        match self {
            Tokens::U16(tokens) => Tokens::U16(&tokens[range]),
            Tokens::U32(tokens) => Tokens::U32(&tokens[range]),
        }
    }

    /// Has the processor fetch the tokens, without waiting for them: they are read soon.
    #[inline]
    pub(crate) fn prefetch(&self) {
        match self {
            Tokens::U16(tokens) => prefetch(tokens),
            Tokens::U32(tokens) => prefetch(tokens),
        }
    }

    /// The token ids, one by one.
    pub fn iter(&self) -> impl Iterator<Item = u32> + 'a {
        let (narrow, wide): (&'a [u16], &'a [u32]) = match *self {
            Tokens::U16(tokens) => (tokens, &[]),
            Tokens::U32(tokens) => (&[], tokens),
        };
        narrow.iter().map(|&token| token.into()).chain(wide.iter().copied())
    }

    /// The token ids in a vector of their own.
    pub fn to_vec(&self) -> Vec<u32> {
        self.iter().collect()
    }
}

/// Has the processor fetch the cache lines of a slice. A read would do the same, but nothing that comes after it could be
/// finished before it; a loop over samples in random places would wait for memory at each.
#[inline(always)]
fn prefetch<T>(numbers: &[T]) {
    const LINE: usize = 64;
    let bytes = size_of_val(numbers);
    let lines = (0..bytes).step_by(LINE).chain((bytes > 0).then(|| bytes - 1));
    for at in lines {
        let line = numbers.as_ptr().cast::<u8>().wrapping_add(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads and writes nothing that a program can see, and no address makes it fail.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: the byte is one of the slice.
        unsafe {
            std::hint::black_box(line.read());
        }
    }
}

/// An open shard. Opening checks the header and the size of the file; each look-up checks the offsets it uses;
/// [`verify`](Shard::verify) reads everything.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl Shard {
    /// Maps the shard at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be mapped; [`Error::NotAShard`], [`Error::FormatVersion`] or
    /// [`Error::Corrupt`] when its header or size is wrong.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, path.to_owned())
    }

    /// As [`open`](Shard::open); the shard is called `name` afterwards.
    pub(crate) fn open_as(path: &Path, name: PathBuf) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let bytes = file.metadata().map_err(Error::io("read", path))?.len();
        if bytes < HEADER_BYTES {
            return Err(Error::Corrupt {
                path: path.to_owned(),
                offset: bytes,
                found: format!("the end of a file of {bytes} bytes"),
                expected: format!("a header of {HEADER_BYTES} bytes (format version {FORMAT_VERSION})"),
            });
        }
        // SAFETY: a map is sound while nobody changes or shortens the file. Shards are immutable: the writer renames a
        // finished file into place and never opens it again, and the format's documentation asks the same of users.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        let header = Header::parse(&map, &name)?;
        Ok(Self { path: name, map, header })
    }

    /// A shard must be the one that the manifest describes, as far as its header tells.
    ///
    /// # Errors
    /// [`Error::NotAsInManifest`].
    pub(crate) fn check(&self, entry: &ShardEntry, token_bytes: u8) -> Result<(), Error> {
        let properties = [
            ("its size in bytes", self.bytes(), entry.bytes),
            ("its number of bytes a token", self.token_bytes().into(), token_bytes.into()),
            ("its number of documents", self.documents(), entry.documents),
            ("its number of held-out documents", self.held_out(), entry.held_out),
            ("its number of tokens", self.token_count(), entry.tokens),
            ("its number of held-out tokens", self.held_out_tokens(), entry.held_out_tokens),
        ];
        match properties.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(Error::NotAsInManifest {
                path: self.path.clone(),
                what,
                found: found.to_string(),
                expected: expected.to_string(),
            }),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes a token: 2 or 4.
    pub fn token_bytes(&self) -> u8 {
        self.header.counts.token_bytes as u8
    }

    /// Number of documents, held-out ones included.
    pub fn documents(&self) -> u64 {
        self.header.counts.documents
    }

    /// Number of documents held out from training; they are the last ones.
    pub fn held_out(&self) -> u64 {
        self.header.counts.held_out
    }

    /// Number of tokens, those of held-out documents included.
    pub fn token_count(&self) -> u64 {
        self.header.counts.tokens
    }

    /// Number of tokens of the held-out documents.
    pub fn held_out_tokens(&self) -> u64 {
        self.header.counts.held_out_tokens
    }

    /// Size of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.header.layout.file_bytes
    }

    /// Number of tokens of a document.
    ///
    /// # Errors
    /// As [`tokens`](Shard::tokens).
    pub fn document_len(&self, document: u64) -> Result<usize, Error> {
        let range = self.range(document)?;
        Ok((range.end - range.start) as usize)
    }

    /// Has the processor fetch the offsets of some documents from `first` on, without waiting for them.
    #[inline]
    pub(crate) fn prefetch(&self, first: u64, documents: u64) {
        prefetch(Offsets::of(&self.map, &self.header).bytes_of(first, documents));
    }

    /// The tokens of a document, counted from 0.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such document, [`Error::Corrupt`] when its offsets are wrong.
    pub fn tokens(&self, document: u64) -> Result<Tokens<'_>, Error> {
        self.tokens_in(self.range(document)?)
    }

    /// The tokens in `range` of all tokens of the shard, which is a part of a document's range.
    // A worker's innermost loop: a result that is handed over through memory would cost as much as what is looked up.
    #[inline(always)]
    pub(crate) fn tokens_in(&self, range: Range<u64>) -> Result<Tokens<'_>, Error> {
        // Both ends are at most the number of tokens, whose bytes `Layout` has computed without overflow.
        let width = u64::from(self.header.counts.token_bytes);
        let bytes =
            (HEADER_BYTES + range.start * width) as usize..(HEADER_BYTES + range.end * width) as usize;
        let borrowed = self.map.get(bytes).and_then(|bytes| match width {
            2 => Some(Tokens::U16(<[u16]>::ref_from_bytes(bytes).ok()?)),
            _ => Some(Tokens::U32(<[u32]>::ref_from_bytes(bytes).ok()?)),
        });
        borrowed.ok_or_else(|| self.no_tokens(range))
    }

    #[cold]
    fn no_tokens(&self, range: Range<u64>) -> Error {
        self.corrupt(HEADER_BYTES, format!("tokens {range:?}"), "aligned tokens".into())
    }

    /// Reads the whole file and compares it with its checksums, then checks every offset.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the offset of the first block or number that is wrong.
    pub fn verify(&self) -> Result<(), Error> {
        self.verify_from(HEADER_BYTES)
    }

    /// As [`verify`](Shard::verify), but only what stands from byte `start` on, which is the first of a block.
    pub(crate) fn verify_from(&self, start: u64) -> Result<(), Error> {
        let layout = &self.header.layout;
        let table = &self.map[layout.checksums_at as usize..];
        let crc = crc32c::crc32c(table);
        if crc != self.header.table_crc {
            let expected = format!("{:08x}", self.header.table_crc);
            return Err(self.corrupt(
                layout.checksums_at,
                format!("checksum {crc:08x} of the checksums"),
                expected,
            ));
        }
        let blocks =
            self.map[HEADER_BYTES as usize..layout.checksums_at as usize].chunks(BLOCK_BYTES as usize);
        let before = ((start - HEADER_BYTES) / u64::from(BLOCK_BYTES)) as usize;
        for (i, (block, expected)) in blocks.zip(table.as_chunks::<4>().0).enumerate().skip(before) {
            let (found, expected) = (crc32c::crc32c(block), u32::from_le_bytes(*expected));
            if found != expected {
                let at = HEADER_BYTES + i as u64 * u64::from(BLOCK_BYTES);
                let found = format!("checksum {found:08x} of the {} bytes from there", block.len());
                return Err(self.corrupt(at, found, format!("{expected:08x}")));
            }
        }
        self.verify_offsets()
    }

    /// The checksums hold, so whatever is wrong here was written wrong.
    fn verify_offsets(&self) -> Result<(), Error> {
        let counts = &self.header.counts;
        let anchors = [
            (0, 0),
            (counts.documents - counts.held_out, counts.tokens - counts.held_out_tokens),
            (counts.documents, counts.tokens),
        ];
        let offsets = Offsets::of(&self.map, &self.header);
        for (index, expected) in anchors {
            let found = offsets.at(index);
            if found != Some(expected) {
                let at = self.header.layout.offsets_at + 8 * index;
                return Err(self.corrupt(at, format!("document offset {found:?}"), format!("{expected}")));
            }
        }
        (0..counts.documents).try_for_each(|document| self.range(document).map(drop))
    }

    /// The number of tokens before those that [`shard_tail`](super::shard_tail) leaves to the end.
    pub(crate) fn tokens_before_tail(&self) -> u64 {
        (self.header.counts.tail_at() - HEADER_BYTES) / u64::from(self.header.counts.token_bytes)
    }

    /// Where the tokens of a document stand among all tokens of the shard.
    #[inline]
    pub(crate) fn range(&self, document: u64) -> Result<Range<u64>, Error> {
        match Offsets::of(&self.map, &self.header).get(document) {
            Some(Ok(range)) => Ok(range),
            Some(Err(bad)) => Err(self.corrupt(
                self.header.layout.offsets_at + 8 * document,
                format!("document offsets {} and {}", bad.start, bad.end),
                format!("two rising numbers up to {}", self.header.counts.tokens),
            )),
            None => Err(Error::OutOfRange { what: "document", index: document, count: self.documents() }),
        }
    }

    fn corrupt(&self, offset: u64, found: String, expected: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, found, expected }
    }
}
