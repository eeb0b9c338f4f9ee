// Attention over pages on tensor cores: prefill, extension, encoders and decoding are one kernel, so that a
// query's bits are the same in each. Contract and order of sums: kernels.h.
//
// A block computes the queries (a query is a row of one head) of one kv head, 64 or 16 of them: wide, each of
// 4 warps takes 16 queries; narrow, for decoding, the warps share 16 queries: they divide the keys of a score
// tile, and then the dimensions of the output. Either way each score and each output is one chain of mma over
// the same k in the same order. The sum of the probabilities is one more column of values, all ones: it goes
// through the same chain, and needs no exchange between lanes.
//
// Keys arrive while the values before them are multiplied, and values while scores are computed. Rows of
// shared memory are swizzled by 16-byte chunks, so that ldmatrix meets no bank twice.
//
// v1  24, 48 and 96 KiB of shared memory for heads of 64, 128 and 256. Predicted: decoding keeps 16 to 64 KiB
//     on their way per SM, 80 % of an H100's bandwidth from 4 blocks per SM on; prefill is bound by ldmatrix
//     (8 per 16 mma), about 60 % of what mma.sync reaches.
#pragma once

#include "kernels/cuda/attention_state.cuh"

namespace tuili::cuda {

// Copies the block's keys or values of tile `first_key` into `to`. Keys that no query sees, and dimensions
// past head_dim, are zero. The copies may still be under way on return.
template <typename Shape>
__device__ __forceinline__ void start_keys(typename Shape::Element (&to)[kKeyTile][Shape::kHeadDim],
                                           const void* pages, const AttentionProblem& problem,
                                           const QueryTile& tile, int first_key) {
  using T = typename Shape::Element;
  constexpr int kChunks = Shape::kHeadDim / kChunk;
  const T* const all = static_cast<const T*>(pages);
#pragma unroll
  for (int i = threadIdx.x; i < kKeyTile * kChunks; i += kAttentionThreads) {
    const int row = i / kChunks, chunk = i % kChunks, key = first_key + row;
    const bool exists = key >= tile.begin && key < tile.end && chunk * kChunk < problem.head_dim;
    const T* source = all;
    if (exists) {
      const int64_t block = tile.blocks[key >> problem.block_shift];
      const int offset = tile.kv_head * problem.block_size + (key & (problem.block_size - 1));
      source +=
          block * problem.block_stride + static_cast<int64_t>(offset) * problem.head_dim + chunk * kChunk;
    }
    ptx::cp_async_16(place<Shape::kHeadDim>(to, row, chunk), source, exists ? kVectorBytes : 0);
  }
}

// Rounds the block's queries to the type of the pages. Those that do not exist, and dimensions past head_dim,
// are zero.
template <typename Shape>
__device__ __forceinline__ void load_queries(typename Shape::Storage& shared, const AttentionProblem& problem,
                                             const QueryTile& tile) {
  using T = typename Shape::Element;
  constexpr int kPairs = Shape::kHeadDim / 2;
  for (int i = threadIdx.x; i < Shape::kQueries * kPairs; i += kAttentionThreads) {
    const int query = i / kPairs, d = i % kPairs * 2;
    float low = 0.0f, high = 0.0f;
    if (tile.has(query) && d < problem.head_dim) {
      const float* q = problem.q + tile.row(query) * problem.ld_q + tile.head(query) * problem.head_dim + d;
      low = q[0];
      high = q[1];
    }
    T* to = place<Shape::kHeadDim>(shared.q, query, d / kChunk) + d % kChunk;
    *reinterpret_cast<uint32_t*>(to) = ptx::pack<T>(low, high);
  }
}

// scores[j] = q · k of the warp's 16 queries and its j-th 8 keys: one chain over ascending steps of 16 d.
template <typename Shape>
__device__ __forceinline__ void multiply_keys(float (&scores)[Shape::kKeyTiles][4],
                                              const typename Shape::Storage& shared, const Place& at) {
#pragma unroll
  for (int d = 0; d < Shape::kHeadDim; d += 16) {
    uint32_t a[4];
    ptx::ldmatrix_x4(
        a, place<Shape::kHeadDim>(shared.q, at.first_query + at.lane % 16, d / kChunk + at.lane / 16));
#pragma unroll
    for (int j = 0; j < Shape::kKeyTiles; j += 2) {
      uint32_t b[4];
      const int key = at.first_key + 8 * j + at.lane / 16 * 8 + at.lane % 8;
      ptx::ldmatrix_x4(b, place<Shape::kHeadDim>(shared.k, key, d / kChunk + at.lane / 8 % 2));
      ptx::mma_m16n8k16<typename Shape::Element>(scores[j], a, {b[0], b[1]});
      ptx::mma_m16n8k16<typename Shape::Element>(scores[j + 1], a, {b[2], b[3]});
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
__device__ __forceinline__ void multiply_values(AttentionState<Shape>& state,
                                                const uint32_t (&own)[Shape::kKeyTiles][2],
                                                const typename Shape::Storage& shared, const Place& at) {
  using T = typename Shape::Element;
  const uint32_t one = ptx::pack<T>(1.0f, 1.0f);
#pragma unroll
  for (int step = 0; step < kKeyTile / 16; ++step) {
    uint32_t a[4];
    load_probabilities<Shape>(a, own, shared, step, at.lane);
    ptx::mma_m16n8k16<T>(state.sum, a, {one, one});
#pragma unroll
    for (int j = 0; j < Shape::kOutTiles; j += 2) {
      uint32_t b[4];
      const int chunk = at.first_d / kChunk + j + at.lane / 16;
      ptx::ldmatrix_x4_transposed(b, place<Shape::kHeadDim>(shared.v, 16 * step + at.lane % 16, chunk));
      ptx::mma_m16n8k16<T>(state.out[j], a, {b[0], b[1]});
      ptx::mma_m16n8k16<T>(state.out[j + 1], a, {b[2], b[3]});
    }
  }
}

// The split [begin, end) of keys, whole tiles of which at least one query sees a key, from a fresh state.
template <typename Shape>
__device__ __forceinline__ void attend_split(AttentionState<Shape>& state, typename Shape::Storage& shared,
                                             const AttentionProblem& problem, const QueryTile& tile,
                                             const Place& at, const SeenKeys (&seen)[2], int begin, int end) {
  state.clear();
  start_keys<Shape>(shared.k, problem.k, problem, tile, begin);
  ptx::cp_async_commit();
  for (int key = begin; key < end; key += kKeyTile) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // the keys are there, and nobody reads the values before them any more
    start_keys<Shape>(shared.v, problem.v, problem, tile, key);
    ptx::cp_async_commit();
    float scores[Shape::kKeyTiles][4] = {};
    multiply_keys<Shape>(scores, shared, at);
    scale_and_hide<Shape>(scores, problem, seen, key + at.first_key + at.lane % 4 * 2);
    rescale<Shape>(state, scores, shared, at);
    uint32_t own[Shape::kKeyTiles][2];
    to_probabilities<Shape>(own, scores, state, shared, at);
    ptx::cp_async_wait<0>();
    __syncthreads();  // the values and all probabilities are there, and nobody reads the keys any more
    if (key + kKeyTile < end) start_keys<Shape>(shared.k, problem.k, problem, tile, key + kKeyTile);
    ptx::cp_async_commit();
    multiply_values<Shape>(state, own, shared, at);
  }  // the next split may load its keys: nobody has read these since the last barrier
}

// Block (x, y, z): query tile x of kv head y of sequence z / n_splits. Where splits are shared out it
// computes split z % n_splits into `partials`, else all splits one after another, merging each into the first
// partial.
template <typename Shape>
__global__ void __launch_bounds__(kAttentionThreads, Shape::kBlocks)
    attention_kernel(AttentionProblem problem) {
  auto& shared = shared_storage<typename Shape::Storage>();
  const QueryTile tile(problem, blockIdx.z / problem.n_splits, blockIdx.y, blockIdx.x, Shape::kQueries);
  if (tile.count <= 0) return;
  const Place at = Place::of<Shape>();
  const SeenKeys seen[2] = {tile.seen(problem, at.query(0)), tile.seen(problem, at.query(1))};
  load_queries<Shape>(shared, problem, tile);
  AttentionState<Shape> state;
  state.clear();
  int split = tile.begin / kKeySplit, last = (tile.end - 1) / kKeySplit;
  const bool one_split = tile.sequence.n_keys <= kKeySplit;
  if (problem.n_splits > 1) {
    const int own = blockIdx.z % problem.n_splits;
    if (own > 0 && (own < split || own > last)) return;
    split = last = own;
  }
  for (const int first = split; split <= last; ++split) {
    const int begin = larger(split * kKeySplit, tile.begin / kKeyTile * kKeyTile);
    const int end = smaller((split + 1) * kKeySplit, tile.end);
    attend_split<Shape>(state, shared, problem, tile, at, seen, begin, end);
    if (problem.n_splits > 1 && !one_split) return store_partial<Shape>(state, problem, tile, at, split);
    if (split > first) merge_partial<Shape>(state, problem, tile, at);
    if (split < last) store_partial<Shape>(state, problem, tile, at, 0);
  }
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
  for (int d = threadIdx.x % 32; d < problem.head_dim; d += 32) {
    float max = kNone, sum = 0.0f, out = 0.0f;
    for (int split = seen.begin / kKeySplit; split * kKeySplit < seen.end; ++split) {
      const Partial next = partial_of(problem, place_of_query, split);
      const Merge merge(max, sum, *next.max, *next.sum);
      out = merge.of(out, next.out[d]);
      max = merge.max;
      sum = merge.sum;
    }
    store_result(problem, sequence.first_row + row, head, d, __fmaf_rn(out, inverse_sum(sum), 0.0f));
  }
}

}  // namespace tuili::cuda
