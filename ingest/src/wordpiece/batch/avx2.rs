//! Keys of eight chunks at a time: what [`Batch::keys`] does, in the lanes of AVX2.
//!
//! ```text
//! sixteen bytes of chunk 0 │ of chunk 2    bytes behind the end     low 0  │ low 1  │ low 2  │ low 3
//! sixteen bytes of chunk 1 │ of chunk 3   cleared, length on top    high 0 │ high 1 │ high 2 │ high 3
//! ```
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi16, _mm_alignr_epi8, _mm_and_si128, _mm_andnot_si128, _mm_cmpgt_epi16,
    _mm_loadu_si128, _mm_or_si128, _mm_packus_epi32, _mm_set1_epi16, _mm_srli_epi32, _mm_sub_epi16,
    _mm_unpackhi_epi16, _mm_unpacklo_epi16, _mm256_and_si256, _mm256_blend_epi32,
    _mm256_broadcastsi128_si256, _mm256_castsi128_si256, _mm256_cmpgt_epi8, _mm256_cvtepu32_epi64,
    _mm256_inserti128_si256, _mm256_mul_epu32, _mm256_or_si256, _mm256_set_epi8, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi64x, _mm256_shuffle_epi8, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::super::cache::{HASH_HIGH, HASH_LOW, MAX_KEY, NO_LENGTH};
use super::super::ids::Mark;
use super::super::split::Window;
use super::{BATCH, Batch, GROUP};

/// Lanes of a vector.
const LANES: usize = 4;

/// What [`Batch::keys`] does, if this processor can.
#[inline]
pub(super) fn keys(
    batch: &mut Batch,
    window: &Window,
    ends: &[u16; BATCH],
    count: usize,
    start: u16,
) -> Option<()> {
    // SAFETY: the processor was just asked for it.
    is_x86_feature_detected!("avx2").then(|| unsafe { keys_avx2(batch, window, ends, count, start) })
}

#[target_feature(enable = "avx2")]
fn keys_avx2(batch: &mut Batch, window: &Window, ends: &[u16; BATCH], count: usize, start: u16) {
    let pair = |first, second| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second);
    let hash_of_half = |word: __m256i, with: u64| {
        let word = _mm256_xor_si256(word, _mm256_set1_epi64x(with as i64));
        _mm256_mul_epu32(word, _mm256_srli_epi64::<32>(word))
    };
    // The places of the bytes in a chunk.
    #[rustfmt::skip]
    let places = _mm256_set_epi8(
        15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
        15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
    );
    // Shuffles of eight lengths of two bytes: the low byte of the first to all bytes of chunk 0, that of the third to all of
    // chunk 2. With the bit of a number set everywhere they are those of as many bytes further on.
    let everywhere = _mm256_inserti128_si256::<1>(_mm256_set1_epi16(0), _mm_set1_epi16(0x0404));
    // The same, only to the topmost byte: where the highest bit is set a shuffle puts a zero.
    let on_top = _mm256_or_si256(everywhere, _mm256_cmpgt_epi8(_mm256_set1_epi16(0x0f0f), places));

    let Batch { lows, highs, chunks, marks } = batch;
    let halves = |marks: &[Mark; GROUP]| {
        let halves = marks.as_chunks::<LANES>().0;
        (load(&halves[0]), load(&halves[1]))
    };
    // A chunk starts behind the separator that ends the one before.
    let mut first = load(window.load::<16>(start));
    let mut before = _mm_set1_epi16(start.wrapping_sub(1) as i16);
    for group in 0..count.div_ceil(GROUP).min(BATCH / GROUP) {
        let ends = &ends.as_chunks::<GROUP>().0[group];
        let all = load(ends);
        let starts = _mm_add_epi16(_mm_alignr_epi8::<14>(all, before), _mm_set1_epi16(1));
        before = all;
        // The bit that says that there is a mark.
        let (cut, more_cut) = halves(&marks.as_chunks::<GROUP>().0[group]);
        let cut = _mm_packus_epi32(_mm_srli_epi32::<31>(cut), _mm_srli_epi32::<31>(more_cut));
        let lens = _mm_sub_epi16(_mm_sub_epi16(all, starts), cut);
        // What is too long has no bytes, and a length that no other has.
        let long = _mm_cmpgt_epi16(lens, _mm_set1_epi16(MAX_KEY as i16));
        let kept = _mm_andnot_si128(long, lens);
        let noted = _mm_or_si128(kept, _mm_and_si128(long, _mm_set1_epi16(i16::from(NO_LENGTH))));
        let (kept, noted) = (_mm256_broadcastsi128_si256(kept), _mm256_broadcastsi128_si256(noted));
        let chunk_places = [_mm_unpacklo_epi16(starts, lens), _mm_unpackhi_epi16(starts, lens)];

        for (half, ends) in ends.as_chunks::<LANES>().0.iter().enumerate() {
            let behind = |at: usize| load(window.load_behind::<16>(ends[at]));
            let (even, odd) = (pair(first, behind(1)), pair(behind(0), behind(2)));
            first = behind(3);

            let keyed = |bytes, first: usize| {
                let first = _mm256_set1_epi8((2 * (LANES * half + first)) as i8);
                let of = |lens, shape| _mm256_shuffle_epi8(lens, _mm256_or_si256(shape, first));
                let kept = _mm256_and_si256(bytes, _mm256_cmpgt_epi8(of(kept, everywhere), places));
                _mm256_or_si256(kept, of(noted, on_top))
            };
            let (even, odd) = (keyed(even, 0), keyed(odd, 1));
            let (low, high) = (_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));

            // Key::hash.
            let mixed = _mm256_xor_si256(hash_of_half(low, HASH_LOW), hash_of_half(high, HASH_HIGH));
            let slot = _mm256_xor_si256(mixed, _mm256_srli_epi64::<32>(mixed));
            let place = _mm256_slli_epi64::<32>(_mm256_cvtepu32_epi64(chunk_places[half]));
            let at = 2 * group + half;
            store(&mut lows.as_chunks_mut().0[at], low);
            store(&mut highs.as_chunks_mut().0[at], high);
            store(&mut chunks.as_chunks_mut().0[at], _mm256_blend_epi32::<0b1010_1010>(slot, place));
        }
    }
}

/// Sixteen bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T, const MANY: usize>(from: &[T; MANY]) -> __m128i {
    const { assert!(size_of::<[T; MANY]>() == size_of::<__m128i>()) };
    // SAFETY: so many bytes lie there, and this load asks for no alignment.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

/// Writes four lanes over as many elements of eight bytes, for which every bit pattern is a value.
#[inline]
#[target_feature(enable = "avx2")]
fn store<T: zerocopy::FromBytes>(to: &mut [T; LANES], lanes: __m256i) {
    const { assert!(size_of::<T>() == size_of::<u64>()) };
    // SAFETY: there is room for so many bytes, every pattern of which is a `T`, and this store asks for no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), lanes) };
}
