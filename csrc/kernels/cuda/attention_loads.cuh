// What attention brings into shared memory: queries, and a ring of tiles of keys and values.
#pragma once

#include "kernels/cuda/attention_codes.cuh"

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
                                           const TileBlocks& blocks, int first_key) {
  using T = typename Shape::Element;
  constexpr int kChunks = Shape::kHeadDim / kChunk, kRows = kAttentionThreads / kChunks;
  static_assert(kPiece % kRows == 0, "the rows that are copied at once lie in one piece");
  const int first_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const bool has_chunk = chunk * kChunk < problem.head_dim;
  const auto n_wanted = static_cast<unsigned>(has_chunk ? larger(0, tile.end - tile.begin) : 0);
#pragma unroll(Shape::kQueryTiles > 1 ? 2 : kKeyTile / kPiece)  // all at once would spill
  for (int i = 0; i < kKeyTile / kPiece; ++i) {
    const int key = first_key + i * kPiece;
    const int row = tile.kv_head * problem.block_size + (key & (problem.block_size - 1)) + first_row;
    const int in_block = row * problem.head_dim + (has_chunk ? chunk * kChunk : 0);
    const T* const source = static_cast<const T*>(pages) + (blocks.of(i) * problem.block_stride + in_block);
#pragma unroll
    for (int r = 0; r < kPiece; r += kRows) {
      const bool is_wanted = static_cast<unsigned>(key + first_row + r - tile.begin) < n_wanted;
      ptx::cp_async_16(place<Shape::kHeadDim>(to, i * kPiece + first_row + r, chunk),
                       source + r * problem.head_dim, is_wanted ? kVectorBytes : 0);
    }
  }
}

// Starts load 2 · t + kAhead, in the order of use: the keys of tile 0, its values, the keys of tile 1 … `key`
// is tile t's first, `blocks` are the load's, and then the next one's. Load n goes into slot n % kSlots and
// is a group of cp.async of its own; past the end it is empty, which keeps the count right.
template <typename Shape, int kAhead>
__device__ __forceinline__ void start_load(typename Shape::Storage& shared, const AttentionProblem& problem,
                                           const QueryTile& tile, TileBlocks& blocks, int t, int key) {
  const int first_key = key + kAhead / 2 * kKeyTile;
  if (first_key < tile.end) {
    const int slot = (2 * t + kAhead) % Shape::kSlots;
    const void* const pages = kAhead % 2 == 0 ? problem.k : problem.v;
    if constexpr (Shape::kCoded)
      start_codes<Shape>(shared.codes[slot], pages, kAhead % 2 == 0 ? problem.k_scale : problem.v_scale,
                         problem, tile, blocks, first_key);
    else
      start_tile<Shape>(shared.tiles[slot], pages, problem, tile, blocks, first_key);
  }
  ptx::cp_async_commit();
  if constexpr (kAhead % 2 != 0) blocks.find(problem, tile, first_key + kKeyTile);
}

// The first loads: all slots but one.
template <typename Shape, int kAhead = 0>
__device__ __forceinline__ void start_first_loads(typename Shape::Storage& shared,
                                                  const AttentionProblem& problem, const QueryTile& tile,
                                                  TileBlocks& blocks, int key) {
  if constexpr (kAhead == 0) blocks.find(problem, tile, key);
  start_load<Shape, kAhead>(shared, problem, tile, blocks, 0, key);
  if constexpr (kAhead + 2 < Shape::kSlots)
    start_first_loads<Shape, kAhead + 1>(shared, problem, tile, blocks, key);
}

}  // namespace tuili::cuda
