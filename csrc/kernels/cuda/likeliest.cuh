// Draws from the likeliest tokens of a row, cut by top_k and top_p as the CPU cuts them.
//
// A bound that 512 of the threads' maxima reach leaves about 700 tokens of a row. They are listed and sorted:
// by logit for top_k, by probability for top_p, then by id for the draw, which adds up in that order. A cut
// that is not clearly above the bound, or does not clearly lie between two sums, is the CPU's to make.
//
// v1  a block per row. Four passes over the row, a fifth for the total that top_p alone asks for; three or
//     four sorts of about 1,000 by 1,024 threads, of 55 steps. H200, top_k 40 of 131,072 ids: 93 µs per row,
//     16 rows at once 97.
#pragma once

#include "kernels/cuda/draw.cuh"

namespace tuili::cuda {

inline constexpr int kMostListed = 2048;
inline constexpr int kMaximaAbove = 512;
inline constexpr int kListTiles = kMostListed / kIdsPerTile;

struct LikeliestStorage {
  DrawStorage draw;
  uint64_t ranks[kMostListed];  // what is sorted: a key, and in the lower half an id
  int counts[kLogitWarps];
  int n_kept;
};

// Ascending; n is a power of two up to kMostListed. Begins and ends with a barrier.
__device__ __forceinline__ void sort(uint64_t* ranks, int n) {
  for (int size = 2; size <= n; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      const int pair = threadIdx.x, i = 2 * pair - (pair & (distance - 1));
      if (pair >= n / 2) continue;
      const uint64_t a = ranks[i], b = ranks[i + distance];
      const bool rises = (i & size) == 0;
      if ((a > b) != rises) continue;
      ranks[i] = b;
      ranks[i + distance] = a;
    }
  }
  __syncthreads();
}

// Sorts the first n of the list by the keys of their ids, then by id. Begins and ends with a barrier.
template <typename Key>
__device__ __forceinline__ void order(LikeliestStorage& shared, int n, const Key& key) {
  int n_padded = 2;
  while (n_padded < n) n_padded *= 2;
  __syncthreads();
  for (int i = threadIdx.x; i < n_padded; i += kLogitThreads) {
    uint64_t rank = ~uint64_t{0};
    if (i < n) {
      const auto id = static_cast<uint32_t>(shared.ranks[i]);
      rank = uint64_t{key(static_cast<int>(id))} << 32 | id;
    }
    shared.ranks[i] = rank;
  }
  sort(shared.ranks, n_padded);
}

// Lists the ids whose logits' keys reach the bound, in any order; returns how many there are. With more than
// kMostListed nothing is listed. Has a barrier before it writes.
__device__ __forceinline__ int list_from(LikeliestStorage& shared, const float* row, int n_vocab,
                                         uint32_t bound) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto votes_from = [&](int first) {
    const int id = first + lane;
    return __ballot_sync(0xffffffffu, id < n_vocab && ascending_key(row[id]) >= bound);
  };
  int count = 0;
  for (int first = warp * 32; first < n_vocab; first += kLogitThreads) count += __popc(votes_from(first));
  if (lane == 0) shared.counts[warp] = count;
  __syncthreads();
  int at = 0, all = 0;
  for (int i = 0; i < kLogitWarps; ++i) {
    if (i < warp) at += shared.counts[i];
    all += shared.counts[i];
  }
  if (all > kMostListed) return all;
  for (int first = warp * 32; first < n_vocab; first += kLogitThreads) {
    const uint32_t votes = votes_from(first);
    if (votes >> lane & 1u)
      shared.ranks[at + __popc(votes & ((1u << lane) - 1u))] = static_cast<uint32_t>(first + lane);
    at += __popc(votes);
  }
  return all;
}

// Weights of the first n of the list.
struct ListedWeights {
  const uint64_t* ranks;
  int n;
  Weights all;
  __device__ __forceinline__ float operator[](int i) const {
    return i < n ? all[static_cast<int>(static_cast<uint32_t>(ranks[i]))] : 0.0f;
  }
};

// The logit of ascending_key.
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// How many of the n listed top_k keeps, sorted by logit; -1 if others than these may be among them.
__device__ __forceinline__ int keep_top_k(LikeliestStorage& shared, const Weights& weights, int64_t top_k,
                                          int n, bool is_whole, float bound) {
  order(shared, n, [&](int id) { return ~ascending_key(weights.scaled(weights.row[id])); });
  if (n < top_k) return is_whole ? n : -1;
  const auto last = static_cast<uint32_t>(shared.ranks[top_k - 1] >> 32);
  return is_whole || last < ~ascending_key(weights.scaled(bound)) ? static_cast<int>(top_k) : -1;
}

// How many of the n listed top_p keeps, sorted by probability; -1 as above, or if roundings decide. is_whole:
// the total is that of the list. A weight that is less than another by more than exp errs belongs to a lower
// logit.
__device__ __forceinline__ int keep_top_p(LikeliestStorage& shared, const Weights& weights, uint64_t top_p,
                                          int n, bool is_whole, float bound) {
  WeightSum total{0, 0};
  if (!is_whole) {
    const int n_tiles = (weights.n_vocab + kIdsPerTile - 1) / kIdsPerTile;
    sum_tiles(shared.draw, weights, n_tiles);
    total = total_of(shared.draw, n_tiles);
  }
  order(shared, n, [&](int id) { return ~__float_as_uint(weights[id]); });
  const ListedWeights listed{shared.ranks, n, weights};
  sum_tiles(shared.draw, listed, kListTiles);
  if (is_whole) total = total_of(shared.draw, kListTiles);
  if (threadIdx.x < 32) {
    const int64_t n_sums = 2 * static_cast<int64_t>(weights.n_vocab);
    const int last = first_of_part(shared.draw, listed, kListTiles, total, top_p, n_sums);
    const bool is_clear =
        last >= 0 && (is_whole || listed[last] > __fmul_rn(exponential(weights.scaled(bound)), 1.0001f));
    if (threadIdx.x == 0) shared.n_kept = is_clear ? last + 1 : -1;
  }
  __syncthreads();
  return shared.n_kept;
}

// The token of a row whose maximum is finite; in the first warp.
__device__ __forceinline__ int32_t draw_from_list(LikeliestStorage& shared, Weights weights, const Draw& draw,
                                                  uint32_t maximum) {
  shared.ranks[threadIdx.x] = uint64_t{~maximum} << 32 | threadIdx.x;
  sort(shared.ranks, kLogitThreads);
  const auto reached = ~static_cast<uint32_t>(shared.ranks[kMaximaAbove - 1] >> 32);
  const bool is_whole = reached <= kLowestKey;  // but for -inf, which nobody draws
  const uint32_t bound = is_whole ? kLowestKey + 1 : reached;
  int n = list_from(shared, weights.row, weights.n_vocab, bound);
  if (n > kMostListed) return kUndecided;
  if (draw.top_k > 0) n = keep_top_k(shared, weights, draw.top_k, n, is_whole, value_of(bound));
  if (draw.top_p > 0 && n > 0)
    n = keep_top_p(shared, weights, draw.top_p, n, is_whole || draw.top_k > 0, value_of(bound));
  if (n < 0) return kUndecided;
  order(shared, n, [](int) { return 0u; });
  weights.least = draw.least;
  const ListedWeights listed{shared.ranks, n, weights};
  sum_tiles(shared.draw, listed, kListTiles);
  if (threadIdx.x >= 32) return kUndecided;
  const int place = first_of_part(shared.draw, listed, kListTiles, total_of(shared.draw, kListTiles),
                                  uniform_bits(draw.seed, draw.counter), n);
  return place < 0 ? place : static_cast<int32_t>(static_cast<uint32_t>(shared.ranks[place]));
}

// Block r: the token of row r, if its draw is cut.
__global__ void __launch_bounds__(kLogitThreads)
    draw_likeliest_kernel(int32_t* tokens, const float* logits, const Draw* draws, int n_vocab) {
  follow_kernels_before();
  const Draw draw = draws[blockIdx.x];
  if (!is_cut(draw)) return;
  auto& shared = shared_storage<LikeliestStorage>();
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * n_vocab;
  const Candidate own = maximum_of_thread(row, n_vocab);
  const Candidate best = first_maximum(shared.draw.argmax, own);
  int32_t token = token_of(best);
  if (token >= 0 && draw.temperature != 0.0f && row[best.id] != __builtin_huge_valf())
    token = draw_from_list(shared, {row, n_vocab, row[best.id], draw.temperature, 0.0f}, draw, own.key);
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace tuili::cuda
