//! Masking with AVX2: the same bits as `portable`, eight tokens at a time.
//!
//! First what chance says of a turn of tokens is drawn, replacements for all of them included, then the tokens are looked at.
//! Nothing depends on what was chosen, so there is no branch to guess.

// Calling functions compiled for instructions that not every processor has, and loads and stores of whole vectors.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::philox::{Key, LANES, MASK_ROUNDS, MULTIPLIERS};

/// Tokens of a turn: a sample of the usual length.
const TURN: usize = 128;
const GROUPS: usize = TURN / LANES;

/// The key of each round in all four 64 bits of a vector, as an instruction takes it from memory.
type Keys = [[__m256i; 2]; MASK_ROUNDS];

/// Masking under a key on a processor that has the instructions: only [`detect`](Avx2::detect) makes one.
#[derive(Clone, Debug)]
pub(super) struct Avx2 {
    keys: Keys,
}

impl Avx2 {
    /// Asks the processor.
    pub(super) fn detect(key: Key) -> Option<Self> {
        let found = cfg!(feature = "simd")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt");
        // SAFETY: the processor has been found to have AVX2.
        found.then(|| Self { keys: unsafe { spread(key) } })
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

#[target_feature(enable = "avx2")]
fn spread(key: Key) -> Keys {
    let mut spread = [[_mm256_setzero_si256(); 2]; MASK_ROUNDS];
    for (spread, keys) in spread.iter_mut().zip(key.schedule::<MASK_ROUNDS>()) {
        *spread = keys.map(|key| _mm256_set1_epi64x(key.into()));
    }
    spread
}

/// A stored token id.
pub(super) trait Token: Copy + Default {
    /// Eight of them, one in each 32 bits.
    ///
    /// # Safety
    /// The processor has AVX2.
    unsafe fn load(tokens: &[Self; LANES]) -> __m256i;
}

impl Token for u16 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load(tokens: &[Self; LANES]) -> __m256i {
        // SAFETY: reads the 16 bytes of the array; the instruction asks for no alignment.
        _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(tokens.as_ptr().cast()) })
    }
}

impl Token for u32 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load(tokens: &[Self; LANES]) -> __m256i {
        // SAFETY: reads the 32 bytes of the array; the instruction asks for no alignment.
        unsafe { _mm256_loadu_si256(tokens.as_ptr().cast()) }
    }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
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
    let mut choice = Choice::new(rule, draw);
    let mut out = Choices { positions: &mut positions[..len], labels: &mut labels[..len], count: 0 };
    let mut room = [MaybeUninit::uninit(); GROUPS];
    let mut place = set1(first as i32);
    for (turn, (text, ids)) in (0..).zip(text.chunks(TURN).zip(ids[..len].chunks_mut(TURN))) {
        let drawn = Drawn::of_turn(&mut room, keys, draw, counter, turn, text.len());
        let (text, tail) = text.as_chunks();
        let (whole_ids, tail_ids) = ids.as_chunks_mut();
        for ((text, ids), drawn) in text.iter().zip(whole_ids).zip(drawn) {
            // SAFETY: this function is compiled for AVX2.
            let tokens = unsafe { T::load(text) };
            let (chosen, seen) = choice.see(tokens, drawn);
            store(ids, seen);
            // SAFETY: no more were chosen than tokens came before these eight, and there is room for as many as tokens.
            unsafe { out.append(chosen, place, tokens) };
            place = _mm256_add_epi32(place, set1(LANES as i32));
        }
        if !tail.is_empty() {
            let (mut last, mut last_ids) = ([T::default(); LANES], [0; LANES]);
            copy(tail, &mut last);
            // SAFETY: as above.
            let tokens = unsafe { T::load(&last) };
            let (chosen, seen) = choice.see(tokens, &drawn[text.len()]);
            store(&mut last_ids, seen);
            copy(&last_ids[..tail.len()], tail_ids);
            out.append_last(chosen & ((1 << tail.len()) - 1), place, tokens);
        }
    }
    Masked { chosen: out.count, largest: choice.largest() }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn count<T: Token>(keys: &Keys, rule: &Rule, draw: &Draw, counter: [u32; 3], text: &[T]) -> Masked {
    let mut choice = Choice::new(rule, draw);
    let mut chosen = 0;
    let mut room = [MaybeUninit::uninit(); GROUPS];
    for (turn, text) in (0..).zip(text.chunks(TURN)) {
        let drawn = Drawn::of_turn(&mut room, keys, draw, counter, turn, text.len());
        let (text, tail) = text.as_chunks();
        for (text, drawn) in text.iter().zip(drawn) {
            // SAFETY: this function is compiled for AVX2.
            let tokens = unsafe { T::load(text) };
            chosen += LANES as u32 - bits(choice.of(tokens, drawn.words)).count_ones();
        }
        if !tail.is_empty() {
            let mut last = [T::default(); LANES];
            copy(tail, &mut last);
            // SAFETY: as above.
            let tokens = unsafe { T::load(&last) };
            let not_chosen = bits(choice.of(tokens, drawn[text.len()].words));
            chosen += (!not_chosen & ((1 << tail.len()) - 1)).count_ones();
        }
    }
    Masked { chosen: chosen as usize, largest: choice.largest() }
}

/// Copies a few numbers, without a call.
#[inline(always)]
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    from.iter().zip(to).for_each(|(from, to)| *to = *from);
}

/// Which tokens are chosen, and what is seen of them.
struct Choice {
    mask: __m256i,
    mask_last: __m256i,
    random_last: __m256i,
    chosen_last: __m256i,
    special: [__m256i; 5],
    /// The lowest special id, and one more than how far above it the highest is.
    lowest: __m256i,
    span: __m256i,
    /// The largest token so far, in eight parts.
    largest: __m256i,
}

impl Choice {
    #[target_feature(enable = "avx2")]
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
            span: set1(span.saturating_add(1).min(i32::MAX as u32) as i32),
            largest: _mm256_setzero_si256(),
        }
    }

    /// All ones for each token that is not to be predicted.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(&mut self, tokens: __m256i, words: __m256i) -> __m256i {
        self.largest = _mm256_max_epu32(self.largest, tokens);
        let mut not_chosen = _mm256_cmpgt_epi32(words, self.chosen_last);
        // Most text has no token near the special ids, so that one comparison says so. It is of signed numbers: those
        // below the lowest and above 2^31 count as near, which costs a closer look.
        if bits(_mm256_cmpgt_epi32(self.span, _mm256_sub_epi32(tokens, self.lowest))) != 0 {
            for id in self.special {
                not_chosen = _mm256_or_si256(not_chosen, _mm256_cmpeq_epi32(tokens, id));
            }
        }
        not_chosen
    }

    /// A bit for each token that is to be predicted, and what the model sees.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn see(&mut self, tokens: __m256i, drawn: &Drawn) -> (u32, __m256i) {
        let words = drawn.words;
        let not_chosen = self.of(tokens, words);
        let not_changed = _mm256_or_si256(not_chosen, _mm256_cmpgt_epi32(words, self.random_last));
        // Replacements stand where the token is chosen and its word is neither below those that stand for one nor above.
        let not_masked = _mm256_cmpgt_epi32(words, self.mask_last);
        let change = _mm256_blendv_epi8(self.mask, drawn.replacements, not_masked);
        let seen = _mm256_blendv_epi8(change, tokens, not_changed);
        (!bits(not_chosen) & 0xff, seen)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn largest(&self) -> u32 {
        let mut lanes = [0; LANES];
        store(&mut lanes, self.largest);
        lanes.into_iter().fold(0, |largest, lane| largest.max(lane as u32))
    }
}

/// The chosen tokens of a sample so far.
struct Choices<'a> {
    positions: &'a mut [i32],
    labels: &'a mut [i32],
    count: usize,
}

impl Choices<'_> {
    /// Appends those of eight tokens whose bit is set; `place` is that of the first of them, eight times.
    ///
    /// # Safety
    /// There is room for eight more.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    unsafe fn append(&mut self, chosen: u32, place: __m256i, tokens: __m256i) {
        let (places, labels) = pick(chosen, place, tokens);
        // Eight numbers are written, and those past the count are overwritten by the next.
        // SAFETY: the caller promises that eight numbers behind `count` are there; the instruction asks for no alignment.
        unsafe {
            _mm256_storeu_si256(self.positions.as_mut_ptr().add(self.count).cast(), places);
            _mm256_storeu_si256(self.labels.as_mut_ptr().add(self.count).cast(), labels);
        }
        self.count += chosen.count_ones() as usize;
    }

    /// As [`append`](Choices::append) where there may be room for no more than those that are chosen.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn append_last(&mut self, chosen: u32, place: __m256i, tokens: __m256i) {
        let (places, labels) = pick(chosen, place, tokens);
        let (mut some_places, mut some_labels) = ([0; LANES], [0; LANES]);
        store(&mut some_places, places);
        store(&mut some_labels, labels);
        let start = self.count;
        self.count += chosen.count_ones() as usize;
        copy(&some_places, &mut self.positions[start..self.count]);
        copy(&some_labels, &mut self.labels[start..self.count]);
    }
}

/// The places of the set bits and the tokens there, one behind the other.
#[target_feature(enable = "avx2")]
#[inline]
fn pick(chosen: u32, place: __m256i, tokens: __m256i) -> (__m256i, __m256i) {
    let order = order(chosen);
    (_mm256_add_epi32(place, order), _mm256_permutevar8x32_epi32(tokens, order))
}

/// What chance says of eight tokens.
#[derive(Clone, Copy)]
struct Drawn {
    words: __m256i,
    /// The token that each word stands for, if it is one of those that stand for one.
    replacements: __m256i,
}

impl Drawn {
    /// Draws for the first `tokens` tokens of a turn, at least, into `room`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of_turn<'a>(
        room: &'a mut [MaybeUninit<Self>; GROUPS],
        keys: &Keys,
        draw: &Draw,
        [c1, c2, c3]: [u32; 3],
        turn: u32,
        tokens: usize,
    ) -> &'a [Self] {
        let before_first = set1(draw.mask_last.wrapping_add(1));
        let (scale, shift) = (_mm256_set1_epi64x(draw.scale.into()), _mm256_set1_epi64x(draw.shift.into()));
        let [c1, c2, c3] = [c1, c2, c3].map(|word| _mm256_set1_epi64x(word.into()));
        let first = turn * (TURN / CHUNK * LANES) as u32;
        let mut blocks = _mm256_add_epi64(_mm256_set1_epi64x(first.into()), _mm256_setr_epi64x(0, 1, 4, 5));
        let (chunks, _) = room.as_chunks_mut::<{ CHUNK / LANES }>();
        let chunks = &mut chunks[..tokens.div_ceil(CHUNK)];
        for chunk in &mut *chunks {
            let others = _mm256_add_epi64(blocks, _mm256_set1_epi64x(2));
            let drawn = words(keys, [blocks, c1, c2, c3], [others, c1, c2, c3]);
            blocks = _mm256_add_epi64(blocks, _mm256_set1_epi64x(LANES as i64));
            for (to, [a, b]) in chunk.iter_mut().zip(drawn) {
                // As `Draw::replacement` does.
                let replacement = |words| {
                    let index = _mm256_sub_epi32(words, before_first);
                    _mm256_srlv_epi64(_mm256_mul_epu32(index, scale), shift)
                };
                let replacements = narrow(replacement(a), replacement(b));
                to.write(Self { words: narrow(a, b), replacements });
            }
        }
        // SAFETY: every element of these chunks has just been written.
        unsafe { chunks.as_flattened().assume_init_ref() }
    }
}

/// The random words of eight blocks, four of them in `a` and four in `b`, one in each 64 bits: their counters stand in the
/// lower halves, where the multiplication wants them, as the words do afterwards; the upper halves hold leftovers.
#[target_feature(enable = "avx2")]
#[inline]
fn words(keys: &Keys, mut a: [__m256i; 4], mut b: [__m256i; 4]) -> [[__m256i; 2]; 4] {
    let [k0, k1, k2, k3, k4, k5, k6] = keys;
    // Written out, so that no round moves its words to where the next expects them.
    round(&mut a, &mut b, k0);
    round(&mut a, &mut b, k1);
    round(&mut a, &mut b, k2);
    round(&mut a, &mut b, k3);
    round(&mut a, &mut b, k4);
    round(&mut a, &mut b, k5);
    round(&mut a, &mut b, k6);
    std::array::from_fn(|word| [a[word], b[word]])
}

/// A round of Philox.
#[target_feature(enable = "avx2")]
#[inline]
fn round(a: &mut [__m256i; 4], b: &mut [__m256i; 4], [k0, k1]: &[__m256i; 2]) {
    let [m0, m1] = MULTIPLIERS.map(|multiplier| _mm256_set1_epi64x(multiplier.into()));
    for words in [a, b] {
        let [a, b, c, d] = *words;
        let low = _mm256_mul_epu32(a, m0);
        let high = _mm256_mul_epu32(c, m1);
        *words = [
            _mm256_xor_si256(_mm256_srli_epi64::<32>(high), _mm256_xor_si256(b, *k0)),
            high,
            _mm256_xor_si256(_mm256_srli_epi64::<32>(low), _mm256_xor_si256(d, *k1)),
            low,
        ];
    }
}

/// The lower halves of the 64 bits of two vectors: two of the first, two of the second, and again.
#[target_feature(enable = "avx2")]
#[inline]
fn narrow(a: __m256i, b: __m256i) -> __m256i {
    _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)))
}

/// For every set of eight tokens, their places in rising order.
static ORDER: [[u8; LANES]; 256] = {
    let mut order = [[0; LANES]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut count) = (0, 0);
        while lane < LANES {
            if set >> lane & 1 == 1 {
                order[set][count] = lane as u8;
                count += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    order
};

/// The places of the bits of `set`, one in each 32 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn order(set: u32) -> __m256i {
    let order = &ORDER[set as usize % ORDER.len()];
    // SAFETY: reads the eight bytes of the array; the instruction asks for no alignment.
    _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(order.as_ptr().cast()) })
}

/// The uppermost bit of each of eight numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn bits(numbers: __m256i) -> u32 {
    _mm256_movemask_ps(_mm256_castsi256_ps(numbers)) as u32
}

#[target_feature(enable = "avx2")]
#[inline]
fn set1(number: i32) -> __m256i {
    _mm256_set1_epi32(number)
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(to: &mut [i32; LANES], numbers: __m256i) {
    // SAFETY: writes the 32 bytes of the array; the instruction asks for no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), numbers) }
}
