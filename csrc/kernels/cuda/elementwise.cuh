// Row-wise kernels: norms.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"

namespace tuili::cuda {

inline constexpr int kRowThreads = 256;  // one block per row
inline constexpr int kRowWarps = kRowThreads / 32;
inline constexpr int kRowGroup = 8;  // consecutive elements a thread owns: 16 bytes of bf16

struct RowStorage {
  float warp_sums[kRowWarps];
};

// kRowGroup elements as they lie in memory, moved 16 bytes at a time.
template <typename T>
struct alignas(kVectorBytes) RowGroup {
  static constexpr int kVectors = kRowGroup * sizeof(T) / kVectorBytes;
  T elements[kRowGroup];
  __device__ __forceinline__ uint4* vectors() { return reinterpret_cast<uint4*>(elements); }
};

// Elements [first, first + kRowGroup) of a row of n; those past its end are 0.
template <Access kAccess, typename T>
__device__ __forceinline__ void load_group(float (&out)[kRowGroup], const T* row, int first, int n) {
  if constexpr (kAccess == Access::vector) {
    RowGroup<T> group;
#pragma unroll
    for (int i = 0; i < RowGroup<T>::kVectors; ++i) {
      group.vectors()[i] = reinterpret_cast<const uint4*>(row + first)[i];
    }
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) out[i] = to_float(group.elements[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) out[i] = first + i < n ? to_float(row[first + i]) : 0.0f;
  }
}

template <Access kAccess, typename T>
__device__ __forceinline__ void store_group(T* row, const float (&values)[kRowGroup], int first, int n) {
  if constexpr (kAccess == Access::vector) {
    RowGroup<T> group;
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) store(&group.elements[i], values[i]);
#pragma unroll
    for (int i = 0; i < RowGroup<T>::kVectors; ++i) {
      reinterpret_cast<uint4*>(row + first)[i] = group.vectors()[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) {
      if (first + i < n) store(&row[first + i], values[i]);
    }
  }
}

// The sum over the block, the same bits in every thread: butterflies inside the warps, then the warps in
// order.
__device__ __forceinline__ float block_sum(float x, RowStorage& shared) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, distance));
  }
  if (threadIdx.x % 32 == 0) shared.warp_sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = shared.warp_sums[0];
#pragma unroll
  for (int warp = 1; warp < kRowWarps; ++warp) sum = __fadd_rn(sum, shared.warp_sums[warp]);
  return sum;
}

// Block t computes row t. Rows are read twice: the second time from L1 or L2.
template <Access kAccess, typename T>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_kernel(T* y, const T* x, const float* gain, int d_model, float eps) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * d_model;
  const T* row = x + offset;
  float values[kRowGroup];
  float squares = 0.0f;
  for (int first = threadIdx.x * kRowGroup; first < d_model; first += kRowThreads * kRowGroup) {
    load_group<kAccess>(values, row, first, d_model);
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) squares = __fmaf_rn(values[i], values[i], squares);
  }
  const float sum = block_sum(squares, shared_storage<RowStorage>());
  const float mean = __fdiv_rn(sum, static_cast<float>(d_model));
  const float scale = __frcp_rn(__fsqrt_rn(__fadd_rn(mean, eps)));
  for (int first = threadIdx.x * kRowGroup; first < d_model; first += kRowThreads * kRowGroup) {
    float gains[kRowGroup];
    load_group<kAccess>(values, row, first, d_model);
    load_group<kAccess>(gains, gain, first, d_model);
#pragma unroll
    for (int i = 0; i < kRowGroup; ++i) values[i] = __fmul_rn(__fmul_rn(values[i], scale), gains[i]);
    store_group<kAccess>(y + offset, values, first, d_model);
  }
}

}  // namespace tuili::cuda
