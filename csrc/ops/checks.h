// The checks that every op makes at its border.
#pragma once

#include "base/check.h"
#include "base/tensor.h"

namespace tuili::ops {

inline void expect(const char* op, const char* name, const TensorView& x, DeviceKind device = DeviceKind::cpu,
                   DType dtype = DType::f32) {
  TUILI_EXPECT(x.device == device && x.dtype == dtype && (x.data != nullptr || x.count() == 0), op, ": ",
               name, " must be ", name_of(dtype), device == DeviceKind::cuda ? " on cuda" : " on cpu",
               ", not ", x);
}

inline void expect_dense(const char* op, const char* name, const TensorView& x,
                         DeviceKind device = DeviceKind::cpu, DType dtype = DType::f32) {
  expect(op, name, x, device, dtype);
  TUILI_EXPECT(x.is_dense(), op, ": ", name, " must be dense; ", x, " has rows ", x.row_stride, " apart");
}

inline void expect_vector(const char* op, const char* name, const TensorView& x, int64_t n,
                          DeviceKind device = DeviceKind::cpu) {
  expect(op, name, x, device);
  TUILI_EXPECT(x.n_dims == 1 && x.size(0) == n, op, ": ", name, " must be f32 [", n, "], not ", x);
}

// The type of what kernels write for a GEMM to read: f32, on cuda also bf16.
inline DType output_type(const TensorView& y, DeviceKind device) {
  return device == DeviceKind::cuda && y.dtype == DType::bf16 ? DType::bf16 : DType::f32;
}

// Checks rope's tables: rows for every row of x, which turn at most its heads' elements.
void expect_rope(const TensorView& x, const TensorView& cos, const TensorView& sin, int64_t n_heads);

}  // namespace tuili::ops
