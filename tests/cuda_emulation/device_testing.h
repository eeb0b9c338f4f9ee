// What the tests of kernels share: device memory, random values, and the roundings of their types.
#pragma once

#include <emulation.h>  // or its stand-in of on_device/

#include <cstring>
#include <functional>
#include <random>
#include <type_traits>

#include "base/check.h"
#include "base/device_memory.h"
#include "base/tensor.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "kernels/cuda/kernels.h"
#include "ops/ops.h"
#include "testing.h"

namespace tuili::testing {

using cuda::bf16;

inline constexpr double kUnitF32 = 0x1p-24;  // unit roundoff
inline constexpr double kUnitBf16 = 0x1p-8;
inline constexpr double kUnitF16 = 0x1p-11;

inline double value(float x) { return x; }
inline double value(bf16 x) { return __bfloat162float(x); }
inline double value(__half x) { return __half2float(x); }

template <typename T>
T rounded(double x) {
  if constexpr (std::is_same_v<T, bf16>) return __float2bfloat16_rn(static_cast<float>(x));
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(static_cast<float>(x));
  if constexpr (std::is_same_v<T, float>) return static_cast<float>(x);
}

template <typename T>
constexpr double unit() {
  return std::is_same_v<T, float> ? kUnitF32 : std::is_same_v<T, bf16> ? kUnitBf16 : kUnitF16;
}

template <typename T>
constexpr DType type_of() {
  return std::is_same_v<T, float> ? DType::f32 : std::is_same_v<T, bf16> ? DType::bf16 : DType::f16;
}

template <typename T>
std::vector<T> normals(size_t n, uint64_t seed, double scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values(n);
  for (T& x : values) x = rounded<T>(scale * normal(random));
  return values;
}

// Device memory with the contents of a vector, `shift` elements past an aligned address.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values, size_t shift = 0)
      : n_(values.size()),
        memory_(device::allocate(static_cast<int64_t>((n_ + shift) * sizeof(T) + 1))),
        shift_(shift) {
    device::copy_to_device(get(), values.data(), static_cast<int64_t>(n_ * sizeof(T)), nullptr);
  }
  explicit OnDevice(size_t n) : OnDevice(std::vector<T>(n)) {}

  T* get() { return static_cast<T*>(memory_.get()) + shift_; }
  cuda::Output output() { return {get(), type_of<T>()}; }
  TensorView view(std::initializer_list<int64_t> shape) {
    return {get(), type_of<T>(), shape, DeviceKind::cuda};
  }
  std::vector<T> read() {
    std::vector<T> values(n_);
    device::copy_to_host(values.data(), get(), static_cast<int64_t>(n_ * sizeof(T)), nullptr);
    return values;
  }

 private:
  size_t n_;
  DeviceMemory memory_;
  size_t shift_;
};

template <typename T>
bool same_bits(const T* a, const T* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(T)) == 0;
}

template <typename T, typename... What>
void require_same_bits(const std::vector<T>& got, const std::vector<T>& want, const What&... what) {
  require(got.size() == want.size(), what..., ": ", got.size(), " values, not ", want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    require(same_bits(&got[i], &want[i], 1), what..., ": element ", i, " is ", value(got[i]), ", not ",
            value(want[i]));
  }
}

// f32 results as an Output of type T rounds them.
template <typename T>
std::vector<T> rounded_all(const std::vector<float>& values) {
  std::vector<T> all(values.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = rounded<T>(double{values[i]});
  return all;
}

// y = x · wᵀ with dense w bf16 [n, k].
inline void multiply_dense(const TensorView& y, const TensorView& x, const TensorView& w) {
  const PackedMatrix matrix{
      .format = Format::bf16, .n = w.rows(), .k = w.size(1), .codes = static_cast<const uint8_t*>(w.data)};
  ops::Activations input{x, {}};
  const ops::LinearMap map{y, &matrix};
  ops::gemm({}, input, {&map, 1}, ops::Compute::automatic);
}

// What the call says is wrong.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

inline void require_error(std::string_view words, const std::string& error) {
  require(error.find(words) != std::string::npos, "says \"", error, "\", not \"", words, "\"");
}

// The CPU's kernels of rows and elements; the others are null.
const cpu::Kernels& cpu_kernels();

}  // namespace tuili::testing
