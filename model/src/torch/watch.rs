//! Gradients and memory of parameters under somebody else's control: whose memory they are in, and when they are complete.

use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use tch::Tensor;

use super::autograd::{copied, panic_text};
use super::{check, sys};
use crate::Error;

/// What a backward pass calls when it has finished adding to a gradient.
type Told = Box<dyn Fn() -> Result<(), Error> + Send + Sync>;

/// Makes `gradient` the leaf's gradient: backward passes add to its memory, which may be a part of a larger tensor's.
///
/// # Errors
/// [`Error::Torch`] where shape, kind or device differ, or the leaf requires no gradient.
pub fn set_gradient(leaf: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    // SAFETY: both handles are lent for the call.
    let message = unsafe { sys::bridge_set_gradient(leaf.as_ptr(), gradient.as_ptr()) };
    check::message("replace a gradient", message)
}

/// Makes `storage` the memory of the leaf, for everyone who holds a handle on the leaf; those who hold a detached handle keep the
/// memory that was there. Its values become the leaf's.
///
/// # Errors
/// [`Error::Torch`] where shape, kind or device differ.
pub fn set_memory(leaf: &Tensor, storage: &Tensor) -> Result<(), Error> {
    // SAFETY: both handles are lent for the call.
    let message = unsafe { sys::bridge_set_memory(leaf.as_ptr(), storage.as_ptr()) };
    check::message("replace a parameter's memory", message)
}

/// Says that the tensor's memory was written to by something that torch does not see. See [`super::version`].
///
/// # Errors
/// [`Error::Torch`] for tensors made in inference mode.
pub fn count_write(tensor: &Tensor) -> Result<(), Error> {
    // SAFETY: the handle is lent for the call.
    check::message("count a write", unsafe { sys::bridge_count_write(tensor.as_ptr()) })
}

/// Calls `told` whenever a backward pass has finished adding to the leaf's gradient, in place of what was called before: on the
/// thread of the pass, between its operators. An error of `told` is the error of the pass. `None` calls nothing.
///
/// # Errors
/// [`Error::Torch`] for a tensor that is no leaf or requires no gradient.
pub fn watch_gradient(leaf: &Tensor, told: Option<Told>) -> Result<(), Error> {
    let (context, function) = match told {
        Some(told) => {
            let function: sys::Told = tell;
            (Box::into_raw(Box::new(told)).cast::<c_void>(), Some(function))
        }
        None => (null_mut(), None),
    };
    // SAFETY: the handle is lent; `context` is what `tell` and `release` expect, and the bridge releases it exactly once.
    let message = unsafe { sys::bridge_watch_gradient(leaf.as_ptr(), context, function, release) };
    check::message("watch a gradient", message)
}

/// Tells whoever watches the leaf's gradient that a backward pass has finished adding to it: for nodes that add to gradients
/// themselves. Torch's own nodes do that by themselves.
///
/// # Errors
/// Those of the watcher.
pub fn gradient_complete(leaf: &Tensor) -> Result<(), Error> {
    // SAFETY: the handle is lent for the call.
    let message = unsafe { sys::bridge_gradient_complete(leaf.as_ptr()) };
    check::message("pass a gradient on", message)
}

/// Calls the closure behind `context`. A panic must not unwind into C++, so it becomes a message.
///
/// # Safety
/// As `bridge_watch_gradient` calls it: `context` from [`watch_gradient`] and not yet released.
unsafe extern "C" fn tell(context: *mut c_void) -> *mut c_char {
    // SAFETY: the caller's promise.
    let told = unsafe { &*context.cast::<Told>() };
    let text = match catch_unwind(AssertUnwindSafe(told)) {
        Ok(Ok(())) => return null_mut(),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
    };
    copied(&CString::new(text.replace('\0', " ")).expect("zero bytes were replaced"))
}

/// Drops the closure.
///
/// # Safety
/// `context` is one of [`watch_gradient`]'s and is not used again.
unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(context.cast::<Told>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind, no_grad};

    use super::super::{Backward, gradient, node, version};
    use super::*;

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn counted(leaf: &Tensor) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        let told = move || {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        watch_gradient(leaf, Some(Box::new(told))).unwrap();
        count
    }

    #[test]
    fn backward_passes_add_to_memory_they_were_given() {
        let flat = Tensor::zeros([5], (Kind::Float, Device::Cpu)); // [5]
        let (x, y) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0, 5.0]));
        set_gradient(&x, &flat.narrow(0, 0, 2)).unwrap();
        set_gradient(&y, &flat.narrow(0, 2, 3)).unwrap();
        for _ in 0..2 {
            ((&x * 2.0).sum(Kind::Float) + (&y * &y).sum(Kind::Float)).backward();
        }
        assert_eq!(Vec::<f32>::try_from(&flat).unwrap(), [4.0, 4.0, 12.0, 16.0, 20.0]);
        assert!(set_gradient(&x, &flat.narrow(0, 0, 3)).is_err());
    }

    #[test]
    fn a_leaf_with_other_memory_is_the_same_leaf() {
        let flat = Tensor::zeros([4], (Kind::Float, Device::Cpu)); // [4]
        let x = leaf(&[1.0, 2.0]);
        let held = x.shallow_clone();
        no_grad(|| flat.narrow(0, 2, 2).copy_(&x));
        set_memory(&x, &flat.narrow(0, 2, 2)).unwrap();
        assert!(held.requires_grad() && held.is_leaf());
        let _ = no_grad(|| flat.shallow_clone().fill_(7.0));
        assert_eq!(Vec::<f32>::try_from(&held).unwrap(), [7.0, 7.0]);
        let before = version(&held).unwrap();
        count_write(&x).unwrap();
        assert_eq!(version(&held).unwrap(), before + 1);
    }

    #[test]
    fn watchers_are_told_when_a_gradient_is_complete() {
        let (x, unused) = (leaf(&[1.0, 2.0]), leaf(&[1.0]));
        let (of_x, of_unused) = (counted(&x), counted(&unused));
        // Two uses, one gradient.
        ((&x * 2.0).sum(Kind::Float) + (&x * &x).sum(Kind::Float)).backward();
        assert_eq!((of_x.load(Ordering::SeqCst), of_unused.load(Ordering::SeqCst)), (1, 0));
        gradient_complete(&x).unwrap();
        assert_eq!(of_x.load(Ordering::SeqCst), 2);
        watch_gradient(&x, None).unwrap();
        gradient_complete(&x).unwrap();
        assert_eq!((of_x.load(Ordering::SeqCst), Arc::strong_count(&of_x)), (2, 1));
    }

    #[test]
    fn an_error_of_a_watcher_is_the_error_of_the_pass() {
        let x = leaf(&[1.0]);
        let refuse = || Err(Error::Fused { reason: "it is Monday".to_owned() });
        watch_gradient(&x, Some(Box::new(refuse))).unwrap();
        let error = (&x * 2.0).sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(error.contains("it is Monday"), "{error}");
        watch_gradient(&x, Some(Box::new(|| panic!("of course")))).unwrap();
        assert!(gradient_complete(&x).unwrap_err().to_string().contains("it panicked: of course"));
        // A node that adds to the gradient itself passes the error on.
        let handle = x.shallow_clone();
        let outputs = node("adding", &[&x], || {
            let backward: Backward = Box::new(move |_| {
                let _ = gradient(&handle)?.g_add_scalar_(1.0);
                gradient_complete(&handle)?;
                Ok(vec![None])
            });
            Ok((vec![x.detach() * 3.0], backward))
        });
        let error = outputs.unwrap().remove(0).f_backward().unwrap_err().to_string();
        assert!(error.contains("of course"), "{error}");
        let plain = Tensor::from_slice(&[1f32]);
        assert!(watch_gradient(&plain, Some(Box::new(|| Ok(())))).is_err());
    }
}
