//! Masking with AVX2: the same bits as `portable`, eight tokens at a time.
//!
//! First the random words of a turn of tokens are drawn, then the tokens are looked at; the few that become random ones are
//! put in at the end of the turn.

// Calling functions compiled for instructions that not every processor has, and loads and stores of whole vectors.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::philox::{Key, LANES, MASK_ROUNDS, MULTIPLIERS};

/// Tokens of a turn: a sample of the usual length.
const TURN: usize = 128;
const GROUPS: usize = TURN / LANES;

/// The key of each round, one in each 64 bits.
type Keys = [[u64; 2]; MASK_ROUNDS];

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
    let mut drawn = [_mm256_setzero_si256(); GROUPS];
    for (turn, (text, ids)) in (0..).zip(text.chunks(TURN).zip(ids[..len].chunks_mut(TURN))) {
        draw_words(&mut drawn, keys, counter, turn, text.len());
        let here = first + turn as usize * TURN;
        let mut of_turn = Words::new();
        let (text, tail) = text.as_chunks();
        let (whole_ids, tail_ids) = ids.as_chunks_mut();
        for (group, (text, ids)) in text.iter().zip(whole_ids).enumerate() {
            let (tokens, chosen) = choice.see(text, drawn[group], ids);
            of_turn.append(chosen, drawn[group]);
            out.append(chosen, here + group * LANES, tokens);
        }
        if !tail.is_empty() {
            let (group, words) = (text.len(), drawn[text.len()]);
            let (mut last, mut last_ids) = ([T::default(); LANES], [0; LANES]);
            copy(tail, &mut last);
            let (tokens, chosen) = choice.see(&last, words, &mut last_ids);
            copy(&last_ids[..tail.len()], tail_ids);
            let chosen = chosen & ((1 << tail.len()) - 1);
            of_turn.append(chosen, words);
            out.append(chosen, here + group * LANES, tokens);
        }
        let positions = &out.positions[out.count - of_turn.count..out.count];
        of_turn.for_each_random(draw, |at, word| {
            ids[positions[at] as usize - here] = draw.replacement(word) as i32;
        });
    }
    Masked { chosen: out.count, largest: choice.largest() }
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn count<T: Token>(keys: &Keys, rule: &Rule, draw: &Draw, counter: [u32; 3], text: &[T]) -> Masked {
    let mut choice = Choice::new(rule, draw);
    let mut drawn = [_mm256_setzero_si256(); GROUPS];
    let mut chosen = 0;
    for (turn, text) in (0..).zip(text.chunks(TURN)) {
        draw_words(&mut drawn, keys, counter, turn, text.len());
        let (text, tail) = text.as_chunks();
        for (text, words) in text.iter().zip(drawn) {
            // SAFETY: this function is compiled for AVX2.
            let tokens = unsafe { T::load(text) };
            chosen += choice.of(tokens, words).1.count_ones();
        }
        if !tail.is_empty() {
            let mut last = [T::default(); LANES];
            copy(tail, &mut last);
            // SAFETY: as above.
            let tokens = unsafe { T::load(&last) };
            let of_last = choice.of(tokens, drawn[text.len()]).1;
            chosen += (of_last & ((1 << tail.len()) - 1)).count_ones();
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
            chosen_last: set1(draw.chosen_last),
            special: [set1(a), set1(b), set1(c), set1(d), set1(e)],
            lowest: set1(lowest as i32),
            span: set1(span.saturating_add(1).min(i32::MAX as u32) as i32),
            largest: _mm256_setzero_si256(),
        }
    }

    /// All ones for each token that is not to be predicted, and a bit for each that is.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(&mut self, tokens: __m256i, words: __m256i) -> (__m256i, u32) {
        self.largest = _mm256_max_epu32(self.largest, tokens);
        let mut not_chosen = _mm256_cmpgt_epi32(words, self.chosen_last);
        // Most text has no token near the special ids, so that one comparison says so. It is of signed numbers: those
        // below the lowest and above 2^31 count as near, which costs a closer look.
        if bits(_mm256_cmpgt_epi32(self.span, _mm256_sub_epi32(tokens, self.lowest))) != 0 {
            for id in self.special {
                not_chosen = _mm256_or_si256(not_chosen, _mm256_cmpeq_epi32(tokens, id));
            }
        }
        (not_chosen, !bits(not_chosen) & 0xff)
    }

    /// The tokens, and a bit for each that is to be predicted. `[MASK]` stands in `ids` for those that become it.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn see<T: Token>(&mut self, text: &[T; LANES], words: __m256i, ids: &mut [i32; LANES]) -> (__m256i, u32) {
        // SAFETY: this function is compiled for AVX2.
        let tokens = unsafe { T::load(text) };
        let (not_chosen, chosen) = self.of(tokens, words);
        let not_masked = _mm256_or_si256(not_chosen, _mm256_cmpgt_epi32(words, self.mask_last));
        store(ids, _mm256_blendv_epi8(self.mask, tokens, not_masked));
        (tokens, chosen)
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
    /// Appends those of eight tokens whose bit is set; the first of them is at `place`.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn append(&mut self, chosen: u32, place: usize, tokens: __m256i) {
        let order = order(chosen);
        let places = _mm256_add_epi32(order, set1(place as i32));
        let labels = _mm256_permutevar8x32_epi32(tokens, order);
        let start = self.count;
        self.count += chosen.count_ones() as usize;
        let to_places = self.positions.get_mut(start..).and_then(|rest| rest.first_chunk_mut());
        let to_labels = self.labels.get_mut(start..).and_then(|rest| rest.first_chunk_mut());
        if let (Some(to_places), Some(to_labels)) = (to_places, to_labels) {
            // Eight numbers are written, and those past the count are overwritten by the next.
            store(to_places, places);
            store(to_labels, labels);
        } else {
            let (mut some_places, mut some_labels) = ([0; LANES], [0; LANES]);
            store(&mut some_places, places);
            store(&mut some_labels, labels);
            copy(&some_places, &mut self.positions[start..self.count]);
            copy(&some_labels, &mut self.labels[start..self.count]);
        }
    }
}

/// The random words of the chosen tokens of a turn.
struct Words {
    /// With room for a whole vector behind the last.
    words: [i32; TURN + LANES],
    count: usize,
}

impl Words {
    #[inline(always)]
    fn new() -> Self {
        Self { words: [0; TURN + LANES], count: 0 }
    }

    /// Appends those of eight words whose bit is set.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn append(&mut self, chosen: u32, words: __m256i) {
        if let Some(to) = self.words.get_mut(self.count..).and_then(|rest| rest.first_chunk_mut()) {
            store(to, _mm256_permutevar8x32_epi32(words, order(chosen)));
        }
        self.count += chosen.count_ones() as usize;
    }

    /// Calls `each` for the words that stand for a random token, with their numbers.
    #[target_feature(enable = "avx2,bmi1")]
    #[inline]
    fn for_each_random(&self, draw: &Draw, mut each: impl FnMut(usize, i32)) {
        let (mask_last, random_last) = (set1(draw.mask_last), set1(draw.random_last));
        // Sixty-four words at a time, so that the processor seldom guesses wrong where their loop ends.
        for start in (0..self.count).step_by(64) {
            let (vectors, _) = self.words[start..].as_chunks::<LANES>();
            let mut random = 0u64;
            for (vector, words) in vectors.iter().take(8).enumerate() {
                let words = load(words);
                let to_change = _mm256_cmpgt_epi32(words, mask_last);
                let to_keep = _mm256_cmpgt_epi32(words, random_last);
                random |= u64::from(bits(_mm256_andnot_si256(to_keep, to_change))) << (vector * LANES);
            }
            // What lies behind the last has no meaning.
            random &= u64::MAX >> (64 - (self.count - start).min(64));
            while random != 0 {
                let at = start + random.trailing_zeros() as usize;
                each(at, self.words[at]);
                random &= random - 1;
            }
        }
    }
}

/// The random words of the first `tokens` tokens of a turn, at least.
#[target_feature(enable = "avx2")]
#[inline]
fn draw_words(drawn: &mut [__m256i; GROUPS], keys: &Keys, counter: [u32; 3], turn: u32, tokens: usize) {
    let first = turn * (TURN / CHUNK * LANES) as u32;
    let (chunks, _) = drawn.as_chunks_mut();
    for (chunk, to) in (0..).zip(chunks).take(tokens.div_ceil(CHUNK)) {
        *to = words(keys, counter, first + chunk * LANES as u32);
    }
}

/// The random words of a chunk, whose first block has the number `block`. Each vector of the rounds holds a word of every
/// other block in the lower halves of its 64 bits, where the multiplication wants them; the upper halves hold leftovers.
#[target_feature(enable = "avx2")]
#[inline]
fn words(keys: &Keys, [c1, c2, c3]: [u32; 3], block: u32) -> [__m256i; 4] {
    let [m0, m1] = MULTIPLIERS.map(|multiplier| _mm256_set1_epi64x(multiplier.into()));
    let first = _mm256_set1_epi64x(block.into());
    let mut a = [
        _mm256_add_epi64(first, _mm256_setr_epi64x(0, 2, 4, 6)),
        _mm256_add_epi64(first, _mm256_setr_epi64x(1, 3, 5, 7)),
    ];
    let mut b = [_mm256_set1_epi64x(c1.into()); 2];
    let mut c = [_mm256_set1_epi64x(c2.into()); 2];
    let mut d = [_mm256_set1_epi64x(c3.into()); 2];
    for [k0, k1] in keys {
        let (k0, k1) = (_mm256_set1_epi64x(*k0 as i64), _mm256_set1_epi64x(*k1 as i64));
        for half in 0..2 {
            let low = _mm256_mul_epu32(a[half], m0);
            let high = _mm256_mul_epu32(c[half], m1);
            a[half] = _mm256_xor_si256(_mm256_srli_epi64::<32>(high), _mm256_xor_si256(b[half], k0));
            b[half] = high;
            c[half] = _mm256_xor_si256(_mm256_srli_epi64::<32>(low), _mm256_xor_si256(d[half], k1));
            d[half] = low;
        }
    }
    let mut words = [_mm256_setzero_si256(); 4];
    for (words, [even, odd]) in words.iter_mut().zip([a, b, c, d]) {
        *words = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
    }
    words
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
fn load(from: &[i32; LANES]) -> __m256i {
    // SAFETY: reads the 32 bytes of the array; the instruction asks for no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(to: &mut [i32; LANES], numbers: __m256i) {
    // SAFETY: writes the 32 bytes of the array; the instruction asks for no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), numbers) }
}
