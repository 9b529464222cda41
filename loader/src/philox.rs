//! Philox4x32, a random function rather than a random generator: 128 random bits for every key and counter, in any order,
//! on any machine.
//!
//! J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Seven rounds
//! are the fewest that pass all of BigCrush there, ten the authors' choice for general use. The tests hold the known
//! answers of its reference implementation, Random123, for both.

/// Rounds where few words are drawn: keys of purposes, seeds and permutations.
const ROUNDS: usize = 10;
/// Rounds of the words that masks are made of, one for each token: these are most of what masking costs.
pub(crate) const MASK_ROUNDS: usize = 7;
/// What the first and the third word of a block are multiplied by in each round.
pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and the square root of three less one.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Blocks that [`Key::words`] computes side by side.
pub(crate) const LANES: usize = 8;

/// What a stream of random words is for. Each purpose has a key of its own, so that no two ever share a word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Which tokens are predicted, and what stands in their place. Counter: block, epoch, sample (low, high). The words
    /// of blocks `8 c` to `8 c + 7` belong to the text tokens `32 c` to `32 c + 31` of the sample: first the first
    /// words of all eight blocks, then the second words, and so on.
    Mask = 1,
    /// The order of the blocks of an epoch. Counter: pair of rounds, epoch, 0, 0.
    BlockOrder = 3,
    /// The order of the samples of a window. Counter: pair of rounds, epoch, window (low, high).
    WindowOrder = 4,
    /// The order of evaluation. Counter: pair of rounds, 0, 0, 0.
    HeldOutOrder = 5,
}

/// A key of the random function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key([u32; 2]);

impl Key {
    /// The key for a purpose under a seed: the first two words of Philox with the seed as key, low half first, and the
    /// counter (purpose, 0, 0, 0).
    pub(crate) fn derive(seed: u64, purpose: Purpose) -> Self {
        Self::derive_for(seed, purpose, 0)
    }

    /// As [`derive`](Key::derive) for one of several parts of a corpus: the counter is (purpose, part, 0, 0).
    pub(crate) fn derive_for(seed: u64, purpose: Purpose, part: u32) -> Self {
        let [a, b, _, _] = Key([seed as u32, (seed >> 32) as u32]).block([purpose as u32, part, 0, 0]);
        Key([a, b])
    }

    /// The key of each round.
    #[inline(always)]
    pub(crate) fn schedule<const ROUNDS: usize>(self) -> [[u32; 2]; ROUNDS] {
        let Key([a, b]) = self;
        std::array::from_fn(|round| {
            let step = |key: u32, weyl: u32| key.wrapping_add(weyl.wrapping_mul(round as u32));
            [step(a, WEYL[0]), step(b, WEYL[1])]
        })
    }

    /// The four random words of a counter.
    pub(crate) fn block(self, counter: [u32; 4]) -> [u32; 4] {
        self.block_of::<ROUNDS>(counter)
    }

    fn block_of<const ROUNDS: usize>(self, counter: [u32; 4]) -> [u32; 4] {
        self.schedule::<ROUNDS>().into_iter().fold(counter, round)
    }

    /// The words that masks are made of, of the counters (first, c1, c2, c3) to (first + 7, c1, c2, c3): the first words
    /// of all blocks, then the second words, and so on. Written so that the compiler keeps a word of several blocks in a
    /// vector register.
    #[inline(always)]
    pub(crate) fn mask_words(self, first: u32, [c1, c2, c3]: [u32; 3]) -> [u32; 4 * LANES] {
        let mut a: [u32; LANES] = std::array::from_fn(|lane| first.wrapping_add(lane as u32));
        let (mut b, mut c, mut d) = ([c1; LANES], [c2; LANES], [c3; LANES]);
        for key in self.schedule::<MASK_ROUNDS>() {
            for lane in 0..LANES {
                [a[lane], b[lane], c[lane], d[lane]] = round([a[lane], b[lane], c[lane], d[lane]], key);
            }
        }
        let mut words = [0; 4 * LANES];
        for (lanes, word) in words.as_chunks_mut().0.iter_mut().zip([a, b, c, d]) {
            *lanes = word;
        }
        words
    }
}

#[inline(always)]
fn round(words: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let a = u64::from(MULTIPLIERS[0]) * u64::from(words[0]);
    let b = u64::from(MULTIPLIERS[1]) * u64::from(words[2]);
    [(b >> 32) as u32 ^ words[1] ^ key[0], b as u32, (a >> 32) as u32 ^ words[3] ^ key[1], a as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows `philox4x32 7` and `philox4x32 10` of Random123's table of known answers.
    #[test]
    fn known_answers_of_the_reference_implementation() {
        let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        let seven = [
            (([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]),
            (([!0; 4], [!0; 2]), [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]),
            (pi, [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]),
        ];
        let ten = [
            (([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for ((counter, key), words) in seven {
            assert_eq!(Key(key).block_of::<MASK_ROUNDS>(counter), words);
        }
        for ((counter, key), words) in ten {
            assert_eq!(Key(key).block(counter), words);
        }
    }

    #[test]
    fn words_of_many_blocks_are_those_of_each() {
        let key = Key::derive(3, Purpose::Mask);
        for first in [0, 8, 800, u32::MAX - 3] {
            let words = key.mask_words(first, [5, 6, 7]);
            for (lane, number) in (0..LANES).zip(0..) {
                let block = key.block_of::<MASK_ROUNDS>([first.wrapping_add(number), 5, 6, 7]);
                assert_eq!(block, std::array::from_fn(|word| words[word * LANES + lane]));
            }
        }
    }

    #[test]
    fn purposes_and_seeds_have_keys_of_their_own() {
        let purposes = [Purpose::Mask, Purpose::BlockOrder, Purpose::WindowOrder, Purpose::HeldOutOrder];
        let mut keys: Vec<[u32; 2]> =
            (0..100).flat_map(|seed| purposes.map(|purpose| Key::derive(seed << 31, purpose).0)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 400);
    }
}
