// Row-wise kernels: norms and pooling.
//
// v1  256 threads, each summing groups of 8 elements; a row is read twice
// v2  canonical sums, so that f32 results are the CPU's bit for bit; the row is staged in shared memory, each
//     warp sums all of it, and no barrier follows. Predicted for a single row of 4,096: 1 µs. H200: 8.1 µs,
//     4,096 rows with a residual 2.5 TB/s of 4.8
// v3  a thread's loads go out together. H200: 6.0 µs, 3.3 TB/s
// v4  gains are asked for first; one warp sums, so that the others leave shared memory alone
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kRowThreads = 256;  // one block per row
// Of a row that stay in shared memory: 16 KiB let several blocks share an SM. Longer rows are read again.
inline constexpr int kStaged = 4096;
inline constexpr int kHeld = kStaged / kRowThreads;  // of them a thread's

struct RowStorage {
  float row[kStaged];
  float sums[2];
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
  return sum_of_lanes(sum);
}

// Elements tid, tid + 256, … of n: all on their way at once.
struct HeldElements {
  float of[kHeld];
  __device__ __forceinline__ HeldElements(const float* from, int n) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = threadIdx.x + j * kRowThreads;
      of[j] = from != nullptr && i < n ? from[i] : 0.0f;
    }
  }
};

// What the block has staged of a row, and the rest from where it came.
struct StagedRow {
  RowStorage& shared;
  float* row;
  int n;

  // Stages row[i] + addend[i] (which it also stores), or row[i]. Ends with a barrier.
  __device__ __forceinline__ StagedRow(RowStorage& shared_, float* row_, const float* addend, int n_)
      : shared(shared_), row(row_), n(n_) {
    float values[kHeld];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = threadIdx.x + j * kRowThreads;
      values[j] = i < n ? row[i] : 0.0f;
    }
    const HeldElements addends(addend, n);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = threadIdx.x + j * kRowThreads;
      if (i >= n) break;
      if (addend != nullptr) row[i] = values[j] = __fadd_rn(values[j], addends.of[j]);
      shared.row[i] = values[j];
    }
    for (int i = threadIdx.x + kStaged; addend != nullptr && i < n; i += kRowThreads)
      row[i] = __fadd_rn(row[i], addend[i]);
    __syncthreads();
  }

  // The canonical sum of step(0, element) …, which the first warp computes. Ends with a barrier: from then on
  // y may overwrite the row.
  template <typename Step>
  __device__ __forceinline__ float sum(int place, const Step& step) const {
    if (threadIdx.x < 32) {
      const auto any = [&](float before, int i) {
        return step(before, i < kStaged ? shared.row[i] : row[i]);
      };
      const auto staged = [&](float before, int i) { return step(before, shared.row[i]); };
      const float all = n <= kStaged ? canonical_sum(n, staged) : canonical_sum(n, any);
      if (threadIdx.x == 0) shared.sums[place] = all;
    }
    __syncthreads();
    return shared.sums[place];
  }

  // y[i] = value(element i, j) for the thread's elements: the j-th of those held, or kHeld.
  template <typename Out, typename Value>
  __device__ __forceinline__ void write(Out* y, const Value& value) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = threadIdx.x + j * kRowThreads;
      if (i >= n) return;
      store(y + i, value(shared.row[i], i, j));
    }
    for (int i = threadIdx.x + kStaged; i < n; i += kRowThreads) store(y + i, value(row[i], i, kHeld));
  }
};

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
  ptx::let_next_kernel_start();
  const int64_t offset = row_offset(rows);
  const HeldElements gains(rows.gain, rows.n);
  ptx::wait_for_kernels_before();
  const float* addend = rows.addend == nullptr ? nullptr : rows.addend + offset;
  const StagedRow x(shared_storage<RowStorage>(), rows.x + offset, addend, rows.n);
  const float squares = x.sum(0, [](float sum, float element) { return __fmaf_rn(element, element, sum); });
  const float inverse = inverse_root(__fdiv_rn(squares, static_cast<float>(rows.n)), rows.eps);
  x.write(rows.y + offset, [&](float element, int i, int j) {
    return __fmul_rn(__fmul_rn(element, inverse), j < kHeld ? gains.of[j] : rows.gain[i]);
  });
}

template <typename Out>
__global__ void __launch_bounds__(kRowThreads) layer_norm_kernel(NormRows<Out> rows) {
  ptx::let_next_kernel_start();
  const int64_t offset = row_offset(rows);
  const HeldElements gains(rows.gain, rows.n), biases(rows.bias, rows.n);
  ptx::wait_for_kernels_before();
  const float* addend = rows.addend == nullptr ? nullptr : rows.addend + offset;
  const StagedRow x(shared_storage<RowStorage>(), rows.x + offset, addend, rows.n);
  const float n = static_cast<float>(rows.n);
  const float mean = __fdiv_rn(x.sum(0, [](float sum, float element) { return __fadd_rn(sum, element); }), n);
  const float squares = x.sum(1, [&](float sum, float element) {
    const float d = __fsub_rn(element, mean);
    return __fmaf_rn(d, d, sum);
  });
  const float inverse = inverse_root(__fdiv_rn(squares, n), rows.eps);
  x.write(rows.y + offset, [&](float element, int i, int j) {
    const float normed = __fmul_rn(__fsub_rn(element, mean), inverse);
    const bool held = j < kHeld;
    const float bias = held ? biases.of[j] : rows.bias == nullptr ? 0.0f : rows.bias[i];
    return __fmaf_rn(normed, held ? gains.of[j] : rows.gain[i], bias);
  });
}

__global__ void __launch_bounds__(kRowThreads) l2_normalize_kernel(float* y, const float* x, int n) {
  follow_kernels_before();
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * n;
  const StagedRow row(shared_storage<RowStorage>(), const_cast<float*>(x) + offset, nullptr, n);
  float squares = row.sum(0, [](float sum, float element) { return __fmaf_rn(element, element, sum); });
  float scale = 1.0f;
  if (squares > 0x1.fffffep127f) {  // infinite, for all threads
    scale = 0x1p-80f;
    squares = row.sum(1, [](float sum, float element) {
      const float less = __fmul_rn(element, 0x1p-80f);
      return __fmaf_rn(less, less, sum);
    });
  }
  const float norm = __fsqrt_rn(squares);
  const float divisor = norm > 1e-12f || norm != norm ? norm : 1e-12f;
  row.write(y + offset,
            [&](float element, int, int) { return __fdiv_rn(__fmul_rn(element, scale), divisor); });
}

// The canonical sum over t of weighted(x[t, column], t), divided by n_tokens: lane j of it is a register.
template <typename Weighted>
__device__ __forceinline__ float column_mean(const float* x, int n_tokens, int n, int column,
                                             const Weighted& weighted) {
  float lanes[32] = {};
  for (int t = 0; t < n_tokens; t += 32) {
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      if (t + j < n_tokens)
        lanes[j] = __fadd_rn(lanes[j], weighted(x[static_cast<int64_t>(t + j) * n + column], t + j));
    }
  }
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      if (j < half) lanes[j] = __fadd_rn(lanes[j], lanes[j + half]);
    }
  }
  return __fmul_rn(lanes[0], __fdiv_rn(1.0f, static_cast<float>(n_tokens)));
}

// A thread per column in each of these.
__global__ void __launch_bounds__(kRowThreads)
    mean_rows_kernel(float* y, const float* x, int n_tokens, int n) {
  follow_kernels_before();
  const int column = blockIdx.x * kRowThreads + threadIdx.x;
  if (column >= n) return;
  y[column] = column_mean(x, n_tokens, n, column, [](float element, int) { return element; });
}

__global__ void __launch_bounds__(kRowThreads)
    weighted_mean_rows_kernel(float* y, const float* x, int n_tokens, int n) {
  follow_kernels_before();
  const int column = blockIdx.x * kRowThreads + threadIdx.x;
  if (column >= n) return;
  const float all = static_cast<float>(n_tokens + 1);
  y[column] = column_mean(x, n_tokens, n, column, [&](float element, int t) {
    return __fmul_rn(element, __fdiv_rn(2.0f * static_cast<float>(t + 1), all));
  });
}

__global__ void __launch_bounds__(kRowThreads)
    max_rows_kernel(float* y, const float* x, int n_tokens, int n) {
  follow_kernels_before();
  const int column = blockIdx.x * kRowThreads + threadIdx.x;
  if (column >= n) return;
  float best = x[column];
  for (int t = 1; t < n_tokens; ++t) {
    const float element = x[static_cast<int64_t>(t) * n + column];
    best = element < best ? best : element;
  }
  y[column] = best;
}

}  // namespace tuili::cuda
