// See bridge.h. Needs libtorch's headers alone: no header of CUDA, and no symbol outside libtorch_cpu and libc10, so that
// the same object serves machines with and without a GPU.
#include "bridge.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "guarded.h"

namespace {

std::vector<at::Tensor> tensors_of(const at::Tensor* const* pointers, size_t count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t i = 0; i < count; ++i) tensors.push_back(*pointers[i]);
  return tensors;
}

struct ForeignNode : torch::autograd::Node {
  std::string label;
  void* context = nullptr;
  bridge_backward backward = nullptr;
  bridge_release release = nullptr;
  size_t inputs = 0;

  ~ForeignNode() override { release_variables(); }
  std::string name() const override { return label; }

  void release_variables() override {
    if (context != nullptr) release(std::exchange(context, nullptr));
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    TORCH_CHECK(context != nullptr, label, ": its graph has been freed by an earlier backward pass");
    std::vector<at::Tensor*> in, out(inputs, nullptr);
    for (const at::Tensor& gradient : gradients) in.push_back(gradient.defined() ? new at::Tensor(gradient) : nullptr);
    char* message = backward(context, in.data(), in.size(), out.data(), out.size());
    torch::autograd::variable_list results;
    for (at::Tensor* gradient : out) {
      results.emplace_back(gradient != nullptr ? *gradient : at::Tensor());
      delete gradient;
    }
    if (message != nullptr) {
      const std::string text = message;
      free(message);
      TORCH_CHECK(false, label, ": ", text);
    }
    return results;
  }
};

}  // namespace

extern "C" {

void bridge_free_message(char* message) { free(message); }

char* bridge_attach(const char* name, const at::Tensor* const* inputs, size_t input_count, at::Tensor* const* outputs,
                    size_t output_count, void* context, bridge_backward backward, bridge_release release, int* attached) {
  *attached = 0;
  std::shared_ptr<ForeignNode> node;
  char* message = guarded([&] {
    node = std::shared_ptr<ForeignNode>(new ForeignNode(), torch::autograd::deleteNode);
    node->context = context;  // from here on the node releases it, whatever happens
    node->release = release;
    const std::vector<at::Tensor> variables = tensors_of(inputs, input_count);
    const bool needed = std::any_of(variables.begin(), variables.end(), [](const at::Tensor& t) { return t.requires_grad(); });
    if (!needed || !at::GradMode::is_enabled()) return;
    node->label = name;
    node->backward = backward;
    node->inputs = input_count;
    node->set_next_edges(torch::autograd::collect_next_edges(variables));
    for (size_t i = 0; i < output_count; ++i) torch::autograd::set_history(*outputs[i], node);
    *attached = 1;
  });
  if (node == nullptr) release(context);
  return message;
}

char* bridge_gradient(const at::Tensor* leaf, at::Tensor** out) {
  return guarded([&] {
    TORCH_CHECK(leaf->is_leaf() && leaf->requires_grad(), "only a leaf that requires a gradient has one to add to");
    at::Tensor& gradient = leaf->mutable_grad();
    if (!gradient.defined()) {
      at::NoGradGuard no_grad;
      gradient = at::zeros_like(*leaf, at::MemoryFormat::Contiguous);
    }
    *out = new at::Tensor(gradient);
  });
}

char* bridge_version(const at::Tensor* tensor, int64_t* out) {
  return guarded([&] { *out = static_cast<int64_t>(tensor->_version()); });
}

char* bridge_norm(const at::Tensor* const* tensors, size_t count, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(at::stack(at::_foreach_norm(tensors_of(tensors, count), 2)).norm());
  });
}

char* bridge_pinned(const int64_t* shape, size_t dimensions, int kind, at::Tensor** out) {
  return guarded([&] {
    const auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).pinned_memory(true);
    *out = new at::Tensor(at::empty(at::IntArrayRef(shape, dimensions), options));
  });
}

char* bridge_copy_async(const at::Tensor* to, const at::Tensor* from) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor target = *to;
    target.copy_(*from, /*non_blocking=*/true);
  });
}

char* bridge_current_stream(int device, void** out) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    *out = guard.getStream(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device))).native_handle();
  });
}

char* bridge_event_record(int device, void** out) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(guard.getStream(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device))));
    *out = event.release();
  });
}

char* bridge_event_wait(void* event) {
  return guarded([&] { static_cast<c10::Event*>(event)->synchronize(); });
}

void bridge_event_free(void* event) { delete static_cast<c10::Event*>(event); }

char* bridge_profile_start() {
  return guarded([&] {
    using namespace torch::profiler::impl;
    const ProfilerConfig config(ProfilerState::KINETO);
    const std::set<ActivityType> activities = {ActivityType::CPU, ActivityType::CUDA};
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

char* bridge_profile_stop(const char* path, void* context, bridge_visit visit) {
  return guarded([&] {
    const auto result = torch::autograd::profiler::disableProfiler();
    for (const auto& event : result->events()) {
      if (event.deviceType() != c10::DeviceType::CUDA) continue;
      visit(context, event.name().c_str(), event.startNs(), event.durationNs());
    }
    if (path != nullptr) result->save(path);
  });
}

char* bridge_memory(int device, int reset_peak, int64_t* allocated, int64_t* peak) {
  return guarded([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    const c10::CachingAllocator::Stat bytes = at::accelerator::getDeviceStats(index).allocated_bytes[0];
    *allocated = bytes.current;
    *peak = bytes.peak;
    if (reset_peak != 0) at::accelerator::resetPeakStats(index);
  });
}
}
