//! Which of several parts of a corpus each sample comes from, so that every batch holds the share of each that its weight asks for:
//! no random draw, but an even spread.
//!
//! Of the first `p` samples of a training, the first part has `p w` rounded, whatever `p`; of those that it leaves, the
//! second has its share among the parts that are left, and so on. These counts only rise, and by one at a time, so they
//! say for each sample where it comes from and how many came from there before: arithmetic at any step. In any stretch of
//! a training a part has the share of its weight to within as many samples as there are parts (of two, to one).

use crate::config::invalid;
use crate::error::Error;

/// Weights are rounded to this fraction of their sum.
const WHOLE: u64 = 1 << 32;

/// The shares of several parts, or of a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mixture {
    /// The share of each, and of it together with those after it.
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    share: u64,
    whole: u64,
}

/// A place in the sequence of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// What rounding has left of each level, in halves of a sample's `whole`.
    rests: Vec<u64>,
}

impl Mixture {
    /// Shares in proportion to the weights.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is not a number above zero, or so small beside the others that it rounds to
    /// nothing.
    pub(crate) fn new(weights: &[f64]) -> Result<Self, Error> {
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0)) {
            return Err(invalid(
                "a weight of --shards",
                weight,
                "a number above 0; leave out what gets none",
            ));
        }
        let largest = weights.iter().copied().fold(0.0, f64::max);
        // Against the largest first: the sum itself may be beyond what a number can hold.
        let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
        let shares: Vec<u64> =
            weights.iter().map(|weight| (weight / largest / sum * WHOLE as f64).round() as u64).collect();
        if let Some(at) = shares.iter().position(|share| *share == 0) {
            return Err(invalid("a weight of --shards", weights[at], "at least a billionth of all weights"));
        }
        let mut whole = shares.iter().sum();
        let levels = shares.into_iter().map(|share| {
            let level = Level { share, whole };
            whole -= share;
            level
        });
        Ok(Self { levels: levels.collect() })
    }

    /// Goes to the sample `position` of the sequence; `before` is called with how many samples each part, by its
    /// number, has among those before it.
    pub(crate) fn seek(&self, position: u128, place: &mut Place, mut before: impl FnMut(usize, u128)) {
        place.rests.clear();
        let mut left = position;
        for (number, Level { share, whole }) in self.levels.iter().enumerate() {
            let [share, whole] = [*share, *whole].map(u128::from);
            // left * share / whole, rounded; the first product alone could be too large.
            let (rounds, rest) = (left / whole, 2 * (left % whole) * share + whole);
            let taken = rounds * share + rest / (2 * whole);
            place.rests.push((rest % (2 * whole)) as u64);
            before(number, taken);
            left -= taken;
        }
    }

    /// Which part the sample at a place comes from; goes to the next place.
    #[inline]
    pub(crate) fn next(&self, place: &mut Place) -> usize {
        let last = self.levels.len() - 1;
        for (number, (level, rest)) in self.levels[..last].iter().zip(&mut place.rests).enumerate() {
            *rest += 2 * level.share;
            if *rest >= 2 * level.whole {
                *rest -= 2 * level.whole;
                return number;
            }
        }
        last
    }

    /// The mean of what each part has, by the shares.
    pub(crate) fn mean(&self, of_each: impl Iterator<Item = u64>) -> u64 {
        let sum: u128 = self
            .levels
            .iter()
            .zip(of_each)
            .map(|(level, each)| u128::from(level.share) * u128::from(each))
            .sum();
        (sum / u128::from(self.levels[0].whole)) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn counts(mixture: &Mixture, position: u128) -> (Place, Vec<u128>) {
        let (mut place, mut counts) = (Place::default(), Vec::new());
        mixture.seek(position, &mut place, |_, before| counts.push(before));
        (place, counts)
    }

    proptest! {
        /// Counting one by one and going anywhere at once agree, and every stretch has its shares.
        #[test]
        fn any_place_can_be_reached_and_every_stretch_is_in_proportion(
            weights in vec(0.001..1000.0f64, 1..7), start in 0..1u128 << 90, len in 1..3000u128,
        ) {
            let mixture = Mixture::new(&weights).unwrap();
            let (mut place, before) = counts(&mixture, start);
            prop_assert_eq!(before.iter().sum::<u128>(), start);
            let mut found = vec![0u128; weights.len()];
            for _ in 0..len {
                found[mixture.next(&mut place)] += 1;
            }
            let (expected_place, after) = counts(&mixture, start + len);
            prop_assert_eq!(&place, &expected_place);
            let sum: f64 = weights.iter().sum();
            for (number, weight) in weights.iter().enumerate() {
                prop_assert_eq!(before[number] + found[number], after[number]);
                let off = (found[number] as f64 - len as f64 * weight / sum).abs();
                prop_assert!(off <= if weights.len() <= 2 { 1.001 } else { weights.len() as f64 }, "{off}");
            }
        }
    }

    #[test]
    fn shares_do_not_depend_on_the_scale_of_the_weights() {
        let shares = |weights: &[f64]| counts(&Mixture::new(weights).unwrap(), 1_000_000).1;
        assert_eq!(shares(&[0.7, 0.3]), [700_000, 300_000]);
        assert_eq!(shares(&[7e300, 3e300]), [700_000, 300_000]);
        assert_eq!(shares(&[1.0, 1.0, 2.0]), [250_000, 250_000, 500_000]);
        assert_eq!(shares(&[5.0]), [1_000_000]);
    }

    #[test]
    fn weights_that_make_no_sense_are_refused() {
        for weight in [0.0, -0.5, f64::NAN, f64::INFINITY] {
            let message = Mixture::new(&[0.5, weight]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("a weight of --shards is {weight}, expected")), "{message}");
        }
        let message = Mixture::new(&[1e-12, 1.0]).unwrap_err().to_string();
        assert!(message.contains("at least a billionth"), "{message}");
    }
}
