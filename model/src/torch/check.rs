//! The checked layer: messages of the bridge become errors, new handles become tensors.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use tch::Tensor;
use torch_sys::C_tensor;

use super::sys;
use crate::Error;

/// What a bridge function returned, as a result. `operation` says in the error what was asked for.
pub(super) fn message(operation: &'static str, message: *mut c_char) -> Result<(), Error> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: bridge.h promises a C string that is ours until it is freed.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: it came from the bridge and is not used again.
    unsafe { sys::bridge_free_message(message) };
    Err(Error::Torch { operation, message: text })
}

/// The tensor that a bridge function writes to its `out` parameter.
pub(super) fn tensor(
    operation: &'static str,
    call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char,
) -> Result<Tensor, Error> {
    let mut out = null_mut();
    message(operation, call(&raw mut out))?;
    // SAFETY: without a message, bridge.h promises a new handle, which the Tensor now owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Handles lent to the bridge: valid as long as the tensors are.
pub(super) fn lend(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}
