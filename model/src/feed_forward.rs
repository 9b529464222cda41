//! The feed-forward block with its residual connection and LayerNorm.
//!
//! GeGLU is Shazeer, "GLU Variants Improve Transformer", <https://arxiv.org/abs/2002.05202>, as MosaicML's
//! `BertGatedLinearUnitMLP` has it: one product without bias gives gate and value side by side, dropout follows the
//! gating, and nothing is dropped after the last map. BERT drops there and nowhere before. Both use the exact GELU.

use tch::{Kind, Tensor};

use crate::config::FeedForwardKind;
use crate::layer_norm::LayerNorm;
use crate::linear::Linear;
use crate::{ModelConfig, Parameters};

/// `LN(x + f(x))`.
#[derive(Debug)]
pub(crate) struct FeedForward {
    kind: FeedForwardKind,
    input: Linear,
    output: Linear,
    layer_norm: LayerNorm,
    dropout: f64,
}

impl FeedForward {
    /// The block of the layer whose parameters' names begin with `layer`.
    pub(crate) fn new(
        parameters: &Parameters,
        layer: &str,
        config: &ModelConfig,
        compute_kind: Kind,
    ) -> Self {
        let [input, output, layer_norm] = match config.feed_forward {
            FeedForwardKind::Geglu => ["mlp.gated_layers", "mlp.wo", "mlp.layernorm"],
            FeedForwardKind::Gelu => ["intermediate.dense", "output.dense", "output.LayerNorm"],
        };
        FeedForward {
            kind: config.feed_forward,
            input: Linear::new(parameters, &format!("{layer}.{input}"), compute_kind),
            output: Linear::new(parameters, &format!("{layer}.{output}"), compute_kind),
            layer_norm: LayerNorm::new(parameters, &format!("{layer}.{layer_norm}"), config, compute_kind),
            dropout: config.hidden_dropout_prob,
        }
    }

    /// # Shape
    /// - `x` and result: `[N, D]`
    pub(crate) fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = match self.kind {
            FeedForwardKind::Geglu => {
                let gate_and_value = self.input.forward(x).chunk(2, -1); // 2 × [N, I]
                let gated = gate_and_value[0].gelu("none") * &gate_and_value[1]; // [N, I]
                self.output.forward(&gated.dropout(self.dropout, train)) // [N, D]
            }
            FeedForwardKind::Gelu => {
                let inner = self.input.forward(x).gelu("none"); // [N, I]
                self.output.forward(&inner).dropout(self.dropout, train) // [N, D]
            }
        };
        self.layer_norm.forward(&(x + y)) // [N, D]
    }
}
