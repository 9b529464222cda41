//! A permutation of 0 to n-1 that is computed, not stored: a Feistel network over the next power of two, walked along
//! its cycles until it is back below n.
//!
//! J. Black, P. Rogaway: "Ciphers with arbitrary finite domains", CT-RSA 2002, gives the cycle walking; M. Luby,
//! C. Rackoff: "How to construct pseudorandom permutations from pseudorandom functions", 1988, why four rounds of a
//! random function suffice where a half has many values. Where it has few, more rounds make up for it: what is left of
//! the order shrinks by about the size of a half every two rounds, and the number of rounds is chosen to bring that below
//! 2^-30. This is for shuffling, not for secrets: the round function is a fast mixer of 64 bits (the finalizer of
//! MurmurHash3).

use crate::philox::Key;

/// Numbers that [`Permutation::apply_to`] works on at a time: few enough to stay at hand.
const TOGETHER: usize = 256;
/// Numbers that are walked side by side: as many as keep a processor's multiplier busy.
const LANES: usize = 4;
const FEWEST_ROUNDS: u32 = 6;
/// With halves of one bit.
const MOST_ROUNDS: u32 = 60;

/// A keyed permutation of `0..len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permutation {
    len: u64,
    left_bits: u32,
    right_bits: u32,
    /// Keys of two rounds each, so many as the length needs.
    keys: [[u64; 2]; MOST_ROUNDS as usize / 2],
    pairs: usize,
}

impl Permutation {
    /// The permutation of `0..len` for a key and the last three words of its counters, see
    /// [`Purpose`](crate::philox::Purpose).
    pub(crate) fn new(len: u64, key: Key, counter: [u32; 3]) -> Self {
        let bits = if len < 2 { 0 } else { (len - 1).ilog2() + 1 };
        let (left_bits, right_bits) = (bits / 2, bits - bits / 2);
        let pairs = MOST_ROUNDS.div_ceil(left_bits.max(1)).max(FEWEST_ROUNDS).div_ceil(2) as usize;
        let mut keys = [[0; 2]; MOST_ROUNDS as usize / 2];
        let [c1, c2, c3] = counter;
        for (pair, keys) in (0..).zip(&mut keys[..pairs]) {
            let [a, b, c, d] = key.block([pair, c1, c2, c3]);
            *keys = [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32];
        }
        Self { len, left_bits, right_bits, keys, pairs }
    }

    /// Number of elements.
    #[cfg(test)]
    fn len(&self) -> u64 {
        self.len
    }

    /// The element at `index`, which is below the length.
    #[inline]
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        // The network permutes fewer than twice `len` numbers, so this takes less than two turns on average, and it
        // ends because the cycle comes back to `index` itself at the latest.
        let mut index = index;
        loop {
            [index] = self.forwards([index]);
            if index < self.len {
                return index;
            }
        }
    }

    /// Replaces each index by the element there. This is several times as fast as one by one: the networks of several numbers
    /// are computed side by side, and how often each is walked is not a branch that the processor guesses wrong.
    pub(crate) fn apply_to(&self, indices: &mut [u64]) {
        debug_assert!(indices.iter().all(|index| *index < self.len));
        for numbers in indices.chunks_mut(TOGETHER) {
            // The places of those that are not below the length yet: all, at first.
            let mut outside: [u16; TOGETHER] = std::array::from_fn(|at| at as u16);
            let mut count = numbers.len();
            while count > 0 {
                let mut left = 0;
                for turn in (0..count).step_by(LANES) {
                    // Lanes past the last one repeat it, and are not looked at.
                    let places: [u16; LANES] =
                        std::array::from_fn(|lane| outside[(turn + lane).min(count - 1)]);
                    let walked = self.forwards(places.map(|at| numbers[usize::from(at)]));
                    for (at, number) in places.into_iter().zip(walked).take(count - turn) {
                        numbers[usize::from(at)] = number;
                        outside[left] = at;
                        left += usize::from(number >= self.len);
                    }
                }
                count = left;
            }
        }
    }

    /// The index of an element, which is below the length.
    pub(crate) fn invert(&self, element: u64) -> u64 {
        debug_assert!(element < self.len);
        let mut element = element;
        loop {
            element = self.backwards(element);
            if element < self.len {
                return element;
            }
        }
    }

    /// Each half is changed by the other in turn; unequal halves keep the domain at the next power of two. Several numbers
    /// take each step together, since a step waits for the one before it.
    #[inline]
    fn forwards<const N: usize>(&self, numbers: [u64; N]) -> [u64; N] {
        let (left_ones, right_ones) = (low_bits(self.left_bits), low_bits(self.right_bits));
        let mut left = numbers.map(|number| number >> self.right_bits);
        let mut right = numbers.map(|number| number & right_ones);
        for [a, b] in &self.keys[..self.pairs] {
            for (left, right) in left.iter_mut().zip(&right) {
                *left ^= mix(*right, *a) & left_ones;
            }
            for (right, left) in right.iter_mut().zip(&left) {
                *right ^= mix(*left, *b) & right_ones;
            }
        }
        std::array::from_fn(|lane| left[lane] << self.right_bits | right[lane])
    }

    fn backwards(&self, number: u64) -> u64 {
        let (mut left, mut right) = (number >> self.right_bits, number & low_bits(self.right_bits));
        for [a, b] in self.keys[..self.pairs].iter().rev() {
            right ^= mix(left, *b) & low_bits(self.right_bits);
            left ^= mix(right, *a) & low_bits(self.left_bits);
        }
        left << self.right_bits | right
    }
}

/// A number of `bits` ones, for up to 32.
#[inline]
fn low_bits(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Every bit of `number` changes every bit of the result, in a way that depends on the key.
#[inline]
fn mix(number: u64, key: u64) -> u64 {
    let mut x = number ^ key;
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::philox::Purpose;

    fn permutation(len: u64, seed: u64) -> Permutation {
        Permutation::new(len, Key::derive(seed, Purpose::WindowOrder), [0; 3])
    }

    fn is_permutation(permutation: &Permutation) -> bool {
        let mut seen = vec![false; permutation.len() as usize];
        (0..permutation.len()).all(|index| {
            let element = permutation.apply(index);
            permutation.invert(element) == index && !std::mem::replace(&mut seen[element as usize], true)
        })
    }

    /// Every size to 10,000 in a release build; where each step is checked for overflow, every one to 300 and some of the
    /// rest, with the powers of two and their neighbours.
    #[test]
    fn every_small_size_is_permuted() {
        let stride = if cfg!(debug_assertions) { 397 } else { 1 };
        let edges = [511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 10_000];
        for len in (1..=300).chain((301..=10_000).step_by(stride)).chain(edges) {
            assert!(is_permutation(&permutation(len, len)), "length {len}");
        }
    }

    proptest! {
        #[test]
        fn large_sizes_invert(len in 1..u64::MAX, seed in any::<u64>(), at in any::<[u64; 20]>()) {
            let permutation = permutation(len, seed);
            for index in at.map(|index| index % len) {
                let element = permutation.apply(index);
                prop_assert!(element < len);
                prop_assert_eq!(permutation.invert(element), index);
            }
        }

        #[test]
        fn many_at_once_are_each_by_itself(
            len in 1..5000u64, seed in any::<u64>(), indices in vec(any::<u64>(), 0..3 * TOGETHER),
        ) {
            let permutation = permutation(len, seed);
            let mut numbers: Vec<u64> = indices.iter().map(|index| index % len).collect();
            let expected: Vec<u64> = numbers.iter().map(|index| permutation.apply(*index)).collect();
            permutation.apply_to(&mut numbers);
            prop_assert_eq!(numbers, expected);
        }
    }

    #[test]
    fn a_large_size_is_permuted() {
        assert!(is_permutation(&permutation((1 << 18) + 12_345, 9)));
    }

    /// Pearson's statistic of counts that should be equal, as standard deviations above its mean: a chi-square with
    /// `freedom` degrees of freedom has mean `freedom` and variance twice that.
    fn deviation(counts: &[u64], freedom: f64) -> f64 {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let chi2: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum();
        (chi2 - freedom) / (2.0 * freedom).sqrt()
    }

    /// Over random keys every element is equally likely at every index, and every pair at two neighbouring ones. Five
    /// standard deviations: a true uniform law fails this about once in three million.
    #[test]
    fn elements_and_pairs_of_neighbours_are_uniform_over_the_keys() {
        for len in [2usize, 3, 5, 8, 10, 16, 23] {
            let keys = 10_000;
            let mut single = vec![0; len * len];
            let mut pairs = vec![0; len * len];
            for seed in 0..keys {
                let order: Vec<u64> = {
                    let permutation = permutation(len as u64, seed);
                    (0..len as u64).map(|index| permutation.apply(index)).collect()
                };
                for (index, &element) in order.iter().enumerate() {
                    single[index * len + element as usize] += 1;
                }
                pairs[order[0] as usize * len + order[1] as usize] += 1;
            }
            // Rows and columns of the table of singles have fixed sums.
            let freedom = ((len - 1) * (len - 1)) as f64;
            let off = deviation(&single, freedom);
            assert!(off.abs() < 5.0, "length {len}: elements are {off:.1} deviations from uniform");
            let distinct: Vec<u64> =
                (0..len * len).filter(|i| i / len != i % len).map(|i| pairs[i]).collect();
            let off = deviation(&distinct, (distinct.len() - 1) as f64);
            assert!(off.abs() < 5.0, "length {len}: pairs are {off:.1} deviations from uniform");
        }
    }

    /// Neighbours must not stay near each other in a large permutation: their distance is triangular, so that it is
    /// below a hundredth of the length with probability 0.0199.
    #[test]
    fn neighbours_are_spread_over_the_whole() {
        let len = 1_000_003;
        let permutation = permutation(len, 1);
        let trials = 100_000;
        let near = (0..trials)
            .filter(|&i| permutation.apply(i).abs_diff(permutation.apply(i + 1)) < len / 100)
            .count() as f64;
        let (mean, deviation) = (trials as f64 * 0.0199, (trials as f64 * 0.0199 * 0.9801).sqrt());
        assert!((near - mean).abs() < 5.0 * deviation, "{near} pairs are near, expected {mean}");
    }
}
