//! The two ends of the model: the embeddings with their LayerNorm, and the decoder with the loss. The decoder's weight is the
//! table of words, so both ends share it.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::kernels::{Dropout, Kernels, Tables};
use super::layer::Pass;
use super::weights::{Weight, add_product};
use crate::config::PositionEmbedding;
use crate::torch::{Backward, gradient, gradient_complete, node, upload};
use crate::{Error, Head, ModelConfig, Parameters, TokenBatch};

/// Row 0 of the word embedding, `[PAD]`: it receives no gradient from the input side.
const PAD: i32 = 0;

/// The tables, and what normalises their rows.
#[derive(Debug)]
pub(crate) struct Ends {
    words: Weight,
    types: Weight,
    /// Of learned positions.
    positions: Option<Weight>,
    norm: [Tensor; 2],
    /// Of the masked-LM head.
    decoder_bias: Option<Weight>,
    epsilon: f64,
}

impl Ends {
    pub(crate) fn new(parameters: &Parameters, config: &ModelConfig, head: Head) -> Ends {
        Ends {
            words: Weight::new(parameters, "bert.embeddings.word_embeddings.weight"),
            types: Weight::new(parameters, "bert.embeddings.token_type_embeddings.weight"),
            positions: (config.position_embedding == PositionEmbedding::Learned)
                .then(|| Weight::new(parameters, "bert.embeddings.position_embeddings.weight")),
            norm: ["weight", "bias"].map(|part| parameters.get(&format!("bert.embeddings.LayerNorm.{part}"))),
            decoder_bias: (head == Head::MaskedLm)
                .then(|| Weight::new(parameters, config.decoder_bias_name())),
            epsilon: config.layer_norm_eps,
        }
    }

    /// The parameters that have a bf16 copy.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        [&self.words, &self.types].into_iter().chain(&self.positions).chain(&self.decoder_bias)
    }

    /// Tokens of the longest sequence that the positions reach.
    pub(crate) fn longest(&self) -> i64 {
        self.positions.as_ref().map_or(i64::MAX, |positions| positions.copy().size()[0])
    }

    /// # Shape
    /// - result: `[T, D]`
    pub(crate) fn embed(&self, batch: &TokenBatch, pass: &Pass) -> Result<Tensor, Error> {
        let dropout = pass.embedding_dropout();
        let outputs = node("embedding", &[self.words.master()], || {
            let positions = match &self.positions {
                Some(positions) => {
                    let ends = batch.cu_seqlens.windows(2);
                    let places: Vec<i32> = ends.flat_map(|pair| 0..pair[1] - pair[0]).collect();
                    let places = upload(&places, batch.input_ids.device())?; // [T]
                    Some((places, positions.copy().shallow_clone()))
                }
                None => None,
            };
            let tables = Tables {
                ids: batch.input_ids.to_kind(Kind::Int).contiguous(), // [T]
                types_of: batch.token_type_ids.as_ref().map(|types| types.to_kind(Kind::Int).contiguous()), // [T]
                words: self.words.copy().shallow_clone(),
                types: self.types.copy().shallow_clone(),
                positions,
            };
            let norm = [&self.norm[0], &self.norm[1]];
            let (y, statistics) = pass.kernels.embedding_forward(&tables, norm, self.epsilon, dropout)?; // [T, D]
            let kernels = pass.kernels.clone();
            let parameters = EmbeddingHandles {
                words: self.words.master().shallow_clone(),
                types: self.types.master().shallow_clone(),
                positions: self.positions.as_ref().map(|positions| positions.master().shallow_clone()),
                norm: [self.norm[0].shallow_clone(), self.norm[1].shallow_clone()],
            };
            let backward: Backward = Box::new(move |mut gradients| {
                if let Some(d_y) = gradients.remove(0) {
                    embedding_backward(
                        &kernels,
                        &parameters,
                        &tables,
                        &d_y.contiguous(),
                        &statistics,
                        dropout,
                    )?;
                }
                Ok(vec![None])
            });
            Ok((vec![y], backward))
        })?;
        Ok(outputs.into_iter().next().expect("one output"))
    }

    /// The summed cross-entropy of `softmax(y Wᵀ + b)` over `normalizer`, and how many labels have the largest score.
    ///
    /// # Shape
    /// - `y`: `[M, D]`, bf16; `labels`: `[M]`, i64; results: scalars, float32 and i64
    pub(crate) fn loss(
        &self,
        kernels: &Arc<Kernels>,
        y: &Tensor,
        labels: &Tensor,
        normalizer: f64,
    ) -> Result<(Tensor, Tensor), Error> {
        let decoder_bias = self.decoder_bias.as_ref().expect("a masked-LM head");
        let differentiable = y.requires_grad();
        let mut correct = None;
        let outputs = node("decoder and loss", &[y], || {
            let y = y.detach(); // [M, D]
            let logits = kernels.products.product(&y, &self.words.copy().tr(), Some(decoder_bias.copy()))?; // [M, V]
            let scale = differentiable.then_some(1.0 / normalizer);
            let (losses, hits) = kernels.cross_entropy(&logits, &labels.contiguous(), scale)?; // 2 × [M]
            correct = Some(hits.sum(Kind::Int64));
            let loss = losses.sum(Kind::Float) / normalizer; // []
            let kernels = kernels.clone();
            let (words, copy) = (self.words.master().shallow_clone(), self.words.copy().shallow_clone());
            let bias = decoder_bias.master().shallow_clone();
            let backward: Backward = Box::new(move |mut gradients| {
                let Some(d_loss) = gradients.remove(0) else { return Ok(vec![None]) };
                // The logits now hold their gradient; what the loss is multiplied by afterwards scales the small factors.
                let d_logits = logits; // [M, V]
                let scale = d_loss.to_kind(Kind::BFloat16); // []
                let scaled = &y * &scale; // [M, D]
                let d_y = kernels.products.product(&d_logits, &copy, None)? * scale; // [M, D]
                add_product(&kernels.products, &words, &d_logits.tr(), &scaled)?;
                let columns = 0..d_logits.size()[1];
                kernels.add_sums_of(&d_logits, columns, Some(&d_loss), &gradient(&bias)?)?;
                gradient_complete(&bias)?;
                Ok(vec![Some(d_y)])
            });
            Ok((vec![loss], backward))
        })?;
        let loss = outputs.into_iter().next().expect("one output");
        Ok((loss, correct.expect("set with the output")))
    }
}

/// Parameters that travel to the thread of the backward pass.
struct EmbeddingHandles {
    words: Tensor,
    types: Tensor,
    positions: Option<Tensor>,
    norm: [Tensor; 2],
}

fn embedding_backward(
    kernels: &Kernels,
    parameters: &EmbeddingHandles,
    tables: &Tables,
    d_y: &Tensor,
    statistics: &Tensor,
    dropout: Dropout,
) -> Result<(), Error> {
    let [gamma, beta] = &parameters.norm;
    let (d_gamma, d_beta) = (gradient(gamma)?, gradient(beta)?);
    let types = gradient(&parameters.types)?; // [types, D]
    let first_type = tables.types_of.is_none().then(|| types.get(0)); // [D]
    let sums = [Some(&d_gamma), Some(&d_beta), first_type.as_ref()];
    let d_sum = kernels.embedding_backward(tables, [d_y, statistics, gamma], sums, dropout)?; // [T, D]
    kernels.add_to_table(&tables.ids, &d_sum, &gradient(&parameters.words)?, Some(PAD))?;
    if let Some(types_of) = &tables.types_of {
        kernels.add_to_table(types_of, &d_sum, &types, None)?;
    }
    if let (Some((places, _)), Some(positions)) = (&tables.positions, &parameters.positions) {
        kernels.add_to_table(places, &d_sum, &gradient(positions)?, None)?;
    }
    let tables = [&parameters.words, &parameters.types];
    tables.into_iter().chain(&parameters.positions).chain(&parameters.norm).try_for_each(gradient_complete)
}
