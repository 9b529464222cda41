// See distributed.h. Like bridge.cpp it needs libtorch's headers alone; those of Gloo are declared in gloo_declarations.
#define USE_C10D_GLOO
#include "distributed.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Flags.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guarded.h"

C10_DECLARE_int(caffe2_log_level);

namespace {

using std::chrono::milliseconds;
using StoreHandle = c10::intrusive_ptr<c10d::Store>;
using GroupHandle = c10::intrusive_ptr<c10d::ProcessGroupGloo>;
using WorkHandle = c10::intrusive_ptr<c10d::Work>;

const StoreHandle& store_of(void* handle) { return *static_cast<StoreHandle*>(handle); }

c10d::ProcessGroupGloo& group_of(void* handle) { return **static_cast<GroupHandle*>(handle); }

const c10::Stream& stream_of(void* handle) { return *static_cast<c10::Stream*>(handle); }

c10::Event& event_of(void* handle) { return *static_cast<c10::Event*>(handle); }

c10::Device card(int device) { return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}; }

void* give(WorkHandle work) { return new WorkHandle(std::move(work)); }

void check_alike(const at::Tensor& one, const at::Tensor& other) {
  TORCH_CHECK(one.sizes() == other.sizes() && one.scalar_type() == other.scalar_type() && one.device() == other.device(),
              "memory of ", other.toString(), " ", other.sizes(), " cannot stand for ", one.toString(), " ", one.sizes());
}

// A foreign function as the hook of a leaf.
struct ForeignHook : torch::autograd::PostAccumulateGradHook {
  void* context = nullptr;
  bridge_told told = nullptr;
  bridge_release release = nullptr;

  ~ForeignHook() override {
    if (context != nullptr) release(context);
  }

  void operator()(const at::Tensor&) override {
    if (char* message = told(context)) {
      const std::string text = message;
      free(message);
      TORCH_CHECK(false, text);
    }
  }
};

}  // namespace

extern "C" {

char* bridge_store_connect(const char* host, uint16_t port, int serve, int64_t timeout_ms, void** out) {
  return guarded([&] {
    // c10d warns of every connection that is lost, with a trace of its functions, and throws as well: once is enough. Errors are 2.
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = 2;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serve != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *out = new StoreHandle(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

uint16_t bridge_store_port(void* store) {
  return static_cast<c10d::TCPStore&>(*store_of(store)).getPort();
}

void bridge_store_free(void* store) { delete static_cast<StoreHandle*>(store); }

char* bridge_store_set(void* store, const char* key, const char* bytes, size_t count) {
  return guarded([&] { store_of(store)->set(key, std::vector<uint8_t>(bytes, bytes + count)); });
}

char* bridge_store_get(void* store, const char* key, int64_t timeout_ms, void* context, bridge_bytes visit) {
  return guarded([&] {
    store_of(store)->wait({key}, milliseconds(timeout_ms));
    const std::vector<uint8_t> value = store_of(store)->get(key);
    visit(context, reinterpret_cast<const char*>(value.data()), value.size());
  });
}

char* bridge_store_check(void* store, const char* key, int* there) {
  return guarded([&] { *there = store_of(store)->check({key}) ? 1 : 0; });
}

char* bridge_store_add(void* store, const char* key, int64_t amount, int64_t* out) {
  return guarded([&] { *out = store_of(store)->add(key, amount); });
}

char* bridge_gloo_new(void* store, const char* prefix, int rank, int world_size, const char* host, int64_t timeout_ms, void** out) {
  return guarded([&] {
    using c10d::ProcessGroupGloo;
    const auto timeout = milliseconds(timeout_ms);
    c10::intrusive_ptr<ProcessGroupGloo::Options> options;
    if (host == nullptr) {
      options = ProcessGroupGloo::Options::create_default(timeout);
    } else {
      options = ProcessGroupGloo::Options::create(timeout);
      options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(host));
    }
    const auto within = c10::make_intrusive<c10d::PrefixStore>(prefix, store_of(store));
    *out = new GroupHandle(c10::make_intrusive<ProcessGroupGloo>(within, rank, world_size, options));
  });
}

void bridge_gloo_free(void* group) { delete static_cast<GroupHandle*>(group); }

char* bridge_gloo_all_reduce(void* group, const at::Tensor* sum, void** work) {
  return guarded([&] {
    std::vector<at::Tensor> tensors = {*sum};
    *work = give(group_of(group).allreduce(tensors));
  });
}

char* bridge_gloo_broadcast(void* group, const at::Tensor* tensor, int root, void** work) {
  return guarded([&] {
    std::vector<at::Tensor> tensors = {*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    *work = give(group_of(group).broadcast(tensors, options));
  });
}

char* bridge_gloo_reduce_scatter(void* group, const at::Tensor* part, const at::Tensor* whole, void** work) {
  return guarded([&] {
    at::Tensor output = *part, input = *whole;
    *work = give(group_of(group)._reduce_scatter_base(output, input));
  });
}

char* bridge_gloo_all_gather(void* group, const at::Tensor* whole, const at::Tensor* part, void** work) {
  return guarded([&] {
    at::Tensor output = *whole, input = *part;
    *work = give(group_of(group)._allgather_base(output, input));
  });
}

char* bridge_work_wait(void* work) {
  return guarded([&] { (*static_cast<WorkHandle*>(work))->wait(); });
}

void bridge_work_free(void* work) { delete static_cast<WorkHandle*>(work); }

char* bridge_use_device(int device) {
  return guarded([&] { c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(card(device)); });
}

char* bridge_stream_new(int device, void** out) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *out = new c10::Stream(guard.getStreamFromGlobalPool(card(device), /*isHighPriority=*/true));
  });
}

void bridge_stream_free(void* stream) { delete static_cast<c10::Stream*>(stream); }

char* bridge_stream_handle(void* stream, void** out) {
  return guarded([&] { *out = stream_of(stream).native_handle(); });
}

char* bridge_stream_follow(void* stream) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    c10::Event event(c10::DeviceType::CUDA);
    event.record(guard.getStream(stream_of(stream).device()));
    event.block(stream_of(stream));
  });
}

char* bridge_stream_mark(void* stream, void** event) {
  return guarded([&] {
    auto mark = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    mark->record(stream_of(stream));
    *event = mark.release();
  });
}

char* bridge_event_block(void* event, int device) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    event_of(event).block(guard.getStream(card(device)));
  });
}

char* bridge_timer_record(int device, void** out) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    auto timer = std::make_unique<c10::Event>(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT);
    timer->record(guard.getStream(card(device)));
    *out = timer.release();
  });
}

char* bridge_timer_between(void* from, void* to, double* milliseconds) {
  return guarded([&] {
    event_of(to).synchronize();
    *milliseconds = event_of(from).elapsedTime(event_of(to));
  });
}

char* bridge_set_gradient(const at::Tensor* leaf, const at::Tensor* gradient) {
  return guarded([&] {
    TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(), "only a leaf that requires a gradient has one");
    check_alike(*leaf, *gradient);
    leaf->mutable_grad() = *gradient;
  });
}

char* bridge_set_memory(const at::Tensor* leaf, const at::Tensor* storage) {
  return guarded([&] {
    check_alike(*leaf, *storage);
    at::NoGradGuard no_grad;
    leaf->set_data(*storage);
  });
}

char* bridge_count_write(const at::Tensor* tensor) {
  return guarded([&] { tensor->unsafeGetTensorImpl()->bump_version(); });
}

char* bridge_watch_gradient(const at::Tensor* leaf, void* context, bridge_told told, bridge_release release) {
  std::unique_ptr<ForeignHook> hook;
  char* message = guarded([&] {
    if (told != nullptr) {
      hook = std::make_unique<ForeignHook>();
      hook->context = context;  // from here on the hook releases it, whatever happens
      hook->told = told;
      hook->release = release;
    }
    TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(), "only a leaf that requires a gradient can be watched");
    context = nullptr;
    torch::autograd::impl::set_post_acc_grad_hooks(*leaf, std::move(hook));
  });
  // Where not even the hook could be made.
  if (message != nullptr && told != nullptr && context != nullptr && hook == nullptr) release(context);
  return message;
}

char* bridge_gradient_complete(const at::Tensor* leaf) {
  return guarded([&] {
    const auto& hook = torch::autograd::impl::post_acc_grad_hooks(*leaf);
    if (hook != nullptr) (*hook)(*leaf);
  });
}

void bridge_exit(int status) { _exit(status); }
}
