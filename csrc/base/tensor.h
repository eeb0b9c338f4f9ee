// TensorView: where the numbers of a dense tensor are. It never owns them.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "base/check.h"
#include "base/device.h"
#include "base/dtype.h"

namespace tuili {

inline constexpr int kMaxDims = 4;

// Row-major; only the first dimension may be strided: row i begins row_stride elements after row i - 1.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  DeviceKind device = DeviceKind::cpu;
  int n_dims = 0;
  std::array<int64_t, kMaxDims> shape{};
  int64_t row_stride = 0;

  TensorView() = default;
  TensorView(void* data_, DType dtype_, std::initializer_list<int64_t> sizes,
             DeviceKind device_ = DeviceKind::cpu)
      : data(data_), dtype(dtype_), device(device_), n_dims(static_cast<int>(sizes.size())) {
    TUILI_EXPECT(n_dims >= 1 && n_dims <= kMaxDims, "tensor: ", n_dims, " dimensions");
    int i = 0;
    for (const int64_t size : sizes) shape[i++] = size;
    row_stride = 1;
    for (i = 1; i < n_dims; ++i) row_stride *= shape[i];
  }

  int64_t size(int dim) const { return dim < n_dims ? shape[dim] : 1; }
  int64_t rows() const { return size(0); }
  int64_t row_size() const {  // elements of one row
    int64_t n = 1;
    for (int i = 1; i < n_dims; ++i) n *= shape[i];
    return n;
  }
  int64_t count() const { return rows() * row_size(); }
  bool is_dense() const { return row_stride == row_size() || rows() <= 1; }

  float* f32() const { return static_cast<float*>(data); }
  float* f32_row(int64_t row) const { return f32() + row * row_stride; }

  // The rows [begin, begin + n) of the same memory.
  TensorView slice(int64_t begin, int64_t n) const {
    TensorView part = *this;
    part.data = static_cast<char*>(data) + begin * row_stride * size_of(dtype);
    part.shape[0] = n;
    return part;
  }
};

inline bool same_shape(const TensorView& a, const TensorView& b) {
  return a.n_dims == b.n_dims && a.shape == b.shape;
}

// "f32 [7, 512]"
inline std::ostream& operator<<(std::ostream& out, const TensorView& x) {
  out << name_of(x.dtype) << " [";
  for (int i = 0; i < x.n_dims; ++i) out << (i ? ", " : "") << x.shape[i];
  return out << (x.device == DeviceKind::cuda ? "] on cuda" : "]");
}

}  // namespace tuili
