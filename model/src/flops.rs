//! Arithmetic of a training step, for the utilisation of a device (MFU, <https://arxiv.org/abs/2204.02311>).

use crate::ModelConfig;
use crate::config::FeedForwardKind;

impl ModelConfig {
    /// Floating-point operations per token of one forward and backward pass: two for each multiplication and addition
    /// of a matrix product, and the backward pass twice the forward's.
    ///
    /// `6 (L (4 D² + m D I) + 2 L S D + r (D² + D V))` with m = 3 matrices in GeGLU and 2 in GELU, for sequences of S
    /// tokens of which the share r is masked. Counted are the products of attention over whole sequences and of the
    /// head on masked tokens. What is saved in the last layer is not subtracted, so that figures compare with other
    /// implementations of the model.
    pub fn flops_per_token(&self, seq_len: usize, mask_rate: f64) -> f64 {
        let [l, d, i, v] =
            [self.num_hidden_layers, self.hidden_size, self.intermediate_size, self.vocab_size]
                .map(|n| n as f64);
        let matrices = match self.feed_forward {
            FeedForwardKind::Geglu => 3.0,
            FeedForwardKind::Gelu => 2.0,
        };
        let layers = l * (4.0 * d * d + matrices * d * i);
        let attention = 2.0 * l * seq_len as f64 * d;
        let head = mask_rate * (d * d + d * v);
        6.0 * (layers + attention + head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_and_large_at_128_tokens() {
        let base = ModelConfig::mosaic_bert_base().flops_per_token(128, 0.3);
        assert_eq!((base / 1e6).round(), 737.0);
        let large = ModelConfig::mosaic_bert_large().flops_per_token(128, 0.3);
        assert_eq!((large / 1e6).round(), 2512.0);
    }

    #[test]
    fn without_attention_and_head_it_is_six_times_the_products_weights() {
        let config = ModelConfig::bert_base();
        let weights = 12.0 * (4.0 * 768.0 * 768.0 + 2.0 * 768.0 * 3072.0);
        assert_eq!(config.flops_per_token(0, 0.0), 6.0 * weights);
    }
}
