//! One encoder layer as one node of the autograd graph, with its backward pass written out.
//!
//! ```text
//! qkv = x Wqkvᵀ + bqkv            o = attention(qkv)          a = o Woᵀ
//! y   = LN₁(x + dropout(a + bo))  h = y Wguᵀ   g = dropout(gelu(h₁) h₂)   f = g Wdᵀ
//! out = LN₂(y + f + bd)
//! ```
//!
//! Products are cuBLAS's, all else is ours. Activations are bf16, sums float32. Gradients of the parameters are added to
//! their buffers in place and never become tensors of their own. Kept for the backward pass, in bf16 elements a token:
//! 3·D (qkv) + 4·D (x, o, z₁, y) + D (z₂) + 3·I (h, g), and a few numbers a row.

use std::sync::Arc;

use tch::Tensor;

use super::kernels::{Dropout, Kernels, Sequences};
use super::weights::{Weight, add_product};
use crate::torch::{Backward, gradient, node};
use crate::{Error, ModelConfig, Parameters};

/// A layer's parameters.
#[derive(Debug)]
pub(crate) struct Layer {
    qkv: Weight,
    qkv_bias: Weight,
    attention_out: Weight,
    attention_bias: Tensor,
    attention_norm: [Tensor; 2],
    gate_and_linear: Weight,
    down: Weight,
    down_bias: Tensor,
    feed_forward_norm: [Tensor; 2],
    epsilon: f64,
}

/// What all layers of one forward pass share.
pub(crate) struct Pass<'a> {
    pub(crate) kernels: &'a Arc<Kernels>,
    pub(crate) sequences: &'a Sequences,
    /// ALiBi's, `[H]`, float32.
    pub(crate) slopes: &'a Tensor,
    /// Probability of dropout; 0 outside training.
    pub(crate) dropout: f64,
    pub(crate) seed: u64,
}

impl Pass<'_> {
    /// Dropout at place `stream` of the model.
    pub(crate) fn dropout(&self, stream: u64) -> Dropout {
        Dropout { probability: self.dropout, seed: self.seed, stream }
    }
}

impl Layer {
    pub(crate) fn new(parameters: &Parameters, index: i64, config: &ModelConfig) -> Layer {
        let layer = format!("bert.encoder.layer.{index}");
        let weight = |name: &str| Weight::new(parameters, &format!("{layer}.{name}"));
        let plain = |name: &str| parameters.get(&format!("{layer}.{name}"));
        let norm = |name: &str| ["weight", "bias"].map(|part| plain(&format!("{name}.{part}")));
        Layer {
            qkv: weight("attention.self.Wqkv.weight"),
            qkv_bias: weight("attention.self.Wqkv.bias"),
            attention_out: weight("attention.output.dense.weight"),
            attention_bias: plain("attention.output.dense.bias"),
            attention_norm: norm("attention.output.LayerNorm"),
            gate_and_linear: weight("mlp.gated_layers.weight"),
            down: weight("mlp.wo.weight"),
            down_bias: plain("mlp.wo.bias"),
            feed_forward_norm: norm("mlp.layernorm"),
            epsilon: config.layer_norm_eps,
        }
    }

    /// The parameters that have a bf16 copy.
    pub(crate) fn weights(&self) -> [&Weight; 5] {
        [&self.qkv, &self.qkv_bias, &self.attention_out, &self.gate_and_linear, &self.down]
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
        let kernels = pass.kernels;
        let (attention_dropout, gate_dropout) = (pass.dropout(2 * index + 1), pass.dropout(2 * index + 2));
        let none = Dropout { probability: 0.0, ..attention_dropout };
        let x = x.detach(); // [T, D]
        let qkv = self.qkv_bias.copy().addmm(&x, &self.qkv.copy().tr()); // [T, 3·D]
        let (attended, lse) = kernels.attention_forward(&qkv, pass.sequences, pass.slopes)?; // [T, D], [H, T]
        let (chosen, residual) = match rows {
            Some(rows) => (attended.index_select(0, rows), x.index_select(0, rows)), // 2 × [R, D]
            None => (attended.shallow_clone(), x.shallow_clone()),
        };
        let z1 = chosen.matmul(&self.attention_out.copy().tr()); // [R, D], before LN₁ takes it
        let vectors = [&self.attention_bias, &self.attention_norm[0], &self.attention_norm[1]];
        let (y, statistics1) =
            kernels.layer_norm_forward(&z1, &residual, vectors, self.epsilon, attention_dropout)?;
        let h = y.matmul(&self.gate_and_linear.copy().tr()); // [R, 2·I]
        let g = kernels.geglu_forward(&h, gate_dropout)?; // [R, I]
        let z2 = g.matmul(&self.down.copy().tr()); // [R, D], before LN₂ takes it
        let vectors = [&self.down_bias, &self.feed_forward_norm[0], &self.feed_forward_norm[1]];
        let (out, statistics2) = kernels.layer_norm_forward(&z2, &y, vectors, self.epsilon, none)?; // [R, D]
        let kept = Kept {
            kernels: kernels.clone(),
            sequences: pass.sequences.shallow_clone(),
            slopes: pass.slopes.shallow_clone(),
            rows: rows.map(Tensor::shallow_clone),
            attention_dropout,
            gate_dropout,
            x,
            qkv,
            attended,
            lse,
            chosen,
            z1,
            statistics1,
            y,
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
            qkv: pair(&self.qkv),
            qkv_bias: self.qkv_bias.master().shallow_clone(),
            attention_out: pair(&self.attention_out),
            attention_bias: self.attention_bias.shallow_clone(),
            attention_norm: all(&self.attention_norm),
            gate_and_linear: pair(&self.gate_and_linear),
            down: pair(&self.down),
            down_bias: self.down_bias.shallow_clone(),
            feed_forward_norm: all(&self.feed_forward_norm),
        }
    }
}

/// Handles on the parameters that travel to the thread of the backward pass; of weights, the parameter and its copy.
struct Handles {
    qkv: [Tensor; 2],
    qkv_bias: Tensor,
    attention_out: [Tensor; 2],
    attention_bias: Tensor,
    attention_norm: [Tensor; 2],
    gate_and_linear: [Tensor; 2],
    down: [Tensor; 2],
    down_bias: Tensor,
    feed_forward_norm: [Tensor; 2],
}

/// What the forward pass keeps for the backward pass.
struct Kept {
    kernels: Arc<Kernels>,
    sequences: Sequences,
    slopes: Tensor,
    rows: Option<Tensor>,
    attention_dropout: Dropout,
    gate_dropout: Dropout,
    x: Tensor,
    qkv: Tensor,
    attended: Tensor,
    lse: Tensor,
    chosen: Tensor,
    z1: Tensor,
    statistics1: Tensor,
    y: Tensor,
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
    let kernels = &kept.kernels;
    // Second half. Without dropout after the product, f and the residual have one gradient.
    let [gamma, beta] = &parameters.feed_forward_norm;
    let sums = [gradient(gamma)?, gradient(beta)?, gradient(&parameters.down_bias)?];
    let none = Dropout { probability: 0.0, ..kept.attention_dropout };
    let saved = [&kept.z2, d_out, &kept.statistics2, gamma];
    let (mut d_y, d_f) = kernels.layer_norm_backward(saved, sums.each_ref(), none)?; // [R, D]
    add_product(&parameters.down[0], &d_f.tr(), &kept.g)?;
    let d_g = d_f.matmul(&parameters.down[1]); // [R, I]
    drop((d_f, kept.g, kept.z2));
    kernels.geglu_backward(&kept.h, &d_g, kept.gate_dropout)?;
    drop(d_g);
    let d_h = kept.h; // [R, 2·I]
    add_product(&parameters.gate_and_linear[0], &d_h.tr(), &kept.y)?;
    let _ = d_y.addmm_(&d_h, &parameters.gate_and_linear[1]); // [R, D]
    drop((d_h, kept.y));

    // First half.
    let [gamma, beta] = &parameters.attention_norm;
    let bias_sum = Tensor::zeros_like(&parameters.attention_bias); // [D]
    let sums = [&gradient(gamma)?, &gradient(beta)?, &bias_sum];
    let saved = [&kept.z1, &d_y, &kept.statistics1, gamma];
    let (d_residual, d_a) = kernels.layer_norm_backward(saved, sums, kept.attention_dropout)?; // 2 × [R, D]
    drop((d_y, kept.z1));
    let _ = gradient(&parameters.attention_bias)?.g_add_(&bias_sum);
    add_product(&parameters.attention_out[0], &d_a.tr(), &kept.chosen)?;
    let d_chosen = d_a.matmul(&parameters.attention_out[1]); // [R, D]
    drop((d_a, kept.chosen));
    let (d_attended, mut d_x) = match &kept.rows {
        Some(rows) => {
            let spread = |chosen: &Tensor| kept.x.zeros_like().index_copy_(0, rows, chosen); // [T, D]
            (spread(&d_chosen), spread(&d_residual))
        }
        None => (d_chosen, d_residual),
    };
    let saved = [&kept.qkv, &kept.attended, &kept.lse, &d_attended];
    let (d_qkv, query_bias) = kernels.attention_backward(saved, &kept.sequences, &kept.slopes)?; // [T, 3·D], [D]
    // The keys' bias shifts all scores of a query alike, so its gradient is zero. The probabilities of a query sum to one, so
    // that of the values' bias is the sum of d_attended, which is Woᵀ times the sum of d_a.
    let width = query_bias.size()[0];
    let bias = gradient(&parameters.qkv_bias)?; // [3·D]
    let _ = bias.narrow(0, 0, width).g_add_(&query_bias);
    let value_bias = bias_sum.unsqueeze(0).matmul(&parameters.attention_out[0]).squeeze_dim(0); // [D]
    let _ = bias.narrow(0, 2 * width, width).g_add_(&value_bias);
    add_product(&parameters.qkv[0], &d_qkv.tr(), &kept.x)?;
    let _ = d_x.addmm_(&d_qkv, &parameters.qkv[1]); // [T, D]
    Ok(d_x)
}
