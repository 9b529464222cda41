//! The checked layer: messages of the bridge become errors, new handles become tensors, and panics of tch become errors.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::Once;

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
    Err(Error::torch(operation, &text))
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

/// Runs torch's operators. Where libtorch refuses one, as when memory is used up, tch panics; the panic becomes an error here,
/// once for a whole pass, so that formulas can be written as formulas. Any other panic goes on.
pub(crate) fn caught<T>(
    operation: &'static str,
    body: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    unwound(body).unwrap_or_else(|panic| match refusal(&*panic) {
        Some(account) => Err(Error::torch(operation, &account)),
        None => resume_unwind(panic),
    })
}

thread_local! {
    /// Whether this thread is in a call that makes errors of libtorch's refusals.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// The result of `body`, or what it panicked with. Where libtorch refused, nothing is printed of the panic: the error that
/// becomes of it says what matters.
pub(super) fn unwound<T>(body: impl FnOnce() -> T) -> std::thread::Result<T> {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CAUGHT.get() || refusal(panic.payload()).is_none() {
                others(panic);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    // What the body leaves half done are tensors that nobody else holds.
    let result = catch_unwind(AssertUnwindSafe(body));
    CAUGHT.set(outer);
    result
}

/// libtorch's account of why it refused, if that is what tch panicked about: the text of `unwrap` on a `TchError`.
fn refusal(panic: &dyn Any) -> Option<String> {
    let text = panic.downcast_ref::<String>()?;
    let account = text.strip_prefix("called `Result::unwrap()` on an `Err` value: Torch(\"")?;
    Some(account.trim_end_matches("\")").replace("\\n", "\n").replace("\\\"", "\""))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn what_libtorch_refuses_becomes_an_error() {
        let ones = |shape: [i64; 2]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
        assert_eq!(caught("add", || Ok(ones([2, 3]) + 1.0)).unwrap().size(), [2, 3]);
        let error = caught("multiply", || Ok(ones([2, 3]).matmul(&ones([2, 3])))).unwrap_err();
        assert!(matches!(&error, Error::Torch { operation: "multiply", .. }), "{error:?}");
        assert!(error.to_string().contains("shapes cannot be multiplied (2x3 and 2x3)"), "{error}");
        let error = caught("allocate", || Ok(ones([1 << 30, 1 << 30]))).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error:?}");
    }

    #[test]
    fn other_panics_go_on() {
        let panic = catch_unwind(|| caught("count", || -> Result<(), Error> { panic!("of course") }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"of course"));
    }
}
