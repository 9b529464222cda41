//! The fused path: MosaicBERT and BERT in bf16 on a CUDA card, over our own kernels and cuBLAS. It never computes on padding.
//!
//! It computes what the reference path computes, from the same [`Parameters`], into the same gradients. Embedding, every
//! encoder layer, and decoder with loss are one node of the autograd graph each, with backward passes written out; between
//! them, and in any head, torch's ordinary autograd goes on. Gradients of parameters inside the nodes are added to their
//! buffers in place, so those parameters are no inputs of the graph.
//!
//! Dropout masks are a function of a seed that each forward pass draws from torch's CPU generator: `tch::manual_seed` makes
//! a step repeatable here too. Every sum is taken in a fixed order: the same step gives the same bits.
//!
//! `layer.rs` first; `kernels/` are the kernels as functions of tensors, `adamw.rs` is the optimizer's update.

mod adamw;
mod ends;
mod kernels;
mod layer;
mod weights;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

pub use adamw::AdamW;
use ends::Ends;
use kernels::{HEAD_SIZE, Kernels, LARGEST_VOCABULARY, Sequences, WIDEST_ROW};
use layer::{Layer, Pass};
use weights::Weight;

use crate::config::{LayerNormPrecision, PositionEmbedding};
use crate::torch::upload;
use crate::{Error, Head, ModelConfig, Parameters, TokenBatch, alibi};

/// The encoder and the loss on the fused path.
#[derive(Debug)]
pub(crate) struct Fused {
    kernels: Arc<Kernels>,
    ends: Ends,
    layers: Vec<Layer>,
    slopes: Tensor,
    dropout: f64,
    attention_dropout: f64,
}

impl Fused {
    /// Compiles the kernels and makes bf16 copies of the parameters, which are those of a model with this head.
    ///
    /// # Errors
    /// [`Error::Fused`] where the model, its type or its device is not one the kernels are written for; [`Error::Library`],
    /// [`Error::Kernel`] and [`Error::Cuda`] where the machine stands in the way.
    pub(crate) fn new(
        parameters: &Parameters,
        config: &ModelConfig,
        head: Head,
        compute_kind: Kind,
    ) -> Result<Fused, Error> {
        let words = parameters.get("bert.embeddings.word_embeddings.weight");
        let Device::Cuda(device) = words.device() else {
            return Err(Error::Fused { reason: "the model is not on a CUDA card".to_owned() });
        };
        if let Some(reason) = obstacle(config, compute_kind) {
            return Err(Error::Fused { reason });
        }
        let heads = config.num_attention_heads as usize;
        let slopes: Vec<f32> = match config.position_embedding {
            PositionEmbedding::Alibi => alibi::slopes(heads).into_iter().map(|slope| slope as f32).collect(),
            PositionEmbedding::Learned => vec![0.0; heads],
        };
        let stream = match config.layer_norm {
            LayerNormPrecision::Low => Kind::BFloat16,
            LayerNormPrecision::Full => Kind::Float,
        };
        Ok(Fused {
            kernels: Kernels::load(device, config.hidden_size, stream)?,
            ends: Ends::new(parameters, config, head),
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::new(parameters, index, config))
                .collect(),
            slopes: Tensor::from_slice(&slopes).to_device(words.device()), // [H]
            dropout: config.hidden_dropout_prob,
            attention_dropout: config.attention_probs_dropout_prob,
        })
    }

    /// Whether sequences so long fit the kernels on this card, and the positions.
    pub(crate) fn fits(&self, longest: i64) -> bool {
        longest <= self.ends.longest() && self.kernels.attention_fits(longest)
    }

    /// The parameters that have a bf16 copy.
    fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.layers.iter().flat_map(Layer::weights).chain(self.ends.weights())
    }

    /// The last layer's output for all tokens, or for those at `positions`, which are distinct.
    ///
    /// # Shape
    /// - `positions`: `[R]`, i64; result: `[T, D]` or `[R, D]`, bf16, or float32 where LayerNorm is in full precision
    pub(crate) fn encode(
        &self,
        batch: &TokenBatch,
        positions: Option<&Tensor>,
        train: bool,
    ) -> Result<Tensor, Error> {
        for weight in self.weights() {
            weight.refresh()?;
        }
        let sequences = Sequences {
            starts: upload(&batch.cu_seqlens, batch.input_ids.device())?, // [B + 1]
            count: batch.sequences() as i64,
            longest: batch.max_seqlen,
        };
        let (dropout, attention_dropout) =
            if train { (self.dropout, self.attention_dropout) } else { (0.0, 0.0) };
        let pass = Pass {
            kernels: &self.kernels,
            sequences: &sequences,
            slopes: &self.slopes,
            dropout,
            attention_dropout,
            seed: if dropout > 0.0 || attention_dropout > 0.0 { draw_seed() } else { 0 },
        };
        let mut x = self.ends.embed(batch, &pass)?; // [T, D]
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, positions.filter(|_| index == last), index as u64, &pass)?; // [T, D], at last [R, D]
        }
        Ok(x)
    }

    /// See [`Ends::loss`]. For the masked-LM head alone.
    pub(crate) fn loss(
        &self,
        y: &Tensor,
        labels: &Tensor,
        normalizer: f64,
    ) -> Result<(Tensor, Tensor), Error> {
        self.ends.loss(&self.kernels, y, labels, normalizer)
    }

    /// The update of `parameters` by fused AdamW, bf16 copies included; see [`AdamW`].
    pub(crate) fn adamw(&self, parameters: &Parameters, moments: &[[&Tensor; 2]]) -> Result<AdamW, Error> {
        AdamW::new(&self.kernels, parameters, self.weights(), moments)
    }

    /// The update of pieces of parameters; see [`AdamW`]. What it writes is to be counted as written
    /// ([`crate::torch::count_write`]), so that the bf16 copies follow.
    pub(crate) fn adamw_of_pieces(&self, pieces: Vec<[Tensor; 4]>) -> Result<AdamW, Error> {
        AdamW::of_pieces(&self.kernels, pieces)
    }
}

/// What about the model the kernels are not written for.
fn obstacle(config: &ModelConfig, compute_kind: Kind) -> Option<String> {
    let field = |name: &str, value: String, expected: String| {
        Some(format!("model.{name} is {value}, expected {expected}"))
    };
    if compute_kind != Kind::BFloat16 {
        return Some(format!("the model computes in {compute_kind:?}, expected BFloat16"));
    }
    if config.head_size() != HEAD_SIZE {
        let expected = format!("{HEAD_SIZE} times model.num_attention_heads");
        return field("hidden_size", config.hidden_size.to_string(), expected);
    }
    if config.hidden_size > WIDEST_ROW {
        return field("hidden_size", config.hidden_size.to_string(), format!("at most {WIDEST_ROW}"));
    }
    if config.vocab_size % 8 != 0 || config.vocab_size > LARGEST_VOCABULARY {
        let expected = format!("a multiple of 8 up to {LARGEST_VOCABULARY}");
        return field("vocab_size", config.vocab_size.to_string(), expected);
    }
    if config.intermediate_size % 8 != 0 {
        return field(
            "intermediate_size",
            config.intermediate_size.to_string(),
            "a multiple of 8".to_owned(),
        );
    }
    None
}

/// From torch's CPU generator, so that `tch::manual_seed` decides it.
fn draw_seed() -> u64 {
    Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernels_are_not_written_for_is_named() {
        let base = ModelConfig::mosaic_bert_base();
        assert_eq!(obstacle(&base, Kind::BFloat16), None);
        assert_eq!(obstacle(&ModelConfig::mosaic_bert_large(), Kind::BFloat16), None);
        assert_eq!(obstacle(&ModelConfig::bert_base(), Kind::BFloat16), None);
        assert!(obstacle(&base, Kind::Float).unwrap().contains("computes in Float"));
        let refused = |config: ModelConfig| obstacle(&config, Kind::BFloat16).unwrap();
        assert!(refused(ModelConfig { num_attention_heads: 6, ..base.clone() }).contains("64 times"));
        assert!(refused(ModelConfig { vocab_size: 30_522, ..base.clone() }).contains("a multiple of 8"));
        assert!(refused(ModelConfig { hidden_size: 1536, num_attention_heads: 24, ..base }).contains("1024"));
    }

    #[test]
    fn the_seed_follows_torchs_generator() {
        tch::manual_seed(3);
        let (first, second) = (draw_seed(), draw_seed());
        tch::manual_seed(3);
        assert_eq!((draw_seed(), draw_seed()), (first, second));
        assert_ne!(first, second);
    }
}
