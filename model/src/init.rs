//! First values of parameters, as Hugging Face's `BertPreTrainedModel` draws them: weights and embeddings from
//! N(0, 0.02²), biases zero, LayerNorm one and zero, the padding token's embedding zero.
//!
//! The numbers come from SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014),
//! whose n-th output is a function of n, through the Box-Muller transform. So every part of every parameter can be
//! computed on its own, in any order and on any number of threads.

use std::f64::consts::TAU;
use std::thread;

use crate::parameters::ParameterSpec;

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Normally distributed around 0 with standard deviation `initializer_range`.
    Normal,
    /// The same, but zeros in row 0: the embedding of `[PAD]`.
    NormalButFirstRow,
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
}

/// SplitMix64's increment, 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first values of one parameter, row by row.
pub(crate) fn values(spec: &ParameterSpec, std: f64, seed: u64) -> Vec<f32> {
    let count = spec.shape.iter().product::<i64>() as usize;
    match spec.init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Normal => normal(count, std, stream(seed, &spec.name)),
        Init::NormalButFirstRow => {
            let mut values = normal(count, std, stream(seed, &spec.name));
            let row = spec.shape[1..].iter().product::<i64>() as usize;
            values[..row].fill(0.0);
            values
        }
    }
}

/// Where the sequence of one parameter starts: its name's FNV-1a hash, scrambled with the seed.
fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    scramble(hash ^ scramble(seed.wrapping_add(GAMMA)))
}

/// SplitMix64's output function.
fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` numbers from N(0, std²); pairs 2i and 2i + 1 come from outputs 2i and 2i + 1 of the sequence.
fn normal(count: usize, std: f64, stream: u64) -> Vec<f32> {
    // In (0, 1], so that its logarithm exists.
    let uniform = |n: u64| {
        let bits = scramble(stream.wrapping_add(GAMMA.wrapping_mul(n.wrapping_add(1)))) >> 11;
        (bits + 1) as f64 / (1u64 << 53) as f64
    };
    let fill = |first: usize, values: &mut [f32]| {
        for (pair, values) in (first as u64 / 2..).zip(values.chunks_mut(2)) {
            let radius = std * (-2.0 * uniform(2 * pair).ln()).sqrt();
            let (sine, cosine) = (TAU * uniform(2 * pair + 1)).sin_cos();
            values[0] = (radius * cosine) as f32;
            if let Some(second) = values.get_mut(1) {
                *second = (radius * sine) as f32;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = count.div_ceil(threads).next_multiple_of(2).max(1 << 16);
    let mut values = vec![0.0; count];
    thread::scope(|scope| {
        for (i, values) in values.chunks_mut(part).enumerate() {
            let fill = &fill;
            scope.spawn(move || fill(i * part, values));
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64], init: Init) -> ParameterSpec {
        ParameterSpec { name: "weight".to_owned(), shape: shape.to_vec(), init }
    }

    #[test]
    fn splitmix64_known_answers() {
        // The first outputs for seed 1234567, as published with the reference implementation.
        let expected = [6457827717110365317u64, 3203168211198807973, 9817491932198370423];
        for (n, expected) in (1u64..).zip(expected) {
            assert_eq!(scramble(1234567u64.wrapping_add(GAMMA.wrapping_mul(n))), expected);
        }
    }

    #[test]
    fn moments_are_those_of_the_normal_distribution() {
        let values = values(&spec(&[1000, 1001], Init::Normal), 0.02, 3);
        let n = values.len() as f64;
        let moment = |k: i32| values.iter().map(|&x| (f64::from(x) / 0.02).powi(k)).sum::<f64>() / n;
        // Five standard errors of each sample moment: sqrt(1, 2, 15, 96) / sqrt(n).
        for (k, expected, variance) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let error = (moment(k) - expected).abs();
            assert!(error < 5.0 * (variance / n).sqrt(), "moment {k} is off by {error}");
        }
    }

    #[test]
    fn the_beginning_does_not_depend_on_the_length() {
        let long = values(&spec(&[300_001], Init::Normal), 1.0, 5);
        let short = values(&spec(&[77], Init::Normal), 1.0, 5);
        assert_eq!(long[..77], short[..]);
    }

    #[test]
    fn constants_and_the_padding_row() {
        assert_eq!(values(&spec(&[3], Init::Zeros), 1.0, 1), [0.0; 3]);
        assert_eq!(values(&spec(&[3], Init::Ones), 1.0, 1), [1.0; 3]);
        let embedding = values(&spec(&[4, 3], Init::NormalButFirstRow), 1.0, 1);
        assert_eq!(embedding[..3], [0.0; 3]);
        assert!(embedding[3..].iter().all(|&x| x != 0.0));
    }
}
