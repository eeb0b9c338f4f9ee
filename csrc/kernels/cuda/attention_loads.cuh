// What attention brings into shared memory: queries, and a ring of tiles of keys and values.
#pragma once

#include "kernels/cuda/attention_state.cuh"

namespace tuili::cuda {

// Rounds the block's queries to the type of the pages. Those that do not exist, and dimensions past head_dim,
// are zero.
template <typename Shape>
__device__ __forceinline__ void load_queries(typename Shape::Storage& shared, const AttentionProblem& problem,
                                             const QueryTile& tile) {
  using T = typename Shape::Element;
  constexpr int kChunks = Shape::kHeadDim / kChunk;
#pragma unroll 2
  for (int i = threadIdx.x; i < Shape::kQueries * kChunks; i += kAttentionThreads) {
    const int query = i / kChunks, chunk = i % kChunks;
    float4 low = {}, high = {};
    if (tile.has(query) && chunk * kChunk < problem.head_dim) {
      const auto* q = reinterpret_cast<const float4*>(problem.q + tile.row(query) * problem.ld_q +
                                                      tile.head(query) * problem.head_dim + chunk * kChunk);
      low = q[0];
      high = q[1];
    }
    *reinterpret_cast<uint4*>(place<Shape::kHeadDim>(shared.q, query, chunk)) = {
        ptx::pack<T>(low.x, low.y), ptx::pack<T>(low.z, low.w), ptx::pack<T>(high.x, high.y),
        ptx::pack<T>(high.z, high.w)};
  }
}

// Starts to copy a tile of keys or values of the block's kv head, the first at `first_key`. Keys that no
// query sees, and dimensions past head_dim, are zero.
template <typename Shape>
__device__ __forceinline__ void start_tile(typename Shape::Tile& to, const void* pages,
                                           const AttentionProblem& problem, const QueryTile& tile,
                                           int first_key) {
  using T = typename Shape::Element;
  constexpr int kPiece = 16;  // keys, the least that a block of pages holds
  constexpr int kChunks = Shape::kHeadDim / kChunk, kRows = kAttentionThreads / kChunks;
  static_assert(kPiece % kRows == 0, "the rows that are copied at once lie in one piece");
  const int first_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const bool has_chunk = chunk * kChunk < problem.head_dim;
  const auto n_wanted = static_cast<unsigned>(has_chunk ? larger(0, tile.end - tile.begin) : 0);
#pragma unroll
  for (int piece = 0; piece < kKeyTile; piece += kPiece) {
    const int key = first_key + piece;
    const bool exists = key < tile.end && key + kPiece > tile.begin;
    const int64_t block = exists ? problem.blocks[tile.sequence.first_block + (key >> problem.block_shift)]
                                 : 0;  // none is a valid address, too
    const int row = tile.kv_head * problem.block_size + (key & (problem.block_size - 1)) + first_row;
    const int in_block = row * problem.head_dim + (has_chunk ? chunk * kChunk : 0);
    const T* const source = static_cast<const T*>(pages) + (block * problem.block_stride + in_block);
#pragma unroll
    for (int r = 0; r < kPiece; r += kRows) {
      const bool is_wanted = static_cast<unsigned>(key + first_row + r - tile.begin) < n_wanted;
      ptx::cp_async_16(place<Shape::kHeadDim>(to, piece + first_row + r, chunk),
                       source + r * problem.head_dim, is_wanted ? kVectorBytes : 0);
    }
  }
}

// Starts load 2 · t + ahead, in the order of use: the keys of tile 0, its values, the keys of tile 1 … `key`
// is tile t's first. Load n goes into slot n % kSlots and is a group of cp.async of its own; past the end it
// is empty, which keeps the count right.
template <typename Shape>
__device__ __forceinline__ void start_load(typename Shape::Storage& shared, const AttentionProblem& problem,
                                           const QueryTile& tile, int t, int key, int ahead) {
  const int first_key = key + ahead / 2 * kKeyTile;
  if (first_key < tile.end)
    start_tile<Shape>(shared.tiles[(2 * t + ahead) % Shape::kSlots], ahead % 2 == 0 ? problem.k : problem.v,
                      problem, tile, first_key);
  ptx::cp_async_commit();
}

}  // namespace tuili::cuda
