//! Cutting text into raw chunks at ASCII whitespace, sixty-four bytes at a time.
//!
//! # Why this never changes ids
//!
//! Let `S` be the four bytes space, tab, line feed and carriage return, and let the text be `x s y` with `s` in `S`.
//! Then `ids(x s y) = ids(x) ids(y)`, step by step of the pipeline:
//!
//! 1. *Added tokens* are found leftmost-longest. [`super::definition`] refuses definitions in which one contains a
//!    character of `S`, so no match spans `s`, and a scan of `x s y` makes the decisions of a scan of `x` followed
//!    by one of `y`.
//! 2. *Cleaning*, *Chinese spacing* and *lower-casing* work on one character at a time (`char::to_lowercase` knows
//!    no context). Cleaning keeps `s`, as a space; without cleaning it stays what it is.
//! 3. *NFD* decomposes one character at a time, then sorts runs of characters whose combining class is not zero.
//!    The class of `s` is zero and nothing decomposes to a character of `S` or combines with it, so no run spans it.
//! 4. *The pre-tokenizer* splits at `char::is_whitespace`, which holds for all of `S` and for the space cleaning
//!    leaves, and drops the separator.
//! 5. *WordPiece* sees one pre-token at a time.
//!
//! Vertical tab and form feed are *not* in `S`: cleaning deletes them and so joins their neighbours.

/// Bytes looked at in one step.
pub(super) const BLOCK: usize = 64;

/// Whether `byte` separates raw chunks.
pub(super) const fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// One bit a byte of the block, set where a separator is; bit 0 is the first byte.
///
/// The comparisons become vector instructions by themselves. The multiplication gathers eight flags into eight bits:
/// the flag of byte `i` lands in bit `i` of the product's top byte, and nothing else reaches that byte.
#[inline]
pub(super) fn separators(block: &[u8; BLOCK]) -> u64 {
    let flags: [u8; BLOCK] = std::array::from_fn(|i| {
        let byte = block[i];
        u8::from((byte == b' ') | (byte == b'\t') | (byte == b'\n') | (byte == b'\r'))
    });
    flags.as_chunks::<8>().0.iter().enumerate().fold(0, |mask, (i, eight)| {
        mask | (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_agree_with_the_definition_for_every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..BLOCK {
                for filler in [b'a', 0, 255, b' '] {
                    let mut block = [filler; BLOCK];
                    block[place] = byte;
                    let expected = (0..BLOCK).map(|i| u64::from(is_separator(block[i])) << i).sum::<u64>();
                    assert_eq!(separators(&block), expected, "byte {byte} at {place}");
                }
            }
        }
    }
}
