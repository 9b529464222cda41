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
        let words = rule.key.words((index * LANES) as u32, counter);
        for (at, (token, &word)) in text.iter().zip(&words).enumerate() {
            let token: u32 = (*token).into();
            masked.largest = masked.largest.max(token);
            let chosen = (word <= draw.chosen_last) & !rule.is_special(token);
            ids[at] = token as i32;
            if chosen {
                ids[at] = match word {
                    _ if word <= draw.mask_last => rule.mask as i32,
                    _ if word <= draw.random_last => draw.replacement(word, rule.vocab_size) as i32,
                    _ => token as i32,
                };
                positions[masked.chosen] = (first + index * CHUNK + at) as i64;
                labels[masked.chosen] = i64::from(token);
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
        let words = rule.key.words((index * LANES) as u32, counter);
        for (token, &word) in text.iter().zip(&words) {
            let token: u32 = (*token).into();
            masked.largest = masked.largest.max(token);
            masked.chosen += usize::from((word <= draw.chosen_last) & !rule.is_special(token));
        }
    }
    masked
}
