// Which experts a token goes through, and where its rows stand among those of its experts.
//
// v1  a warp per token, whose lanes are the lanes of the CPU's canonical sum; a block per expert, which reads
//     the list of pairs twice, so that no atomic decides an order. Not measured.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

struct RouteStorage {
  float scores[kMostExperts];
  float choices[kMostExperts];  // what experts are chosen by
  float groups[kMostExperts];   // the same of groups
  float weights[kMostExperts];  // scores of the experts used
};

// A value in the order in which experts are chosen: the larger first, of equal ones that with the smaller
// index, what is not a number last.
struct Ranked {
  float value;
  int index;
  __device__ __forceinline__ bool is_before(const Ranked& other) const {
    if (value > other.value) return true;
    if (value < other.value) return false;
    const bool is_number = value == value, other_is = other.value == other.value;
    return is_number == other_is ? index < other.index : is_number;
  }
};

__device__ __forceinline__ Ranked before_all() { return {__builtin_huge_valf(), -1}; }
__device__ __forceinline__ Ranked after_all() { return {__uint_as_float(0x7fc00000u), kMostExperts}; }

// Of values[first], values[first + step], …, n in all, the first one that is behind `last`.
__device__ __forceinline__ Ranked next_of(const float* values, int n, int first, int step,
                                          const Ranked& last) {
  Ranked best = after_all();
  for (int i = first; i < n; i += step) {
    const Ranked one{values[i], i};
    if (last.is_before(one) && one.is_before(best)) best = one;
  }
  return best;
}

// The last of the n_best first ones of values[0..n), in every lane.
__device__ __forceinline__ Ranked last_of_best(const float* values, int n, int n_best) {
  Ranked last = before_all();
  for (int chosen = 0; chosen < n_best; ++chosen) {
    Ranked best = next_of(values, n, threadIdx.x % 32, 32, last);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const Ranked other{__shfl_xor_sync(kAllLanes, best.value, distance),
                         __shfl_xor_sync(kAllLanes, best.index, distance)};
      if (other.is_before(best)) best = other;
    }
    last = best;
  }
  return last;
}

// Sum of the n_best first ones of values[0..n), ascending by index; by one lane.
__device__ __forceinline__ float sum_of_best(const float* values, int n, int n_best) {
  Ranked last = before_all();
  for (int chosen = 0; chosen < n_best; ++chosen) last = next_of(values, n, 0, 1, last);
  float sum = 0.0f;
  for (int i = 0; i < n; ++i) {
    if (!last.is_before({values[i], i})) sum = __fadd_rn(sum, values[i]);
  }
  return sum;
}

// Scores of the lane's own logits, lane, lane + 32, …
__device__ __forceinline__ void score_softmax(float* scores, const float* logits, int n) {
  const int lane = threadIdx.x % 32;
  float max = -__builtin_huge_valf(), sum = 0.0f;
  for (int i = lane; i < n; i += 32) max = larger(max, logits[i]);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    max = larger(max, __shfl_xor_sync(kAllLanes, max, distance));
  }
  for (int i = lane; i < n; i += 32) {
    scores[i] = exponential(__fsub_rn(logits[i], max));
    sum = __fadd_rn(sum, scores[i]);
  }
  sum = sum_of_lanes(sum);
  for (int i = lane; i < n; i += 32) scores[i] = __fdiv_rn(scores[i], sum);
}

// By one lane: few experts are scored so.
__device__ __forceinline__ void score_near_best(float* scores, const float* logits, int n, int n_used,
                                                float near) {
  for (int e = 0; e < n; ++e) scores[e] = 0.0f;  // those that are taken have more
  for (int used = 0; used < n_used; ++used) {
    int best = -1;
    for (int e = 0; e < n; ++e) {
      if (!(scores[e] != 0.0f) && (best < 0 || logits[e] > logits[best])) best = e;
    }
    const float max = logits[best];
    float sum = 0.0f;
    for (int e = 0; e < n; ++e) {
      const float x = logits[e], size = fabsf(x), larger_size = size < max ? max : size;
      if (!(scores[e] != 0.0f) && !(__fdiv_rn(__fsub_rn(max, x), larger_size) > near))
        sum = __fadd_rn(sum, exponential(__fsub_rn(x, max)));
    }
    scores[best] = __fdiv_rn(1.0f, sum);
  }
}

// Experts outside the best groups are chosen last of all numbers.
__device__ __forceinline__ void keep_best_groups(RouteStorage& shared, const RouteArgs& args) {
  const int n_groups = static_cast<int>(args.n_groups), n = static_cast<int>(args.n_experts);
  const int size = n / n_groups, lane = threadIdx.x % 32;
  __syncwarp();  // the choices are there
  for (int g = lane; g < n_groups; g += 32) {
    shared.groups[g] = sum_of_best(shared.choices + g * size, size, static_cast<int>(args.group_top));
  }
  __syncwarp();  // all have read the choices, and the groups are there
  const Ranked last = last_of_best(shared.groups, n_groups, static_cast<int>(args.n_groups_used));
  for (int e = lane; e < n; e += 32) {
    const int g = e / size;
    if (last.is_before({shared.groups[g], g})) shared.choices[e] = -__builtin_huge_valf();
  }
}

// Block t, a warp: the experts of token t.
__global__ void __launch_bounds__(32) route_kernel(RouteArgs args) {
  follow_kernels_before();
  auto& shared = shared_storage<RouteStorage>();
  const int n = static_cast<int>(args.n_experts), n_used = static_cast<int>(args.n_used), lane = threadIdx.x;
  const float* logits = args.logits + static_cast<int64_t>(blockIdx.x) * n;
  if (args.scoring == Scoring::softmax) {
    score_softmax(shared.scores, logits, n);
  } else if (args.scoring == Scoring::near_best) {
    if (lane == 0) score_near_best(shared.scores, logits, n, n_used, args.near);
    __syncwarp();  // all scores are there
  } else {
    for (int e = lane; e < n; e += 32) shared.scores[e] = sigmoid(logits[e]);
  }
  for (int e = lane; e < n; e += 32) {
    const float bias = args.selection_bias != nullptr ? args.selection_bias[e] : 0.0f;
    shared.choices[e] = __fadd_rn(shared.scores[e], bias);
  }
  if (args.n_groups_used < args.n_groups) keep_best_groups(shared, args);

  const Ranked last = last_of_best(shared.choices, n, n_used);
  int32_t* const experts = args.experts + static_cast<int64_t>(blockIdx.x) * n_used;
  int n_before = 0;
  for (int first = 0; first < n; first += 32) {
    const int e = first + lane;
    const bool is_used = e < n && !last.is_before({shared.choices[e], e});
    const uint32_t votes = __ballot_sync(kAllLanes, is_used);
    if (is_used) {
      const int place = n_before + __popc(votes & ((1u << lane) - 1));
      experts[place] = e;
      shared.weights[place] = shared.scores[e];
    }
    n_before += __popc(votes);
  }
  __syncwarp();  // all weights are there
  float sum = 0.0f;
  for (int i = 0; i < n_used; ++i) sum = __fadd_rn(sum, shared.weights[i]);
  float* const weights = args.weights + static_cast<int64_t>(blockIdx.x) * n_used;
  for (int i = lane; i < n_used; i += 32) {
    const float weight = shared.weights[i];
    weights[i] = __fmul_rn(args.normalize ? __fdiv_rn(weight, sum) : weight, args.scale);
  }
}

inline constexpr int kSortThreads = 256, kSortWarps = kSortThreads / 32;

struct SortStorage {
  int n_less[kSortWarps], n_equal[kSortWarps];
};

// Block e: the places of the pairs of expert e. A warp takes a piece of the list.
__global__ void __launch_bounds__(kSortThreads)
    sort_by_expert_kernel(int32_t* places, int32_t* first, const int32_t* experts, int n) {
  follow_kernels_before();
  auto& shared = shared_storage<SortStorage>();
  const int expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int piece = (n + kSortThreads - 1) / kSortThreads * 32;
  const int begin = warp * piece, end = begin + piece < n ? begin + piece : n;
  int n_less = 0, n_equal = 0;
#pragma unroll 8
  for (int i = begin + lane; i < end; i += 32) {
    const int other = experts[i];
    n_less += other < expert;
    n_equal += other == expert;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    n_less += __shfl_xor_sync(kAllLanes, n_less, distance);
    n_equal += __shfl_xor_sync(kAllLanes, n_equal, distance);
  }
  if (lane == 0) shared.n_less[warp] = n_less;
  if (lane == 0) shared.n_equal[warp] = n_equal;
  __syncthreads();
  int place = 0, before = 0;
#pragma unroll
  for (int w = 0; w < kSortWarps; ++w) {
    place += shared.n_less[w];
    before += w < warp ? shared.n_equal[w] : 0;
  }
  if (threadIdx.x == 0) first[expert] = place;
  if (threadIdx.x == 0 && expert == 0) first[gridDim.x] = n;
  if (n_equal == 0) return;
  place += before;
  for (int i = begin; i < end; i += 32) {
    const bool is_mine = i + lane < end && experts[i + lane] == expert;
    const uint32_t votes = __ballot_sync(kAllLanes, is_mine);
    if (is_mine) places[i + lane] = place + __popc(votes & ((1u << lane) - 1));
    place += __popc(votes);
  }
}

}  // namespace tuili::cuda
