// What Tessera needs of libtorch and tch does not offer. The whole C ABI.
//
// Tensors cross as `at::Tensor*`, which is what tch's C_tensor is. A `const` pointer is lent for the call; a pointer written
// to an `out` parameter is a new handle that the caller owns. Every function but bridge_free_message returns null, or a
// message: a C string that the caller gives back to bridge_free_message. No C++ exception leaves a function. Nothing is
// kept in thread-local state: torch-sys has an error slot of its own, which these functions never touch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {

void bridge_free_message(char* message);

// A node of the autograd graph whose backward pass is the caller's function. The `count` outputs become functions of the
// inputs. If no input requires a gradient or gradients are off, `release(context)` is called at once and *attached is 0.
//
// backward(context, output_gradients, outputs, input_gradients, inputs) gets `outputs` handles it owns (null: no gradient
// arrived) and fills `inputs` entries with handles it gives away (null: none). It returns null, or a message made by malloc
// that the bridge frees and turns into the error of the backward pass. It runs on a thread of the autograd engine.
// release(context) is called exactly once, when the graph is freed.
typedef char* (*bridge_backward)(void* context, at::Tensor** output_gradients, size_t outputs, at::Tensor** input_gradients, size_t inputs);
typedef void (*bridge_release)(void* context);
char* bridge_attach(const char* name, const at::Tensor* const* inputs, size_t input_count, at::Tensor* const* outputs,
                    size_t output_count, void* context, bridge_backward backward, bridge_release release, int* attached);

// The gradient of a leaf, made of zeros if there is none yet: memory that may be added to in place.
char* bridge_gradient(const at::Tensor* leaf, at::Tensor** out);

// How often ATen has written to the tensor's memory in place.
char* bridge_version(const at::Tensor* tensor, int64_t* out);

// Euclidean norm of all tensors together: a scalar on their device, without waiting for it.
char* bridge_norm(const at::Tensor* const* tensors, size_t count, at::Tensor** out);

// Uninitialised host memory that the device can copy from asynchronously; `kind` is an at::ScalarType.
char* bridge_pinned(const int64_t* shape, size_t dimensions, int kind, at::Tensor** out);

// Copies to a tensor of the same shape, not waiting for the device where the source is pinned.
char* bridge_copy_async(const at::Tensor* to, const at::Tensor* from);

// The handle (cudaStream_t) of the stream that ATen's operators on CUDA device `device` are using in this thread.
char* bridge_current_stream(int device, void** out);

// A mark at the end of the work that stream has been given so far; bridge_event_wait waits until the device has passed it.
// The caller owns it until bridge_event_free.
char* bridge_event_record(int device, void** out);
char* bridge_event_wait(void* event);
void bridge_event_free(void* event);

// Between the two calls torch's profiler records what runs on the device. The second one calls `visit` for each kernel and
// copy, with its name, start and duration in nanoseconds, and writes the whole as a Chrome trace to `path` unless it is null.
typedef void (*bridge_visit)(void* context, const char* name, uint64_t start, uint64_t duration);
char* bridge_profile_start();
char* bridge_profile_stop(const char* path, void* context, bridge_visit visit);

// Bytes that tensors on an accelerator occupy, now and at most since the last call with `reset_peak` non-zero.
char* bridge_memory(int device, int reset_peak, int64_t* allocated, int64_t* peak);
}
