//! Memory: pinned buffers, copies that are not waited for, and how much of a card is in use.

use std::ffi::c_void;

use tch::{Device, Kind, Tensor};

use super::{check, sys};
use crate::Error;

/// An uninitialised tensor in host memory that a GPU can copy from while the host goes on.
///
/// # Errors
/// [`Error::Torch`] without a GPU.
pub fn pinned(shape: &[i64], kind: Kind) -> Result<Tensor, Error> {
    let kind = Tensor::empty([0i64], (kind, Device::Cpu));
    // SAFETY: a tensor of ours; the answer is ATen's number of its kind, which tch does not tell.
    let number = unsafe { torch_sys::at_scalar_type(kind.as_ptr().cast_mut()) };
    // SAFETY: the shape is lent for the call.
    check::tensor("allocate pinned memory", |out| unsafe {
        sys::bridge_pinned(shape.as_ptr(), shape.len(), number, out)
    })
}

/// Copies `from` to `to`, of the same shape. Where one is on a GPU and the other pinned, the host does not wait: the pinned
/// tensor must stay as it is until the device's stream has passed the copy.
///
/// # Errors
/// [`Error::Torch`] where the shapes differ.
pub fn copy_async(to: &Tensor, from: &Tensor) -> Result<(), Error> {
    // SAFETY: both handles are lent for the call.
    check::message("copy", unsafe { sys::bridge_copy_async(to.as_ptr(), from.as_ptr()) })
}

/// The values as a tensor on `device`. A GPU fetches them through pinned memory while the host goes on; torch's allocator
/// keeps that memory until the copy is done.
///
/// # Shape
/// - result: `[N]`
///
/// # Errors
/// [`Error::Torch`] where memory is used up.
pub fn upload<T: tch::kind::Element>(values: &[T], device: Device) -> Result<Tensor, Error> {
    if !device.is_cuda() {
        return Ok(Tensor::from_slice(values)); // [N]
    }
    let shape = [values.len() as i64];
    let staging = pinned(&shape, T::KIND)?; // [N]
    assert_eq!(size_of::<T>(), T::KIND.elt_size_in_bytes(), "a number and its kind are of one size");
    // Not by torch's operators: they start threads on all processors for it, and where several ranks of a machine do so at once,
    // a copy of half a megabyte was seen to take 80 ms.
    // SAFETY: `staging` is contiguous memory for as many numbers of this size, and nobody else has it yet.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), staging.data_ptr().cast::<T>(), values.len()) };
    let target = Tensor::f_empty(shape, (T::KIND, device))
        .map_err(|error| Error::Torch { operation: "allocate memory", message: error.to_string() })?;
    copy_async(&target, &staging)?;
    Ok(target)
}

/// Bytes of one GPU in use by tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInUse {
    /// Now.
    pub allocated: u64,
    /// At most since the start, or since [`reset_peak_memory`].
    pub peak: u64,
}

/// Bytes in use on GPU `device`.
///
/// # Errors
/// [`Error::Torch`] without such a GPU.
pub fn memory_in_use(device: usize) -> Result<MemoryInUse, Error> {
    statistics(device, false)
}

/// Lets the peak of GPU `device` start anew at what is in use now.
///
/// # Errors
/// [`Error::Torch`] without such a GPU.
pub fn reset_peak_memory(device: usize) -> Result<(), Error> {
    statistics(device, true).map(|_| ())
}

fn statistics(device: usize, reset: bool) -> Result<MemoryInUse, Error> {
    let (mut allocated, mut peak) = (0, 0);
    let device = i32::try_from(device).unwrap_or(i32::MAX);
    // SAFETY: the two results outlive the call.
    let message = unsafe { sys::bridge_memory(device, i32::from(reset), &raw mut allocated, &raw mut peak) };
    check::message("read a GPU's memory statistics", message)?;
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(MemoryInUse { allocated: bytes(allocated), peak: bytes(peak) })
}

/// The `cudaStream_t` torch's operators use in this thread on GPU `device`.
pub(crate) fn current_stream(device: usize) -> Result<*mut c_void, Error> {
    let mut stream = std::ptr::null_mut();
    let device = i32::try_from(device).unwrap_or(i32::MAX);
    // SAFETY: the result outlives the call.
    let message = unsafe { sys::bridge_current_stream(device, &raw mut stream) };
    check::message("find the current stream", message)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_changes_the_target_in_place() {
        let (to, from) = (
            Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)),
            Tensor::ones([2, 3], (Kind::Int, Device::Cpu)),
        );
        let same = to.shallow_clone();
        copy_async(&to, &from).unwrap();
        assert_eq!(same.sum(Kind::Float).double_value(&[]), 6.0);
        let error = copy_async(&to, &Tensor::ones([4, 3], (Kind::Int, Device::Cpu))).unwrap_err().to_string();
        assert!(error.starts_with("libtorch: copy: "), "{error}");
    }

    /// Whatever the machine, an answer and no crash.
    #[test]
    fn without_a_gpu_its_questions_are_refused() {
        if !tch::Cuda::is_available() {
            assert!(memory_in_use(0).is_err());
            assert!(current_stream(0).is_err());
        }
    }
}
