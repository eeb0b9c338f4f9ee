// The checks that every op makes at its border.
#pragma once

#include "base/check.h"
#include "base/tensor.h"

// A failure is a fault of the room above, never of a file or a request: those were checked where they came
// in.
#define TUILI_EXPECT(condition, ...) TUILI_CHECK_KIND(::tuili::ErrorKind::internal, condition, __VA_ARGS__)

namespace tuili::ops {

// x is a dense-enough f32 tensor on the CPU.
inline void expect_f32(const char* op, const char* name, const TensorView& x) {
  TUILI_EXPECT(x.device == DeviceKind::cpu && x.dtype == DType::f32 && (x.data != nullptr || x.count() == 0),
               op, ": ", name, " must be f32 on cpu, and is ", x);
}

inline void expect_dense(const char* op, const char* name, const TensorView& x) {
  expect_f32(op, name, x);
  TUILI_EXPECT(x.is_dense(), op, ": ", name, " must be dense; ", x, " has rows ", x.row_stride, " apart");
}

inline void expect_vector(const char* op, const char* name, const TensorView& x, int64_t n) {
  expect_f32(op, name, x);
  TUILI_EXPECT(x.n_dims == 1 && x.size(0) == n, op, ": ", name, " must be f32 [", n, "], and is ", x);
}

}  // namespace tuili::ops
