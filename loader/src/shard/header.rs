//! The first 128 bytes of a shard, and the layout that follows from its counts.

use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::manifest::ShardEntry;
use super::{BLOCK_BYTES, FORMAT_VERSION, MAGIC};
use crate::error::Error;

/// Bytes of the header; the tokens start here.
pub(crate) const HEADER_BYTES: u64 = 128;
/// Bytes of the header that its own checksum covers: all but the checksum.
const CHECKED_BYTES: usize = 124;

/// The header as it lies on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    format_version: U32,
    token_bytes: U32,
    documents: U64,
    held_out: U64,
    tokens: U64,
    held_out_tokens: U64,
    tokens_at: U64,
    offsets_at: U64,
    checksums_at: U64,
    file_bytes: U64,
    block_bytes: U32,
    table_crc: U32,
    reserved: [u8; 36],
    header_crc: U32,
}

/// The counts of a shard, from which every position in the file follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes a token: 2 or 4.
    pub(crate) token_bytes: u32,
    /// Documents, held-out ones included.
    pub(crate) documents: u64,
    /// Documents at the end that are held out from training.
    pub(crate) held_out: u64,
    /// Tokens, those of held-out documents included.
    pub(crate) tokens: u64,
    /// Tokens of the held-out documents.
    pub(crate) held_out_tokens: u64,
}

/// Where the sections lie, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The end of the last token.
    pub(crate) tokens_end: u64,
    /// The document offsets, after up to seven bytes of padding.
    pub(crate) offsets_at: u64,
    /// The block checksums; also the end of what they cover.
    pub(crate) checksums_at: u64,
    /// The size of the file.
    pub(crate) file_bytes: u64,
}

impl Layout {
    /// The layout of a shard with these counts; nothing when a position does not fit 64 bits.
    pub(crate) fn of(counts: &Counts) -> Option<Self> {
        let tokens_end = counts.tokens.checked_mul(counts.token_bytes.into())?.checked_add(HEADER_BYTES)?;
        let offsets_at = tokens_end.checked_next_multiple_of(8)?;
        let offsets_bytes = counts.documents.checked_add(1)?.checked_mul(8)?;
        let checksums_at = offsets_at.checked_add(offsets_bytes)?;
        let blocks = (checksums_at - HEADER_BYTES).div_ceil(BLOCK_BYTES.into());
        let file_bytes = blocks.checked_mul(4)?.checked_add(checksums_at)?;
        Some(Self { tokens_end, offsets_at, checksums_at, file_bytes })
    }
}

impl Counts {
    /// Where the end of a shard begins that is read by itself: the first byte of the last checksummed block before the one
    /// that holds the first held-out token. So one block of training documents is in it, or two, and all offsets.
    pub(crate) fn tail_at(&self) -> u64 {
        let train = (self.tokens - self.held_out_tokens) * u64::from(self.token_bytes);
        let block = u64::from(BLOCK_BYTES);
        HEADER_BYTES + (train / block).saturating_sub(1) * block
    }
}

/// Where the tail of a shard begins, see [`Counts::tail_at`], and the size of the shard; nothing for counts that no file
/// could hold.
pub(crate) fn shard_tail(entry: &ShardEntry, token_bytes: u8) -> Option<(u64, u64)> {
    let &ShardEntry { documents, held_out, tokens, held_out_tokens, .. } = entry;
    let counts = Counts { token_bytes: token_bytes.into(), documents, held_out, tokens, held_out_tokens };
    let layout = Layout::of(&counts)?;
    (held_out <= documents && held_out_tokens <= tokens).then(|| (counts.tail_at(), layout.file_bytes))
}

/// A header whose every field agrees with every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) counts: Counts,
    pub(crate) layout: Layout,
    /// CRC-32C of the table of block checksums.
    pub(crate) table_crc: u32,
}

impl Header {
    /// Reads the header of `file`, the whole content of the shard at `path`.
    ///
    /// Afterwards every position of the layout is known to lie within `file`.
    pub(crate) fn parse(file: &[u8], path: &Path) -> Result<Self, Error> {
        let corrupt = |offset: u64, found: String, expected: String| Error::Corrupt {
            path: path.to_owned(),
            offset,
            found,
            expected,
        };
        let found_bytes = file.len() as u64;
        let Ok((raw, _)) = RawHeader::read_from_prefix(file) else {
            let found = format!("the end of a file of {found_bytes} bytes");
            return Err(corrupt(found_bytes, found, format!("a header of {HEADER_BYTES} bytes")));
        };
        if raw.magic != MAGIC {
            let (found, expected) = (raw.magic.to_vec(), MAGIC.to_vec());
            return Err(Error::NotAShard { path: path.to_owned(), found, expected });
        }
        if raw.format_version.get() != FORMAT_VERSION {
            let found = raw.format_version.get().into();
            return Err(Error::FormatVersion { path: path.to_owned(), found, expected: FORMAT_VERSION });
        }
        let crc = crc32c::crc32c(&raw.as_bytes()[..CHECKED_BYTES]);
        if raw.header_crc.get() != crc {
            let found = format!("header checksum {:08x}", raw.header_crc);
            return Err(corrupt(CHECKED_BYTES as u64, found, format!("{crc:08x}")));
        }
        let counts = Counts {
            token_bytes: raw.token_bytes.get(),
            documents: raw.documents.get(),
            held_out: raw.held_out.get(),
            tokens: raw.tokens.get(),
            held_out_tokens: raw.held_out_tokens.get(),
        };
        if !matches!(counts.token_bytes, 2 | 4) {
            return Err(corrupt(12, format!("{} bytes a token", counts.token_bytes), "2 or 4".into()));
        }
        if counts.held_out > counts.documents {
            let found = format!("{} held-out documents", counts.held_out);
            return Err(corrupt(24, found, format!("at most the {} documents", counts.documents)));
        }
        if counts.held_out_tokens > counts.tokens {
            let found = format!("{} held-out tokens", counts.held_out_tokens);
            return Err(corrupt(40, found, format!("at most the {} tokens", counts.tokens)));
        }
        let Some(layout) = Layout::of(&counts) else {
            let found = format!("{} documents and {} tokens", counts.documents, counts.tokens);
            return Err(corrupt(16, found, "counts that fit a file".into()));
        };
        let written = [
            (48, "tokens", raw.tokens_at.get(), HEADER_BYTES),
            (56, "document offsets", raw.offsets_at.get(), layout.offsets_at),
            (64, "checksums", raw.checksums_at.get(), layout.checksums_at),
        ];
        for (at, section, found, expected) in written {
            if found != expected {
                return Err(corrupt(at, format!("{section} at byte {found}"), format!("at byte {expected}")));
            }
        }
        if raw.file_bytes.get() != layout.file_bytes {
            let found = format!("a file size of {} bytes", raw.file_bytes);
            return Err(corrupt(72, found, format!("{} bytes, which the counts need", layout.file_bytes)));
        }
        if raw.block_bytes.get() != BLOCK_BYTES {
            return Err(corrupt(80, format!("blocks of {} bytes", raw.block_bytes), BLOCK_BYTES.to_string()));
        }
        if raw.reserved != [0; 36] {
            return Err(corrupt(88, "reserved bytes that are not zero".into(), "zeros".into()));
        }
        if found_bytes != layout.file_bytes {
            let found = format!("a file of {found_bytes} bytes");
            return Err(corrupt(
                found_bytes.min(layout.file_bytes),
                found,
                format!("{} bytes", layout.file_bytes),
            ));
        }
        Ok(Self { counts, layout, table_crc: raw.table_crc.get() })
    }

    /// The header as it lies on disk.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES as usize] {
        let mut raw = RawHeader {
            magic: MAGIC,
            format_version: FORMAT_VERSION.into(),
            token_bytes: self.counts.token_bytes.into(),
            documents: self.counts.documents.into(),
            held_out: self.counts.held_out.into(),
            tokens: self.counts.tokens.into(),
            held_out_tokens: self.counts.held_out_tokens.into(),
            tokens_at: HEADER_BYTES.into(),
            offsets_at: self.layout.offsets_at.into(),
            checksums_at: self.layout.checksums_at.into(),
            file_bytes: self.layout.file_bytes.into(),
            block_bytes: BLOCK_BYTES.into(),
            table_crc: self.table_crc.into(),
            reserved: [0; 36],
            header_crc: 0.into(),
        };
        raw.header_crc = crc32c::crc32c(&raw.as_bytes()[..CHECKED_BYTES]).into();
        zerocopy::transmute!(raw)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(counts: Counts) -> Header {
        Header { counts, layout: Layout::of(&counts).unwrap(), table_crc: 7 }
    }

    /// An intact file, but for its sections, which are all zero.
    fn file(header: &Header) -> Vec<u8> {
        let mut file = header.to_bytes().to_vec();
        file.resize(header.layout.file_bytes as usize, 0);
        file
    }

    fn small() -> impl Strategy<Value = Counts> {
        (prop_oneof![Just(2), Just(4)], 0..50u64, 0..50u64, 0..500u64, 0..500u64).prop_map(
            |(token_bytes, documents, held_out, tokens, held_out_tokens)| Counts {
                token_bytes,
                documents: documents + held_out,
                held_out,
                tokens: tokens + held_out_tokens,
                held_out_tokens,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(counts in small()) {
            let header = header(counts);
            prop_assert_eq!(Header::parse(&file(&header), Path::new("x")).unwrap(), header);
        }

        /// Whatever the counts say, with a valid checksum, they are refused unless the file is that large.
        #[test]
        fn hostile_counts_are_refused(fields in any::<[u64; 8]>(), at in 0..8usize, width in 0..6u32) {
            let mut file = file(&header(Counts {
                token_bytes: 2, documents: 3, held_out: 1, tokens: 9, held_out_tokens: 2,
            }));
            for (i, field) in fields.iter().enumerate().skip(at) {
                file[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
            }
            file[12..16].copy_from_slice(&width.to_le_bytes());
            let crc = crc32c::crc32c(&file[..CHECKED_BYTES]);
            file[124..128].copy_from_slice(&crc.to_le_bytes());
            prop_assert!(Header::parse(&file, Path::new("x")).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Header::parse(&bytes, Path::new("x")).is_err());
        }
    }

    #[test]
    fn another_version_is_named_with_what_to_do() {
        let mut file = file(&header(Counts {
            token_bytes: 2,
            documents: 0,
            held_out: 0,
            tokens: 0,
            held_out_tokens: 0,
        }));
        file[8] = 7;
        assert_eq!(
            Header::parse(&file, Path::new("a.tokens")).unwrap_err().to_string(),
            "a.tokens has format version 7, this program reads version 1; ingest again with this version or use the \
             program that wrote it"
        );
    }

    #[test]
    fn positions_that_overflow_are_no_layout() {
        let counts =
            |documents, tokens| Counts { token_bytes: 4, documents, held_out: 0, tokens, held_out_tokens: 0 };
        for (documents, tokens) in [
            (u64::MAX, 0),
            (0, u64::MAX),
            (0, u64::MAX / 4),
            (u64::MAX / 8, 0),
            (u64::MAX / 16, u64::MAX / 8),
        ] {
            assert_eq!(Layout::of(&counts(documents, tokens)), None, "{documents} {tokens}");
        }
    }
}
