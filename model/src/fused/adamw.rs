//! AdamW with decoupled weight decay over all parameters in one launch: master weights, their bf16 copies, moments and
//! gradients are read and written once.

// A kernel that works on a table of raw addresses.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Kind, Tensor, no_grad};

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
    /// Updates made so far, t: `[1]`, float64, which holds any count exactly.
    updates: Tensor,
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
        let mut parts = Vec::new();
        for ((name, parameter), [first, second]) in parameters.iter().zip(moments) {
            let tensors =
                [parameter.detach(), gradient(parameter)?, first.shallow_clone(), second.shallow_clone()];
            if let Some(odd) = tensors.iter().find(|tensor| !alike(tensor, parameter)) {
                let reason = format!("a moment of {name} is {odd:?}, expected one like {parameter:?}");
                return Err(Error::Fused { reason });
            }
            parts.push((tensors, copies.get(&address(parameter))));
        }
        let mut update = AdamW::over(kernels, parts);
        update._held.extend(copies.into_values());
        Ok(update)
    }

    /// Over pieces of parameters, each as it lies in memory with its gradient and its two moments: one-dimensional float32
    /// tensors of one length. No bf16 copies are kept up to date.
    ///
    /// # Errors
    /// [`Error::Fused`] where the four are not alike.
    pub(super) fn of_pieces(kernels: &Arc<Kernels>, pieces: Vec<[Tensor; 4]>) -> Result<AdamW, Error> {
        for piece in &pieces {
            if let Some(odd) = piece.iter().find(|tensor| !alike(tensor, &piece[0])) {
                let reason = format!("a piece is {:?} with {odd:?}, expected four alike", piece[0]);
                return Err(Error::Fused { reason });
            }
        }
        Ok(AdamW::over(kernels, pieces.into_iter().map(|piece| (piece, None)).collect()))
    }

    /// `parts` are a parameter, its gradient and its moments, which are alike, and its bf16 copy.
    fn over(kernels: &Arc<Kernels>, parts: Vec<([Tensor; 4], Option<&Tensor>)>) -> AdamW {
        let mut held = Vec::new();
        let mut table = Vec::new();
        for (tensors, copy) in parts {
            let addresses = tensors.each_ref().map(address);
            let elements = tensors[0].numel();
            held.extend(tensors);
            for at in (0..elements).step_by(PIECE) {
                table.extend(addresses.map(|address| (address + 4 * at) as i64));
                table.push(copy.map_or(0, |copy| address(copy) + 2 * at) as i64);
                table.push(PIECE.min(elements - at) as i64);
            }
        }
        let device = held.first().map_or(tch::Device::Cpu, Tensor::device);
        let pieces = Tensor::from_slice(&table).view([-1, WORDS as i64]).to_device(device); // [pieces, 6]
        let updates = Tensor::zeros([1], (Kind::Double, device));
        AdamW { kernels: kernels.clone(), pieces, updates, _held: held }
    }

    /// One update, after which the gradients are zero.
    ///
    /// ```text
    /// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
    /// p ← p · keep − lr · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)
    /// ```
    ///
    /// `keep` is what weight decay leaves of a weight. Every gradient is first multiplied by `factor`; a factor of zero is
    /// no update, and nothing changes but the gradients. So whether a gradient is usable, and how far it is clipped, needs no
    /// answer from the card: t, the number of updates, is counted there.
    ///
    /// # Shape
    /// - `factor`: `[1]`, float64, on the card
    ///
    /// # Errors
    /// [`Error::Cuda`] where the launch is refused.
    pub fn update(
        &self,
        learning_rate: f64,
        betas: [f64; 2],
        epsilon: f64,
        keep: f64,
        factor: &Tensor,
    ) -> Result<(), Error> {
        let [beta1, beta2] = betas;
        let control = no_grad(|| {
            let _ = self.updates.shallow_clone().g_add_(&factor.not_equal(0.0).to_kind(Kind::Double));
            let bias = |beta: f64| -> Tensor { 1.0 - Tensor::pow_scalar(beta, &self.updates) }; // [1]
            let parts = [factor.shallow_clone(), bias(beta1).reciprocal(), bias(beta2).rsqrt()];
            Tensor::cat(&parts, 0).to_kind(Kind::Float) // [3]
        });
        let update = Update { beta1, beta2, keep, learning_rate, epsilon };
        // SAFETY: `new` made the table from the tensors held here: on one card, contiguous, of the sizes in the table, and
        // distinct unless the caller gave one tensor twice, which makes wrong numbers but touches no other memory.
        unsafe { self.kernels.adamw(&self.pieces, &control, update) }
    }

    /// Updates made so far, t. Waits for the card.
    pub fn updates(&self) -> u64 {
        self.updates.double_value(&[0]) as u64
    }

    /// Goes on as if `updates` had been made, with moments that a file brought.
    pub fn set_updates(&self, updates: u64) {
        no_grad(|| {
            let _ = self.updates.shallow_clone().fill_(updates as f64);
        });
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
