//! A window of text looked at thirty-two bytes at a time.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256,
    _mm256_movemask_epi8, _mm256_or_si256, _mm256_set1_epi8, _mm256_storeu_si256,
};

use super::BLOCK;

/// What [`super::look_at`] does, if this processor can.
#[inline]
pub(super) fn look_at(
    blocks: &[[u8; BLOCK]],
    case: u8,
    bytes: &mut [[u8; BLOCK]],
    masks: &mut [u64],
) -> Option<()> {
    // SAFETY: the processor was just asked for it.
    is_x86_feature_detected!("avx2").then(|| unsafe { look_at_avx2(blocks, case, bytes, masks) })
}

#[target_feature(enable = "avx2")]
fn look_at_avx2(blocks: &[[u8; BLOCK]], case: u8, bytes: &mut [[u8; BLOCK]], masks: &mut [u64]) {
    let all = |byte: u8| _mm256_set1_epi8(byte as i8);
    for ((block, bytes), mask) in blocks.iter().zip(bytes).zip(masks) {
        let halves = block.as_chunks::<32>().0.iter().zip(bytes.as_chunks_mut::<32>().0);
        *mask = 0;
        for ((half, place), shift) in halves.zip([0, 32]) {
            // SAFETY: thirty-two bytes lie there, and this load asks for no alignment.
            let text = unsafe { _mm256_loadu_si256(half.as_ptr().cast::<__m256i>()) };
            let is = |byte| _mm256_cmpeq_epi8(text, all(byte));
            let spaces = _mm256_or_si256(is(b' '), is(b'\t'));
            let separators = _mm256_or_si256(spaces, _mm256_or_si256(is(b'\n'), is(b'\r')));
            *mask |= u64::from(_mm256_movemask_epi8(separators) as u32) << shift;
            // Compared with signs, bytes outside ASCII are below 'A'.
            let capitals = _mm256_and_si256(
                _mm256_cmpgt_epi8(text, all(b'A' - 1)),
                _mm256_cmpgt_epi8(all(b'Z' + 1), text),
            );
            let folded = _mm256_or_si256(text, _mm256_and_si256(capitals, all(case)));
            // SAFETY: there is room for thirty-two bytes, and this store asks for no alignment.
            unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast::<__m256i>(), folded) };
        }
    }
}
