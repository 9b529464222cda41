//! The raw layer: `csrc/distributed.h`, which says what each function promises, and nothing else.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

/// Is given bytes; see `bridge_bytes` in `distributed.h`.
pub(super) type Bytes = unsafe extern "C" fn(context: *mut c_void, bytes: *const c_char, count: usize);

unsafe extern "C" {
    pub(super) fn bridge_store_connect(
        host: *const c_char,
        port: u16,
        serve: c_int,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_store_port(store: *mut c_void) -> u16;
    pub(super) fn bridge_store_free(store: *mut c_void);
    pub(super) fn bridge_store_set(
        store: *mut c_void,
        key: *const c_char,
        bytes: *const c_char,
        count: usize,
    ) -> *mut c_char;
    pub(super) fn bridge_store_get(
        store: *mut c_void,
        key: *const c_char,
        timeout_ms: i64,
        context: *mut c_void,
        visit: Bytes,
    ) -> *mut c_char;
    pub(super) fn bridge_store_check(
        store: *mut c_void,
        key: *const c_char,
        there: *mut c_int,
    ) -> *mut c_char;
    pub(super) fn bridge_store_add(
        store: *mut c_void,
        key: *const c_char,
        amount: i64,
        out: *mut i64,
    ) -> *mut c_char;
    pub(super) fn bridge_gloo_new(
        store: *mut c_void,
        prefix: *const c_char,
        rank: c_int,
        world_size: c_int,
        host: *const c_char,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_gloo_free(group: *mut c_void);
    pub(super) fn bridge_gloo_all_reduce(
        group: *mut c_void,
        sum: *const C_tensor,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_gloo_broadcast(
        group: *mut c_void,
        tensor: *const C_tensor,
        root: c_int,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_gloo_reduce_scatter(
        group: *mut c_void,
        part: *const C_tensor,
        whole: *const C_tensor,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_gloo_all_gather(
        group: *mut c_void,
        whole: *const C_tensor,
        part: *const C_tensor,
        work: *mut *mut c_void,
    ) -> *mut c_char;
    pub(super) fn bridge_work_wait(work: *mut c_void) -> *mut c_char;
    pub(super) fn bridge_work_free(work: *mut c_void);
    pub(super) fn bridge_use_device(device: c_int) -> *mut c_char;
    pub(super) fn bridge_stream_new(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_stream_free(stream: *mut c_void);
    pub(super) fn bridge_stream_handle(stream: *mut c_void, out: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_stream_follow(stream: *mut c_void) -> *mut c_char;
    pub(super) fn bridge_stream_mark(stream: *mut c_void, event: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_event_block(event: *mut c_void, device: c_int) -> *mut c_char;
    pub(super) fn bridge_timer_record(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    pub(super) fn bridge_timer_between(
        from: *mut c_void,
        to: *mut c_void,
        milliseconds: *mut f64,
    ) -> *mut c_char;
    pub(super) fn bridge_exit(status: c_int);
}
