//! What a random word says about a token.

/// Fewest of the 2^32 random words that choose a token, so that each of the three outcomes has one at least.
const FEWEST_WORDS: u64 = 10;

/// The bounds that a random word is held against, for one rate and vocabulary. Words are read as signed numbers, which
/// vector instructions compare at once; each bound is the last word that it lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Up to it, the token becomes `[MASK]`.
    pub(super) mask_last: i32,
    /// Above `mask_last` and up to it, the token becomes a random one.
    pub(super) random_last: i32,
    /// Up to it, the token is chosen.
    pub(super) chosen_last: i32,
    /// Ids a word that stands for a replacement, times `2^shift`; from 2^31 on, so that nothing is lost by rounding it down.
    pub(super) scale: u32,
    /// See `scale`.
    pub(super) shift: u32,
}

impl Draw {
    /// The bounds for the fraction of tokens to choose, above 0 and up to 1, and the number of ids that a replacement may
    /// be. Rates below 2.4e-9 count as that.
    pub(super) fn new(rate: f64, vocab_size: u32) -> Self {
        let chosen = ((rate * 2f64.powi(32)).round() as u64).clamp(FEWEST_WORDS, 1 << 32);
        let (mask, random) = (chosen * 8 / 10, chosen * 9 / 10);
        let last = |words: u64| (i64::from(i32::MIN) + words as i64 - 1) as i32;
        let words = u128::from(random - mask);
        // The largest number of 32 bits that the quotient can be made by shifting: a word stands for less than 2^31 ids,
        // and an id for less than 2^29 words, so the shift is 0 to 60.
        let vocab_size = u128::from(vocab_size);
        let shift = ((vocab_size << 64) / words).leading_zeros() - 32;
        Self {
            mask_last: last(mask),
            random_last: last(random),
            chosen_last: last(chosen),
            scale: ((vocab_size << shift) / words) as u32,
            shift,
        }
    }

    /// A word spread evenly over those that choose a token.
    #[inline(always)]
    pub(super) fn among_choosing(&self, word: i32) -> i32 {
        // Distances from the least word, which is what the signed order counts from.
        let chosen = (i64::from(self.chosen_last) - i64::from(i32::MIN) + 1) as u64;
        let place = (u64::from(word.wrapping_sub(i32::MIN) as u32) * chosen) >> 32;
        i32::MIN.wrapping_add(place as i32)
    }

    /// The token that a word above `mask_last` and up to `random_last` stands for: its place among those, spread over
    /// the ids. At rate 0.3 and 30,522 ids, 4,221 or 4,222 words stand for each.
    #[inline(always)]
    pub(super) fn replacement(&self, word: i32) -> u32 {
        let index = word.wrapping_sub(self.mask_last).wrapping_sub(1) as u32;
        ((u64::from(index) * u64::from(self.scale)) >> self.shift) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every id has as many words as every other, but for one; the first word stands for the first id and the last for
    /// the last, or as near to it as the few words of a low rate come.
    #[test]
    fn replacements_are_even_and_reach_both_ends_of_the_vocabulary_and_no_further() {
        for (rate, vocab_size) in
            [(0.3, 30_522), (1.0, 250_002), (0.15, 1 << 31), (1e-12, 30_522), (1.0, 1), (0.15, 5)]
        {
            let draw = Draw::new(rate, vocab_size);
            let words = (i64::from(draw.random_last) - i64::from(draw.mask_last)) as u64;
            assert_eq!(draw.replacement(draw.mask_last + 1), 0);
            let last = draw.replacement(draw.random_last);
            let ids_a_word = u64::from(vocab_size) / words + 2;
            assert!(last < vocab_size && u64::from(vocab_size - last) <= ids_a_word, "{last} {vocab_size}");
        }
        let draw = Draw::new(0.3, 30_522);
        let mut word = draw.mask_last + 1;
        for id in 0..200 {
            let first = word;
            while draw.replacement(word) == id {
                word += 1;
            }
            assert!((4221..=4222).contains(&(word - first)), "{} words for {id}", word - first);
        }
    }

    #[test]
    fn the_whole_range_of_words_is_used() {
        let all = Draw::new(1.0, 30_522);
        assert_eq!(all.chosen_last, i32::MAX);
        let half = Draw::new(0.5, 30_522);
        assert_eq!((half.chosen_last, half.mask_last), (-1, (0.4 * 2f64.powi(32)) as i32 - 1 + i32::MIN));
    }
}
