// Rows of logits: the best token, and the statistics of the softmax.
//
// v1  a block per row. The canonical sum has 32 lanes: one warp adds while the others take exponentials,
// 2,048 at
//     a time. Predicted for 150,000 tokens: 25 µs per row, all rows at once.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"

namespace tuili::cuda {

inline constexpr int kLogitThreads = 1024;
inline constexpr int kLogitWarps = kLogitThreads / 32;
inline constexpr int kExponentials = 2048;  // per piece of the sum

inline constexpr int32_t kNotANumber = -1,
                         kNothingFinite = -2;  // in place of a token, as ops::argmax has them

struct ArgmaxStorage {
  uint32_t keys[kLogitWarps];
  int ids[kLogitWarps];
};

struct StatsStorage {
  float exponentials[2][kExponentials];
  float max[kLogitWarps];
};

// Ascends as x does; ±0 have one key, and NaN has none.
__device__ __forceinline__ uint32_t ascending_key(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline constexpr uint32_t kNaNKey = 0xffffffffu, kLowestKey = 0x007fffffu;  // the second: of -inf

struct Candidate {
  uint32_t key;
  int id;
  // The larger one; of equal ones the first.
  __device__ __forceinline__ void meet(uint32_t other_key, int other_id) {
    if (other_key < key || (other_key == key && other_id > id)) return;
    key = other_key;
    id = other_id;
  }
};

// The first maximum of every kLogitThreads-th logit from the thread's own on; key 0 if there are none.
__device__ __forceinline__ Candidate maximum_of_thread(const float* row, int n_vocab) {
  Candidate best{0, n_vocab};
#pragma unroll 8
  for (int i = threadIdx.x; i < n_vocab; i += kLogitThreads) {
    const float x = row[i];
    best.meet(x == x ? ascending_key(x) : kNaNKey, i);
  }
  return best;
}

// The first of all threads' maxima, in every thread; key kNaNKey if the row holds a NaN.
__device__ __forceinline__ Candidate first_maximum(ArgmaxStorage& shared, Candidate best) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t key = __shfl_xor_sync(0xffffffffu, best.key, distance);
    best.meet(key, __shfl_xor_sync(0xffffffffu, best.id, distance));
  }
  if (threadIdx.x % 32 == 0) {
    shared.keys[threadIdx.x / 32] = best.key;
    shared.ids[threadIdx.x / 32] = best.id;
  }
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kLogitWarps; ++warp) best.meet(shared.keys[warp], shared.ids[warp]);
  return best;
}

__device__ __forceinline__ int32_t token_of(const Candidate& best) {
  return best.key == kNaNKey ? kNotANumber : best.key <= kLowestKey ? kNothingFinite : best.id;
}

// Block r: the first maximum of row r.
__global__ void __launch_bounds__(kLogitThreads)
    argmax_kernel(int32_t* tokens, const float* logits, int n_vocab) {
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * n_vocab;
  const Candidate best = first_maximum(shared_storage<ArgmaxStorage>(), maximum_of_thread(row, n_vocab));
  if (threadIdx.x == 0) tokens[blockIdx.x] = token_of(best);
}

// The largest of the row, in every thread.
__device__ __forceinline__ float row_max(StatsStorage& shared, const float* row, int n_vocab) {
  float max = -__builtin_huge_valf();
#pragma unroll 8
  for (int i = threadIdx.x; i < n_vocab; i += kLogitThreads) max = larger(max, row[i]);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    max = larger(max, __shfl_xor_sync(0xffffffffu, max, distance));
  }
  if (threadIdx.x % 32 == 0) shared.max[threadIdx.x / 32] = max;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kLogitWarps; ++warp) max = larger(max, shared.max[warp]);
  return max;
}

// Block r: maximum and canonical sum of exp(x - maximum) of row r. While the first warp adds a piece, the
// others write the next one; the barrier after that keeps them from writing a third.
__global__ void __launch_bounds__(kLogitThreads)
    softmax_stats_kernel(float* max_out, float* sum_out, const float* logits, int n_vocab) {
  auto& shared = shared_storage<StatsStorage>();
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * n_vocab;
  const float max = row_max(shared, row, n_vocab);
  float lane = 0.0f;
  for (int first = 0; first < n_vocab; first += kExponentials) {
    float* piece = shared.exponentials[first / kExponentials % 2];
    for (int i = threadIdx.x; i < kExponentials; i += kLogitThreads) {
      piece[i] = first + i < n_vocab ? exponential(__fsub_rn(row[first + i], max)) : 0.0f;
    }
    __syncthreads();
    if (threadIdx.x >= 32) continue;
#pragma unroll 8
    for (int i = threadIdx.x; i < kExponentials; i += 32) lane = __fadd_rn(lane, piece[i]);
  }
  if (threadIdx.x >= 32) return;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    lane = __fadd_rn(lane, __shfl_xor_sync(0xffffffffu, lane, distance));
  }
  if (threadIdx.x != 0) return;
  max_out[blockIdx.x] = lane == lane ? max : lane;  // a NaN may have slipped past max, never past the sum
  sum_out[blockIdx.x] = lane;
}

}  // namespace tuili::cuda
