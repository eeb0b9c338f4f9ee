// What attention keeps while it walks over keys: where a thread stands, the running softmax, and partials.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"

namespace tuili::cuda {

// Warps of 16 queries each, or all four on the same 16, sharing the keys: kKeyWarps is 1 or 4.
template <typename T, int kHeadDim_, int kKeyWarps_>
struct AttentionShape {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;  // of the tensor cores: head_dim and zeros
  static constexpr int kKeyWarps = kKeyWarps_;
  static constexpr int kQueries = 16 * kAttentionWarps / kKeyWarps;
  static constexpr int kKeyTiles = kKeyTile / 8 / kKeyWarps;  // tiles of mma, of a warp
  static constexpr int kOutTiles = kHeadDim / 8 / kKeyWarps;
  // On an SM: what shared memory and registers leave room for.
  static constexpr int kBlocks = kHeadDim == 256 ? (kKeyWarps == 1 ? 1 : 2) : (kHeadDim == 128 ? 3 : 4);

  struct Exchange {  // between warps that share queries
    T p[16][kKeyTile];
    float max[kAttentionWarps][16];
  };
  struct Nothing {};
  struct Storage {
    T q[kQueries][kHeadDim];
    T k[kKeyTile][kHeadDim];
    T v[kKeyTile][kHeadDim];
    [[no_unique_address]] std::conditional_t<kKeyWarps == 1, Nothing, Exchange> exchange;
  };
};

// Where a 16-byte chunk of a row lies: rows that are a multiple of 128 bytes begin at the same bank, so 8
// consecutive ones exchange their chunks.
template <int kRowElements, typename T, int kRows>
__device__ __forceinline__ T* place(T (&rows)[kRows][kRowElements], int row, int chunk) {
  return &rows[row][(chunk ^ (row & 7)) * kChunk];
}
template <int kRowElements, typename T, int kRows>
__device__ __forceinline__ const T* place(const T (&rows)[kRows][kRowElements], int row, int chunk) {
  return &rows[row][(chunk ^ (row & 7)) * kChunk];
}

// The part of the block's work that is the thread's: in mma's layout, rows g and g + 8 of its 16 queries.
struct Place {
  int lane;
  int first_query;  // of the warp's 16 in the block
  int first_key;    // of the warp's in a tile
  int first_d;      // of the warp's output
  int key_warp;

  template <typename Shape>
  __device__ __forceinline__ static Place of() {
    const int warp = threadIdx.x / 32, key_warp = warp % Shape::kKeyWarps;
    return {static_cast<int>(threadIdx.x % 32), warp / Shape::kKeyWarps * 16, key_warp * Shape::kKeyTiles * 8,
            key_warp * Shape::kOutTiles * 8, key_warp};
  }
  __device__ __forceinline__ int query(int half) const { return first_query + lane / 4 + 8 * half; }
};

// Of the thread's two queries (half 0: elements 0 and 1 of each tile; half 1: 2 and 3).
template <typename Shape>
struct AttentionState {
  float out[Shape::kOutTiles][4];
  float sum[4];  // equal in columns: [0] and [2] are the queries'
  float max[2];  // of score · log2(e)

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < Shape::kOutTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[j][e] = 0.0f;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] = 0.0f;
    max[0] = max[1] = kNone;
  }
};

// scores in units of log2(e), capped; -inf for the keys that the query does not see. `key` is the thread's
// first.
template <typename Shape>
__device__ __forceinline__ void scale_and_hide(float (&scores)[Shape::kKeyTiles][4],
                                               const AttentionProblem& problem, const SeenKeys (&seen)[2],
                                               int key) {
#pragma unroll
  for (int j = 0; j < Shape::kKeyTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float score = __fmul_rn(scores[j][e], problem.scale);
      if (problem.softcap > 0.0f) score = __fmul_rn(problem.softcap, hyperbolic_tangent(score));
      const SeenKeys& keys = seen[e / 2];
      const int at = key + 8 * j + e % 2;
      scores[j][e] = at >= keys.begin && at < keys.end ? score : kNone;
    }
  }
}

// Takes the maxima of the tile into the state, and scales what it holds to them.
template <typename Shape>
__device__ __forceinline__ void rescale(AttentionState<Shape>& state,
                                        const float (&scores)[Shape::kKeyTiles][4],
                                        typename Shape::Storage& shared, const Place& at) {
  float max[2] = {state.max[0], state.max[1]};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int j = 0; j < Shape::kKeyTiles; ++j) {
      max[half] = fmaxf(max[half], fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
      max[half] = fmaxf(max[half], __shfl_xor_sync(0xffffffffu, max[half], distance));
    }
  }
  if constexpr (Shape::kKeyWarps > 1) {
    const int g = at.lane / 4;
    if (at.lane % 4 == 0) {
      shared.exchange.max[at.key_warp][g] = max[0];
      shared.exchange.max[at.key_warp][g + 8] = max[1];
    }
    __syncthreads();  // the maxima of all warps are there
#pragma unroll
    for (int warp = 0; warp < Shape::kKeyWarps; ++warp) {
      max[0] = fmaxf(max[0], shared.exchange.max[warp][g]);
      max[1] = fmaxf(max[1], shared.exchange.max[warp][g + 8]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float factor = ptx::exp2_approximate(__fsub_rn(state.max[half], shift_of(max[half])));
    state.max[half] = max[half];
#pragma unroll
    for (int e = 2 * half; e < 2 * half + 2; ++e) {
      state.sum[e] = __fmul_rn(state.sum[e], factor);
#pragma unroll
      for (int j = 0; j < Shape::kOutTiles; ++j) state.out[j][e] = __fmul_rn(state.out[j][e], factor);
    }
  }
}

// p = 2^(score - max), rounded for the tensor cores: pairs of the thread's two queries.
template <typename Shape>
__device__ __forceinline__ void to_probabilities(uint32_t (&own)[Shape::kKeyTiles][2],
                                                 const float (&scores)[Shape::kKeyTiles][4],
                                                 const AttentionState<Shape>& state,
                                                 typename Shape::Storage& shared, const Place& at) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float shift = shift_of(state.max[half]);
#pragma unroll
    for (int j = 0; j < Shape::kKeyTiles; ++j) {
      const float low = ptx::exp2_approximate(__fsub_rn(scores[j][2 * half], shift));
      const float high = ptx::exp2_approximate(__fsub_rn(scores[j][2 * half + 1], shift));
      own[j][half] = ptx::pack<typename Shape::Element>(low, high);
      if constexpr (Shape::kKeyWarps > 1) {
        auto* to = place<kKeyTile>(shared.exchange.p, at.lane / 4 + 8 * half, at.first_key / 8 + j);
        *reinterpret_cast<uint32_t*>(to + at.lane % 4 * 2) = own[j][half];
      }
    }
  }
}

// Calls visit(element of state.out, query of the block, d) for the thread's part of the output.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_out(AttentionState<Shape>& state, const AttentionProblem& problem,
                                             const QueryTile& tile, const Place& at, const Visit& visit) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!tile.has(at.query(half))) continue;
#pragma unroll
    for (int j = 0; j < Shape::kOutTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = at.first_d + 8 * j + at.lane % 4 * 2 + e;
        if (d < problem.head_dim) visit(state.out[j][2 * half + e], half, d);
      }
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void store_partial(AttentionState<Shape>& state, const AttentionProblem& problem,
                                              const QueryTile& tile, const Place& at, int split) {
  const Partial partial[2] = {tile.partial(problem, at.query(0), split),
                              tile.partial(problem, at.query(1), split)};
  for_each_out<Shape>(state, problem, tile, at,
                      [&](float out, int half, int d) { partial[half].out[d] = out; });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (at.lane % 4 != 0 || at.key_warp != 0 || !tile.has(at.query(half))) continue;
    *partial[half].max = state.max[half];
    *partial[half].sum = state.sum[2 * half];
  }
}

template <typename Shape>
__device__ __forceinline__ void merge_partial(AttentionState<Shape>& state, const AttentionProblem& problem,
                                              const QueryTile& tile, const Place& at) {
  // The partials were stored before the barriers of the split in between.
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!tile.has(at.query(half))) continue;
    const Partial before = tile.partial(problem, at.query(half), 0);
    Merge merge(*before.max, *before.sum, state.max[half], state.sum[2 * half]);
    state.max[half] = merge.max;
    state.sum[2 * half] = merge.sum;
#pragma unroll
    for (int j = 0; j < Shape::kOutTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = at.first_d + 8 * j + at.lane % 4 * 2 + e;
        float& out = state.out[j][2 * half + e];
        if (d < problem.head_dim) out = merge.of(before.out[d], out);
      }
    }
  }
  __syncthreads();  // everybody has read them
}

template <typename Shape>
__device__ __forceinline__ void store_out(AttentionState<Shape>& state, const AttentionProblem& problem,
                                          const QueryTile& tile, const Place& at) {
  const float inverse[2] = {inverse_sum(state.sum[0]), inverse_sum(state.sum[2])};
  for_each_out<Shape>(state, problem, tile, at, [&](float out, int half, int d) {
    const int query = at.query(half);
    store_result(problem, tile.row(query), tile.head(query), d, __fmaf_rn(out, inverse[half], 0.0f));
  });
}

}  // namespace tuili::cuda
