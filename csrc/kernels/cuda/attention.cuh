// Attention over pages on tensor cores: prefill, extension, encoders and decoding are one kernel, so that a
// query's bits are the same in each. Contract and order of sums: kernels.h.
//
// A block computes the queries (a query is a row of one head) of one kv head: wide, each of 4 warps takes 32
// of them (16 for heads above 128); narrow, for decoding, the warps share 16 queries: they divide the keys of
// a score tile, and then the dimensions of the output. Either way each score and each output is one chain of
// mma over the same k in the same order. The sum of the probabilities is one more column of values, all ones:
// it goes through the same chain, and needs no exchange between lanes.
//
// Tiles of keys and values arrive in a ring of slots (attention_loads.cuh), in the order in which they are
// used, across splits. Rows of shared memory are swizzled by 16-byte chunks, so that ldmatrix meets no bank
// twice.
//
// v1  one tile on its way, 16 queries per warp. Measured on an H200: 1 row behind 512 keys 23.7 µs, 16 rows
//     behind 4,096 keys 61 % of the read stream; 2,048 rows 82 TFLOP/s, 8,192 rows 118
// v2  ring of 3 or 4 slots, ids of blocks a tile ahead, 32 queries per warp (half the ldmatrix per mma),
// masks
//     and rescaling only where they change a bit, the longest tiles first, one pass per query over its splits
#pragma once

#include "kernels/cuda/attention_loads.cuh"
#include "kernels/cuda/attention_state.cuh"

namespace tuili::cuda {

// scores[i][j] = q · k of the warp's i-th 16 queries and its j-th 8 keys: one chain over ascending steps of
// 16 d.
template <typename Shape>
__device__ __forceinline__ void multiply_keys(Scores<Shape>& scores, const typename Shape::Storage& shared,
                                              const typename Shape::Tile& keys, const Place& at) {
#pragma unroll(Shape::kQueryTiles > 1 ? 2 : Shape::kHeadDim / 16)  // all at once would spill
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    uint32_t a[Shape::kQueryTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kQueryTiles; ++i) {
      const int query = at.first_query + 16 * i + at.lane % 16;
      ptx::ldmatrix_x4(a[i], place<Shape::kHeadDim>(shared.q, query, d / kChunk + at.lane / 16));
    }
#pragma unroll
    for (int j = 0; j < Shape::kKeyTiles; j += 2) {
      uint32_t b[4];
      const int key = at.first_key + 8 * j + at.lane / 16 * 8 + at.lane % 8;
      ptx::ldmatrix_x4(b, place<Shape::kHeadDim>(keys, key, d / kChunk + at.lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < Shape::kQueryTiles; ++i) {
        ptx::mma_m16n8k16<typename Shape::Element>(scores.of[i][j], a[i], {b[0], b[1]});
        ptx::mma_m16n8k16<typename Shape::Element>(scores.of[i][j + 1], a[i], {b[2], b[3]});
      }
    }
  }
}

// The probabilities of 16 keys as mma's a: from the warp's own scores, or from those that all warps have put
// into shared memory.
template <typename Shape>
__device__ __forceinline__ void load_probabilities(uint32_t (&a)[4],
                                                   const uint32_t (&own)[Shape::kKeyTiles][2],
                                                   const typename Shape::Storage& shared, int step,
                                                   int lane) {
  if constexpr (Shape::kKeyWarps == 1) {
    a[0] = own[2 * step][0];
    a[1] = own[2 * step][1];
    a[2] = own[2 * step + 1][0];
    a[3] = own[2 * step + 1][1];
  } else {
    ptx::ldmatrix_x4(a, place<kKeyTile>(shared.exchange.p, lane % 16, 2 * step + lane / 16));
  }
}

// out += p · v and sum += p · 1, over ascending steps of 16 keys.
template <typename Shape>
__device__ __forceinline__ void multiply_values(AttentionState<Shape>& state, const Probabilities<Shape>& own,
                                                const typename Shape::Storage& shared,
                                                const typename Shape::Tile& values, const Place& at) {
  using T = typename Shape::Element;
  const uint32_t one = ptx::pack<T>(1.0f, 1.0f);
#pragma unroll
  for (int step = 0; step < kKeyTile / 16; ++step) {
    uint32_t a[Shape::kQueryTiles][4];
#pragma unroll
    for (int i = 0; i < Shape::kQueryTiles; ++i) {
      load_probabilities<Shape>(a[i], own.of[i], shared, step, at.lane);
      ptx::mma_m16n8k16<T>(state.sum[i], a[i], {one, one});
    }
#pragma unroll
    for (int j = 0; j < Shape::kOutTiles; j += 2) {
      uint32_t b[4];
      const int chunk = at.first_d / kChunk + j + at.lane / 16;
      ptx::ldmatrix_x4_transposed(b, place<Shape::kHeadDim>(values, 16 * step + at.lane % 16, chunk));
#pragma unroll
      for (int i = 0; i < Shape::kQueryTiles; ++i) {
        ptx::mma_m16n8k16<T>(state.out[i][j], a[i], {b[0], b[1]});
        ptx::mma_m16n8k16<T>(state.out[i][j + 1], a[i], {b[2], b[3]});
      }
    }
  }
}

// Tile t of the block's, its first key at `key`.
template <typename Shape>
__device__ __forceinline__ void attend_tile(AttentionState<Shape>& state, typename Shape::Storage& shared,
                                            const AttentionProblem& problem, const QueryTile& tile,
                                            const Place& at, int t, int key) {
  ptx::cp_async_wait<Shape::kSlots - 2>();
  __syncthreads();  // the keys are there, and nobody reads the values before them any more
  start_load<Shape>(shared, problem, tile, t, key, Shape::kSlots - 1);
  Scores<Shape> scores = {};
  multiply_keys<Shape>(scores, shared, shared.tiles[2 * t % Shape::kSlots], at);
  const int own_key = key + at.first_key + at.lane % 4 * 2;
  if (problem.softcap > 0.0f || problem.bias != nullptr) scale_scores<Shape>(scores, problem);
  if (problem.bias != nullptr) add_bias<Shape>(scores, problem, tile, at, own_key);
  const SeenKeys all_see = shared.all_see[threadIdx.x / 32];
  if (key < all_see.begin || key + kKeyTile > all_see.end) hide_unseen<Shape>(scores, tile, at, own_key);
  rescale<Shape>(state, scores, problem, shared, at);
  Probabilities<Shape> own;
  to_probabilities<Shape>(own, scores, state, problem, shared, at);
  ptx::cp_async_wait<Shape::kSlots - 2>();
  __syncthreads();  // the values and all probabilities are there, and nobody reads the keys any more
  start_load<Shape>(shared, problem, tile, t, key, Shape::kSlots);
  multiply_values<Shape>(state, own, shared, shared.tiles[(2 * t + 1) % Shape::kSlots], at);
}

// Block (x, y, z): of kv head x a query tile, the last for y = 0, of sequence z / n_splits: the longest tiles
// of all heads go first. Where splits are shared out it computes split z % n_splits into `partials`, else all
// splits one after another, merging each into the first partial.
template <typename Shape>
__global__ void __launch_bounds__(kAttentionThreads, Shape::kBlocks)
    attention_kernel(AttentionProblem problem) {
  auto& shared = shared_storage<typename Shape::Storage>();
  QueryTile tile(problem, blockIdx.z / problem.n_splits, blockIdx.x, gridDim.y - 1 - blockIdx.y,
                 Shape::kQueries);
  if (tile.count <= 0) return;
  if (problem.n_splits > 1) {
    const int split = blockIdx.z % problem.n_splits;
    tile.begin = larger(tile.begin, split * kKeySplit);
    tile.end = smaller(tile.end, (split + 1) * kKeySplit);
    if (tile.begin >= tile.end && split > 0) return;
  }
  const int first_key = tile.begin / kKeyTile * kKeyTile;
#pragma unroll
  for (int i = 0; i < Shape::kSlots - 1; ++i) start_load<Shape>(shared, problem, tile, 0, first_key, i);
  load_queries<Shape>(shared, problem, tile);
  const Place at = Place::of<Shape>();
  if (at.lane == 0) shared.all_see[threadIdx.x / 32] = tile.all_see(at.first_query, 16 * Shape::kQueryTiles);
  AttentionState<Shape> state;
  state.clear();
  for (int key = first_key, t = 0; key < tile.end; key += kKeyTile, ++t) {
    attend_tile<Shape>(state, shared, problem, tile, at, t, key);
    const int next = key + kKeyTile;
    if (next % kKeySplit != 0 || next >= tile.end) continue;
    if (key / kKeySplit > tile.begin / kKeySplit) merge_partial<Shape>(state, problem, tile, at);
    store_partial<Shape>(state, problem, tile, at, 0);
    state.clear();
  }
  if (problem.n_splits > 1 && tile.sequence.n_keys > kKeySplit)
    return store_partial<Shape>(state, problem, tile, at, blockIdx.z % problem.n_splits);
  if ((tile.end - 1) / kKeySplit > tile.begin / kKeySplit) merge_partial<Shape>(state, problem, tile, at);
  store_out<Shape>(state, problem, tile, at);
}

// Block (x, z): four queries of sequence z whose splits were shared out, a warp each.
__global__ void __launch_bounds__(kAttentionThreads) attention_combine_kernel(AttentionProblem problem) {
  const AttentionSequence sequence = problem.sequences[blockIdx.z];
  const int query = blockIdx.x * kAttentionWarps + threadIdx.x / 32;
  const int row = query / problem.n_heads, head = query % problem.n_heads;
  if (sequence.n_keys <= kKeySplit || row >= sequence.n_rows) return;
  const SeenKeys seen = seen_keys(problem, sequence, row);
  const int64_t place_of_query = static_cast<int64_t>(sequence.first_row) * problem.n_heads + query;
  const int first_d = threadIdx.x % 32 * 2;
  float max = kNone, sum = 0.0f;
  float2 out[kLargestHead / 64] = {};
#pragma unroll 4
  for (int split = seen.begin / kKeySplit; split * kKeySplit < seen.end; ++split) {
    const Partial next = partial_of(problem, place_of_query, split);
    const Merge merge(max, sum, *next.max, *next.sum);
#pragma unroll
    for (int i = 0; i < kLargestHead / 64; ++i) {
      if (first_d + 64 * i >= problem.head_dim) continue;
      out[i] = merge.of(out[i], *next.pair(first_d + 64 * i));
    }
    max = merge.max;
    sum = merge.sum;
  }
  const Finish finish(problem, head, max, sum);
#pragma unroll
  for (int i = 0; i < kLargestHead / 64; ++i) {
    const int d = first_d + 64 * i;
    if (d >= problem.head_dim) continue;
    store_result(problem, sequence.first_row + row, head, d, finish.of(out[i].x));
    store_result(problem, sequence.first_row + row, head, d + 1, finish.of(out[i].y));
  }
}

}  // namespace tuili::cuda
