//! One encoder layer as one node of the autograd graph, with its backward pass written out.
//!
//! ```text
//! qkv = x Wqkvᵀ + bqkv            o = attention(qkv)          a = o Woᵀ
//! y   = LN₁(x + dropout(a + bo))
//! MosaicBERT:  h = y Wguᵀ         g = dropout(gelu(h₁) h₂)    f = g Wdᵀ      out = LN₂(y + f + bd)
//! BERT:        h = y Wuᵀ + bu     g = gelu(h)                 f = g Wdᵀ      out = LN₂(y + dropout(f + bd))
//! ```
//!
//! Products are cuBLAS's, all else is ours. Activations are bf16, sums float32; x, y, out and what LayerNorm takes are
//! float32 where LayerNorm is in full precision. Gradients of the parameters are added to their buffers in place and never
//! become tensors of their own. Kept for the backward pass, in bf16 elements a token, for MosaicBERT: 3·D (qkv) + 4·D (x, o,
//! z₁, y) + D (z₂) + 3·I (h, g), and a few numbers a row.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::kernels::{Attended, ColumnSum, Dropout, Kernels, Sequences};
use super::weights::{Stack, Weight, add_product};
use crate::config::{FeedForwardKind, PositionEmbedding};
use crate::torch::{Backward, gradient, gradient_complete, node};
use crate::{Error, ModelConfig, Parameters};

/// A layer's parameters.
#[derive(Debug)]
pub(crate) struct Layer {
    qkv: Stack,
    qkv_bias: Stack,
    attention_out: Weight,
    attention_bias: Tensor,
    attention_norm: [Tensor; 2],
    feed_forward: FeedForwardKind,
    up: Weight,
    /// BERT's alone.
    up_bias: Option<Weight>,
    down: Weight,
    down_bias: Tensor,
    feed_forward_norm: [Tensor; 2],
    epsilon: f64,
}

/// What all layers of one forward pass share.
pub(crate) struct Pass<'a> {
    pub(crate) kernels: &'a Arc<Kernels>,
    pub(crate) sequences: &'a Sequences,
    /// ALiBi's, `[H]`, float32; zeros where positions are learned.
    pub(crate) slopes: &'a Tensor,
    /// Probability that an activation is dropped; 0 outside training.
    pub(crate) dropout: f64,
    /// Probability that an attention probability is dropped; 0 outside training.
    pub(crate) attention_dropout: f64,
    pub(crate) seed: u64,
}

impl Pass<'_> {
    /// Dropout of the embedding.
    pub(crate) fn embedding_dropout(&self) -> Dropout {
        Dropout { probability: self.dropout, seed: self.seed, stream: 0 }
    }

    fn layer_dropout(&self, index: u64, feed_forward: FeedForwardKind) -> LayerDropout {
        let at = |place: u64, probability: f64| Dropout {
            probability,
            seed: self.seed,
            stream: 3 * index + place,
        };
        let (gate, down) = match feed_forward {
            FeedForwardKind::Geglu => (self.dropout, 0.0),
            FeedForwardKind::Gelu => (0.0, self.dropout),
        };
        LayerDropout {
            probabilities: at(1, self.attention_dropout),
            attention: at(2, self.dropout),
            gate: at(3, gate),
            down: at(3, down),
        }
    }
}

/// Dropout at the places of one layer.
#[derive(Clone, Copy)]
struct LayerDropout {
    /// Of the probabilities.
    probabilities: Dropout,
    /// After the output projection.
    attention: Dropout,
    /// After the gate.
    gate: Dropout,
    /// After the feed-forward block.
    down: Dropout,
}

impl Layer {
    pub(crate) fn new(parameters: &Parameters, index: i64, config: &ModelConfig) -> Layer {
        let layer = format!("bert.encoder.layer.{index}");
        let weight = |name: &str| Weight::new(parameters, &format!("{layer}.{name}"));
        let plain = |name: &str| parameters.get(&format!("{layer}.{name}"));
        let norm = |name: &str| ["weight", "bias"].map(|part| plain(&format!("{name}.{part}")));
        let maps: &[&str] = match config.position_embedding {
            PositionEmbedding::Alibi => &["Wqkv"],
            PositionEmbedding::Learned => &["query", "key", "value"],
        };
        let stack = |part: &str| {
            let names: Vec<_> =
                maps.iter().map(|map| format!("{layer}.attention.self.{map}.{part}")).collect();
            Stack::new(parameters, &names)
        };
        let [up, down, feed_forward_norm] = match config.feed_forward {
            FeedForwardKind::Geglu => ["mlp.gated_layers", "mlp.wo", "mlp.layernorm"],
            FeedForwardKind::Gelu => ["intermediate.dense", "output.dense", "output.LayerNorm"],
        };
        Layer {
            qkv: stack("weight"),
            qkv_bias: stack("bias"),
            attention_out: weight("attention.output.dense.weight"),
            attention_bias: plain("attention.output.dense.bias"),
            attention_norm: norm("attention.output.LayerNorm"),
            feed_forward: config.feed_forward,
            up: weight(&format!("{up}.weight")),
            up_bias: (config.feed_forward == FeedForwardKind::Gelu).then(|| weight(&format!("{up}.bias"))),
            down: weight(&format!("{down}.weight")),
            down_bias: plain(&format!("{down}.bias")),
            feed_forward_norm: norm(feed_forward_norm),
            epsilon: config.layer_norm_eps,
        }
    }

    /// The parameters that have a bf16 copy.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weight> {
        let stacks = self.qkv.parts().iter().chain(self.qkv_bias.parts());
        stacks.chain([&self.attention_out, &self.up, &self.down]).chain(&self.up_bias)
    }

    /// `rows`, distinct, are the only ones computed after attention; all when `None`. `index` tells this layer's dropout
    /// from that of others.
    ///
    /// # Shape
    /// - `x`: `[T, D]`; `rows`: `[R]`, i64; result: `[T, D]`, or `[R, D]`
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rows: Option<&Tensor>,
        index: u64,
        pass: &Pass,
    ) -> Result<Tensor, Error> {
        let outputs = node("encoder layer", &[x], || {
            let (out, kept) = self.compute(x, rows, index, pass)?;
            let parameters = self.handles();
            let backward: Backward = Box::new(move |mut gradients| match gradients.remove(0) {
                Some(d_out) => Ok(vec![Some(backward(&parameters, kept, &d_out.contiguous())?)]),
                None => Ok(vec![None]),
            });
            Ok((vec![out], backward))
        })?;
        Ok(outputs.into_iter().next().expect("one output"))
    }

    fn compute(
        &self,
        x: &Tensor,
        rows: Option<&Tensor>,
        index: u64,
        pass: &Pass,
    ) -> Result<(Tensor, Kept), Error> {
        let (kernels, products) = (pass.kernels, &pass.kernels.products);
        let dropout = pass.layer_dropout(index, self.feed_forward);
        let x = x.detach(); // [T, D]
        let input = x.to_kind(Kind::BFloat16); // [T, D], x itself in a bf16 stream
        let qkv = products.product(&input, &self.qkv.copy().tr(), Some(self.qkv_bias.copy()))?; // [T, 3·D]
        let attended = kernels.attention_forward(&qkv, pass.sequences, pass.slopes, dropout.probabilities)?; // [T, D]
        let (chosen, residual) = match rows {
            Some(rows) => (attended.out.index_select(0, rows), x.index_select(0, rows)), // 2 × [R, D]
            None => (attended.out.shallow_clone(), x),
        };
        let a = products.product(&chosen, &self.attention_out.copy().tr(), None)?; // [R, D]
        let vectors = [&self.attention_bias, &self.attention_norm[0], &self.attention_norm[1]];
        let (y, z1, statistics1) =
            kernels.layer_norm_forward(a, &residual, vectors, self.epsilon, dropout.attention)?; // 2 × [R, D]
        let middle = y.to_kind(Kind::BFloat16); // [R, D], y itself in a bf16 stream
        let (h, g) = match &self.up_bias {
            None => {
                let h = products.product(&middle, &self.up.copy().tr(), None)?; // [R, 2·I]
                let g = kernels.geglu_forward(&h, dropout.gate)?; // [R, I]
                (h, g)
            }
            Some(bias) => {
                let h = products.product(&middle, &self.up.copy().tr(), Some(bias.copy()))?; // [R, I]
                let g = kernels.gelu_forward(&h)?; // [R, I]
                (h, g)
            }
        };
        let f = products.product(&g, &self.down.copy().tr(), None)?; // [R, D]
        let vectors = [&self.down_bias, &self.feed_forward_norm[0], &self.feed_forward_norm[1]];
        let (out, z2, statistics2) =
            kernels.layer_norm_forward(f, &y, vectors, self.epsilon, dropout.down)?; // 2 × [R, D]
        let kept = Kept {
            kernels: kernels.clone(),
            sequences: pass.sequences.shallow_clone(),
            slopes: pass.slopes.shallow_clone(),
            rows: rows.map(Tensor::shallow_clone),
            dropout,
            input,
            qkv,
            attended,
            chosen,
            z1,
            statistics1,
            middle,
            h,
            g,
            z2,
            statistics2,
        };
        Ok((out, kept))
    }

    fn handles(&self) -> Handles {
        let pair = |weight: &Weight| [weight.master().shallow_clone(), weight.copy().shallow_clone()];
        let all = |tensors: &[Tensor; 2]| [tensors[0].shallow_clone(), tensors[1].shallow_clone()];
        Handles {
            qkv: self.qkv.masters(),
            qkv_copy: self.qkv.copy().shallow_clone(),
            qkv_bias: self.qkv_bias.masters(),
            attention_out: pair(&self.attention_out),
            attention_bias: self.attention_bias.shallow_clone(),
            attention_norm: all(&self.attention_norm),
            up: pair(&self.up),
            up_bias: self.up_bias.as_ref().map(|bias| bias.master().shallow_clone()),
            down: pair(&self.down),
            down_bias: self.down_bias.shallow_clone(),
            feed_forward_norm: all(&self.feed_forward_norm),
        }
    }
}

/// Handles on the parameters that travel to the thread of the backward pass; of weights, the parameter and its copy.
struct Handles {
    qkv: Vec<Tensor>,
    qkv_copy: Tensor,
    qkv_bias: Vec<Tensor>,
    attention_out: [Tensor; 2],
    attention_bias: Tensor,
    attention_norm: [Tensor; 2],
    up: [Tensor; 2],
    up_bias: Option<Tensor>,
    down: [Tensor; 2],
    down_bias: Tensor,
    feed_forward_norm: [Tensor; 2],
}

impl Handles {
    /// The parameters whose gradients the first part of the backward pass completes.
    fn second_half(&self) -> impl Iterator<Item = &Tensor> {
        [&self.up[0], &self.down[0], &self.down_bias]
            .into_iter()
            .chain(&self.up_bias)
            .chain(&self.feed_forward_norm)
    }

    /// Those that the rest of it completes.
    fn first_half(&self) -> impl Iterator<Item = &Tensor> {
        let attention = [&self.attention_out[0], &self.attention_bias];
        self.qkv.iter().chain(&self.qkv_bias).chain(attention).chain(&self.attention_norm)
    }
}

/// What the forward pass keeps for the backward pass.
struct Kept {
    kernels: Arc<Kernels>,
    sequences: Sequences,
    slopes: Tensor,
    rows: Option<Tensor>,
    dropout: LayerDropout,
    input: Tensor,
    qkv: Tensor,
    attended: Attended,
    chosen: Tensor,
    z1: Tensor,
    statistics1: Tensor,
    middle: Tensor,
    h: Tensor,
    g: Tensor,
    z2: Tensor,
    statistics2: Tensor,
}

/// Adds the gradients of the parameters to theirs; returns that of x.
///
/// # Shape
/// - `d_out`: `[R, D]`; result: `[T, D]`
fn backward(parameters: &Handles, kept: Kept, d_out: &Tensor) -> Result<Tensor, Error> {
    let (kernels, products) = (&kept.kernels, &kept.kernels.products);
    // Second half. In a bf16 stream and without dropout after the product, f and the residual have one gradient.
    let [gamma, beta] = &parameters.feed_forward_norm;
    let sums = [gradient(gamma)?, gradient(beta)?, gradient(&parameters.down_bias)?];
    let saved = [&kept.z2, d_out, &kept.statistics2, gamma];
    let (d_y, d_f) = kernels.layer_norm_backward(saved, sums.each_ref(), None, kept.dropout.down)?; // 2 × [R, D]
    add_product(products, &parameters.down[0], &d_f.tr(), &kept.g)?;
    let d_g = products.product(&d_f, &parameters.down[1], None)?; // [R, I]
    drop((d_f, kept.g, kept.z2));
    let d_h = match &parameters.up_bias {
        None => {
            kernels.geglu_backward(&kept.h, &d_g, kept.dropout.gate)?;
            kept.h // [R, 2·I]
        }
        Some(bias) => {
            kernels.gelu_backward(&kept.h, &d_g)?;
            kernels.add_sums_of(&d_g, 0..d_g.size()[1], None, &gradient(bias)?)?;
            d_g // [R, I]
        }
    };
    add_product(products, &parameters.up[0], &d_h.tr(), &kept.middle)?;
    products.add_product(&d_y, &d_h, &parameters.up[1])?; // [R, D]
    drop((d_h, kept.middle));
    parameters.second_half().try_for_each(gradient_complete)?;

    // First half.
    let [gamma, beta] = &parameters.attention_norm;
    let bias_sum = parameters.attention_bias.detach().empty_like(); // [D]
    let sums = [gradient(gamma)?, gradient(beta)?, gradient(&parameters.attention_bias)?];
    let saved = [&kept.z1, &d_y, &kept.statistics1, gamma];
    let (d_residual, d_a) =
        kernels.layer_norm_backward(saved, sums.each_ref(), Some(&bias_sum), kept.dropout.attention)?; // 2 × [R, D]
    drop((d_y, kept.z1));
    add_product(products, &parameters.attention_out[0], &d_a.tr(), &kept.chosen)?;
    let d_chosen = products.product(&d_a, &parameters.attention_out[1], None)?; // [R, D]
    drop((d_a, kept.chosen));
    let (d_attended, d_x) = match &kept.rows {
        Some(rows) => {
            let spread = |chosen: &Tensor| {
                let mut all = Tensor::zeros(kept.input.size(), (chosen.kind(), chosen.device()));
                all.index_copy_(0, rows, chosen) // [T, D]
            };
            (spread(&d_chosen), spread(&d_residual))
        }
        None => (d_chosen, d_residual),
    };
    let probabilities = kept.dropout.probabilities;
    let (sequences, slopes) = (&kept.sequences, &kept.slopes);
    let (d_qkv, query_sums) = kernels.attention_backward(
        &kept.qkv,
        &kept.attended,
        &d_attended,
        sequences,
        slopes,
        probabilities,
    )?; // [T, 3·D], [B, D]
    let width = query_sums.size()[1];
    let [query_bias, value_bias] = query_and_value(&parameters.qkv_bias, width)?; // 2 × [D]
    let of_queries = ColumnSum::of(&query_sums, &query_bias);
    if probabilities.is_off() {
        // The probabilities of a query sum to one, so the gradient of the values' bias is the sum of d_attended, which is Woᵀ
        // times the sum of d_a.
        let output = parameters.attention_out[0].detach(); // [D, D]
        let of_values = ColumnSum { weights: Some(&bias_sum), ..ColumnSum::of(&output, &value_bias) };
        kernels.add_column_sums(width, &[of_queries, of_values])?;
    } else {
        kernels.add_column_sums(width, &[of_queries])?;
        kernels.add_sums_of(&d_qkv, 2 * width..3 * width, None, &value_bias)?;
    }
    let mut row = 0;
    for part in &parameters.qkv {
        let rows = part.size()[0];
        add_product(products, part, &d_qkv.narrow(1, row, rows).tr(), &kept.input)?;
        row += rows;
    }
    products.add_product(&d_x, &d_qkv, &parameters.qkv_copy)?; // [T, D]
    parameters.first_half().try_for_each(gradient_complete)?;
    Ok(d_x)
}

/// The gradients of the biases of queries and values. That of the keys' is zero, because their bias shifts all scores of a query
/// alike.
fn query_and_value(biases: &[Tensor], width: i64) -> Result<[Tensor; 2], Error> {
    let mut thirds = Vec::new();
    for bias in biases {
        thirds.extend(gradient(bias)?.split(width, 0)); // [D] each
    }
    let [query, _, value] = <[Tensor; 3]>::try_from(thirds).expect("queries, keys and values");
    Ok([query, value])
}
