// Products of rows sorted by expert with each expert's weights: a block finds the rows of its tile and their
// expert, and multiplies as gemm.cuh, gemm_quant.cuh and gemm_skinny.cuh do. The host knows neither.
//
// v1  a grid of as many tiles as there can be; tiles that are not there end at once. H200, 64 experts of
//     2,048 -> 1,024, 8 for each of 1, 16, 64, 2,048 tokens: bf16 12.3, 75, 76, 216 µs, Q4_0 5.8, 33.5, 35.4,
//     331
// v2  gemm.cuh's v6, and tiles of 64 × 64 for up to 64 rows of an expert: bf16 11.5, 71, 75, 208; Q4_0 as
//     before
#pragma once

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_quant.cuh"
#include "kernels/cuda/gemm_skinny.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {

struct ExpertProblem {
  float* y;
  const __nv_bfloat16* x;
  const ExpertMap* maps;
  const int32_t* first;
  int n_experts;
  int n, k;
  Access stores;
};

// Rows [row, end) of an expert, of which a tile takes the first; expert -1 where there is no such tile.
struct ExpertTile {
  int expert, row, end;
};

// Tile `tile` of those of kRows rows that the experts' rows make, each expert's from its first row on. Every
// warp finds it on its own.
template <int kRows>
__device__ __forceinline__ ExpertTile find_tile(const int32_t* first, int n_experts, int tile) {
  constexpr uint32_t kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  for (int e = 0; e < n_experts; e += 32) {
    const bool exists = e + lane < n_experts;
    const int begin = exists ? first[e + lane] : 0, end = exists ? first[e + lane + 1] : 0;
    const int n_tiles = (end - begin + kRows - 1) / kRows;
    int through = n_tiles;  // of this expert and those before
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int before = __shfl_sync(kAll, through, (lane - distance) & 31);
      if (lane >= distance) through += before;
    }
    const uint32_t votes = __ballot_sync(kAll, through > tile);
    if (votes != 0) {
      const int source = __ffs(static_cast<int>(votes)) - 1;
      const int row = begin + (tile - (through - n_tiles)) * kRows;
      return {e + source, __shfl_sync(kAll, row, source), __shfl_sync(kAll, end, source)};
    }
    tile -= __shfl_sync(kAll, through, 31);
  }
  return {-1, 0, 0};
}

template <typename Shape>
struct ExpertStorage {
  typename Shape::Storage tiles;
  ExpertTile tile;  // until the end: wide tiles leave no register for it
};

// The product of one expert's rows, of which those before `end` exist.
__device__ __forceinline__ GemmProblem product_of(const ExpertProblem& problem, int expert, int end) {
  const ExpertMap& map = problem.maps[expert];
  const auto* const w = reinterpret_cast<const __nv_bfloat16*>(map.w.codes);
  return {problem.y, problem.x, w, map.bias, end, problem.n, problem.k, problem.stores};
}

// Block (i, j): tile i of the experts' rows, tile j of their columns. k > 0: the tile's barriers stand
// between the two uses of shared.tile.
template <typename Shape, Access kAccess>
__global__ void __launch_bounds__(kTileThreads, 2) gemm_experts_kernel(ExpertProblem problem) {
  ptx::wait_for_kernels_before();
  auto& shared = shared_storage<ExpertStorage<Shape>>();
  const ExpertTile tile = find_tile<Shape::kTileM>(problem.first, problem.n_experts, blockIdx.x);
  if (tile.expert < 0) return;
  if (threadIdx.x == 0) shared.tile = tile;
  const int first_column = blockIdx.y * Shape::kTileN;
  float acc[Shape::kTilesM][Shape::kTilesN][4] = {};
  multiply_tile<Shape, kAccess>(acc, product_of(problem, tile.expert, tile.end), tile.row, first_column);
  const ExpertTile done = shared.tile;
  store_tile<Shape>(product_of(problem, done.expert, done.end), acc, done.row, first_column);
}

__device__ __forceinline__ QuantProblem quantized_product_of(const ExpertProblem& problem,
                                                             const ExpertTile& tile) {
  const ExpertMap& map = problem.maps[tile.expert];
  return {problem.y, problem.x, map.w.codes, map.bias, tile.end, problem.n, problem.k};
}

template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, 2) gemm_quant_experts_kernel(ExpertProblem problem) {
  ptx::wait_for_kernels_before();
  auto& shared = shared_storage<ExpertStorage<Shape>>();
  const ExpertTile tile = find_tile<Shape::kTileM>(problem.first, problem.n_experts, blockIdx.x);
  if (tile.expert < 0) return;
  if (threadIdx.x == 0) shared.tile = tile;
  const int first_column = blockIdx.y * Shape::kTileN;
  float acc[Shape::kPanels][Shape::kTiles][4] = {};
  multiply_tile<Shape>(acc, quantized_product_of(problem, tile), tile.row, first_column);
  const ExpertTile done = shared.tile;
  store_tile<Shape>(quantized_product_of(problem, done), acc, done.row, first_column);
}

template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, 3) gemm_skinny_experts_kernel(ExpertProblem problem) {
  ptx::wait_for_kernels_before();
  const ExpertTile tile = find_tile<Shape::kTileM>(problem.first, problem.n_experts, blockIdx.x);
  if (tile.expert < 0) return;
  skinny_tile<Shape>(quantized_product_of(problem, tile), tile.row, blockIdx.y * Shape::kTileN);
}

}  // namespace tuili::cuda
