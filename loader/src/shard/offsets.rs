//! The section that says where each document begins: looked up with checks, never trusted, never scanned at open.

use std::ops::Range;

use super::header::Header;

/// The document offsets of a shard: `documents + 1` numbers, each the index of a document's first token, the last one
/// the number of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets<'a> {
    bytes: &'a [u8],
    documents: u64,
    tokens: u64,
}

/// A pair of offsets that cannot be those of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadOffsets {
    /// First token of the document, as it stands in the file.
    pub(crate) start: u64,
    /// First token after the document, as it stands in the file.
    pub(crate) end: u64,
}

impl<'a> Offsets<'a> {
    /// The section of `file`, whose header is `header`.
    #[inline]
    pub(crate) fn of(file: &'a [u8], header: &Header) -> Self {
        let range = header.layout.offsets_at as usize..header.layout.checksums_at as usize;
        let bytes = file.get(range).unwrap_or_default();
        Self { bytes, documents: header.counts.documents, tokens: header.counts.tokens }
    }

    /// The tokens of a document; nothing when there is no such document.
    ///
    /// The range is not empty and ends at most at the number of tokens of the shard.
    #[inline]
    pub(crate) fn get(&self, document: u64) -> Option<Result<Range<u64>, BadOffsets>> {
        if document >= self.documents {
            return None;
        }
        let (start, end) = (self.at(document)?, self.at(document + 1)?);
        if start < end && end <= self.tokens {
            Some(Ok(start..end))
        } else {
            Some(Err(BadOffsets { start, end }))
        }
    }

    /// The bytes that say where some documents from `first` on begin and end, as far as there are any.
    #[inline]
    pub(crate) fn bytes_of(&self, first: u64, documents: u64) -> &'a [u8] {
        let start = (first.min(self.documents) * 8) as usize;
        let end = ((first.saturating_add(documents).min(self.documents) + 1) * 8) as usize;
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The number at `index`, as it stands in the file.
    #[inline]
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index).ok()?.checked_mul(8)?;
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}
