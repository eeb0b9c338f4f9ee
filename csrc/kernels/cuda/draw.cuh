// Draws from the softmax of a row, the same as the CPU's: it adds probabilities in double, by id, until the
// sum exceeds a random part of their total. Here they are added exactly, as integers, in any order. The two
// sums differ by at most n roundings, and where the random part lies that close to a sum, the CPU has to
// draw.
//
// v1  a block per row; a tile of 1,024 ids per warp, then the tile, then the 32 ids. Predicted for 150,000
//     ids: 30 µs per row, all rows at once; undecided in less than one row of 65,536.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sampling.cuh"

namespace tuili::cuda {

inline constexpr int kIdsPerLane = 32;
inline constexpr int kIdsPerTile = 32 * kIdsPerLane;
inline constexpr int kMaxTiles = 512;  // the sum of as many weights stays below 2^63

// Whether likeliest.cuh draws.
__device__ __forceinline__ bool is_cut(const Draw& draw) { return draw.top_k > 0 || draw.top_p > 0; }

// A sum of weights in [0, 1], in units of 2^-44 and of 2^-88: exact but for what lies below.
struct WeightSum {
  uint64_t high, low;

  __device__ __forceinline__ void add(const WeightSum& other) {
    high += other.high;
    low += other.low;
  }
  __device__ __forceinline__ void add(float weight) {
    const float scaled = __fmul_rn(weight, 0x1p44f);
    const auto whole = static_cast<uint64_t>(scaled);
    high += whole;
    low += static_cast<uint64_t>(__fmul_rn(__fsub_rn(scaled, static_cast<float>(whole)), 0x1p44f));
  }
  // In units of 2^(shift - 44 …), so that the total becomes 63 bits.
  __device__ __forceinline__ uint64_t scaled(int shift) const {
    const uint64_t carried = high + (low >> 44);
    return carried << shift | (low & ((uint64_t{1} << 44) - 1)) >> (44 - shift);
  }
};

struct DrawStorage {
  ArgmaxStorage argmax;
  WeightSum tiles[kMaxTiles];
  WeightSum lanes[32];
};

__device__ __forceinline__ uint64_t shuffle_xor(uint64_t x, int distance) {
  const uint32_t low = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(x), distance);
  const uint32_t high = __shfl_xor_sync(0xffffffffu, static_cast<uint32_t>(x >> 32), distance);
  return uint64_t{high} << 32 | low;
}

// Philox4x32-10 (Salmon et al. 2011): the first 53 bits of the numbers of (key, counter), as ops::uniform
// takes them, here at the top of 64.
__device__ __forceinline__ uint64_t uniform_bits(uint64_t key, uint64_t counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (uint64_t{c0} << 32 | c1) & ~uint64_t{0x7ff};
}

// exp((x - best) / temperature), with the CPU's bits; what is below `least` weighs nothing.
struct Weights {
  const float* row;
  int n_vocab;
  float best, temperature, least;
  __device__ __forceinline__ float scaled(float logit) const {
    return __fdiv_rn(__fsub_rn(logit, best), temperature);
  }
  __device__ __forceinline__ float operator[](int id) const {
    if (id >= n_vocab) return 0.0f;
    const float weight = exponential(scaled(row[id]));
    return weight >= least ? weight : 0.0f;
  }
};

// The sums of all tiles into shared memory. Ends with a barrier.
template <typename AnyWeights>
__device__ __forceinline__ void sum_tiles(DrawStorage& shared, const AnyWeights& weights, int n_tiles) {
  for (int tile = threadIdx.x / 32; tile < n_tiles; tile += kLogitWarps) {
    WeightSum sum{0, 0};
    for (int i = threadIdx.x % 32; i < kIdsPerTile; i += 32) sum.add(weights[tile * kIdsPerTile + i]);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      sum.add({shuffle_xor(sum.high, distance), shuffle_xor(sum.low, distance)});
    }
    if (threadIdx.x % 32 == 0) shared.tiles[tile] = sum;
  }
  __syncthreads();
}

// The first of `count` sums with which `before` exceeds the target; `before` then holds those in front of it.
__device__ __forceinline__ int first_beyond(WeightSum& before, const WeightSum* sums, int count,
                                            uint64_t target, int shift) {
  for (int i = 0; i < count; ++i) {
    WeightSum after = before;
    after.add(sums[i]);
    if (after.scaled(shift) > target) return i;
    before = after;
  }
  return count;
}

__device__ __forceinline__ WeightSum total_of(const DrawStorage& shared, int n_tiles) {
  WeightSum total{0, 0};
  for (int tile = 0; tile < n_tiles; ++tile) total.add(shared.tiles[tile]);
  return total;
}

// The first of the weights with which their sum exceeds a part, of 2^64, of the total; kUndecided if none
// does, or if the CPU's sums, rounded n_sums times, may exceed it elsewhere. For a warp, all lanes alike.
template <typename AnyWeights>
__device__ __forceinline__ int32_t first_of_part(DrawStorage& shared, const AnyWeights& weights, int n_tiles,
                                                 const WeightSum& total, uint64_t part, int64_t n_sums) {
  const int shift =
      __clzll(static_cast<int64_t>(total.high + (total.low >> 44))) - 1;  // the best weighs 2^44: at most 18
  const uint64_t all = total.scaled(shift), target = __umul64hi(part, all);
  // Each of the CPU's sums, and the products and cuts here, are off by at most 2^-53 of the total.
  const uint64_t margin = ((all >> 53) + 1) * static_cast<uint64_t>(n_sums + 8);
  WeightSum before{0, 0};
  const int tile = first_beyond(before, shared.tiles, n_tiles, target, shift);
  if (tile == n_tiles) return kUndecided;
  const int first = tile * kIdsPerTile, lane = threadIdx.x % 32;
  WeightSum own{0, 0};
  for (int i = 0; i < kIdsPerLane; ++i) own.add(weights[first + lane * kIdsPerLane + i]);
  shared.lanes[lane] = own;
  __syncwarp();
  const int first_id = first + first_beyond(before, shared.lanes, 32, target, shift) * kIdsPerLane;
  for (int id = first_id; id < first_id + kIdsPerLane; ++id) {
    WeightSum after = before;
    after.add(weights[id]);
    if (after.scaled(shift) <= target) {
      before = after;
      continue;
    }
    const bool is_clear = after.scaled(shift) - target > margin && target - before.scaled(shift) > margin;
    return is_clear ? id : kUndecided;
  }
  return kUndecided;
}

// Block r: the token of row r, unless its draw is cut.
__global__ void __launch_bounds__(kLogitThreads)
    draw_kernel(int32_t* tokens, const float* logits, const Draw* draws, int n_vocab) {
  follow_kernels_before();
  auto& shared = shared_storage<DrawStorage>();
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * n_vocab;
  const Draw draw = draws[blockIdx.x];
  if (is_cut(draw)) return;
  const Candidate best = first_maximum(shared.argmax, maximum_of_thread(row, n_vocab));
  int32_t token = token_of(best);
  const bool is_certain = token < 0 || draw.temperature == 0.0f || row[best.id] == __builtin_huge_valf();
  if (!is_certain) {
    const int n_tiles = (n_vocab + kIdsPerTile - 1) / kIdsPerTile;
    const Weights weights{row, n_vocab, row[best.id], draw.temperature, draw.least};
    sum_tiles(shared, weights, n_tiles);
    if (threadIdx.x >= 32) return;
    token = first_of_part(shared, weights, n_tiles, total_of(shared, n_tiles),
                          uniform_bits(draw.seed, draw.counter), n_vocab);
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace tuili::cuda
