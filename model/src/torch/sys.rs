//! The raw layer: `csrc/bridge.h`, which says what each function promises, and nothing else.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

/// A backward pass; see `bridge_attach` in `bridge.h`.
pub(super) type Backward = unsafe extern "C" fn(
    context: *mut c_void,
    output_gradients: *mut *mut C_tensor,
    outputs: usize,
    input_gradients: *mut *mut C_tensor,
    inputs: usize,
) -> *mut c_char;

/// Gives a context back.
pub(super) type Release = unsafe extern "C" fn(context: *mut c_void);

/// Is told of one kernel or copy; see `bridge_profile_stop`.
pub(super) type Visit =
    unsafe extern "C" fn(context: *mut c_void, name: *const c_char, start: u64, duration: u64);

/// Is told that a gradient is complete; see `bridge_watch_gradient` in `distributed.h`.
pub(super) type Told = unsafe extern "C" fn(context: *mut c_void) -> *mut c_char;

unsafe extern "C" {
    pub(super) fn bridge_free_message(message: *mut c_char);
    pub(super) fn bridge_attach(
        name: *const c_char,
        inputs: *const *const C_tensor,
        input_count: usize,
        outputs: *const *mut C_tensor,
        output_count: usize,
        context: *mut c_void,
        backward: Backward,
        release: Release,
        attached: *mut c_int,
    ) -> *mut c_char;
    pub(super) fn bridge_gradient(leaf: *const C_tensor, out: *mut *mut C_tensor) -> *mut c_char;
    pub(super) fn bridge_version(tensor: *const C_tensor, out: *mut i64) -> *mut c_char;
    pub(super) fn bridge_norm(
        tensors: *const *const C_tensor,
        count: usize,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(super) fn bridge_pinned(
        shape: *const i64,
        dimensions: usize,
        kind: c_int,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(super) fn bridge_copy_async(to: *const C_tensor, from: *const C_tensor) -> *mut c_char;
    pub(super) fn bridge_current_stream(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_event_record(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_event_wait(event: *mut c_void) -> *mut c_char;
    pub(super) fn bridge_event_free(event: *mut c_void);
    pub(super) fn bridge_profile_start() -> *mut c_char;
    pub(super) fn bridge_profile_stop(path: *const c_char, context: *mut c_void, visit: Visit)
    -> *mut c_char;
    pub(super) fn bridge_memory(
        device: c_int,
        reset_peak: c_int,
        allocated: *mut i64,
        peak: *mut i64,
    ) -> *mut c_char;
    // Of distributed.h.
    pub(super) fn bridge_set_gradient(leaf: *const C_tensor, gradient: *const C_tensor) -> *mut c_char;
    pub(super) fn bridge_set_memory(leaf: *const C_tensor, storage: *const C_tensor) -> *mut c_char;
    pub(super) fn bridge_count_write(tensor: *const C_tensor) -> *mut c_char;
    pub(super) fn bridge_watch_gradient(
        leaf: *const C_tensor,
        context: *mut c_void,
        told: Option<Told>,
        release: Release,
    ) -> *mut c_char;
    pub(super) fn bridge_gradient_complete(leaf: *const C_tensor) -> *mut c_char;
}
