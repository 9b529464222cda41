//! Self-attention with its residual connection and LayerNorm.
//!
//! All around it the encoder works on packed rows; here, on the reference path, they are laid out as the rectangle
//! `[B, S]` and `softmax(Q Kᵀ / sqrt(K) + bias) V` is computed as it is written.

use tch::{Device, Kind, Tensor};

use crate::config::PositionEmbedding;
use crate::layer_norm::LayerNorm;
use crate::linear::Linear;
use crate::unpad::Layout;
use crate::{ModelConfig, Parameters, alibi};

/// Score of a padded key. Finite, so that a sequence of nothing but padding yields numbers; and far enough below
/// any ALiBi penalty that its probability is exactly zero in every type.
const PADDED_KEY: f64 = -1e30;

/// What is added to the scores: ALiBi's penalties and the exclusion of padded keys. The same in every layer.
#[derive(Debug)]
pub(crate) struct AttentionBias {
    /// `[B, H, S, S]`, broadcast where it does not vary; `None` where there is nothing to add.
    scores: Option<Tensor>,
}

impl AttentionBias {
    /// The slopes of a model with ALiBi, `[H]`.
    pub(crate) fn slopes(config: &ModelConfig) -> Option<Vec<f64>> {
        let heads = config.num_attention_heads as usize;
        (config.position_embedding == PositionEmbedding::Alibi).then(|| alibi::slopes(heads))
    }

    pub(crate) fn new(slopes: Option<&[f64]>, layout: &Layout, compute_kind: Kind, device: Device) -> Self {
        let kind = score_kind(compute_kind);
        let alibi = slopes.map(|slopes| alibi::bias(slopes, layout.seq_len, kind, device)); // [1, H, S, S]
        let padding = layout.key_bias(PADDED_KEY, kind); // [B, 1, 1, S]
        let scores = match (alibi, padding) {
            (Some(alibi), Some(padding)) => Some(alibi + padding), // [B, H, S, S]
            (alibi, padding) => alibi.or(padding),
        };
        AttentionBias { scores }
    }
}

/// Scores and their softmax are computed in at least float32: bf16 would round a penalty of 100 to whole numbers.
fn score_kind(compute_kind: Kind) -> Kind {
    if compute_kind == Kind::BFloat16 { Kind::Float } else { compute_kind }
}

/// The maps to queries, keys and values: one, as MosaicML has it, or three, as Hugging Face has it.
#[derive(Debug)]
enum Projection {
    Fused { width: i64, qkv: Linear },
    Separate { query: Linear, key: Linear, value: Linear },
}

impl Projection {
    /// # Shape
    /// - `x`: `[N, D]`
    /// - result: `[N, 3, D]`: query, key and value of each row
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Projection::Fused { width, qkv } => qkv.forward(x).view([x.size()[0], 3, *width]), // [N, 3, D]
            Projection::Separate { query, key, value } => {
                Tensor::stack(&[query.forward(x), key.forward(x), value.forward(x)], 1) // [N, 3, D]
            }
        }
    }
}

/// `LN(x + W_o attend(x))`.
#[derive(Debug)]
pub(crate) struct Attention {
    projection: Projection,
    output: Linear,
    layer_norm: LayerNorm,
    heads: i64,
    head_size: i64,
    hidden_dropout: f64,
    probability_dropout: f64,
}

impl Attention {
    /// The block whose parameters' names begin with `name`.
    pub(crate) fn new(parameters: &Parameters, name: &str, config: &ModelConfig, compute_kind: Kind) -> Self {
        let linear = |part: &str| Linear::new(parameters, &format!("{name}.{part}"), compute_kind);
        let projection = match config.position_embedding {
            PositionEmbedding::Alibi => {
                Projection::Fused { width: config.hidden_size, qkv: linear("self.Wqkv") }
            }
            PositionEmbedding::Learned => Projection::Separate {
                query: linear("self.query"),
                key: linear("self.key"),
                value: linear("self.value"),
            },
        };
        Attention {
            projection,
            output: linear("output.dense"),
            layer_norm: LayerNorm::new(parameters, &format!("{name}.output.LayerNorm"), config, compute_kind),
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            hidden_dropout: config.hidden_dropout_prob,
            probability_dropout: config.attention_probs_dropout_prob,
        }
    }

    /// Every row's mixture of its sequence's values, before the output projection.
    ///
    /// # Shape
    /// - `x` and result: `[N, D]`
    pub(crate) fn context(&self, x: &Tensor, layout: &Layout, bias: &AttentionBias, train: bool) -> Tensor {
        let qkv = layout.pad(&self.projection.forward(x)); // [B·S, 3, D]
        let qkv = qkv.view([layout.sequences, layout.seq_len, 3, self.heads, self.head_size]); // [B, S, 3, H, K]
        let qkv = qkv.permute([2, 0, 3, 1, 4]).unbind(0); // 3 × [B, H, S, K]
        let dropout = if train { self.probability_dropout } else { 0.0 };
        let context = attend(&qkv[0], &qkv[1], &qkv[2], bias.scores.as_ref(), dropout); // [B, H, S, K]
        let context = context.transpose(1, 2).flatten(2, 3).flatten(0, 1); // [B·S, D]
        layout.unpad(&context) // [N, D]
    }

    /// The output projection of `context`, added to the block's input `x`, and the LayerNorm.
    ///
    /// # Shape
    /// - all: `[R, D]` for any choice of rows
    pub(crate) fn output(&self, context: &Tensor, x: &Tensor, train: bool) -> Tensor {
        let y = self.output.forward(context).dropout(self.hidden_dropout, train); // [R, D]
        self.layer_norm.forward(&(x + y)) // [R, D]
    }
}

/// `softmax(Q Kᵀ / sqrt(K) + bias) V`.
///
/// # Shape
/// - `query`, `key`, `value` and result: `[B, H, S, K]`
/// - `bias`: broadcast to `[B, H, S, S]`
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, bias: Option<&Tensor>, dropout: f64) -> Tensor {
    if query.kind() == Kind::Float && query.device() == Device::Cpu && dropout == 0.0 {
        // libtorch's blockwise form of the same, which keeps the scores in cache: three quarters of the time of what
        // follows, forward and backward, for 64 sequences of 128 tokens and 4 heads of 64.
        let (b, h, s, _) = query.size4().expect("four dimensions");
        let bias = bias.map(|bias| bias.expand([b, h, s, s], false)); // [B, H, S, S]
        return Tensor::scaled_dot_product_attention(query, key, value, bias, 0.0, false, None, false); // [B, H, S, K]
    }
    let kind = query.kind();
    let scale = (*query.size().last().expect("four dimensions") as f64).sqrt().recip();
    let scores = (query * scale).matmul(&key.transpose(-2, -1)).to_kind(score_kind(kind)); // [B, H, S, S]
    let scores = match bias {
        Some(bias) => scores + bias, // [B, H, S, S]
        None => scores,
    };
    let probabilities = scores.softmax(-1, None).dropout(dropout, dropout > 0.0); // [B, H, S, S]
    probabilities.to_kind(kind).matmul(value) // [B, H, S, K]
}
