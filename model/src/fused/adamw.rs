//! AdamW with decoupled weight decay over all parameters in one launch: master weights, their bf16 copies, moments and
//! gradients are read and written once.

// A kernel that works on a table of raw addresses.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use tch::Tensor;

use super::kernels::{Kernels, Update};
use super::weights::Weight;
use crate::torch::gradient;
use crate::{Error, Parameters};

/// Elements one block of the kernel updates.
const PIECE: usize = 1 << 14;

/// Words of a piece: four float32 addresses, that of the bf16 copy or 0, and the number of elements.
const WORDS: usize = 6;

/// The update of one model's parameters. It holds handles on all it writes to, so the addresses in its table stay valid.
#[derive(Debug)]
pub struct AdamW {
    kernels: Arc<Kernels>,
    pieces: Tensor,
    tensors: Vec<Moments>,
    _copies: Vec<Tensor>,
}

/// One parameter with its gradient and moments, all of one shape, float32.
#[derive(Debug)]
pub struct Moments {
    /// Its name.
    pub name: String,
    /// The parameter.
    pub parameter: Tensor,
    /// The gradient: the parameter's own buffer, which is zero after each update.
    pub gradient: Tensor,
    /// First moment m.
    pub first: Tensor,
    /// Second moment v.
    pub second: Tensor,
}

impl AdamW {
    /// Moments of zero for every parameter.
    pub(super) fn new<'a>(
        kernels: &Arc<Kernels>,
        parameters: &Parameters,
        weights: impl Iterator<Item = &'a Weight>,
    ) -> Result<AdamW, Error> {
        let copies: HashMap<usize, Tensor> = weights
            .map(|weight| (weight.master().data_ptr().addr(), weight.copy().shallow_clone()))
            .collect();
        let mut tensors = Vec::with_capacity(parameters.len());
        let mut table = Vec::new();
        for (name, parameter) in parameters.iter() {
            let moments = Moments {
                name: name.to_owned(),
                parameter: parameter.detach(),
                gradient: gradient(parameter)?,
                first: parameter.detach().zeros_like(),
                second: parameter.detach().zeros_like(),
            };
            let copy = copies.get(&parameter.data_ptr().addr());
            let addresses = [&moments.parameter, &moments.gradient, &moments.first, &moments.second]
                .map(|tensor| tensor.data_ptr().addr());
            let elements = parameter.numel();
            for at in (0..elements).step_by(PIECE) {
                table.extend(addresses.map(|address| (address + 4 * at) as i64));
                table.push(copy.map_or(0, |copy| copy.data_ptr().addr() + 2 * at) as i64);
                table.push(PIECE.min(elements - at) as i64);
            }
            tensors.push(moments);
        }
        let device = tensors[0].parameter.device();
        let pieces = Tensor::from_slice(&table).view([-1, WORDS as i64]).to_device(device); // [pieces, 6]
        Ok(AdamW { kernels: kernels.clone(), pieces, tensors, _copies: copies.into_values().collect() })
    }

    /// Parameters, gradients and moments, in the parameters' order: for checkpoints and norms.
    pub fn moments(&self) -> &[Moments] {
        &self.tensors
    }

    /// One update, after which the gradients are zero.
    ///
    /// ```text
    /// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
    /// p ← p · keep − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// `keep` is what weight decay leaves; `update` is t, from 1. Every gradient is first multiplied by `factor`, a float32
    /// scalar on the card, if there is one: clipping needs no answer from the card.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the launch is refused.
    pub fn update(
        &self,
        learning_rate: f64,
        betas: [f64; 2],
        epsilon: f64,
        keep: f64,
        update: u64,
        factor: Option<&Tensor>,
    ) -> Result<(), Error> {
        let [beta1, beta2] = betas;
        let t = update as f64;
        let update = Update {
            beta1,
            beta2,
            keep,
            rate: learning_rate / (1.0 - beta1.powf(t)),
            inverse_bias2: (1.0 - beta2.powf(t)).sqrt().recip(),
            epsilon,
        };
        // SAFETY: `new` made the table from the tensors held here; they are contiguous and pairwise distinct.
        unsafe { self.kernels.adamw(&self.pieces, factor, update) }
    }
}
