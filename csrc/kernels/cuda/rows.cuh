// Row-wise kernels: norms and pooling.
//
// v1  256 threads, each summing groups of 8 elements; a row is read twice
// v2  canonical sums, so that f32 results are the CPU's bit for bit; the row is staged in shared memory, each
//     warp sums all of it, and no barrier follows. Predicted for a single row of 4,096: 1 µs. H200: 8.1 µs,
//     4,096 rows with a residual 2.5 TB/s of 4.8
// v3  a thread's loads go out together. H200: 6.0 µs, 3.3 TB/s
// v4  gains are asked for first; one warp sums, so that the others leave shared memory alone
// v5  of many short rows each is a warp's, in registers: of 768 elements a block's threads had three each and
//     waited at two barriers (H200, 8,190 rows: 49 µs, a fourth of what its memory allows)
// v6  pooling: a text's rows are shared out to a block's warps, each of which has 8 under way, where one
//     thread read a column's rows (H200, one text of 126: 21 µs). Not measured
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

struct NormRows {
  float* y;                // or null
  __nv_bfloat16* rounded;  // or null
  float* x;
  const float* addend;
  const float* gain;
  const float* bias;
  int n_rows;
  int n;
  int inner;
  int64_t ld;
  float eps;

  __device__ __forceinline__ int64_t offset(int r) const {
    return r / inner * ld + static_cast<int64_t>(r % inner) * n;
  }
  __device__ __forceinline__ void store(int64_t i, float value) const {
    if (y != nullptr) y[i] = value;
    if (rounded != nullptr) rounded[i] = __float2bfloat16_rn(value);
  }
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

  // Calls visit(element, i, j) for the thread's elements i: the j-th of those held, or kHeld.
  template <typename Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = threadIdx.x + j * kRowThreads;
      if (i >= n) return;
      visit(shared.row[i], i, j);
    }
    for (int i = threadIdx.x + kStaged; i < n; i += kRowThreads) visit(row[i], i, kHeld);
  }
};

__device__ __forceinline__ float inverse_root(float mean, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

// A norm's numbers of a row, from its sums, and what they make of an element.
struct RmsNorm {
  float inverse;
  template <typename Row>
  __device__ __forceinline__ RmsNorm(const Row& x, int n, float eps) {
    const float squares = x.sum(0, [](float sum, float element) { return __fmaf_rn(element, element, sum); });
    inverse = inverse_root(__fdiv_rn(squares, static_cast<float>(n)), eps);
  }
  __device__ __forceinline__ float of(float element, float gain, float) const {
    return __fmul_rn(__fmul_rn(element, inverse), gain);
  }
};

struct LayerNorm {
  float mean, inverse;
  template <typename Row>
  __device__ __forceinline__ LayerNorm(const Row& x, int n, float eps) {
    const float sum = x.sum(0, [](float before, float element) { return __fadd_rn(before, element); });
    mean = __fdiv_rn(sum, static_cast<float>(n));
    const float squares = x.sum(1, [this](float before, float element) {
      const float d = __fsub_rn(element, mean);
      return __fmaf_rn(d, d, before);
    });
    inverse = inverse_root(__fdiv_rn(squares, static_cast<float>(n)), eps);
  }
  __device__ __forceinline__ float of(float element, float gain, float bias) const {
    return __fmaf_rn(__fmul_rn(__fsub_rn(element, mean), inverse), gain, bias);
  }
};

// Block r computes row r.
template <typename Norm>
__global__ void __launch_bounds__(kRowThreads, 3) norm_kernel(NormRows rows) {
  ptx::let_next_kernel_start();
  const int64_t offset = rows.offset(blockIdx.x);
  const HeldElements gains(rows.gain, rows.n), biases(rows.bias, rows.n);
  ptx::wait_for_kernels_before();
  const float* addend = rows.addend == nullptr ? nullptr : rows.addend + offset;
  const StagedRow x(shared_storage<RowStorage>(), rows.x + offset, addend, rows.n);
  const Norm norm(x, rows.n, rows.eps);
  x.for_each([&](float element, int i, int j) {
    const bool held = j < kHeld;
    const float bias = held ? biases.of[j] : rows.bias == nullptr ? 0.0f : rows.bias[i];
    rows.store(offset + i, norm.of(element, held ? gains.of[j] : rows.gain[i], bias));
  });
}

inline constexpr int kNarrowWarps = 4;  // rows of a block
inline constexpr int kAtOnce = 8;       // a lane's gains and biases on their way

// A row in the registers of a warp: a lane has elements lane, lane + 32, …, as in a canonical sum.
template <int kPerLane>
struct WarpRow {
  float of[kPerLane];
  int n;

  __device__ __forceinline__ WarpRow(const float* from, int n_) : n(n_) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) of[j] = at(j) < n ? from[at(j)] : 0.0f;
  }
  __device__ __forceinline__ static int at(int j) { return threadIdx.x % 32 + 32 * j; }

  template <typename Step>
  __device__ __forceinline__ float sum(int, const Step& step) const {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      if (at(j) < n) sum = step(sum, of[j]);
    }
    return sum_of_lanes(sum);
  }
};

// Warp r of all computes row r, of at most 32 · kPerLane elements.
template <typename Norm, int kPerLane>
__global__ void __launch_bounds__(32 * kNarrowWarps) narrow_norm_kernel(NormRows rows) {
  follow_kernels_before();
  const int r = blockIdx.x * kNarrowWarps + threadIdx.x / 32, n = rows.n;
  if (r >= rows.n_rows) return;
  const int64_t offset = rows.offset(r);
  WarpRow<kPerLane> x(rows.x + offset, n);
  if (rows.addend != nullptr) {
    const WarpRow<kPerLane> addend(rows.addend + offset, n);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      x.of[j] = __fadd_rn(x.of[j], addend.of[j]);
      if (x.at(j) < n && rows.y != rows.x) rows.x[offset + x.at(j)] = x.of[j];
    }
  }
  const Norm norm(x, n, rows.eps);
#pragma unroll
  for (int first = 0; first < kPerLane; first += kAtOnce) {
    float gains[kAtOnce], biases[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = x.at(first + j);
      gains[j] = i < n ? rows.gain[i] : 0.0f;
      biases[j] = i < n && rows.bias != nullptr ? rows.bias[i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = x.at(first + j);
      if (i < n) rows.store(offset + i, norm.of(x.of[first + j], gains[j], biases[j]));
    }
  }
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
  row.for_each(
      [&](float element, int i, int) { y[offset + i] = __fdiv_rn(__fmul_rn(element, scale), divisor); });
}

// Pooling: a block's warps share the rows of a text, a lane has a column.
inline constexpr int kRowWarps = kRowThreads / 32, kLanesOfWarp = 32 / kRowWarps;
inline constexpr int kRowsAhead = 8;  // that a thread has asked for before it looks at the first

// Calls visit(x[t · n], t, j) for t = first, first + step, … below end; j is the place among kRowsAhead.
template <typename Visit>
__device__ __forceinline__ void for_each_row(const float* x, int n, int first, int step, int end,
                                             const Visit& visit) {
  for (int t = first; t < end; t += kRowsAhead * step) {
    float elements[kRowsAhead];
#pragma unroll
    for (int j = 0; j < kRowsAhead; ++j) {
      const int row = t + j * step;
      elements[j] = row < end ? x[static_cast<int64_t>(row) * n] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kRowsAhead; ++j) {
      if (t + j * step < end) visit(elements[j], t + j * step, j);
    }
  }
}

// The canonical sum over t of weighted(x[t · n], t), divided by n_tokens. Warp w has lanes w, w + 8, w + 16
// and w + 24 of it, which the first two steps of its tree add.
template <typename Weighted>
__device__ __forceinline__ float part_of_sum(const float* x, int n_tokens, int n, const Weighted& weighted) {
  static_assert(kLanesOfWarp == 4 && kRowsAhead % kLanesOfWarp == 0, "");
  float lanes[kLanesOfWarp] = {};
  for_each_row(x, n, threadIdx.x / 32, kRowWarps, n_tokens, [&](float element, int t, int j) {
    lanes[j % kLanesOfWarp] = __fadd_rn(lanes[j % kLanesOfWarp], weighted(element, t));
  });
  return __fadd_rn(__fadd_rn(lanes[0], lanes[2]), __fadd_rn(lanes[1], lanes[3]));
}
__device__ __forceinline__ float mean_of_parts(float (&parts)[kRowWarps], int n_tokens) {
#pragma unroll
  for (int half = kRowWarps / 2; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < kRowWarps / 2; ++j) {
      if (j < half) parts[j] = __fadd_rn(parts[j], parts[j + half]);
    }
  }
  return __fmul_rn(parts[0], __fdiv_rn(1.0f, static_cast<float>(n_tokens)));
}

// What becomes of a column x[0], x[n], … of a text's rows: a warp's part, and the whole of the parts.
struct Mean {
  __device__ __forceinline__ static float part(const float* x, int n_tokens, int n) {
    return part_of_sum(x, n_tokens, n, [](float element, int) { return element; });
  }
  __device__ __forceinline__ static float whole(float (&parts)[kRowWarps], int n_tokens) {
    return mean_of_parts(parts, n_tokens);
  }
};

struct WeightedMean {
  __device__ __forceinline__ static float part(const float* x, int n_tokens, int n) {
    const float all = static_cast<float>(n_tokens + 1);
    return part_of_sum(x, n_tokens, n, [&](float element, int t) {
      return __fmul_rn(element, __fdiv_rn(2.0f * static_cast<float>(t + 1), all));
    });
  }
  __device__ __forceinline__ static float whole(float (&parts)[kRowWarps], int n_tokens) {
    return mean_of_parts(parts, n_tokens);
  }
};

// Of equal ones the last, as rows one after another give; a NaN stays. Parts are neighbours, -∞ where there
// are none.
struct Largest {
  __device__ __forceinline__ static float of(float best, float element) {
    return element >= best || element != element ? element : best;
  }
  __device__ __forceinline__ static float part(const float* x, int n_tokens, int n) {
    const int n_each = (n_tokens + kRowWarps - 1) / kRowWarps, first = threadIdx.x / 32 * n_each;
    float best = -INFINITY;
    for_each_row(x, n, first, 1, min(first + n_each, n_tokens),
                 [&](float element, int, int) { best = of(best, element); });
    return best;
  }
  __device__ __forceinline__ static float whole(float (&parts)[kRowWarps], int) {
    float best = parts[0];
#pragma unroll
    for (int j = 1; j < kRowWarps; ++j) best = of(best, parts[j]);
    return best;
  }
};

inline constexpr int kTextsAtOnce = 512;  // a launch's parameters are at most 4 KiB

struct PooledTexts {
  float* y;
  const float* x;
  int n;
  int first_row[kTextsAtOnce + 1];  // of each text, and behind the last one
};

struct PoolStorage {
  float parts[kRowWarps][32];  // by column
};

// Block (i, j) computes 32 columns of text j.
template <typename Pooled>
__global__ void __launch_bounds__(kRowThreads) pool_kernel(PooledTexts texts) {
  follow_kernels_before();
  auto& shared = shared_storage<PoolStorage>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = texts.n;
  const int column = blockIdx.x * 32 + lane;
  const int64_t first = texts.first_row[blockIdx.y];
  const int n_tokens = texts.first_row[blockIdx.y + 1] - static_cast<int>(first);
  if (column < n) shared.parts[warp][lane] = Pooled::part(texts.x + first * n + column, n_tokens, n);
  __syncthreads();  // all parts are there
  if (warp > 0 || column >= n) return;
  float parts[kRowWarps];
#pragma unroll
  for (int j = 0; j < kRowWarps; ++j) parts[j] = shared.parts[j][lane];
  texts.y[static_cast<int64_t>(blockIdx.y) * n + column] = Pooled::whole(parts, n_tokens);
}

}  // namespace tuili::cuda
