//! AdamW with decoupled weight decay over all parameters in one launch: master weights, their bf16 copies, moments and
//! gradients are read and written once.

// A kernel that works on a table of raw addresses.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::kernels::{Kernels, Update};
use super::weights::Weight;
use crate::torch::gradient;
use crate::{Error, Parameters};

/// Elements one block of the kernel updates.
const PIECE: usize = 1 << 14;

/// Words of a piece: four float32 addresses, that of the bf16 copy or 0, and the number of elements.
const WORDS: usize = 6;

/// The update of one model's parameters, over moments that the caller owns.
#[derive(Debug)]
pub struct AdamW {
    kernels: Arc<Kernels>,
    /// `[pieces, 6]`, i64: `AdamWPiece` in `adamw.cu`.
    pieces: Tensor,
    /// Handles on all tensors whose addresses are in `pieces`, so that these stay valid.
    _held: Vec<Tensor>,
}

impl AdamW {
    /// `moments` are the first and second of each parameter, in the parameters' order.
    pub(super) fn new<'a>(
        kernels: &Arc<Kernels>,
        parameters: &Parameters,
        weights: impl Iterator<Item = &'a Weight>,
        moments: &[[&Tensor; 2]],
    ) -> Result<AdamW, Error> {
        if moments.len() != parameters.len() {
            let reason =
                format!("moments are given for {} of {} parameters", moments.len(), parameters.len());
            return Err(Error::Fused { reason });
        }
        let copies: HashMap<usize, Tensor> =
            weights.map(|weight| (address(weight.master()), weight.copy().shallow_clone())).collect();
        let mut held = Vec::new();
        let mut table = Vec::new();
        for ((name, parameter), [first, second]) in parameters.iter().zip(moments) {
            let tensors =
                [parameter.detach(), gradient(parameter)?, first.shallow_clone(), second.shallow_clone()];
            if let Some(odd) = tensors.iter().find(|tensor| !alike(tensor, parameter)) {
                let reason = format!("a moment of {name} is {odd:?}, expected one like {parameter:?}");
                return Err(Error::Fused { reason });
            }
            let addresses = tensors.each_ref().map(address);
            held.extend(tensors);
            let copy = copies.get(&address(parameter));
            let elements = parameter.numel();
            for at in (0..elements).step_by(PIECE) {
                table.extend(addresses.map(|address| (address + 4 * at) as i64));
                table.push(copy.map_or(0, |copy| address(copy) + 2 * at) as i64);
                table.push(PIECE.min(elements - at) as i64);
            }
        }
        let device = held[0].device();
        let pieces = Tensor::from_slice(&table).view([-1, WORDS as i64]).to_device(device); // [pieces, 6]
        held.extend(copies.into_values());
        Ok(AdamW { kernels: kernels.clone(), pieces, _held: held })
    }

    /// One update, after which the gradients are zero.
    ///
    /// ```text
    /// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
    /// p ← p · keep − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// `keep` is what weight decay leaves of a weight; `update` is t, from 1. Every gradient is first multiplied by `factor`,
    /// a float32 scalar on the card, if there is one: clipping needs no answer from the card.
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
        // SAFETY: `new` made the table from the tensors held here: on one card, contiguous, of the sizes in the table, and
        // distinct unless the caller gave one tensor twice, which makes wrong numbers but touches no other memory.
        unsafe { self.kernels.adamw(&self.pieces, factor, update) }
    }
}

fn address(tensor: &Tensor) -> usize {
    tensor.data_ptr().addr()
}

/// Float32, of the same shape on the same card, one element behind the other.
fn alike(tensor: &Tensor, parameter: &Tensor) -> bool {
    tensor.kind() == Kind::Float
        && tensor.size() == parameter.size()
        && tensor.device() == parameter.device()
        && tensor.is_contiguous()
}
