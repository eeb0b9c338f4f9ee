// What the bindings of single ops share: the context of one call, and arrays where it runs.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "base/device_memory.h"
#include "base/float_environment.h"
#include "base/memory.h"
#include "base/rounding.h"
#include "bindings/names.h"
#include "bindings/numpy.h"

namespace tuili::bindings {

// A context for one call.
struct OneCall {
  explicit OneCall(const Isa& isa = {}, int num_threads = 1, int64_t head_dim = 64) {
    context.kernels = &ops::find_kernels(name_or_null(isa));
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

inline std::vector<py::ssize_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

// Checks that x [m, k] can be multiplied with w.
inline void check_input(const py::array& x, const PackedMatrix& w) {
  check_dims(x, "x", 2);
  TUILI_CHECK(x.shape(1) == w.k, "x has rows of ", x.shape(1), "; w has rows of ", w.k);
}

// What attention is told besides its operands.
struct AttentionOptions {
  int64_t position;
  bool causal;
  int64_t window;
  float scale, softcap;
  int64_t block_size;
};

// q [n_rows, n_heads, head_dim], k and v [n_keys, n_kv_heads, head_dim].
inline void check_attention(const FloatArray& q, const FloatArray& k, const FloatArray& v,
                            const AttentionOptions& options) {
  check_dims(q, "q", 3);
  check_dims(k, "k", 3);
  TUILI_CHECK(shape_of(k) == shape_of(v), "k and v must have one shape");
  TUILI_CHECK(k.shape(0) >= 1 && k.shape(1) >= 1 && q.shape(1) % k.shape(1) == 0 &&
                  k.shape(2) == q.shape(2) && k.shape(2) >= 1,
              "q is [", q.shape(0), ", ", q.shape(1), ", ", q.shape(2), "], k is [", k.shape(0), ", ",
              k.shape(1), ", ", k.shape(2), "]");
  const auto [position, causal, window, scale, softcap, block_size] = options;
  TUILI_CHECK(block_size == 16 || block_size == 32 || block_size == 64,
              "block_size must be 16, 32 or 64, not ", block_size);
  constexpr int64_t kLargest = 1 << 30;
  TUILI_CHECK(position <= kLargest && window <= kLargest, "position and window must be at most ", kLargest,
              ", not ", position, " and ", window);
  TUILI_CHECK(position >= 0 && window >= 0 && (!causal || position + q.shape(0) <= k.shape(0)),
              "rows at positions [", position, ", ", position + q.shape(0), ") of ", k.shape(0), " keys");
}

inline ops::AttentionSpec spec_of(const FloatArray& q, const FloatArray& k, const AttentionOptions& options) {
  return {.n_heads = q.shape(1),
          .n_kv_heads = k.shape(1),
          .head_dim = q.shape(2),
          .window = options.window,
          .causal = options.causal,
          .scale = options.scale,
          .softcap = options.softcap};
}

// The blocks of n_keys keys, in reverse order, and where in them each key lies.
struct BlocksBackwards {
  BlocksBackwards(int64_t n_keys, int64_t block_size) {
    const int64_t n_blocks = ceil_div(n_keys, block_size);
    for (int64_t i = 0; i < n_blocks; ++i) ids.push_back(static_cast<int32_t>(n_blocks - 1 - i));
    for (int64_t i = 0; i < n_keys; ++i)
      slots.push_back(static_cast<int32_t>(ids[i / block_size] * block_size + i % block_size));
  }
  std::vector<int32_t> ids, slots;
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
  int64_t bytes_;
  DeviceMemory memory_;
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
