//! Masking with AVX2: the same bits as `portable`, eight tokens at a time.

// Calling functions compiled for instructions that not every processor has, and loads and stores of whole vectors.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CHUNK, Draw, Masked, Room, Rule};
use crate::philox::{Key, LANES, MULTIPLIERS, ROUNDS};

/// Masking under a key on a processor that has the instructions: only [`detect`](Avx2::detect) makes one.
#[derive(Clone, Debug)]
pub(super) struct Avx2 {
    /// The key of each round, one in each 64 bits, as the rounds load them.
    keys: [[u64; 2]; ROUNDS],
}

impl Avx2 {
    /// Asks the processor.
    pub(super) fn detect(key: Key) -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
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
pub(super) trait Token: Copy + Default + Into<u32> {
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

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn mask<T: Token>(
    keys: &[[u64; 2]; ROUNDS],
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
    first: usize,
    room: Room<'_>,
) -> Masked {
    let Room { ids, positions, labels } = room;
    let mut work = Work::new(keys, rule, draw, counter);
    let mut out = Choices { positions, labels, count: 0 };
    let (full, tail) = text.as_chunks::<CHUNK>();
    let (full_ids, tail_ids) = ids.as_chunks_mut::<CHUNK>();
    let (last, mut last_ids) = (padded(tail), [0; CHUNK]);
    // One loop with one call, so that the work on a chunk is inlined and keeps its constants in registers.
    let chunks = full.iter().zip(full_ids).map(|(text, ids)| (text, ids, !0));
    let tail = (!tail.is_empty()).then_some((&last, &mut last_ids, live(tail.len())));
    for (index, (text, ids, live)) in chunks.chain(tail).enumerate() {
        work.mask_chunk(text, live, first + index * CHUNK, ids, &mut out);
    }
    tail_ids.copy_from_slice(&last_ids[..tail_ids.len()]);
    Masked { chosen: out.count, largest: work.largest() }
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn count<T: Token>(
    keys: &[[u64; 2]; ROUNDS],
    rule: &Rule,
    draw: &Draw,
    counter: [u32; 3],
    text: &[T],
) -> Masked {
    let mut work = Work::new(keys, rule, draw, counter);
    let (full, tail) = text.as_chunks::<CHUNK>();
    let last = padded(tail);
    let tail = (!tail.is_empty()).then_some((&last, live(tail.len())));
    let mut chosen = 0;
    for (text, live) in full.iter().map(|text| (text, !0)).chain(tail) {
        chosen += work.count_chunk(text, live);
    }
    Masked { chosen, largest: work.largest() }
}

/// A chunk that begins with `tail`; what follows are zeros, which change no maximum.
#[inline(always)]
fn padded<T: Token>(tail: &[T]) -> [T; CHUNK] {
    let mut padded = [T::default(); CHUNK];
    padded[..tail.len()].copy_from_slice(tail);
    padded
}

/// A bit for each of the first `len` tokens of a chunk.
#[inline(always)]
fn live(len: usize) -> u32 {
    (1 << len) - 1
}

/// The chosen tokens of a sample so far.
struct Choices<'a> {
    positions: &'a mut [i64],
    labels: &'a mut [i64],
    count: usize,
}

/// A sample under way.
struct Work<'a> {
    rule: &'a Rule,
    draw: &'a Draw,
    keys: &'a [[u64; 2]; ROUNDS],
    counter: [u32; 3],
    /// Number of the next block of random words.
    block: u32,
    special: [__m256i; 5],
    /// The largest token so far, in eight parts.
    largest: __m256i,
}

impl<'a> Work<'a> {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(keys: &'a [[u64; 2]; ROUNDS], rule: &'a Rule, draw: &'a Draw, counter: [u32; 3]) -> Self {
        let mut special = [_mm256_setzero_si256(); 5];
        for (lanes, id) in special.iter_mut().zip(rule.special) {
            *lanes = _mm256_set1_epi32(id as i32);
        }
        let largest = _mm256_setzero_si256();
        Self { rule, draw, keys, counter, block: 0, special, largest }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    #[inline]
    fn mask_chunk<T: Token>(
        &mut self,
        text: &[T; CHUNK],
        live: u32,
        first: usize,
        ids: &mut [i32; CHUNK],
        out: &mut Choices<'_>,
    ) {
        let words = self.words();
        let mask = _mm256_set1_epi32(self.rule.mask as i32);
        let mut random = 0;
        for (group, (text, to)) in text.as_chunks().0.iter().zip(ids.as_chunks_mut().0).enumerate() {
            let shift = group * LANES;
            // SAFETY: this function is compiled for AVX2.
            let tokens = unsafe { T::load(text) };
            let chosen = self.chosen(tokens, words[group]);
            let to_mask = _mm256_and_si256(chosen, at_most(words[group], self.draw.mask_last));
            let to_change = _mm256_and_si256(chosen, at_most(words[group], self.draw.random_last));
            store(to, _mm256_blendv_epi8(tokens, mask, to_mask));
            random |= (bits(to_change) & !bits(to_mask)) << shift;
            let chosen = bits(chosen) & (live >> shift) & 0xff;
            out.append(tokens, chosen, first + shift);
        }
        random &= live;
        if random != 0 {
            let mut spread = [0; CHUNK];
            for (to, words) in spread.as_chunks_mut().0.iter_mut().zip(words) {
                store(to, words);
            }
            while random != 0 {
                let at = random.trailing_zeros() as usize % CHUNK;
                ids[at] = self.draw.replacement(spread[at] as u32, self.rule.vocab_size) as i32;
                random &= random - 1;
            }
        }
    }

    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn count_chunk<T: Token>(&mut self, text: &[T; CHUNK], live: u32) -> usize {
        let words = self.words();
        let mut chosen = 0;
        for (group, text) in text.as_chunks().0.iter().enumerate() {
            // SAFETY: this function is compiled for AVX2.
            let tokens = unsafe { T::load(text) };
            chosen |= bits(self.chosen(tokens, words[group])) << (group * LANES);
        }
        (chosen & live).count_ones() as usize
    }

    /// All ones for each token that is to be predicted.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn chosen(&mut self, tokens: __m256i, words: __m256i) -> __m256i {
        self.largest = _mm256_max_epu32(self.largest, tokens);
        let mut special = _mm256_setzero_si256();
        for id in self.special {
            special = _mm256_or_si256(special, _mm256_cmpeq_epi32(tokens, id));
        }
        _mm256_andnot_si256(special, at_most(words, self.draw.chosen_last))
    }

    /// The random words of the next chunk. Each vector of the rounds holds a word of every other block in the lower
    /// halves of its 64 bits, where the multiplication wants them; the upper halves hold leftovers.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn words(&mut self) -> [__m256i; 4] {
        let [c1, c2, c3] = self.counter;
        let [m0, m1] = MULTIPLIERS.map(|multiplier| _mm256_set1_epi64x(multiplier.into()));
        let first = _mm256_set1_epi64x(self.block.into());
        let mut a = [
            _mm256_add_epi64(first, _mm256_setr_epi64x(0, 2, 4, 6)),
            _mm256_add_epi64(first, _mm256_setr_epi64x(1, 3, 5, 7)),
        ];
        let mut b = [_mm256_set1_epi64x(c1.into()); 2];
        let mut c = [_mm256_set1_epi64x(c2.into()); 2];
        let mut d = [_mm256_set1_epi64x(c3.into()); 2];
        // Two rounds a turn spare most of the moves between registers.
        for keys in self.keys.as_chunks::<2>().0 {
            for [k0, k1] in keys {
                let (k0, k1) = (_mm256_set1_epi64x(*k0 as i64), _mm256_set1_epi64x(*k1 as i64));
                for half in 0..2 {
                    let low = _mm256_mul_epu32(a[half], m0);
                    let high = _mm256_mul_epu32(c[half], m1);
                    a[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(high), b[half]), k0);
                    b[half] = high;
                    c[half] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64::<32>(low), d[half]), k1);
                    d[half] = low;
                }
            }
        }
        self.block += LANES as u32;
        let mut words = [_mm256_setzero_si256(); 4];
        for (words, [even, odd]) in words.iter_mut().zip([a, b, c, d]) {
            *words = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
        }
        words
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn largest(&self) -> u32 {
        let mut lanes = [0; LANES];
        store(&mut lanes, self.largest);
        lanes.into_iter().fold(0, |largest, lane| largest.max(lane as u32))
    }
}

impl Choices<'_> {
    /// Appends those of eight tokens whose bit is set.
    #[target_feature(enable = "avx2,popcnt")]
    #[inline]
    fn append(&mut self, tokens: __m256i, chosen: u32, first: usize) {
        let order = &ORDER[chosen as usize % ORDER.len()];
        // SAFETY: reads the eight bytes of the array; the instruction asks for no alignment.
        let order = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(order.as_ptr().cast()) });
        let labels = _mm256_permutevar8x32_epi32(tokens, order);
        let positions = _mm256_add_epi32(order, _mm256_set1_epi32(first as i32));
        let count = chosen.count_ones() as usize;
        let end = self.count + LANES;
        match (self.positions.get_mut(self.count..end), self.labels.get_mut(self.count..end)) {
            (Some(to_positions), Some(to_labels)) => {
                // Eight numbers are written, and those past the count are overwritten by the next.
                if let (Ok(to_positions), Ok(to_labels)) = (to_positions.try_into(), to_labels.try_into()) {
                    store_wide(to_positions, positions);
                    store_wide(to_labels, labels);
                }
            }
            _ => {
                let (mut some_positions, mut some_labels) = ([0; LANES], [0; LANES]);
                store_wide(&mut some_positions, positions);
                store_wide(&mut some_labels, labels);
                let end = self.count + count;
                self.positions[self.count..end].copy_from_slice(&some_positions[..count]);
                self.labels[self.count..end].copy_from_slice(&some_labels[..count]);
            }
        }
        self.count += count;
    }
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

/// All ones for each unsigned number that is at most `bound`.
#[target_feature(enable = "avx2")]
#[inline]
fn at_most(numbers: __m256i, bound: u32) -> __m256i {
    _mm256_cmpeq_epi32(_mm256_min_epu32(numbers, _mm256_set1_epi32(bound as i32)), numbers)
}

/// The uppermost bit of each of eight numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn bits(numbers: __m256i) -> u32 {
    _mm256_movemask_ps(_mm256_castsi256_ps(numbers)) as u32
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(to: &mut [i32; LANES], numbers: __m256i) {
    // SAFETY: writes the 32 bytes of the array; the instruction asks for no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), numbers) }
}

/// Stores eight unsigned numbers of 32 bits as 64 bits each.
#[target_feature(enable = "avx2")]
#[inline]
fn store_wide(to: &mut [i64; LANES], numbers: __m256i) {
    let (low, high) = (_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
    let (to_low, to_high) = to.split_at_mut(LANES / 2);
    // SAFETY: each writes the 32 bytes of half the array; the instruction asks for no alignment.
    unsafe {
        _mm256_storeu_si256(to_low.as_mut_ptr().cast(), _mm256_cvtepu32_epi64(low));
        _mm256_storeu_si256(to_high.as_mut_ptr().cast(), _mm256_cvtepu32_epi64(high));
    }
}
