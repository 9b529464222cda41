//! Masking in plain Rust: what every machine can run, and what defines the result for those that run something faster.

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::philox::LANES;

/// Masks a sample, see [`Masker::mask`](super::Masker::mask).
pub(super) fn mask<T: Copy + Default + Into<u32>>(
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
    first: usize,
    room: Room<'_>,
) -> Masked {
    let Room { ids, positions, labels } = room;
    let mut masked = Masked::default();
    for (index, (text, ids)) in text.chunks(CHUNK).zip(ids.chunks_mut(CHUNK)).enumerate() {
        let words = rule.key.mask_words((index * LANES) as u32, counter);
        for (at, (token, word)) in text.iter().zip(words).enumerate() {
            let (token, word): (u32, i32) = ((*token).into(), word as i32);
            masked.largest = masked.largest.max(token);
            ids[at] = token as i32;
            if (word <= draw.chosen_last) & !rule.is_special(token) {
                if word <= draw.mask_last {
                    ids[at] = rule.mask as i32;
                } else if word <= draw.random_last {
                    ids[at] = draw.replacement(word) as i32;
                }
                positions[masked.chosen] = (first + index * CHUNK + at) as i32;
                labels[masked.chosen] = token as i32;
                masked.chosen += 1;
            }
        }
    }
    masked
}

/// Counts what [`mask`] would choose.
pub(super) fn count<T: Copy + Into<u32>>(rule: &Rule, draw: &Draw, counter: [u32; 3], text: &[T]) -> Masked {
    let mut masked = Masked::default();
    for (index, text) in text.chunks(CHUNK).enumerate() {
        let words = rule.key.mask_words((index * LANES) as u32, counter);
        for (token, word) in text.iter().zip(words) {
            let (token, word): (u32, i32) = ((*token).into(), word as i32);
            masked.largest = masked.largest.max(token);
            masked.chosen += usize::from((word <= draw.chosen_last) & !rule.is_special(token));
        }
    }
    masked
}
