// GEMM on tensor cores: y[m, n] = x[m, k] · w[n, k]ᵀ (+ bias[n]), bf16 inputs, f32 accumulators. One kernel
// for every m; its tiles differ, the sums do not.
//
// v1  one tile of 64 × 128; rows padded to 80 bytes, fragments by ldmatrix
// v2  fragments by 16-byte loads: lane 4g + t takes k 8t … 8t + 7 of row g, which are two steps of mma. Rows
// of
//     32 k then lie without padding (36 KiB for 45) and without bank conflicts, and each load feeds two mma.
//     Tiles for few rows: 16 × 32 and 64 × 32, that n / 32 blocks read w. Predicted: m ≤ 16 keeps 24 KiB of w
//     on their way per block, enough for 80 % of an H100's bandwidth from n = 4,096 on.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kGemmThreads = 128;  // 4 warps
inline constexpr int kPlaneK = 32;        // k that a quarter of a warp loads at once: 64 bytes of 2 rows

// A tile of y: kWarpsM × kWarpsN warps of kTilesM × kTilesN tiles of mma (16 × 8) each; kStages tiles of
// kPlanes · 32 k are in flight.
template <int kWarpsM_, int kTilesM_, int kTilesN_, int kPlanes_, int kStages_>
struct GemmShape {
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kGemmThreads / 32 / kWarpsM_;
  static constexpr int kTilesM = kTilesM_, kTilesN = kTilesN_, kPlanes = kPlanes_, kStages = kStages_;
  static constexpr int kWarpM = 16 * kTilesM, kWarpN = 8 * kTilesN;
  static constexpr int kTileM = kWarpsM * kWarpM, kTileN = kWarpsN * kWarpN, kTileK = kPlanes * kPlaneK;

  struct Stage {
    __nv_bfloat16 x[kPlanes][kTileM][kPlaneK];
    __nv_bfloat16 w[kPlanes][kTileN][kPlaneK];
  };
  struct Storage {
    Stage stages[kStages];
  };
};

using WideGemm = GemmShape<2, 2, 8, 1, 3>;  // 64 × 128, 36 KiB of shared memory, 64 accumulators per thread
using TallGemm = GemmShape<4, 1, 4, 2, 4>;  // 64 × 32 for m ≤ 64, 48 KiB
using SlimGemm = GemmShape<1, 1, 1, 4, 4>;  // 16 × 32 for m ≤ 16, 48 KiB

template <typename Out>
struct GemmProblem {
  Out* y;
  const __nv_bfloat16* x;
  const __nv_bfloat16* w;
  const float* bias;
  int m, n, k;
};

// Copies rows [first_row, first_row + kRows) × elements [first_k, first_k + 32 kPlanes) of a dense [n_rows,
// k] matrix into `to`; what lies outside the matrix is zero. The copies may still be under way on return.
template <Access kAccess, int kPlanes, int kRows>
__device__ __forceinline__ void load_tile(__nv_bfloat16 (&to)[kPlanes][kRows][kPlaneK],
                                          const __nv_bfloat16* from, int first_row, int n_rows, int first_k,
                                          int k) {
  constexpr int kChunk = kVectorBytes / sizeof(__nv_bfloat16);
  constexpr int kChunks = kPlanes * kPlaneK / kChunk;  // per row
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kChunks; i += kGemmThreads) {
    const int row = i / kChunks;
    const int column = i % kChunks * kChunk;
    const bool row_exists = first_row + row < n_rows;
    const __nv_bfloat16* source = from + static_cast<int64_t>(first_row + row) * k + first_k + column;
    __nv_bfloat16* place = &to[column / kPlaneK][row][column % kPlaneK];
    if constexpr (kAccess == Access::vector) {  // k is a multiple of kChunk: a chunk is whole or absent
      const bool exists = row_exists && first_k + column < k;
      ptx::cp_async_16(place, exists ? source : from, exists ? kVectorBytes : 0);
    } else {
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        const bool exists = row_exists && first_k + column + j < k;
        place[j] = exists ? source[j] : __float2bfloat16_rn(0.0f);
      }
    }
  }
}

// k 8t … 8t + 7 of a row, t = lane % 4: the lane's part of two steps, each of which takes those of t = 0 … 3.
struct KParts {
  uint32_t pairs[4];
  __device__ __forceinline__ explicit KParts(const __nv_bfloat16 (&row)[kPlaneK]) {
    const uint4 parts = reinterpret_cast<const uint4*>(row)[threadIdx.x % 4];
    pairs[0] = parts.x;
    pairs[1] = parts.y;
    pairs[2] = parts.z;
    pairs[3] = parts.w;
  }
};

// acc += the warp's part of the stage's product, over its k in ascending groups of 32, step 0 and 1 of each.
template <typename Shape>
__device__ __forceinline__ void multiply_stage(float (&acc)[Shape::kTilesM][Shape::kTilesN][4],
                                               const typename Shape::Stage& stage, int warp_m, int warp_n) {
  const int g = threadIdx.x % 32 / 4;
#pragma unroll
  for (int plane = 0; plane < Shape::kPlanes; ++plane) {
    uint32_t a[Shape::kTilesM][2][4];  // by step
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) {
      const KParts upper(stage.x[plane][warp_m + 16 * i + g]), lower(stage.x[plane][warp_m + 16 * i + 8 + g]);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        a[i][step][0] = upper.pairs[2 * step];
        a[i][step][1] = lower.pairs[2 * step];
        a[i][step][2] = upper.pairs[2 * step + 1];
        a[i][step][3] = lower.pairs[2 * step + 1];
      }
    }
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; ++j) {
      const KParts column(stage.w[plane][warp_n + 8 * j + g]);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const uint32_t b[2] = {column.pairs[2 * step], column.pairs[2 * step + 1]};
#pragma unroll
        for (int i = 0; i < Shape::kTilesM; ++i) ptx::mma_m16n8k16<__nv_bfloat16>(acc[i][j], a[i][step], b);
      }
    }
  }
}

// Writes the warp's accumulators; (row, column) is the lane's first element. Layout: ptx::mma_m16n8k16.
template <typename Shape, typename Out>
__device__ __forceinline__ void store_tile(const GemmProblem<Out>& problem,
                                           const float (&acc)[Shape::kTilesM][Shape::kTilesN][4], int row,
                                           int column) {
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + 16 * i + e / 2 * 8;
        const int c = column + 8 * j + e % 2;
        if (r >= problem.m || c >= problem.n) continue;
        const float value = acc[i][j][e];
        store(problem.y + static_cast<int64_t>(r) * problem.n + c,
              problem.bias == nullptr ? value : __fadd_rn(value, problem.bias[c]));
      }
    }
  }
}

// Block (i, j) computes tile (i, j) of y: neighbours share their part of w. Stage s holds tiles of k s, s +
// kStages, …; while one is multiplied, the next ones are on their way.
template <typename Shape, Access kAccess, typename Out>
__global__ void __launch_bounds__(kGemmThreads) gemm_kernel(GemmProblem<Out> problem) {
  using Storage = typename Shape::Storage;
  constexpr int kStages = Shape::kStages;
  Storage& shared = shared_storage<Storage>();
  const int first_row = blockIdx.x * Shape::kTileM;
  const int first_column = blockIdx.y * Shape::kTileN;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warp_m = warp / Shape::kWarpsN * Shape::kWarpM;
  const int warp_n = warp % Shape::kWarpsN * Shape::kWarpN;
  const int n_tiles = (problem.k + Shape::kTileK - 1) / Shape::kTileK;

  const auto start_tile = [&](int tile) {
    if (tile < n_tiles) {
      typename Shape::Stage& stage = shared.stages[tile % kStages];
      load_tile<kAccess>(stage.x, problem.x, first_row, problem.m, tile * Shape::kTileK, problem.k);
      load_tile<kAccess>(stage.w, problem.w, first_column, problem.n, tile * Shape::kTileK, problem.k);
    }
    ptx::cp_async_commit();  // an empty group keeps the count right past the end
  };

  float acc[Shape::kTilesM][Shape::kTilesN][4] = {};
  for (int tile = 0; tile < kStages - 1; ++tile) start_tile(tile);
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // everybody's part of this tile has arrived, and nobody still reads the stage filled
                      // next
    start_tile(tile + kStages - 1);
    multiply_stage<Shape>(acc, shared.stages[tile % kStages], warp_m, warp_n);
  }
  store_tile<Shape>(problem, acc, first_row + warp_m + lane / 4, first_column + warp_n + lane % 4 * 2);
}

}  // namespace tuili::cuda
