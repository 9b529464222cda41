//! A Rust closure as a node of the autograd graph, and what goes with it.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};

use tch::{Tensor, no_grad_guard};
use torch_sys::C_tensor;

use super::{check, sys};
use crate::Error;

/// The backward pass of a node: the gradients of its outputs (`None` where none arrived) to those of its inputs, in their
/// order (`None` where there is none to give). It is called at most once, on a thread of the autograd engine.
pub type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>, Error> + Send>;

/// Computes outputs from inputs without a graph and makes them one node of the graph, whose backward pass is the closure
/// that `forward` returns with them. Where no input requires a gradient, or gradients are off, the closure is dropped.
///
/// Outputs must be tensors that `forward` made: not inputs, nor views of them.
///
/// # Errors
/// Those of `forward`; [`Error::Torch`] when libtorch refuses the node. An error or a panic of the backward closure
/// becomes the error of the backward pass it happens in.
pub fn node(
    name: &str,
    inputs: &[&Tensor],
    forward: impl FnOnce() -> Result<(Vec<Tensor>, Backward), Error>,
) -> Result<Vec<Tensor>, Error> {
    let (mut outputs, backward) = {
        // A guard, since tch's `no_grad` leaves gradients off when what it calls panics: when memory is used up, for one.
        let _guard = no_grad_guard();
        forward()?
    };
    let label = CString::new(name).expect("names of nodes are words");
    let lent = check::lend(inputs);
    let handles: Vec<*mut C_tensor> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
    let context = Box::into_raw(Box::new(Some(backward))).cast::<c_void>();
    let mut attached = 0;
    // SAFETY: names and handles live through the call; `context` is what `run` and `release` expect, and bridge.h promises
    // to release it exactly once.
    let message = unsafe {
        sys::bridge_attach(
            label.as_ptr(),
            lent.as_ptr(),
            lent.len(),
            handles.as_ptr(),
            handles.len(),
            context,
            run,
            release,
            &raw mut attached,
        )
    };
    check::message("attach a node to the graph", message)?;
    Ok(outputs)
}

/// Calls the closure behind `context`. A panic must not unwind into C++, so it becomes a message.
///
/// # Safety
/// As `bridge_attach` calls it: `context` from [`node`] and not yet released, the arrays of the given lengths, the handles
/// in `output_gradients` owned by this function.
unsafe extern "C" fn run(
    context: *mut c_void,
    output_gradients: *mut *mut C_tensor,
    outputs: usize,
    input_gradients: *mut *mut C_tensor,
    inputs: usize,
) -> *mut c_char {
    let result = check::unwound(|| {
        // SAFETY: the caller's promise; nobody else uses the context during a backward pass.
        let slot = unsafe { &mut *context.cast::<Option<Backward>>() };
        let gradients = (0..outputs)
            .map(|i| {
                // SAFETY: the caller's promise on length and ownership.
                let handle = unsafe { *output_gradients.add(i) };
                // SAFETY: a handle that is not null is a tensor of ours.
                (!handle.is_null()).then(|| unsafe { Tensor::from_ptr(handle) })
            })
            .collect();
        let backward = slot.take().ok_or("its backward pass can run only once")?;
        let _guard = no_grad_guard();
        let results = backward(gradients).map_err(|error| error.to_string())?;
        if results.len() != inputs {
            return Err(format!("it gave {} gradients for {inputs} inputs", results.len()));
        }
        for (i, gradient) in results.into_iter().enumerate() {
            if let Some(mut gradient) = gradient {
                // SAFETY: the caller's promise on length; the handle is given away, so it must not be dropped here.
                unsafe { *input_gradients.add(i) = gradient.as_mut_ptr() };
                std::mem::forget(gradient);
            }
        }
        Ok(())
    });
    let text = match result {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(text)) => text,
        Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
    };
    copied(&CString::new(text.replace('\0', " ")).expect("zero bytes were replaced"))
}

/// A copy that the bridge frees.
pub(super) fn copied(text: &CStr) -> *mut c_char {
    // SAFETY: a C string.
    unsafe { libc_strdup(text.as_ptr()) }
}

unsafe extern "C" {
    /// A copy of a C string in memory of malloc.
    #[link_name = "strdup"]
    fn libc_strdup(text: *const c_char) -> *mut c_char;
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Drops the closure.
///
/// # Safety
/// `context` is one of [`node`]'s and is not used again.
unsafe extern "C" fn release(context: *mut c_void) {
    // SAFETY: the caller's promise. Dropping tensors does not panic.
    drop(unsafe { Box::from_raw(context.cast::<Option<Backward>>()) });
}

/// The gradient of a leaf as memory that may be added to in place; zeros if there is none yet.
///
/// # Errors
/// [`Error::Torch`] for a tensor that is no leaf or requires no gradient.
pub fn gradient(leaf: &Tensor) -> Result<Tensor, Error> {
    // SAFETY: the handle is lent for the call.
    check::tensor("make a gradient", |out| unsafe { sys::bridge_gradient(leaf.as_ptr(), out) })
}

/// How often torch has written to this tensor's memory in place: when it is what it was, nothing has changed the values,
/// as far as torch knows.
///
/// # Errors
/// [`Error::Torch`] for tensors made in inference mode, which are not counted.
pub fn version(tensor: &Tensor) -> Result<i64, Error> {
    let mut version = 0;
    // SAFETY: the handle is lent for the call.
    let message = unsafe { sys::bridge_version(tensor.as_ptr(), &raw mut version) };
    check::message("read a version", message)?;
    Ok(version)
}

/// Euclidean norm of all tensors together: a scalar on their device, which is not waited for.
///
/// # Errors
/// [`Error::Torch`] for an empty list or tensors on different devices.
pub fn norm(tensors: &[&Tensor]) -> Result<Tensor, Error> {
    let lent = check::lend(tensors);
    // SAFETY: the handles are lent for the call.
    check::tensor("take a norm", |out| unsafe { sys::bridge_norm(lent.as_ptr(), lent.len(), out) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind, no_grad};

    use super::*;

    fn leaf(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    /// y = x², with its own backward pass.
    fn square(x: &Tensor) -> Tensor {
        let outputs = node("square", &[x], || {
            let saved = x.detach();
            let y = &saved * &saved;
            let backward: Backward = Box::new(move |mut gradients| {
                let gradient = gradients.remove(0).expect("the only output was used");
                Ok(vec![Some(gradient * saved * 2.0)])
            });
            Ok((vec![y], backward))
        });
        outputs.unwrap().remove(0)
    }

    #[test]
    fn a_nodes_gradient_is_its_closures() {
        let x = leaf(&[1.0, -2.0, 3.0]);
        (square(&square(&x)) * 0.5).sum(Kind::Double).backward(); // x⁴ / 2
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [2.0, -16.0, 54.0]);
    }

    #[test]
    fn a_forward_pass_that_libtorch_refuses_leaves_gradients_on() {
        let x = leaf(&[1.0]);
        let refused = check::caught("allocate", || {
            node("huge", &[&x], || {
                let y = Tensor::ones([1 << 30, 1 << 30], (Kind::Float, Device::Cpu));
                Ok((vec![y], Box::new(|_| Ok(vec![None])) as Backward))
            })
        });
        assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}");
        assert!(square(&x).requires_grad());
    }

    #[test]
    fn nothing_is_attached_where_no_gradient_is_wanted() {
        let x = leaf(&[1.0]);
        assert!(square(&x).requires_grad());
        assert!(!no_grad(|| square(&x)).requires_grad());
        assert!(!square(&x.detach()).requires_grad());
    }

    #[test]
    fn panics_errors_and_second_passes_become_errors_of_the_backward_pass() {
        let fails = |backward: Backward| {
            let x = leaf(&[1.0]);
            let y = node("failing", &[&x], || Ok((vec![x.detach() * 2.0], backward))).unwrap().remove(0);
            y.f_backward().unwrap_err().to_string()
        };
        assert!(fails(Box::new(|_| panic!("of course"))).contains("failing: it panicked: of course"));
        assert!(fails(Box::new(|_| Ok(vec![]))).contains("it gave 0 gradients for 1 inputs"));
        let refusal = Error::Fused { reason: "it is Monday".to_owned() };
        assert!(fails(Box::new(|_| Err(refusal))).contains("it is Monday"));

        let x = leaf(&[1.0]);
        let y = square(&x);
        y.backward();
        assert!(y.f_backward().unwrap_err().to_string().contains("square"));
    }

    #[test]
    fn a_closure_is_dropped_once_whether_or_not_it_ran() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let attach = |x: &Tensor| {
            let counted = Counted(dropped.clone());
            let backward: Backward = Box::new(move |gradients| {
                let _kept = &counted;
                Ok(gradients)
            });
            node("counted", &[x], || Ok((vec![x.detach() * 1.0], backward))).unwrap().remove(0)
        };
        let x = leaf(&[1.0]);
        let _ = attach(&x.detach());
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        attach(&x).backward();
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        drop(attach(&x));
        assert_eq!(dropped.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_gradient_buffer_is_the_leafs_own() {
        let x = leaf(&[1.0, 2.0]);
        let mut buffer = gradient(&x).unwrap();
        let _ = buffer.fill_(3.0);
        square(&x).sum(Kind::Double).backward();
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [5.0, 7.0]);
        assert_eq!(Vec::<f64>::try_from(buffer).unwrap(), [5.0, 7.0]);
        assert!(gradient(&x.detach()).is_err());
    }

    #[test]
    fn the_version_counts_writes() {
        let x = leaf(&[1.0, 2.0]);
        let before = version(&x).unwrap();
        assert_eq!(version(&x.shallow_clone()).unwrap(), before);
        let _ = no_grad(|| x.shallow_clone().fill_(0.0));
        assert!(version(&x).unwrap() > before);
    }

    #[test]
    fn the_norm_is_that_of_all_tensors_together() {
        let (a, b) = (Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0f32, -4.0]));
        assert_eq!(norm(&[&a, &b]).unwrap().double_value(&[]), 5.0);
        let error = norm(&[]).unwrap_err().to_string();
        assert!(error.starts_with("libtorch: take a norm: "), "{error}");
        assert_eq!(a.device(), Device::Cpu);
    }
}
