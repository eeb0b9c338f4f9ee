// What attention keeps while it walks over keys: where a thread stands, the running softmax, and partials.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

// Warps of their own queries, or all four on the same 16, sharing the keys: kKeyWarps is 1 or 4. A warp has
// kQueryTiles tiles of 16 queries: two use each key and value twice. kSlots tiles of keys or values are in
// shared memory.
template <typename T, int kHeadDim_, int kKeyWarps_, int kQueryTiles_, int kSlots_>
struct AttentionShape {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;  // of the tensor cores: head_dim and zeros
  static constexpr int kKeyWarps = kKeyWarps_, kQueryTiles = kQueryTiles_, kSlots = kSlots_;
  static constexpr int kQueries = 16 * kQueryTiles * kAttentionWarps / kKeyWarps;
  static constexpr int kKeyTiles = kKeyTile / 8 / kKeyWarps;
  static constexpr int kOutTiles = kHeadDim / 8 / kKeyWarps;
  static constexpr int kTiles = kSlots;  // that the tensor cores read: load n is in tile n % kTiles
  static constexpr bool kCoded = false;
  // On an SM: what registers leave room for, and shared memory.
  static constexpr int kBlocks = kKeyWarps == 1 ? (kHeadDim == 256 ? 1 : 4 - kQueryTiles)
                                                : (kHeadDim == 256   ? 2
                                                   : kHeadDim == 128 ? 7 - kSlots
                                                                     : 4);

  using Tile = T[kKeyTile][kHeadDim];
  struct Exchange {  // between warps that share queries
    T p[16][kKeyTile];
    float max[kAttentionWarps][16];
  };
  struct Nothing {};
  struct Storage {
    T q[kQueries][kHeadDim];
    Tile tiles[kSlots];
    SeenKeys all_see[kAttentionWarps];  // by all queries of a warp
    [[no_unique_address]] std::conditional_t<kKeyWarps == 1, Nothing, Exchange> exchange;
  };
};

// Of int8 pages: the slots hold codes and scales, and a tile becomes f16 when it is due, keys in the first
// and values in the last of one or two.
template <int kHeadDim_, int kKeyWarps_, int kQueryTiles_, int kSlots_>
struct CodedShape : AttentionShape<__half, kHeadDim_, kKeyWarps_, kQueryTiles_, kSlots_> {
  using Plain = AttentionShape<__half, kHeadDim_, kKeyWarps_, kQueryTiles_, kSlots_>;
  static constexpr int kTiles = kHeadDim_ == 256 ? 1 : 2;  // two of 256 would not fit
  static constexpr bool kCoded = true;
  struct Codes {
    int8_t of[kKeyTile][kHeadDim_];
    float scales[kKeyTile];
  };
  struct Storage {
    __half q[Plain::kQueries][kHeadDim_];
    typename Plain::Tile tiles[kTiles];
    Codes codes[kSlots_];
    SeenKeys all_see[kAttentionWarps];
    [[no_unique_address]] std::conditional_t<kKeyWarps_ == 1, typename Plain::Nothing,
                                             typename Plain::Exchange> exchange;
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

// The part of the block's work that is the thread's: in mma's layout, rows g and g + 8 of each 16 queries.
struct Place {
  int lane;
  int first_query;  // of the warp's in the block
  int first_key;    // of the warp's in a tile
  int first_d;      // of the warp's output
  int key_warp;

  template <typename Shape>
  __device__ __forceinline__ static Place of() {
    const int warp = threadIdx.x / 32, key_warp = warp % Shape::kKeyWarps;
    return {static_cast<int>(threadIdx.x % 32), warp / Shape::kKeyWarps * 16 * Shape::kQueryTiles,
            key_warp * Shape::kKeyTiles * 8, key_warp * Shape::kOutTiles * 8, key_warp};
  }
  // Query `half` of the thread's two in the warp's i-th 16.
  __device__ __forceinline__ int query(int i, int half) const {
    return first_query + 16 * i + lane / 4 + 8 * half;
  }
};

// Of the thread's queries and keys: elements 0 and 1 of each tile of mma belong to half 0, 2 and 3 to half 1.
template <typename Shape>
struct Scores {
  float of[Shape::kQueryTiles][Shape::kKeyTiles][4];
};

// Pairs of them, rounded for the tensor cores.
template <typename Shape>
struct Probabilities {
  uint32_t of[Shape::kQueryTiles][Shape::kKeyTiles][2];
};

template <typename Shape>
struct AttentionState {
  float out[Shape::kQueryTiles][Shape::kOutTiles][4];
  float sum[Shape::kQueryTiles][4];  // equal in columns: [0] and [2] are the queries'
  float max[Shape::kQueryTiles][2];  // of score · log2(e)

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < Shape::kQueryTiles; ++i) {
#pragma unroll
      for (int j = 0; j < Shape::kOutTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[i][j][e] = 0.0f;
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][e] = 0.0f;
      max[i][0] = max[i][1] = kNone;
    }
  }
};

// Calls visit(i, half) for the thread's queries.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_query(const Visit& visit) {
#pragma unroll
  for (int i = 0; i < Shape::kQueryTiles; ++i) {
    visit(i, 0);
    visit(i, 1);
  }
}

// Calls visit(score, its key) for the thread's scores of a query; `key` is its first.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_score(Scores<Shape>& scores, int i, int half, int key,
                                               const Visit& visit) {
#pragma unroll
  for (int j = 0; j < Shape::kKeyTiles; ++j) {
    visit(scores.of[i][j][2 * half], key + 8 * j);
    visit(scores.of[i][j][2 * half + 1], key + 8 * j + 1);
  }
}

// Scores in units of log2(e), capped, for models with a cap or a bias.
template <typename Shape>
__device__ __forceinline__ void scale_scores(Scores<Shape>& scores, const AttentionProblem& problem) {
  for_each_query<Shape>([&](int i, int half) {
    for_each_score<Shape>(scores, i, half, 0,
                          [&](float& score, int) { score = __fmul_rn(score, problem.scale); });
  });
  if (problem.softcap == 0.0f) return;
  for_each_query<Shape>([&](int i, int half) {
    for_each_score<Shape>(scores, i, half, 0, [&](float& score, int) {
      score = __fmul_rn(problem.softcap, hyperbolic_tangent(score));
    });
  });
}

// Adds what the model says of positions, for the keys that the queries see.
template <typename Shape>
__device__ __forceinline__ void add_bias(Scores<Shape>& scores, const QueryTile& tile, const Place& at,
                                         int key) {
  for_each_query<Shape>([&](int i, int half) {
    const int query = at.query(i, half);
    const SeenKeys seen = tile.seen(query);
    const float* const of_key_0 = tile.bias_of_key_0(query);
    for_each_score<Shape>(scores, i, half, key, [&](float& score, int k) {
      if (k >= seen.begin && k < seen.end) score = __fmaf_rn(of_key_0[k], kLog2E, score);
    });
  });
}

// -inf for the keys that the queries do not see.
template <typename Shape>
__device__ __forceinline__ void hide_unseen(Scores<Shape>& scores, const QueryTile& tile, const Place& at,
                                            int key) {
  for_each_query<Shape>([&](int i, int half) {
    const SeenKeys seen = tile.seen(at.query(i, half));
    for_each_score<Shape>(scores, i, half, key, [&](float& score, int k) {
      if (k < seen.begin || k >= seen.end) score = kNone;
    });
  });
}

// max becomes that of all warps, which share queries.
template <typename Shape>
__device__ __forceinline__ void exchange_maxima(float (&max)[2], typename Shape::Storage& shared,
                                                const Place& at) {
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

// Takes the maxima of the tile into the state, and scales what it holds to them.
template <typename Shape>
__device__ __forceinline__ void rescale(AttentionState<Shape>& state, const Scores<Shape>& scores,
                                        const AttentionProblem& problem, typename Shape::Storage& shared,
                                        const Place& at) {
#pragma unroll
  for (int i = 0; i < Shape::kQueryTiles; ++i) {
    float max[2] = {kNone, kNone}, factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < Shape::kKeyTiles; ++j) {
        max[half] = fmaxf(max[half], fmaxf(scores.of[i][j][2 * half], scores.of[i][j][2 * half + 1]));
      }
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        max[half] = fmaxf(max[half], __shfl_xor_sync(0xffffffffu, max[half], distance));
      }
      max[half] = fmaxf(state.max[i][half], __fmul_rn(max[half], problem.unit));
    }
    if constexpr (Shape::kKeyWarps > 1) exchange_maxima<Shape>(max, shared, at);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = ptx::exp2_approximate(__fsub_rn(state.max[i][half], shift_of(max[half])));
      state.max[i][half] = max[half];
    }
    if (factor[0] == 1.0f && factor[1] == 1.0f) continue;  // 1 would change no bit
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      state.sum[i][e] = __fmul_rn(state.sum[i][e], factor[e / 2]);
#pragma unroll
      for (int j = 0; j < Shape::kOutTiles; ++j)
        state.out[i][j][e] = __fmul_rn(state.out[i][j][e], factor[e / 2]);
    }
  }
}

// p = 2^(score · unit - max).
template <typename Shape>
__device__ __forceinline__ void to_probabilities(Probabilities<Shape>& own, const Scores<Shape>& scores,
                                                 const AttentionState<Shape>& state,
                                                 const AttentionProblem& problem,
                                                 typename Shape::Storage& shared, const Place& at) {
#pragma unroll
  for (int i = 0; i < Shape::kQueryTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float shift = shift_of(state.max[i][half]);
#pragma unroll
      for (int j = 0; j < Shape::kKeyTiles; ++j) {
        const float* const pair = &scores.of[i][j][2 * half];
        const float low = ptx::exp2_approximate(__fmaf_rn(pair[0], problem.unit, -shift));
        const float high = ptx::exp2_approximate(__fmaf_rn(pair[1], problem.unit, -shift));
        own.of[i][j][half] = ptx::pack<typename Shape::Element>(low, high);
        if constexpr (Shape::kKeyWarps > 1) {
          auto* to = place<kKeyTile>(shared.exchange.p, at.lane / 4 + 8 * half, at.first_key / 8 + j);
          *reinterpret_cast<uint32_t*>(to + at.lane % 4 * 2) = own.of[i][j][half];
        }
      }
    }
  }
}

// Calls visit(i, half, query of the block) for those that exist.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_query(const QueryTile& tile, const Place& at, const Visit& visit) {
  for_each_query<Shape>([&](int i, int half) {
    if (tile.has(at.query(i, half))) visit(i, half, at.query(i, half));
  });
}

// Calls visit(two elements of the output, the first one's d) for one query.
template <typename Shape, typename Visit>
__device__ __forceinline__ void for_each_pair(AttentionState<Shape>& state, const AttentionProblem& problem,
                                              const Place& at, int i, int half, const Visit& visit) {
#pragma unroll
  for (int j = 0; j < Shape::kOutTiles; ++j) {
    const int d = at.first_d + 8 * j + at.lane % 4 * 2;
    if (d < problem.head_dim) visit(state.out[i][j][2 * half], state.out[i][j][2 * half + 1], d);
  }
}

template <typename Shape>
__device__ __forceinline__ void store_partial(AttentionState<Shape>& state, const AttentionProblem& problem,
                                              const QueryTile& tile, const Place& at, int split) {
  for_each_query<Shape>(tile, at, [&](int i, int half, int query) {
    const Partial partial = tile.partial(query, split);
    for_each_pair<Shape>(state, problem, at, i, half,
                         [&](float low, float high, int d) { *partial.pair(d) = {low, high}; });
    if (at.lane % 4 != 0 || at.key_warp != 0) return;
    *partial.max = state.max[i][half];
    *partial.sum = state.sum[i][2 * half];
  });
}

template <typename Shape>
__device__ __forceinline__ void merge_partial(AttentionState<Shape>& state, const AttentionProblem& problem,
                                              const QueryTile& tile, const Place& at) {
  // The partials were stored before the barriers of the split in between.
  for_each_query<Shape>(tile, at, [&](int i, int half, int query) {
    const Partial before = tile.partial(query, 0);
    const Merge merge(*before.max, *before.sum, state.max[i][half], state.sum[i][2 * half]);
    state.max[i][half] = merge.max;
    state.sum[i][2 * half] = merge.sum;
    for_each_pair<Shape>(state, problem, at, i, half, [&](float& low, float& high, int d) {
      const float2 merged = merge.of(*before.pair(d), {low, high});
      low = merged.x;
      high = merged.y;
    });
  });
  __syncthreads();  // everybody has read them
}

template <typename Shape>
__device__ __forceinline__ void store_out(AttentionState<Shape>& state, const AttentionProblem& problem,
                                          const QueryTile& tile, const Place& at) {
  for_each_query<Shape>(tile, at, [&](int i, int half, int query) {
    const int64_t row = tile.row(query);
    const int head = tile.head(query);
    const Finish finish(problem, head, state.max[i][half], state.sum[i][2 * half]);
    for_each_pair<Shape>(state, problem, at, i, half, [&](float low, float high, int d) {
      store_result(problem, row, head, d, finish.of(low));
      store_result(problem, row, head, d + 1, finish.of(high));
    });
  });
}

}  // namespace tuili::cuda
