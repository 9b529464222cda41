//! The arithmetic a model needs, whatever computes it: what throughput is measured against.

use crate::ModelConfig;
use crate::config::FeedForwardKind;

/// What a batch asks of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens, T.
    pub tokens: u64,
    /// The sequences' lengths squared, summed: pairs of tokens that attend to each other.
    pub pairs: u64,
    /// Masked tokens, M.
    pub masked: u64,
}

impl Work {
    /// Adds a packed batch: `cu_seqlens` `[B + 1]`, and its number of masked tokens.
    pub fn add(&mut self, cu_seqlens: &[i32], masked: usize) {
        let lengths = cu_seqlens.windows(2).map(|pair| u64::from((pair[1] - pair[0]).unsigned_abs()));
        for length in lengths {
            self.tokens += length;
            self.pairs += length * length;
        }
        self.masked += masked as u64;
    }
}

impl ModelConfig {
    /// Floating-point operations of the matrix products in one forward and backward pass over `work`, a multiplication and
    /// an addition counted as two, nothing counted that is only recomputed.
    ///
    /// ```text
    /// 3 · 2 · [ (L − 1) · T (4 D² + f D I) + T 3 D² + M (D² + f D I) + L · 2 D · pairs + M (D² + D V) ]
    /// ```
    ///
    /// with f = 3 for the gated feed-forward and 2 for the plain one: after the last layer's attention only masked tokens
    /// are needed, and the backward pass is two products for each one of the forward pass (Kaplan et al. 2020, 2.1).
    pub fn training_flops(&self, work: Work) -> f64 {
        let [layers, d, i, v] =
            [self.num_hidden_layers, self.hidden_size, self.intermediate_size, self.vocab_size]
                .map(|n| n as f64);
        let [tokens, pairs, masked] = [work.tokens, work.pairs, work.masked].map(|n| n as f64);
        let feed_forward = match self.feed_forward {
            FeedForwardKind::Geglu => 3.0 * d * i,
            FeedForwardKind::Gelu => 2.0 * d * i,
        };
        let encoder = (layers - 1.0) * tokens * (4.0 * d * d + feed_forward)
            + tokens * 3.0 * d * d
            + masked * (d * d + feed_forward);
        let attention = layers * 2.0 * d * pairs;
        let head = masked * (d * d + d * v);
        6.0 * (encoder + attention + head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_needs_seven_hundred_million_a_token() {
        let mut work = Work::default();
        work.add(&[0, 128, 256], 77);
        assert_eq!(work, Work { tokens: 256, pairs: 2 * 128 * 128, masked: 77 });
        let config = ModelConfig::mosaic_bert_base();
        let flops = config.training_flops(work) / 256.0;
        // 737 M with the whole of the last layer (D = 768, I = 3072, L = 12, V = 30528, 30 % masked), less 70 % of its
        // second half: 6 · 0.7 · (768² + 3 · 768 · 3072) = 32 M.
        assert!((flops / 1e6 - 705.0).abs() < 3.0, "{flops}");
    }
}
