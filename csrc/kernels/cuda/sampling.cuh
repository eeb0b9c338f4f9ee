// The best token of a row of logits, which a block goes through.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"

namespace tuili::cuda {

inline constexpr int kLogitThreads = 1024;
inline constexpr int kLogitWarps = kLogitThreads / 32;

struct ArgmaxStorage {
  uint32_t keys[kLogitWarps];
  int ids[kLogitWarps];
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
  return best.key == kNaNKey ? kNotANumber : best.key <= kLowestKey ? kNothingAllowed : best.id;
}

}  // namespace tuili::cuda
