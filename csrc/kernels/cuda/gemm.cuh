// GEMM on tensor cores for any m: y[m, n] = x[m, k] · w[n, k]ᵀ, bf16 inputs, f32 accumulators.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

// One tile for every shape: with another k step or split, a row's bits would depend on m.
inline constexpr int kTileM = 64;
inline constexpr int kTileN = 128;
inline constexpr int kTileK = 32;
inline constexpr int kStages =
    3;  // tiles of k in flight: 45 KiB of shared memory, below the 48 KiB that need no opt-in

// 4 warps, 2 × 2 over the tile; each computes 32 × 64 = 2 × 8 tiles of mma, 64 accumulators per thread.
inline constexpr int kGemmThreads = 128;
inline constexpr int kWarpM = 32;
inline constexpr int kWarpN = 64;

// 40 elements are 20 banks: the 8 rows of an ldmatrix begin at banks 0 20 8 28 16 4 24 12 and never collide.
inline constexpr int kRowStride = kTileK + 8;

struct GemmStage {
  __nv_bfloat16 x[kTileM][kRowStride];
  __nv_bfloat16 w[kTileN][kRowStride];
};

struct GemmStorage {
  GemmStage stages[kStages];
};

// Copies rows [first_row, first_row + kRows) × elements [first_k, first_k + kTileK) of a dense [n_rows, k]
// matrix into `to`; what lies outside the matrix is zero. The copies may still be under way on return.
template <Access kAccess, int kRows>
__device__ __forceinline__ void load_tile(__nv_bfloat16 (&to)[kRows][kRowStride], const __nv_bfloat16* from,
                                          int first_row, int n_rows, int first_k, int k) {
  constexpr int kChunk = kVectorBytes / sizeof(__nv_bfloat16);
  constexpr int kChunks = kTileK / kChunk;  // per row
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kChunks; i += kGemmThreads) {
    const int row = i / kChunks;
    const int column = i % kChunks * kChunk;
    const bool row_exists = first_row + row < n_rows;
    const __nv_bfloat16* source = from + static_cast<int64_t>(first_row + row) * k + first_k + column;
    if constexpr (kAccess == Access::vector) {  // k is a multiple of kChunk: a chunk is whole or absent
      const bool exists = row_exists && first_k + column < k;
      ptx::cp_async_16(&to[row][column], exists ? source : from, exists ? kVectorBytes : 0);
    } else {
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        const bool exists = row_exists && first_k + column + j < k;
        to[row][column + j] = exists ? source[j] : __float2bfloat16_rn(0.0f);
      }
    }
  }
}

// acc += the warp's 32 × 64 part of the stage's product, over its 32 k in ascending steps of 16.
__device__ __forceinline__ void multiply_stage(float (&acc)[2][8][4], const GemmStage& stage, int warp_m,
                                               int warp_n, int lane) {
#pragma unroll
  for (int k = 0; k < kTileK; k += 16) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {  // matrices of a: rows 0-7 and 8-15 of k 0-7, then of k 8-15
      ptx::ldmatrix_x4(a[i], &stage.x[warp_m + 16 * i + lane % 16][k + lane / 16 * 8]);
    }
#pragma unroll
    for (int j = 0; j < 8; j += 2) {  // two n tiles at once: k 0-7 and 8-15 of the first, then of the second
      uint32_t b[4];
      ptx::ldmatrix_x4(b, &stage.w[warp_n + 8 * j + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
      const uint32_t first[2] = {b[0], b[1]};
      const uint32_t second[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::mma_m16n8k16(acc[i][j], a[i], first);
        ptx::mma_m16n8k16(acc[i][j + 1], a[i], second);
      }
    }
  }
}

// Writes the warp's accumulators; (row, column) is the lane's first element. Layout: ptx::mma_m16n8k16.
template <typename Out>
__device__ __forceinline__ void store_tile(Out* y, const float (&acc)[2][8][4], int row, int column, int m,
                                           int n) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + 16 * i + e / 2 * 8;
        const int c = column + 8 * j + e % 2;
        if (r < m && c < n) store(y + static_cast<int64_t>(r) * n + c, acc[i][j][e]);
      }
    }
  }
}

// Block (i, j) computes rows 64 i … and columns 128 j …: neighbours share their part of w. Stage s holds
// tiles of k s, s + 3, …; while one is multiplied, the next two are on their way.
template <Access kAccess, typename Out>
__global__ void __launch_bounds__(kGemmThreads)
    gemm_kernel(Out* y, const __nv_bfloat16* x, const __nv_bfloat16* w, int m, int n, int k) {
  GemmStorage& shared = shared_storage<GemmStorage>();
  const int first_row = blockIdx.x * kTileM;
  const int first_column = blockIdx.y * kTileN;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warp_m = warp / 2 * kWarpM;
  const int warp_n = warp % 2 * kWarpN;
  const int n_tiles = (k + kTileK - 1) / kTileK;

  const auto start_tile = [&](int tile) {
    if (tile < n_tiles) {
      GemmStage& stage = shared.stages[tile % kStages];
      load_tile<kAccess>(stage.x, x, first_row, m, tile * kTileK, k);
      load_tile<kAccess>(stage.w, w, first_column, n, tile * kTileK, k);
    }
    ptx::cp_async_commit();  // an empty group keeps the count right past the end
  };

  float acc[2][8][4] = {};
  for (int tile = 0; tile < kStages - 1; ++tile) start_tile(tile);
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // everybody's part of this tile has arrived, and nobody still reads the stage filled
                      // next
    start_tile(tile + kStages - 1);
    multiply_stage(acc, shared.stages[tile % kStages], warp_m, warp_n, lane);
  }
  store_tile(y, acc, first_row + warp_m + lane / 4, first_column + warp_n + lane % 4 * 2, m, n);
}

}  // namespace tuili::cuda
