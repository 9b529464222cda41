//! BLAKE3 of a file whose first bytes are known last, without reading it back.
//!
//! BLAKE3 is a tree (section 2.1 of its paper): a piece of 2ⁿ chunks that begins at a multiple of its length is a subtree
//! of its own, whatever comes before it. So pieces are hashed as they are written, the first one at the end.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// Bytes of a piece: a power of two of chunks (1 KiB), few enough to be in the processor's second-level cache still.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// The hash of piece `index`, counted from 0, of at least two. Only the last may be shorter than [`PIECE_BYTES`].
pub(super) fn piece(index: usize, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset((index * PIECE_BYTES) as u64).update(bytes);
    hasher.finalize_non_root()
}

/// The hash of the file that at least two pieces make up.
pub(super) fn whole(pieces: &[ChainingValue]) -> Hash {
    let (left, right) = halves(pieces);
    merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn subtree(pieces: &[ChainingValue]) -> ChainingValue {
    if let [piece] = pieces {
        return *piece;
    }
    let (left, right) = halves(pieces);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left half of a tree is as large as a power of two can be that leaves something to the right one.
fn halves(pieces: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    pieces.split_at(pieces.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 9 + 1).map(|i| (i * 7 % 251) as u8).collect();
        for pieces in 2..=9 {
            for last in [1, 1023, 1024, 1025, PIECE_BYTES - 1, PIECE_BYTES] {
                let bytes = &bytes[..PIECE_BYTES * (pieces - 1) + last];
                let hashes: Vec<_> =
                    bytes.chunks(PIECE_BYTES).enumerate().map(|(index, bytes)| piece(index, bytes)).collect();
                assert_eq!(whole(&hashes), blake3::hash(bytes), "{} bytes", bytes.len());
            }
        }
    }
}
