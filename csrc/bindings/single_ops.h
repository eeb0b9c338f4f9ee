// What the bindings of single ops share: the context of one call, and arrays where it runs.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "base/float_environment.h"
#include "base/memory.h"
#include "bindings/numpy.h"

namespace tuili::bindings {

using Isa = std::optional<std::string>;

// A context for one call.
struct OneCall {
  explicit OneCall(const Isa& isa, int num_threads = 1, int64_t head_dim = 64) {
    context.kernels = &ops::find_kernels(isa ? isa->c_str() : nullptr);
    context.pool = &ThreadPool::shared();
    context.n_threads = resolve_num_threads(num_threads);
    context.scratch_floats = ops::scratch_floats_for(head_dim);
    scratch = Buffer(context.scratch_floats * context.n_threads * 4);
    context.scratch = reinterpret_cast<float*>(scratch.data());
  }
  Buffer scratch;
  ops::Context context;
  FloatEnvironment environment;
};

struct PackedWeight {
  PackedWeight(const std::string& format, int64_t n, int64_t k, const ByteArray& data);
  Buffer memory;
  PackedMatrix matrix;
};

// Device memory with a copy of host memory, or with anything when `from` is null.
class OnDevice {
 public:
  OnDevice(const void* from, int64_t bytes)
      : bytes_(bytes), memory_(device::allocate(std::max<int64_t>(1, bytes))) {
    if (from != nullptr) device::copy_to_device(memory_.get(), from, bytes, nullptr);
    device::synchronize(nullptr);
  }
  void copy_to(void* to) const {
    device::copy_to_host(to, memory_.get(), bytes_, nullptr);
    device::synchronize(nullptr);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(void* memory) const { device::free(memory); }
  };
  int64_t bytes_;
  std::unique_ptr<void, Free> memory_;
};

// An array of float32 where an op runs: itself, or a copy in device memory.
class Operand {
 public:
  Operand(FloatArray array, DeviceKind device) : array_(std::move(array)), view_(view_of(array_)) {
    if (device == DeviceKind::cpu) return;
    copy_ = std::make_unique<OnDevice>(array_.data(), array_.nbytes());
    view_.data = copy_->as<void>();
    view_.device = device;
  }
  const TensorView& view() const { return view_; }

  // The array, after what the op did to it.
  FloatArray result() {
    if (copy_ != nullptr) copy_->copy_to(array_.mutable_data());
    return array_;
  }

 private:
  FloatArray array_;
  TensorView view_;
  std::unique_ptr<OnDevice> copy_;
};

}  // namespace tuili::bindings
