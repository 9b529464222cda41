//! Layer normalisation over the last dimension.

use tch::{Kind, Tensor};

use crate::config::LayerNormPrecision;
use crate::{ModelConfig, Parameters};

/// Weight and bias `[D]`, and the type to normalise in.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    kind: Kind,
}

impl LayerNorm {
    /// The parameters `NAME.weight` and `NAME.bias`.
    pub(crate) fn new(parameters: &Parameters, name: &str, config: &ModelConfig, compute_kind: Kind) -> Self {
        let weight = parameters.get(&format!("{name}.weight"));
        let kind = match config.layer_norm {
            LayerNormPrecision::Low => compute_kind,
            LayerNormPrecision::Full => weight.kind(),
        };
        LayerNorm { weight, bias: parameters.get(&format!("{name}.bias")), eps: config.layer_norm_eps, kind }
    }

    /// # Shape
    /// - `x`: `[.., D]`
    /// - result: the same, in the type LayerNorm computes in, which is the residual stream's
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let weight = self.weight.to_kind(self.kind);
        let bias = self.bias.to_kind(self.kind);
        x.to_kind(self.kind).layer_norm(self.weight.size(), Some(weight), Some(bias), self.eps, true)
    }
}
