// What a beam asks of a row: its softmax's sum, with the CPU's bits, and the largest logits.
//
// A bound that n_best of the threads' maxima reach leaves these and few more, which are listed as they come:
// the host makes log-probabilities of them, and sorts. The bound lies a little lower, because logits that
// differ may round to one log-probability, of which the first ids are chosen.
//
// v1  a block per row, four passes over it; the weights of a tile go through shared memory to the first warp,
//     which adds them. Predicted for 32,000 ids: 30 µs per row, 264 rows at once.
#pragma once

#include "kernels/cuda/likeliest.cuh"

namespace tuili::cuda {

inline constexpr int kSumTile = 4096;  // a multiple of 32

struct BestStorage {
  LikeliestStorage list;
  float weights[kSumTile];
};

// The canonical sum of exp(x - max), in every lane of the first warp. Has barriers.
__device__ __forceinline__ float sum_of_weights(BestStorage& shared, const float* row, int n_vocab,
                                                float max) {
  float sum = 0.0f;
  for (int first = 0; first < n_vocab; first += kSumTile) {
    const int n = min(kSumTile, n_vocab - first);
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < kSumTile; i += kLogitThreads)
      if (i < n) shared.weights[i] = exponential(__fsub_rn(row[first + i], max));
    __syncthreads();
    if (threadIdx.x >= 32) continue;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += 32) sum = __fadd_rn(sum, shared.weights[i]);
  }
  return threadIdx.x < 32 ? sum_of_lanes(sum) : 0.0f;
}

// A key at least n_best of the row's reach, -inf aside, if as many are there.
__device__ __forceinline__ uint32_t bound_of_best(LikeliestStorage& shared, uint32_t own_maximum, float max,
                                                  int n_best) {
  shared.ranks[threadIdx.x] = uint64_t{~own_maximum} << 32 | threadIdx.x;
  sort(shared.ranks, kLogitThreads);
  const auto reached = ~static_cast<uint32_t>(shared.ranks[n_best - 1] >> 32);
  if (reached <= kLowestKey) return kLowestKey + 1;
  const float at = value_of(reached);
  // No log-probability is farther from 0 than this: a sum is less than e^14.
  const float farthest = __fadd_rn(__fsub_rn(max, at), 14.0f);
  const uint32_t below = ascending_key(__fsub_rn(at, __fmul_rn(farthest, 0x1p-20f))) - 1;
  return below <= kLowestKey ? kLowestKey + 1 : below;
}

// Lists a row's logits that reach the bound.
__device__ __forceinline__ void list_best(LikeliestStorage& shared, BestLogits& of_row, BestLogit* listed,
                                          const float* row, int n_vocab, uint32_t bound, int capacity) {
  const int n = list_from(shared, row, n_vocab, bound);
  if (threadIdx.x == 0) {
    of_row.bound = value_of(bound);
    of_row.count = n;
  }
  if (n > capacity) return;
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += kLogitThreads) {
    const auto id = static_cast<int>(static_cast<uint32_t>(shared.ranks[i]));
    listed[i] = {id, row[id]};
  }
}

// Block r: what is best in row r.
__global__ void __launch_bounds__(kLogitThreads)
    best_logits_kernel(BestLogits* rows, BestLogit* listed, const float* logits, int n_vocab, int n_best,
                       int capacity) {
  follow_kernels_before();
  auto& shared = shared_storage<BestStorage>();
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * n_vocab;
  const Candidate own = maximum_of_thread(row, n_vocab);
  const Candidate best = first_maximum(shared.list.draw.argmax, own);
  if (token_of(best) < 0 || row[best.id] == __builtin_huge_valf()) {
    const float none = __builtin_nanf("");
    if (threadIdx.x == 0) rows[blockIdx.x] = {none, none, 0.0f, 0};
    return;
  }
  const float max = row[best.id];
  const uint32_t bound = bound_of_best(shared.list, own.key, max, n_best);
  list_best(shared.list, rows[blockIdx.x], listed + static_cast<int64_t>(blockIdx.x) * capacity, row, n_vocab,
            bound, capacity);
  const float sum = sum_of_weights(shared, row, n_vocab, max);
  if (threadIdx.x != 0) return;
  rows[blockIdx.x].max = max;
  rows[blockIdx.x].sum = sum;
}

}  // namespace tuili::cuda
