//! The architecture as data: one struct for MosaicBERT, for the BERT it is compared with, and for what lies between.
//!
//! Field names are those of Hugging Face's `config.json`; the last four fields are our switches.

use serde::{Deserialize, Serialize};

use crate::Error;

/// How a token's position enters the model. It also decides whose attention module is meant, and so the names of its
/// parameters: MosaicML's with one `Wqkv`, or Hugging Face's with `query`, `key` and `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEmbedding {
    /// A penalty on the distance of query and key ([ALiBi](https://arxiv.org/abs/2108.12409), in its symmetric form).
    Alibi,
    /// A learned vector for each position, added to the token's ([BERT](https://arxiv.org/abs/1810.04805)).
    Learned,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardKind {
    /// `W_o (gelu(W_g x) * W_u x)` ([GLU variants](https://arxiv.org/abs/2002.05202)); W_g and W_u without bias.
    Geglu,
    /// `W_o gelu(W_i x)` (BERT).
    Gelu,
}

/// Whether padding is computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Only real tokens pass through the linear layers; the results are the same and nothing is wasted.
    Unpadded,
    /// Every sequence is filled up to the batch's longest, as Hugging Face's BERT does it. For comparisons of speed, on the
    /// reference path: the fused path never computes on padding.
    Padded,
}

/// The arithmetic of LayerNorm, and of the residual stream between LayerNorms, under mixed precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerNormPrecision {
    /// Input, weight and bias in the compute type (Composer's low-precision LayerNorm).
    Low,
    /// In the parameters' own type, float32.
    Full,
}

/// An encoder's architecture. The default is MosaicBERT-base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Rows of the word embedding, V. 30528: the 30522 of `bert-base-uncased`, rounded up to a multiple of 64.
    pub vocab_size: i64,
    /// Width of the residual stream, D. 768.
    pub hidden_size: i64,
    /// Number of layers. 12.
    pub num_hidden_layers: i64,
    /// Attention heads, H; D / H is the width of one. 12.
    pub num_attention_heads: i64,
    /// Width of the feed-forward block, I. 3072; MosaicBERT does not shrink it for the gate.
    pub intermediate_size: i64,
    /// Longest sequence the learned positions reach; ALiBi needs no limit and ignores it. 512.
    pub max_position_embeddings: i64,
    /// Segment embeddings. 2; pretraining without next-sentence prediction uses the first alone.
    pub type_vocab_size: i64,
    /// Share of activations dropped after embeddings, attention and feed-forward, in [0, 1). 0.1.
    pub hidden_dropout_prob: f64,
    /// Share of attention probabilities dropped, in [0, 1). 0 in MosaicBERT, 0.1 in BERT.
    pub attention_probs_dropout_prob: f64,
    /// Added to the variance in LayerNorm. 1e-12.
    pub layer_norm_eps: f64,
    /// Standard deviation of the initial weights. 0.02.
    pub initializer_range: f64,
    /// Positions. `alibi`.
    pub position_embedding: PositionEmbedding,
    /// Feed-forward block. `geglu`.
    pub feed_forward: FeedForwardKind,
    /// Padding. `unpadded`.
    pub padding: Padding,
    /// Precision of LayerNorm. `low`.
    pub layer_norm: LayerNormPrecision,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig::mosaic_bert_base()
    }
}

impl ModelConfig {
    /// MosaicBERT-base, 137 million parameters ([Portes et al. 2023](https://arxiv.org/abs/2312.17482)).
    pub fn mosaic_bert_base() -> Self {
        ModelConfig {
            vocab_size: 30_528,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            position_embedding: PositionEmbedding::Alibi,
            feed_forward: FeedForwardKind::Geglu,
            padding: Padding::Unpadded,
            layer_norm: LayerNormPrecision::Low,
        }
    }

    /// MosaicBERT-large, 435 million parameters.
    pub fn mosaic_bert_large() -> Self {
        ModelConfig {
            hidden_size: 1024,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            intermediate_size: 4096,
            ..ModelConfig::mosaic_bert_base()
        }
    }

    /// BERT-base as MosaicBERT is compared with ([Devlin et al. 2018](https://arxiv.org/abs/1810.04805), in Hugging
    /// Face's form), with the same vocabulary.
    pub fn bert_base() -> Self {
        ModelConfig {
            attention_probs_dropout_prob: 0.1,
            position_embedding: PositionEmbedding::Learned,
            feed_forward: FeedForwardKind::Gelu,
            padding: Padding::Padded,
            layer_norm: LayerNormPrecision::Full,
            ..ModelConfig::mosaic_bert_base()
        }
    }

    /// Refuses values no model can be built from.
    ///
    /// # Errors
    /// [`Error::Config`], naming the first field that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |field, found: String, expected: &str| {
            Err(Error::Config { field, found, expected: expected.to_owned() })
        };
        for (field, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            if value < 1 {
                return refuse(field, value.to_string(), "at least 1");
            }
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let expected = format!("a multiple of model.num_attention_heads = {}", self.num_attention_heads);
            return refuse("hidden_size", self.hidden_size.to_string(), &expected);
        }
        for (field, value) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&value) {
                return refuse(field, value.to_string(), "at least 0 and below 1");
            }
        }
        for (field, value) in
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)]
        {
            if !(value.is_finite() && value > 0.0) {
                return refuse(field, value.to_string(), "a positive number");
            }
        }
        Ok(())
    }

    /// Refuses sequences longer than the positions reach.
    ///
    /// # Errors
    /// [`Error::Config`] where positions are learned and `seq_len` exceeds their number.
    pub fn check_seq_len(&self, seq_len: usize) -> Result<(), Error> {
        let limit = self.max_position_embeddings;
        let beyond = i64::try_from(seq_len).map_or(true, |seq_len| seq_len > limit);
        if self.position_embedding == PositionEmbedding::Learned && beyond {
            return Err(Error::Config {
                field: "max_position_embeddings",
                found: limit.to_string(),
                expected: format!("at least the sequence length, {seq_len}"),
            });
        }
        Ok(())
    }

    /// Width of one attention head, K.
    pub fn head_size(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        for config in
            [ModelConfig::mosaic_bert_base(), ModelConfig::mosaic_bert_large(), ModelConfig::bert_base()]
        {
            config.validate().unwrap();
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value() {
        let config = ModelConfig { num_attention_heads: 7, ..ModelConfig::default() };
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(
            message,
            "model.hidden_size is 768; it must be a multiple of model.num_attention_heads = 7"
        );
        let config = ModelConfig { hidden_dropout_prob: 1.0, ..ModelConfig::default() };
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(message, "model.hidden_dropout_prob is 1; it must be at least 0 and below 1");
        let config = ModelConfig { layer_norm_eps: f64::NAN, ..ModelConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("layer_norm_eps is NaN"));
        let config = ModelConfig { vocab_size: 0, ..ModelConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("vocab_size is 0"));
    }

    #[test]
    fn only_learned_positions_limit_the_sequence() {
        assert!(ModelConfig::mosaic_bert_base().check_seq_len(8192).is_ok());
        assert!(ModelConfig::bert_base().check_seq_len(512).is_ok());
        assert!(ModelConfig::bert_base().check_seq_len(513).is_err());
    }

    #[test]
    fn json_names_only_what_differs_and_refuses_unknown_keys() {
        let config: ModelConfig =
            serde_json::from_str(r#"{"hidden_size": 128, "padding": "padded"}"#).unwrap();
        assert_eq!(
            config,
            ModelConfig { hidden_size: 128, padding: Padding::Padded, ..ModelConfig::mosaic_bert_base() }
        );
        let error = serde_json::from_str::<ModelConfig>(r#"{"hidden": 128}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `hidden`"), "{error}");
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), config);
    }
}
