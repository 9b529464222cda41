//! bf16 copies of the float32 parameters, for the matrix products.

use std::cell::Cell;

use tch::{Kind, Tensor, no_grad};

use crate::torch::products::Products;
use crate::torch::{gradient, version};
use crate::{Error, Parameters};

/// A parameter and its copy. The copy follows the parameter: what torch writes is noticed by the parameter's version, and
/// the fused optimizer writes both.
#[derive(Debug)]
pub(crate) struct Weight {
    master: Tensor,
    copy: Tensor,
    copied: Cell<Option<i64>>,
}

impl Weight {
    pub(crate) fn new(parameters: &Parameters, name: &str) -> Weight {
        let master = parameters.get(name);
        let copy = Tensor::empty(master.size(), (Kind::BFloat16, master.device()));
        Weight { master, copy, copied: Cell::new(None) }
    }

    /// The parameter itself.
    pub(crate) fn master(&self) -> &Tensor {
        &self.master
    }

    /// The copy, where it will be found up to date after a [`Self::refresh`].
    pub(crate) fn copy(&self) -> &Tensor {
        &self.copy
    }

    /// Copies the parameter anew if torch has written to it since the last time.
    pub(crate) fn refresh(&self) -> Result<(), Error> {
        let now = Some(version(&self.master)?);
        if self.copied.get() != now {
            no_grad(|| self.copy.shallow_clone().copy_(&self.master));
            self.copied.set(now);
        }
        Ok(())
    }
}

/// Parameters whose copies lie one behind the other, so that one product takes them all: queries, keys and values, which are
/// one parameter in MosaicBERT and three in BERT.
#[derive(Debug)]
pub(crate) struct Stack {
    parts: Vec<Weight>,
    copy: Tensor,
}

impl Stack {
    /// Of parameters that agree in all dimensions but the first.
    pub(crate) fn new(parameters: &Parameters, names: &[String]) -> Stack {
        let masters: Vec<Tensor> = names.iter().map(|name| parameters.get(name)).collect();
        let mut shape = masters[0].size();
        shape[0] = masters.iter().map(|master| master.size()[0]).sum();
        let copy = Tensor::empty(&shape, (Kind::BFloat16, masters[0].device())); // [rows of all, ..]
        let mut row = 0;
        let parts = masters.into_iter().map(|master| {
            let part = copy.narrow(0, row, master.size()[0]); // [rows of one, ..]
            row += master.size()[0];
            Weight { master, copy: part, copied: Cell::new(None) }
        });
        Stack { parts: parts.collect(), copy }
    }

    /// The parameters.
    pub(crate) fn parts(&self) -> &[Weight] {
        &self.parts
    }

    /// Handles on the parameters themselves.
    pub(crate) fn masters(&self) -> Vec<Tensor> {
        self.parts.iter().map(|part| part.master.shallow_clone()).collect()
    }

    /// The copies, as one tensor.
    pub(crate) fn copy(&self) -> &Tensor {
        &self.copy
    }
}

/// Adds `left right` to the gradient of `parameter`, in float32 inside the product: no separate addition.
///
/// # Shape
/// - `parameter`: `[O, I]`, float32; `left`: `[O, R]` and `right`: `[R, I]`, bf16
pub(crate) fn add_product(
    products: &Products,
    parameter: &Tensor,
    left: &Tensor,
    right: &Tensor,
) -> Result<(), Error> {
    products.add_product(&gradient(parameter)?, left, right)
}
