// What several processes need to train together, on libtorch's c10d: a key-value store, collectives over Gloo, and streams and
// events for collectives on GPUs. The rules of bridge.h hold: messages, ownership and lent pointers are as described there.
//
// A store and a process group may be used from any thread, but by one at a time.
#pragma once

#include "bridge.h"

extern "C" {

// Is given bytes that are valid during the call.
typedef void (*bridge_bytes)(void* context, const char* bytes, size_t count);

// c10d's TCPStore: a server that one process keeps, and connections to it. The server, if `serve` is non-zero, ends with the
// handle. `timeout_ms` bounds connecting, and each later request that names no time of its own.
char* bridge_store_connect(const char* host, uint16_t port, int serve, int64_t timeout_ms, void** out);
// The port it is kept at: the one taken, if the server was to take any (port 0).
uint16_t bridge_store_port(void* store);
void bridge_store_free(void* store);
char* bridge_store_set(void* store, const char* key, const char* bytes, size_t count);
// Waits until somebody has set the key; an error after `timeout_ms`.
char* bridge_store_get(void* store, const char* key, int64_t timeout_ms, void* context, bridge_bytes visit);
// *there is whether the key has been set.
char* bridge_store_check(void* store, const char* key, int* there);
// Adds to the number under the key, which begins at zero, and gives the sum.
char* bridge_store_add(void* store, const char* key, int64_t amount, int64_t* out);

// A process group of Gloo, whose members find each other through the store under `prefix`. It listens at the address of `host`,
// or, if that is null, where GLOO_SOCKET_IFNAME or this machine's name says. An operation fails after `timeout_ms`.
char* bridge_gloo_new(void* store, const char* prefix, int rank, int world_size, const char* host, int64_t timeout_ms, void** out);
// Waits for operations under way.
void bridge_gloo_free(void* group);

// Collectives on contiguous tensors of the CPU. All members call the same ones in the same order. Each begins an operation, which
// is done when bridge_work_wait has returned; the tensors' memory belongs to it until then.
char* bridge_gloo_all_reduce(void* group, const at::Tensor* sum, void** work);
char* bridge_gloo_broadcast(void* group, const at::Tensor* tensor, int root, void** work);
char* bridge_gloo_reduce_scatter(void* group, const at::Tensor* part, const at::Tensor* whole, void** work);
char* bridge_gloo_all_gather(void* group, const at::Tensor* whole, const at::Tensor* part, void** work);
char* bridge_work_wait(void* work);
void bridge_work_free(void* work);

// Makes a CUDA device the calling thread's current one.
char* bridge_use_device(int device);

// A stream of high priority out of ATen's pool, beside the one that operators use.
char* bridge_stream_new(int device, void** out);
void bridge_stream_free(void* stream);
// Its cudaStream_t.
char* bridge_stream_handle(void* stream, void** out);
// Lets the stream wait for what the calling thread's current stream of its device has been given so far.
char* bridge_stream_follow(void* stream);
// A mark at the end of what the stream has been given so far.
char* bridge_stream_mark(void* stream, void** event);
// Lets the current stream wait for the mark; the host does not. The mark is an event of bridge.h.
char* bridge_event_block(void* event, int device);

// A mark in the current stream that knows when it was passed, and the milliseconds between two of them, which are waited for. An
// event of bridge.h.
char* bridge_timer_record(int device, void** out);
char* bridge_timer_between(void* from, void* to, double* milliseconds);

// Makes `gradient`, of the same shape, kind and device, the leaf's gradient: backward passes add to its memory.
char* bridge_set_gradient(const at::Tensor* leaf, const at::Tensor* gradient);
// Makes `storage`, of the same shape, kind and device, the memory of the leaf, for everyone who holds the leaf.
char* bridge_set_memory(const at::Tensor* leaf, const at::Tensor* storage);
// Counts a write to the tensor's memory that ATen did not see.
char* bridge_count_write(const at::Tensor* tensor);

// Calls `told(context)` whenever a backward pass has finished adding to the leaf's gradient; replaces the hook that was there. A
// null `told` removes it. told returns null, or a message made by malloc, as bridge_backward does. release(context) is called
// exactly once.
typedef char* (*bridge_told)(void* context);
char* bridge_watch_gradient(const at::Tensor* leaf, void* context, bridge_told told, bridge_release release);
// Calls the leaf's hook, if it has one: for nodes that add to gradients themselves.
char* bridge_gradient_complete(const at::Tensor* leaf);

// Ends the process at once: no destructors, no handlers.
void bridge_exit(int status);
}
