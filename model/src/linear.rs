//! A linear map, `y = x Wᵀ + b`, computed in the model's compute type.

use tch::{Kind, Tensor};

use crate::Parameters;

/// Weight `[out, in]` and perhaps a bias `[out]`, stored in the parameters' type.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    compute_kind: Kind,
}

impl Linear {
    /// The parameters `NAME.weight` and `NAME.bias`; without the latter the map has no bias.
    pub(crate) fn new(parameters: &Parameters, name: &str, compute_kind: Kind) -> Linear {
        Linear {
            weight: parameters.get(&format!("{name}.weight")),
            bias: parameters.find(&format!("{name}.bias")),
            compute_kind,
        }
    }

    /// # Shape
    /// - `x`: `[.., in]`
    /// - result: `[.., out]` in the compute type
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(|bias| bias.to_kind(self.compute_kind));
        x.to_kind(self.compute_kind).linear(&self.weight.to_kind(self.compute_kind), bias)
    }
}
