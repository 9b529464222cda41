//! What several processes need to train together: a store to find each other, and collectives on tensors.
//!
//! - [`Store`] is c10d's `TCPStore`.
//! - [`Group`] runs collectives: over c10d's Gloo on tensors of the CPU, over NCCL on those of GPUs.
//! - [`use_device`] and [`end_process`] are what a process among many needs besides.
//!
//! Why NCCL's own library and not c10d's `ProcessGroupNCCL`: that class's header includes headers of CUDA, cuBLAS, cuSOLVER,
//! cuSPARSE and NCCL, so that the program could be built only where all of those are installed, and its object would refer to
//! symbols of `libtorch_cuda.so`, so that it could not run without. The library is the same one: libtorch loads it, and this
//! crate asks the loader for it by name. It needs nine functions, on a stream beside that of the operators, with libtorch's own
//! events between the two; what `ProcessGroupNCCL` adds to that, watching over the others, is the caller's here
//! on CPU and GPU alike.

mod gloo;
mod group;
mod nccl;
mod store;
mod stream;
mod sys;

pub use gloo::Gloo;
pub use group::{Group, Pending};
pub use nccl::Nccl;
pub use store::Store;
pub use stream::{Timer, use_device};

/// Ends the process at once, as a signal would: for a thread that has to end a process whose other threads wait for something
/// that will not come. Nothing is cleaned up, and nothing that was not written is written.
pub fn end_process(status: i32) -> ! {
    // SAFETY: no arguments to promise anything about.
    unsafe { sys::bridge_exit(status) };
    // Not reached.
    std::process::abort()
}
