// Tiles of int8 pages: codes on their way, and what the tensor cores read of them.
#pragma once

#include "kernels/cuda/attention_state.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

// Starts to copy a tile of codes and scales, as start_tile one of halves: what is not there is 0.
template <typename Shape>
__device__ __forceinline__ void start_codes(typename Shape::Codes& to, const void* pages, const float* scales,
                                            const AttentionProblem& problem, const QueryTile& tile,
                                            const TileBlocks& blocks, int first_key) {
  constexpr int kChunks = Shape::kHeadDim / kChunk, kRows = kAttentionThreads / kChunks;
  const int first_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const bool has_chunk = chunk * kChunk < problem.head_dim;
  const auto n_wanted = static_cast<unsigned>(larger(0, tile.end - tile.begin));
#pragma unroll(Shape::kQueryTiles > 1 ? 2 : kKeyTile / kPiece)  // all at once would spill
  for (int i = 0; i < kKeyTile / kPiece; ++i) {
    const int key = first_key + i * kPiece;
    const int row = tile.kv_head * problem.block_size + (key & (problem.block_size - 1)) + first_row;
    const int in_block = row * problem.head_dim + (has_chunk ? chunk * kChunk : 0);
    const int64_t block = blocks.of(i);
    const auto* const source = static_cast<const int8_t*>(pages) + (block * problem.block_stride + in_block);
    const float* const scale = scales + (block * problem.scale_stride + row);
#pragma unroll
    for (int r = 0; r < kPiece; r += kRows) {
      const int place = i * kPiece + first_row + r;
      const bool is_wanted = static_cast<unsigned>(key + first_row + r - tile.begin) < n_wanted;
      ptx::cp_async_few<kChunk>(&to.of[place][chunk * kChunk], source + r * problem.head_dim,
                                is_wanted && has_chunk ? kChunk : 0);
      if (chunk == 0) ptx::cp_async_few<4>(&to.scales[place], scale + r, is_wanted ? 4 : 0);
    }
  }
}

// f32(scale · code) of signed bytes kFirst and kFirst + 1, as two f16.
template <int kFirst>
__device__ __forceinline__ uint32_t decoded(uint32_t codes, float scale) {
  return ptx::pack<__half>(__fmul_rn(ptx::signed_byte<kFirst>(codes), scale),
                           __fmul_rn(ptx::signed_byte<kFirst + 1>(codes), scale));
}

// Codes that have arrived become halves. A thread reads the codes that it has copied itself, and scales that
// its warp has; so the barrier after it is the only one that others need.
template <typename Shape>
__device__ __forceinline__ void decode_tile(typename Shape::Tile& to, const typename Shape::Codes& from) {
  constexpr int kChunks = Shape::kHeadDim / kChunk, kRows = kAttentionThreads / kChunks;
  const int first_row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  static_assert(kChunks <= 32, "a row is one warp's");
  __syncwarp();  // the warp's scales are there
#pragma unroll 4
  for (int row = first_row; row < kKeyTile; row += kRows) {
    const float scale = from.scales[row];
    const uint2 codes = *reinterpret_cast<const uint2*>(&from.of[row][chunk * kChunk]);
    *reinterpret_cast<uint4*>(place<Shape::kHeadDim>(to, row, chunk)) = {
        decoded<0>(codes.x, scale), decoded<2>(codes.x, scale), decoded<0>(codes.y, scale),
        decoded<2>(codes.y, scale)};
  }
}

// Decodes load n, which has arrived, where its pages are of codes.
template <typename Shape>
__device__ __forceinline__ void prepare_load(typename Shape::Storage& shared, int n) {
  if constexpr (Shape::kCoded)
    decode_tile<Shape>(shared.tiles[n % Shape::kTiles], shared.codes[n % Shape::kSlots]);
}

}  // namespace tuili::cuda
