// Between the types of memory and f32, in which everything is computed. Stores round to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

__device__ __forceinline__ void store(float* y, float x) { *y = x; }
__device__ __forceinline__ void store(__nv_bfloat16* y, float x) { *y = __float2bfloat16_rn(x); }
__device__ __forceinline__ void store(__half* y, float x) { *y = __float2half_rn(x); }

// Two at once; y is on 8 bytes, or on 4.
__device__ __forceinline__ void store_pair(float* y, float low, float high) {
  *reinterpret_cast<uint2*>(y) = uint2{__float_as_uint(low), __float_as_uint(high)};
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* y, float low, float high) {
  *reinterpret_cast<uint32_t*>(y) = ptx::pack<__nv_bfloat16>(low, high);
}

// Columns c (even) and c + 1 of a row of n results, each with its bias (may be null); nothing past the row.
template <typename Out>
__device__ __forceinline__ void store_columns(Out* row, const float* bias, int c, int n, Access access,
                                              float low, float high) {
  if (c >= n) return;
  const bool has_second = c + 1 < n;
  if (bias != nullptr) {
    low = __fadd_rn(low, bias[c]);
    if (has_second) high = __fadd_rn(high, bias[c + 1]);
  }
  if (access == Access::vector) return store_pair(row + c, low, high);
  store(row + c, low);
  if (has_second) store(row + c + 1, high);
}

}  // namespace tuili::cuda
