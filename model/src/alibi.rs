//! Attention with linear biases: a penalty on the distance between query and key instead of position embeddings.
//!
//! Paper: Press, Smith, Lewis, "Train Short, Test Long", <https://arxiv.org/abs/2108.12409>. An encoder looks both
//! ways, so the penalty here is symmetric, `-slope[h] * |i - j|`, as MosaicBERT has it.

use tch::{Device, Kind, Tensor};

/// The slope of each head, as the paper's reference implementation gives them
/// (`get_slopes` in <https://github.com/ofirpress/attention_with_linear_biases>).
///
/// For H = 2^k heads a geometric sequence, `slope[h] = 2^(-8 (h + 1) / H)`. Otherwise the slopes of the next lower
/// power of two, followed by every other slope of the power above it until all heads have one.
pub fn slopes(num_heads: usize) -> Vec<f64> {
    let geometric = |n: usize| -> Vec<f64> { (1..=n).map(|h| (-8.0 * h as f64 / n as f64).exp2()).collect() };
    if num_heads.is_power_of_two() {
        return geometric(num_heads);
    }
    let lower = num_heads.next_power_of_two() / 2;
    let between = geometric(2 * lower).into_iter().step_by(2);
    geometric(lower).into_iter().chain(between).take(num_heads).collect()
}

/// The penalties for sequences of up to S tokens, rounded to float32 as MosaicBERT stores them, whatever `kind` is.
///
/// # Shape
/// - `slopes`: `[H]`
/// - result: `[1, H, S, S]`, to be added to the scores of every sequence
pub(crate) fn bias(slopes: &[f64], seq_len: i64, kind: Kind, device: Device) -> Tensor {
    let slopes = Tensor::from_slice(slopes).to_kind(Kind::Float).to_device(device); // [H]
    let positions = Tensor::arange(seq_len, (Kind::Float, device)); // [S]
    let distance = (positions.unsqueeze(0) - positions.unsqueeze(1)).abs(); // [S, S]
    (slopes.view([-1, 1, 1]) * -distance).unsqueeze(0).to_kind(kind) // [1, H, S, S]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `2^exponent` for each exponent.
    fn powers(exponents: &[f64]) -> Vec<f64> {
        exponents.iter().map(|e| e.exp2()).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 1e-15 * e.abs(), "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn eight_heads_halve_from_one_half() {
        assert_close(&slopes(8), &powers(&[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]));
    }

    #[test]
    fn twelve_heads_are_those_of_eight_and_four_between() {
        let expected = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -0.5, -1.5, -2.5, -3.5];
        assert_close(&slopes(12), &powers(&expected));
    }

    #[test]
    fn sixteen_heads_fall_by_the_root_of_two() {
        let expected: Vec<f64> = (1..=16).map(|h| -0.5 * f64::from(h)).collect();
        assert_close(&slopes(16), &powers(&expected));
    }

    #[test]
    fn every_number_of_heads_has_as_many_different_slopes() {
        for heads in 1..=64 {
            let mut slopes = slopes(heads);
            assert_eq!(slopes.len(), heads);
            slopes.sort_by(f64::total_cmp);
            assert!(slopes.windows(2).all(|pair| pair[0] < pair[1]), "{heads} heads: {slopes:?}");
            assert!(slopes.iter().all(|&slope| slope > 0.0 && slope < 1.0), "{heads} heads: {slopes:?}");
        }
    }

    #[test]
    fn bias_grows_with_the_distance_and_is_symmetric() {
        let bias = bias(&[0.5, 0.25], 3, Kind::Double, Device::Cpu);
        assert_eq!(bias.size(), [1, 2, 3, 3]);
        let values = Vec::<f64>::try_from(bias.flatten(0, -1)).unwrap();
        let half = [0.0, -0.5, -1.0, -0.5, 0.0, -0.5, -1.0, -0.5, 0.0];
        let expected: Vec<f64> = half.iter().copied().chain(half.iter().map(|v| v / 2.0)).collect();
        assert_eq!(values, expected);
    }
}
