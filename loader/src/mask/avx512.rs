//! Masking with AVX-512: the same bits as `portable`, sixteen tokens at a time.
//!
//! First the random words of a turn of tokens are drawn, then the tokens are looked at. A round of Philox waits for the
//! round before it, so several chunks are drawn side by side.

// Calling functions compiled for instructions that not every processor has, and loads and stores of whole vectors.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::philox::{Key, LANES, MASK_ROUNDS, MULTIPLIERS};

/// Tokens of a vector.
const GROUP: usize = 16;
/// Tokens of a turn: a sample of the usual length.
const TURN: usize = 128;
const GROUPS: usize = TURN / GROUP;

/// The key of each round, one in each 64 bits.
type Keys = [[u64; 2]; MASK_ROUNDS];

/// Masking under a key on a processor that has the instructions: only [`detect`](Avx512::detect) makes one.
#[derive(Clone, Debug)]
pub(super) struct Avx512 {
    keys: Keys,
}

impl Avx512 {
    /// Asks the processor.
    pub(super) fn detect(key: Key) -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("popcnt");
        found.then(|| Self { keys: key.schedule().map(|keys| keys.map(u64::from)) })
    }

    /// As [`portable::mask`](super::portable::mask).
    pub(super) fn mask<T: Token>(
        &self,
        rule: &Rule,
        draw: &Draw,
        counter: [u32; 3],
        text: &[T],
        first: usize,
        room: Room<'_>,
    ) -> Masked {
        // SAFETY: `self` exists, so `detect` has found every feature that the function is compiled for.
        unsafe { mask(&self.keys, rule, draw, counter, text, first, room) }
    }

    /// As [`portable::count`](super::portable::count).
    pub(super) fn count<T: Token>(&self, rule: &Rule, draw: &Draw, counter: [u32; 3], text: &[T]) -> Masked {
        // SAFETY: as above.
        unsafe { count(&self.keys, rule, draw, counter, text) }
    }
}

/// A stored token id.
pub(super) trait Token: Copy {
    /// Sixteen of them, one in each 32 bits.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL.
    unsafe fn load(from: &[Self; GROUP]) -> __m512i;

    /// Up to sixteen of them, zeros behind.
    ///
    /// # Safety
    /// As above.
    unsafe fn load_some(from: &[Self]) -> __m512i;
}

impl Token for u16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn load(from: &[Self; GROUP]) -> __m512i {
        // SAFETY: reads the 32 bytes of the array; the instruction asks for no alignment.
        _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(from.as_ptr().cast()) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn load_some(from: &[Self]) -> __m512i {
        // SAFETY: nothing is read where a bit is missing, and there are no more bits than tokens.
        _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(live(from.len()), from.as_ptr().cast()) })
    }
}

impl Token for u32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn load(from: &[Self; GROUP]) -> __m512i {
        // SAFETY: reads the 64 bytes of the array; the instruction asks for no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    unsafe fn load_some(from: &[Self]) -> __m512i {
        // SAFETY: nothing is read where a bit is missing, and there are no more bits than tokens.
        unsafe { _mm512_maskz_loadu_epi32(live(from.len()), from.as_ptr().cast()) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
fn mask<T: Token>(
    keys: &Keys,
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
    first: usize,
    room: Room<'_>,
) -> Masked {
    let len = text.len();
    let Room { ids, positions, labels } = room;
    let mut out = Choices { positions: &mut positions[..len], labels: &mut labels[..len], count: 0 };
    let mut choice = Choice::new(rule, draw);
    let mut drawn = Drawn::new();
    let mut places = {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        _mm512_add_epi32(lanes, set1(first as i32))
    };
    for (turn, (text, ids)) in (0..).zip(text.chunks(TURN).zip(ids[..len].chunks_mut(TURN))) {
        drawn.draw(keys, draw, counter, turn, text.len());
        // Whole groups by themselves: masks for what is missing would cost as much as the rest.
        let (text, tail) = text.as_chunks::<GROUP>();
        let (ids, tail_ids) = ids.as_chunks_mut::<GROUP>();
        for ((text, ids), drawn) in text.iter().zip(ids).zip(&drawn.groups) {
            // SAFETY: this function is compiled for the features.
            let tokens = unsafe { T::load(text) };
            let (chosen, seen) = choice.see(tokens, drawn, !0);
            // SAFETY: writes the 64 bytes of the array; the instruction asks for no alignment.
            unsafe { _mm512_storeu_si512(ids.as_mut_ptr().cast(), seen) };
            // SAFETY: no more were chosen than tokens came before these 16, and there is room for as many as tokens.
            unsafe { out.append(chosen, places, tokens) };
            places = _mm512_add_epi32(places, set1(GROUP as i32));
        }
        if !tail.is_empty() {
            // SAFETY: this function is compiled for the features.
            let tokens = unsafe { T::load_some(tail) };
            let live = live(tail.len());
            let (chosen, seen) = choice.see(tokens, &drawn.groups[text.len()], live);
            // SAFETY: nothing is written where a bit is missing, and `tail_ids` is as long as `tail`.
            unsafe { _mm512_mask_storeu_epi32(tail_ids.as_mut_ptr(), live, seen) };
            out.append_last(chosen, places, tokens);
        }
    }
    Masked { chosen: out.count, largest: choice.largest() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
fn count<T: Token>(keys: &Keys, rule: &Rule, draw: &Draw, counter: [u32; 3], text: &[T]) -> Masked {
    let mut choice = Choice::new(rule, draw);
    let mut drawn = Drawn::new();
    let mut chosen = 0;
    for (turn, text) in (0..).zip(text.chunks(TURN)) {
        drawn.draw(keys, draw, counter, turn, text.len());
        let (text, tail) = text.as_chunks::<GROUP>();
        for (text, drawn) in text.iter().zip(&drawn.groups) {
            // SAFETY: this function is compiled for the features.
            let tokens = unsafe { T::load(text) };
            chosen += choice.of(tokens, drawn.words, !0).count_ones();
        }
        if !tail.is_empty() {
            // SAFETY: this function is compiled for the features.
            let tokens = unsafe { T::load_some(tail) };
            chosen += choice.of(tokens, drawn.groups[text.len()].words, live(tail.len())).count_ones();
        }
    }
    Masked { chosen: chosen as usize, largest: choice.largest() }
}

/// A bit for each of up to 16 tokens.
#[inline(always)]
fn live(tokens: usize) -> u16 {
    ((1u32 << tokens) - 1) as u16
}

/// Which tokens are chosen.
struct Choice {
    mask: __m512i,
    mask_last: __m512i,
    random_last: __m512i,
    chosen_last: __m512i,
    special: [__m512i; 5],
    /// The lowest special id, and how far above it the highest is.
    lowest: __m512i,
    span: __m512i,
    /// The largest token so far, in 16 parts.
    largest: __m512i,
}

impl Choice {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(rule: &Rule, draw: &Draw) -> Self {
        let [a, b, c, d, e] = rule.special.map(|id| id as i32);
        let (lowest, span) = rule.special_span();
        Self {
            mask: set1(rule.mask as i32),
            mask_last: set1(draw.mask_last),
            random_last: set1(draw.random_last),
            chosen_last: set1(draw.chosen_last),
            special: [set1(a), set1(b), set1(c), set1(d), set1(e)],
            lowest: set1(lowest as i32),
            span: set1(span as i32),
            largest: _mm512_setzero_si512(),
        }
    }

    /// A bit for each token, of those with a bit in `live`, that is to be predicted.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn of(&mut self, tokens: __m512i, words: __m512i, live: u16) -> u16 {
        self.largest = _mm512_max_epu32(self.largest, tokens);
        let mut chosen = _mm512_mask_cmple_epi32_mask(live, words, self.chosen_last);
        // Most text has no token near the special ids, so that one comparison says so.
        if _mm512_mask_cmple_epu32_mask(chosen, _mm512_sub_epi32(tokens, self.lowest), self.span) != 0 {
            for id in self.special {
                chosen = _mm512_mask_cmpneq_epi32_mask(chosen, tokens, id);
            }
        }
        chosen
    }

    /// A bit for each token, of those with a bit in `live`, that is to be predicted, and what the model sees.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn see(&mut self, tokens: __m512i, drawn: &Group, live: u16) -> (u16, __m512i) {
        let words = drawn.words;
        let chosen = self.of(tokens, words, live);
        let to_mask = _mm512_mask_cmple_epi32_mask(chosen, words, self.mask_last);
        let to_change = _mm512_mask_cmple_epi32_mask(chosen, words, self.random_last);
        let seen = _mm512_mask_mov_epi32(tokens, to_change, drawn.replacements);
        (chosen, _mm512_mask_mov_epi32(seen, to_mask, self.mask))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn largest(&self) -> u32 {
        _mm512_reduce_max_epu32(self.largest)
    }
}

/// The chosen tokens of a sample so far.
struct Choices<'a> {
    positions: &'a mut [i32],
    labels: &'a mut [i32],
    count: usize,
}

impl Choices<'_> {
    /// Appends those of 16 places and tokens whose bit is set.
    ///
    /// # Safety
    /// There is room for 16 more.
    #[target_feature(enable = "avx512f,popcnt")]
    #[inline]
    unsafe fn append(&mut self, chosen: u16, places: __m512i, tokens: __m512i) {
        let places = _mm512_maskz_compress_epi32(chosen, places);
        let labels = _mm512_maskz_compress_epi32(chosen, tokens);
        // Sixteen numbers are written, and those past the count are overwritten by the next.
        // SAFETY: the caller promises that 16 numbers behind `count` are there; the instruction asks for no alignment.
        unsafe {
            _mm512_storeu_si512(self.positions.as_mut_ptr().add(self.count).cast(), places);
            _mm512_storeu_si512(self.labels.as_mut_ptr().add(self.count).cast(), labels);
        }
        self.count += chosen.count_ones() as usize;
    }

    /// As [`append`](Choices::append) where there may be room for no more than those that are chosen.
    #[target_feature(enable = "avx512f,popcnt")]
    #[inline]
    fn append_last(&mut self, chosen: u16, places: __m512i, tokens: __m512i) {
        let (start, count) = (self.count, chosen.count_ones() as usize);
        self.count += count;
        let positions = &mut self.positions[start..self.count];
        let labels = &mut self.labels[start..self.count];
        // SAFETY: writes as many numbers as the slices have.
        unsafe {
            let places = _mm512_maskz_compress_epi32(chosen, places);
            _mm512_mask_storeu_epi32(positions.as_mut_ptr(), live(count), places);
            let tokens = _mm512_maskz_compress_epi32(chosen, tokens);
            _mm512_mask_storeu_epi32(labels.as_mut_ptr(), live(count), tokens);
        }
    }
}

/// What chance says of the tokens of a turn.
struct Drawn {
    groups: [Group; GROUPS],
}

/// What it says of a group.
#[derive(Clone, Copy)]
struct Group {
    words: __m512i,
    /// The token that each word stands for, if it is one of those that stand for one.
    replacements: __m512i,
}

impl Drawn {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let zeros = _mm512_setzero_si512();
        Self { groups: [Group { words: zeros, replacements: zeros }; GROUPS] }
    }

    /// Draws for the first `tokens` tokens of a turn, at least.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn draw(&mut self, keys: &Keys, draw: &Draw, counter: [u32; 3], turn: u32, tokens: usize) {
        let block = turn * (TURN / CHUNK * LANES) as u32;
        if tokens > TURN / 2 {
            self.chunks::<4>(keys, draw, counter, block);
        } else {
            self.chunks::<2>(keys, draw, counter, block);
        }
    }

    /// Draws for the first `N` chunks.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn chunks<const N: usize>(&mut self, keys: &Keys, draw: &Draw, counter: [u32; 3], block: u32) {
        let before_first = set1(draw.mask_last.wrapping_add(1));
        let (scale, shift) = (_mm512_set1_epi64(draw.scale.into()), _mm512_set1_epi64(draw.shift.into()));
        let pairs = words::<N>(keys, counter, block).into_iter().flat_map(|[a, b, c, d]| [[a, b], [c, d]]);
        for (group, [a, b]) in self.groups.iter_mut().zip(pairs) {
            // As `Draw::replacement` does.
            let replacement = |words| {
                let index = _mm512_sub_epi32(words, before_first);
                _mm512_srlv_epi64(_mm512_mul_epu32(index, scale), shift)
            };
            *group = Group { words: narrow(a, b), replacements: narrow(replacement(a), replacement(b)) };
        }
    }
}

/// The random words of the next `N` chunks, from the block with the number `block` on. Each vector holds a word of eight
/// blocks in the lower halves of its 64 bits, where the multiplication wants them; the upper halves hold leftovers.
#[target_feature(enable = "avx512f")]
#[inline]
fn words<const N: usize>(keys: &Keys, [c1, c2, c3]: [u32; 3], block: u32) -> [[__m512i; 4]; N] {
    let [m0, m1] = MULTIPLIERS.map(|multiplier| _mm512_set1_epi64(multiplier.into()));
    let mut all = [[_mm512_setzero_si512(); 4]; N];
    for (chunk, words) in (0..).zip(&mut all) {
        let first = _mm512_set1_epi64((block + chunk * LANES as u32).into());
        *words = [
            _mm512_add_epi64(first, _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm512_set1_epi64(c1.into()),
            _mm512_set1_epi64(c2.into()),
            _mm512_set1_epi64(c3.into()),
        ];
    }
    for [k0, k1] in keys {
        let (k0, k1) = (_mm512_set1_epi64(*k0 as i64), _mm512_set1_epi64(*k1 as i64));
        for [a, b, c, d] in &mut all {
            let low = _mm512_mul_epu32(*a, m0);
            let high = _mm512_mul_epu32(*c, m1);
            *a = xor3(_mm512_srli_epi64::<32>(high), *b, k0);
            *b = high;
            *c = xor3(_mm512_srli_epi64::<32>(low), *d, k1);
            *d = low;
        }
    }
    all
}

/// The lower halves of the 64 bits of two vectors, one behind the other.
#[target_feature(enable = "avx512f")]
#[inline]
fn narrow(a: __m512i, b: __m512i) -> __m512i {
    let lower = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    _mm512_permutex2var_epi32(a, lower, b)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn set1(number: i32) -> __m512i {
    _mm512_set1_epi32(number)
}
