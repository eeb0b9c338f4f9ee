// Row-wise kernels: norms and pooling.
//
// v1  256 threads, each summing groups of 8 elements; a row is read twice
// v2  canonical sums, so that f32 results are the CPU's bit for bit; the row is staged in shared memory, each
//     warp sums all of it, and no barrier follows. Predicted for a single row of 4,096: 1 µs. H200: 8.1 µs,
//     4,096 rows with a residual 2.5 TB/s of 4.8
// v3  a thread's loads go out together
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"

namespace tuili::cuda {

inline constexpr int kRowThreads = 256;  // one block per row
// Of a row that stay in shared memory: 16 KiB let 6 blocks share an SM. Longer rows are read again.
inline constexpr int kStaged = 4096;
inline constexpr int kLoads = 8;  // of a thread, on their way at once: a store holds back those after it

struct RowStorage {
  float row[kStaged];
};

template <typename Out>
struct NormRows {
  Out* y;
  float* x;
  const float* addend;
  const float* gain;
  const float* bias;
  int n;
  int inner;
  int64_t ld;
  float eps;
};

// The canonical sum of step(0, i) … over i in [0, n), in every lane of the warp.
template <typename Step>
__device__ __forceinline__ float canonical_sum(int n, const Step& step) {
  float sum = 0.0f;
#pragma unroll 8
  for (int i = threadIdx.x % 32; i < n; i += 32) sum = step(sum, i);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
  }
  return sum;
}

// What the block has staged of a row, and the rest from where it came.
struct StagedRow {
  const float* staged;
  const float* row;
  __device__ __forceinline__ float operator[](int i) const { return i < kStaged ? staged[i] : row[i]; }
};

// Stages row[i] + addend[i] (which it also stores), or row[i]. Ends with a barrier.
__device__ __forceinline__ StagedRow stage_row(RowStorage& shared, float* row, const float* addend, int n) {
  for (int first = threadIdx.x; first < n; first += kRowThreads * kLoads) {
    float values[kLoads], addends[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int i = first + j * kRowThreads;
      values[j] = i < n ? row[i] : 0.0f;
      addends[j] = addend != nullptr && i < n ? addend[i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int i = first + j * kRowThreads;
      if (i >= n) break;
      if (addend != nullptr) row[i] = values[j] = __fadd_rn(values[j], addends[j]);
      if (i < kStaged) shared.row[i] = values[j];
    }
  }
  __syncthreads();
  return {shared.row, row};
}

// y may be the row that was staged: before its unstaged part is overwritten, every warp must have summed it.
__device__ __forceinline__ void finish_reading(int n) {
  if (n > kStaged) __syncthreads();
}

__device__ __forceinline__ float inverse_root(float mean, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

template <typename Out>
__device__ __forceinline__ int64_t row_offset(const NormRows<Out>& rows) {
  const int r = blockIdx.x;
  return r / rows.inner * rows.ld + static_cast<int64_t>(r % rows.inner) * rows.n;
}

// Block r computes row r.
template <typename Out>
__global__ void __launch_bounds__(kRowThreads) rms_norm_kernel(NormRows<Out> rows) {
  const int64_t offset = row_offset(rows);
  const float* addend = rows.addend == nullptr ? nullptr : rows.addend + offset;
  const StagedRow x = stage_row(shared_storage<RowStorage>(), rows.x + offset, addend, rows.n);
  const float squares = canonical_sum(rows.n, [&](float sum, int i) { return __fmaf_rn(x[i], x[i], sum); });
  const float inverse = inverse_root(__fdiv_rn(squares, static_cast<float>(rows.n)), rows.eps);
  finish_reading(rows.n);
#pragma unroll 8
  for (int i = threadIdx.x; i < rows.n; i += kRowThreads) {
    store(rows.y + offset + i, __fmul_rn(__fmul_rn(x[i], inverse), __ldg(rows.gain + i)));
  }
}

template <typename Out>
__global__ void __launch_bounds__(kRowThreads) layer_norm_kernel(NormRows<Out> rows) {
  const int64_t offset = row_offset(rows);
  const float* addend = rows.addend == nullptr ? nullptr : rows.addend + offset;
  const StagedRow x = stage_row(shared_storage<RowStorage>(), rows.x + offset, addend, rows.n);
  const float n = static_cast<float>(rows.n);
  const float mean =
      __fdiv_rn(canonical_sum(rows.n, [&](float sum, int i) { return __fadd_rn(sum, x[i]); }), n);
  const float squares = canonical_sum(rows.n, [&](float sum, int i) {
    const float d = __fsub_rn(x[i], mean);
    return __fmaf_rn(d, d, sum);
  });
  const float inverse = inverse_root(__fdiv_rn(squares, n), rows.eps);
  finish_reading(rows.n);
#pragma unroll 8
  for (int i = threadIdx.x; i < rows.n; i += kRowThreads) {
    const float normed = __fmul_rn(__fsub_rn(x[i], mean), inverse);
    const float offset_of_i = rows.bias == nullptr ? 0.0f : __ldg(rows.bias + i);
    store(rows.y + offset + i, __fmaf_rn(normed, __ldg(rows.gain + i), offset_of_i));
  }
}

__global__ void __launch_bounds__(kRowThreads) l2_normalize_kernel(float* y, const float* x, int n) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * n;
  const StagedRow row = stage_row(shared_storage<RowStorage>(), const_cast<float*>(x) + offset, nullptr, n);
  const float squares = canonical_sum(n, [&](float sum, int i) { return __fmaf_rn(row[i], row[i], sum); });
  const float norm = __fsqrt_rn(squares);
  const float divisor = norm > 1e-12f || norm != norm ? norm : 1e-12f;
  finish_reading(n);
  for (int i = threadIdx.x; i < n; i += kRowThreads) y[offset + i] = __fdiv_rn(row[i], divisor);
}

// A thread per column: lane j of the canonical sum is a register.
__global__ void __launch_bounds__(kRowThreads)
    mean_rows_kernel(float* y, const float* x, int n_tokens, int n) {
  const int column = blockIdx.x * kRowThreads + threadIdx.x;
  if (column >= n) return;
  float lanes[32] = {};
  for (int t = 0; t < n_tokens; t += 32) {
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      if (t + j < n_tokens) lanes[j] = __fadd_rn(lanes[j], x[static_cast<int64_t>(t + j) * n + column]);
    }
  }
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      if (j < half) lanes[j] = __fadd_rn(lanes[j], lanes[j + half]);
    }
  }
  y[column] = __fmul_rn(lanes[0], __fdiv_rn(1.0f, static_cast<float>(n_tokens)));
}

}  // namespace tuili::cuda
