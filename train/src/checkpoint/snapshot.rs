//! A copy of weights and moments in host memory, taken between two steps, from which a checkpoint is written while training
//! goes on.

use std::path::Path;

use model::torch::{Readback, copy_async, pinned};
use model::{Parameters, tensor_file};
use tch::{Device, Kind, Tensor};

use crate::error::Error;

/// Copies by name. The memory is used again by the next snapshot; for a GPU it is pinned, so that the card fills it at the
/// speed of the bus.
#[derive(Debug)]
pub struct Snapshot {
    model: Vec<(String, Tensor)>,
    optimizer: Vec<(String, Tensor)>,
}

impl Snapshot {
    /// Memory for the copies.
    ///
    /// # Errors
    /// [`Error::Torch`] where there is not enough.
    pub fn allocate(parameters: &Parameters, moments: &[(String, Tensor)]) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            model: parameters.iter().map(room).collect::<Result<_, _>>()?,
            optimizer: moments.iter().map(|(name, tensor)| room((name, tensor))).collect::<Result<_, _>>()?,
        })
    }

    /// Copies the present values; the device has passed the copies when this returns.
    ///
    /// # Errors
    /// [`Error::Model`] where the device refuses, also for an error of earlier work.
    pub fn take(&mut self, parameters: &Parameters, moments: &[(String, Tensor)]) -> Result<(), Error> {
        let mut device = Device::Cpu;
        for ((_, to), (_, from)) in self.model.iter().zip(parameters.iter()) {
            copy_async(to, &from.detach())?;
            device = from.device();
        }
        for ((_, to), (_, from)) in self.optimizer.iter().zip(moments) {
            copy_async(to, from)?;
        }
        Readback::start(&Tensor::zeros([1], (Kind::Double, device)))?.wait()?;
        Ok(())
    }

    /// Writes the two safetensors files.
    pub(super) fn write(&self, model: &Path, optimizer: &Path) -> Result<(), Error> {
        for (path, tensors) in [(model, &self.model), (optimizer, &self.optimizer)] {
            tensor_file::write(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
        }
        Ok(())
    }
}

/// Host memory for a copy of a tensor.
fn room((name, tensor): (&str, &Tensor)) -> Result<(String, Tensor), Error> {
    let (size, kind) = (tensor.size(), tensor.kind());
    let host = match tensor.device().is_cuda() {
        // Page-locked memory may be limited; ordinary memory only takes longer to fill.
        true => pinned(&size, kind).or_else(|_| Tensor::f_empty(&size, (kind, Device::Cpu)))?,
        false => Tensor::f_empty(&size, (kind, Device::Cpu))?,
    };
    Ok((name.to_owned(), host))
}
