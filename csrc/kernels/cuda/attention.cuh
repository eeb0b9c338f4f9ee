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
// v1  one tile on its way, 16 queries per warp. On an H200: 1 row behind 512 keys 23.7 µs, 16 rows behind
//     4,096 keys 61 % of the read stream; 2,048 rows 82 TFLOP/s, 8,192 rows 118
// v2  ring of slots, 32 queries per warp (half the ldmatrix per mma), masks and rescaling only where they
//     change a bit: 11.3 µs, 76 %, 136 TFLOP/s, 240
// v3  the longest tiles of all heads first, slim blocks for few rows, blocks of pages looked up a load ahead,
//     partials of 8 splits at once: 10.0 µs, 82 %, 185 TFLOP/s, 245 of the 645 that mma.sync reaches
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
                                            const Place& at, TileBlocks& blocks, int t, int key) {
  ptx::cp_async_wait<Shape::kSlots - 2>();
  if constexpr (Shape::kCoded && Shape::kTiles == 1) __syncthreads();  // nobody reads the values before them
  prepare_load<Shape>(shared, 2 * t);
  __syncthreads();  // the keys are there, and nobody reads the values before them any more
  Scores<Shape> scores = {};
  // With scores of two tiles of queries no registers would be left for it.
  constexpr bool kLoadsFirst = Shape::kQueryTiles > 1;
  if constexpr (kLoadsFirst) start_load<Shape, Shape::kSlots - 1>(shared, problem, tile, blocks, t, key);
  multiply_keys<Shape>(scores, shared, shared.tiles[2 * t % Shape::kTiles], at);
  if constexpr (!kLoadsFirst) start_load<Shape, Shape::kSlots - 1>(shared, problem, tile, blocks, t, key);
  const int own_key = key + at.first_key + at.lane % 4 * 2;
  if (problem.softcap > 0.0f || problem.bias != nullptr) scale_scores<Shape>(scores, problem);
  if (problem.bias != nullptr) add_bias<Shape>(scores, tile, at, own_key);
  const SeenKeys all_see = shared.all_see[threadIdx.x / 32];
  if (key < all_see.begin || key + kKeyTile > all_see.end) hide_unseen<Shape>(scores, tile, at, own_key);
  rescale<Shape>(state, scores, problem, shared, at);
  Probabilities<Shape> own;
  to_probabilities<Shape>(own, scores, state, problem, shared, at);
  ptx::cp_async_wait<Shape::kSlots - 2>();
  if constexpr (Shape::kCoded && Shape::kTiles == 1 && Shape::kKeyWarps == 1)
    __syncthreads();  // nobody reads the keys any more; with shared queries the exchange of maxima says so
  prepare_load<Shape>(shared, 2 * t + 1);
  __syncthreads();  // the values and all probabilities are there, and nobody reads the keys any more
  if constexpr (kLoadsFirst) start_load<Shape, Shape::kSlots>(shared, problem, tile, blocks, t, key);
  multiply_values<Shape>(state, own, shared, shared.tiles[(2 * t + 1) % Shape::kTiles], at);
  if constexpr (!kLoadsFirst) start_load<Shape, Shape::kSlots>(shared, problem, tile, blocks, t, key);
}

// Block (x, y, z): of kv head x a query tile, the last for y = 0, of sequence z / n_splits: the longest tiles
// of all heads go first. Where splits are shared out it computes split z % n_splits into `partials`, else all
// splits one after another, merging each into the first partial.
template <typename Shape>
__global__ void __launch_bounds__(kAttentionThreads, Shape::kBlocks)
    attention_kernel(AttentionProblem problem) {
  ptx::wait_for_kernels_before();
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
  TileBlocks blocks;
  start_first_loads<Shape>(shared, problem, tile, blocks, first_key);
  load_queries<Shape>(shared, problem, tile);
  const Place at = Place::of<Shape>();
  if (at.lane == 0) shared.all_see[threadIdx.x / 32] = tile.all_see(at.first_query, 16 * Shape::kQueryTiles);
  AttentionState<Shape> state;
  state.clear();
  for (int key = first_key, t = 0; key < tile.end; key += kKeyTile, ++t) {
    attend_tile<Shape>(state, shared, problem, tile, at, blocks, t, key);
    const int next = key + kKeyTile;
    if (next % kKeySplit != 0 || next >= tile.end) continue;
    if (key / kKeySplit > tile.begin / kKeySplit) merge_partial<Shape>(state, problem, tile, at);
    store_partial<Shape>(state, problem, tile, at, 0);
    state.clear();
  }
  if constexpr (Shape::kKeyWarps > 1) let_next_kernel_start(Phase::ends);
  if (problem.n_splits > 1 && tile.sequence.n_keys > kKeySplit)
    return store_partial<Shape>(state, problem, tile, at, blockIdx.z % problem.n_splits);
  if ((tile.end - 1) / kKeySplit > tile.begin / kKeySplit) merge_partial<Shape>(state, problem, tile, at);
  store_out<Shape>(state, problem, tile, at);
}

// Block (x, y, z): dimensions 64 y … 64 y + 63 of four queries of sequence z whose splits were shared out, a
// warp each. The partials of 8 splits are on their way at once; those past the end are empty and change no
// bit.
__global__ void __launch_bounds__(kAttentionThreads) attention_combine_kernel(AttentionProblem problem) {
  follow_kernels_before();
  constexpr int kAtOnce = 8;
  const AttentionSequence sequence = problem.sequences[blockIdx.z];
  const int query = blockIdx.x * kAttentionWarps + threadIdx.x / 32;
  const int row = query / problem.n_heads, head = query % problem.n_heads;
  const int d = blockIdx.y * kCombined + threadIdx.x % 32 * 2;
  if (sequence.n_keys <= kKeySplit || row >= sequence.n_rows || d >= problem.head_dim) return;
  const SeenKeys seen = seen_keys(problem, sequence, row);
  const int64_t place_of_query = static_cast<int64_t>(sequence.first_row) * problem.n_heads + query;
  const int n_splits = (seen.end + kKeySplit - 1) / kKeySplit;
  float max = kNone, sum = 0.0f;
  float2 out = {};
  for (int first = seen.begin / kKeySplit; first < n_splits; first += kAtOnce) {
    float maxima[kAtOnce], sums[kAtOnce];
    float2 outs[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const bool exists = first + i < n_splits;
      const Partial next = partial_of(problem, place_of_query, first + i);
      maxima[i] = exists ? *next.max : kNone;
      sums[i] = exists ? *next.sum : 0.0f;
      outs[i] = exists ? *next.pair(d) : float2{};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Merge merge(max, sum, maxima[i], sums[i]);
      out = merge.of(out, outs[i]);
      max = merge.max;
      sum = merge.sum;
    }
  }
  const Finish finish(problem, head, max, sum);
  store_result(problem, sequence.first_row + row, head, d, finish.of(out.x));
  store_result(problem, sequence.first_row + row, head, d + 1, finish.of(out.y));
}

}  // namespace tuili::cuda
