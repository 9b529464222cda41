//! What tch does not expose of libtorch and of the card: nodes of the autograd graph, memory, and our own kernels.
//!
//! Three layers: `sys` declares the C functions of `csrc/bridge.h`, `check` turns their messages into errors and their
//! handles into tensors, and what is public here is safe. `nvrtc` and `driver` compile and launch the kernels of
//! `csrc/kernels`; `products` are the matrix products between them, over the functions of `cublaslt`. `distributed` is what several processes need to train
//! together.

// C functions, foreign libraries and raw device memory: no type system can vouch for them.
#![allow(unsafe_code)]

mod autograd;
pub(crate) mod cache;
mod check;
mod cublaslt;
pub mod distributed;
pub(crate) mod driver;
mod memory;
pub(crate) mod nvrtc;
pub(crate) mod products;
mod profile;
mod readback;
mod sys;
mod watch;

pub(crate) use check::caught;

pub use autograd::{Backward, gradient, node, norm, version};
pub use memory::{MemoryInUse, copy_async, memory_in_use, pinned, reset_peak_memory, upload};
pub use profile::{Activity, Profile};
pub use readback::Readback;
pub use watch::{count_write, gradient_complete, set_gradient, set_memory, watch_gradient};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Opens libtorch's CUDA half, if it is there; call it once, first thing in `main`.
///
/// The binary links `libtorch_cpu.so` and `libc10.so` alone, so that one build serves machines with and without
/// CUDA; opening `libtorch_cuda.so` registers the CUDA kernels with both. The loader looks where it looks for
/// `libtorch_cpu.so`: beside it (the run path) and in `LD_LIBRARY_PATH`. Returns whether it was found.
pub fn load_cuda() -> bool {
    // SAFETY: libtorch_cuda.so's initialisers only register operators with the dispatcher of the libtorch_cpu.so of
    // the same release that is already loaded; nothing is asked of the calling thread.
    match unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Its kernels stay registered until the process ends, so the library must stay too.
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

/// Whether CUDA tensors can be made: libtorch's CUDA half is loaded and a driver with a device answers.
pub fn cuda_available() -> bool {
    tch::Cuda::is_available()
}
