//! bf16 copies of the float32 parameters, for the matrix products.

use std::cell::Cell;

use tch::{Kind, Tensor, no_grad};

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

/// Adds `left right` to the gradient of `parameter`, in float32 inside the product: no separate addition.
///
/// # Shape
/// - `parameter`: `[O, I]`, float32; `left`: `[O, R]` and `right`: `[R, I]`, bf16
pub(crate) fn add_product(parameter: &Tensor, left: &Tensor, right: &Tensor) -> Result<(), Error> {
    let sum = gradient(parameter)?; // [O, I]
    let _ = sum.addmm_dtype_out(&sum, left, right, Kind::Float);
    Ok(())
}
