// GEMM with quantized weights on tensor cores, for more than 16 rows: y[m, n] = x[m, k] · w[n, k]ᵀ (+
// bias[n]), x bf16, w as base/device_records.h says. A step of mma is 16 consecutive k, so that the scales of
// every format belong to one step of a group or to both.
//
// v1  16 × 32 tiles for m ≤ 16, 64 × 64 above. H200, n = k = 4,096, Q4_0: m 1 21.0 µs, m 64 69, m 512 177
// v2  128 × 64, and 64 × 32 for m ≤ 64; four groups of a thread at once: 17.1, 44, 140
// v3  a thread's copies by an addition and a predicate: 9.8, 26.8, 97
// v4  x by ldmatrix, codes by half words: 9.8, 23.2, 80 µs (216 TFLOP/s); n 28,672 m 1: 38 µs, 1.8 TB/s of
//     4.8, bound by 20 instructions per mma
// v5  as gemm.cuh's. Not measured alone
// v6  records; the weights are mma's a; few rows: gemm_skinny.cuh. m 64 21.9 µs, m 512 76.4
// v7  tiles of 64 × 64, too, and the shape that costs least on all multiprocessors: Q4_0, n 4,096, m 128 37.5
//     µs (49.5), n 28,672, m 64 86 (150)
#pragma once

#include "kernels/cuda/quant_records.cuh"

namespace tuili::cuda {

// Tiles of y: 2 × 2 warps of kTiles tiles of 8 rows × kPanels panels. kPairs pairs of groups are a stage.
template <Format kFormat, int kTiles_, int kPanels_, int kPairs_, int kStages_>
struct QuantShape : QuantFormat<kFormat> {
  using Base = QuantFormat<kFormat>;
  static constexpr int kTiles = kTiles_, kPanels = kPanels_, kPairs = kPairs_, kStages = kStages_;
  static constexpr int kTileM = 2 * kTiles * kRowTile, kTileN = 2 * kPanels * kPanelN;

  struct Stage {
    __nv_bfloat16 x[2 * kPairs][kTileM][kGroupK];
    uint8_t w[2 * kPanels][Base::panel_bytes(kPairs)];
  };
  struct Storage {
    Stage stages[kStages];
    float totals[kPanels][kTiles][4][kQuantThreads];  // of the parts that are done, by thread
  };
  static_assert(sizeof(Storage) + 64 <= 99 * 1024, "what an RTX 4090 has");

  // Where in the tile the warp's part begins.
  __device__ __forceinline__ static int warp_row() { return threadIdx.x / 64 * kTiles * kRowTile; }
  __device__ __forceinline__ static int warp_panel() { return threadIdx.x / 32 % 2 * kPanels; }
};

// A block's cost: microseconds for k 4,096 on an H200, of Q4_0.
template <Format kFormat>
struct WideQuant : QuantShape<kFormat, 8, 2, 1, 3> {  // 128 × 64
  static constexpr int kCost = 38;
};
template <Format kFormat>
struct SquareQuant : QuantShape<kFormat, 4, 2, 2, 3> {  // 64 × 64
  static constexpr int kCost = 28;
};
template <Format kFormat>
struct TallQuant : QuantShape<kFormat, 4, 1, 4, 2> {  // 64 × 32
  static constexpr int kCost = 22;
};

// acc += the warp's part of a stage, of which `n_pairs` pairs or more exist.
template <typename Shape>
__device__ __forceinline__ void multiply_stage(float (&acc)[Shape::kPanels][Shape::kTiles][4],
                                               const typename Shape::Stage& stage,
                                               const FourPlaces<Shape::kTileM>& x_places, int n_pairs) {
  using F = typename Shape::Base;
  const int lane = threadIdx.x % 32, warp_n = Shape::warp_panel();
  BlockScales<F> blocks[Shape::kPanels];
  if constexpr (F::kIsK) {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) blocks[p].load(stage.w[warp_n + p], lane);
  }
#pragma unroll
  for (int q = 0; q < Shape::kPairs; ++q) {
    if (!F::kIsK && q >= n_pairs) break;
    PairOfGroups<F> w[Shape::kPanels];
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) w[p].load(stage.w[warp_n + p] + F::kHeader + q * F::kPair, lane);
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      multiply_group(acc, w, blocks, group, [&](int i) {
        RowsOfX x;
#pragma unroll
        for (int step = 0; step < 2; ++step)
          x_places.load(x.of[step], stage.x, 2 * q + group, i, step);
        return x;
      });
    }
  }
}

// acc += totals of the parts before.
template <int kPanels, int kTiles>
__device__ __forceinline__ void add_totals(float (&acc)[kPanels][kTiles][4],
                                           const float (&totals)[kPanels][kTiles][4][kQuantThreads]) {
#pragma unroll
  for (int p = 0; p < kPanels; ++p) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[p][i][e] = __fadd_rn(totals[p][i][e][threadIdx.x], acc[p][i][e]);
    }
  }
}

// totals = acc, which begins anew.
template <int kPanels, int kTiles>
__device__ __forceinline__ void keep_totals(float (&totals)[kPanels][kTiles][4][kQuantThreads],
                                            float (&acc)[kPanels][kTiles][4]) {
#pragma unroll
  for (int p = 0; p < kPanels; ++p) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        totals[p][i][e][threadIdx.x] = acc[p][i][e];
        acc[p][i][e] = 0.0f;
      }
    }
  }
}

// acc += the warp's part of the tile of y from (first_row, first_column) on; the pipeline is gemm.cuh's.
template <typename Shape>
__device__ __forceinline__ void multiply_tile(float (&acc)[Shape::kPanels][Shape::kTiles][4],
                                              const QuantProblem& problem, int first_row, int first_column) {
  constexpr int kStages = Shape::kStages, kPairs = Shape::kPairs;
  constexpr int kLanes = kQuantThreads / (2 * Shape::kPanels);  // that copy a panel
  auto& shared = shared_storage<typename Shape::Storage>();
  const int own = threadIdx.x / kLanes;  // panel that the thread copies
  const int n_pairs = (problem.k + kPairK - 1) / kPairK;
  const int n_tiles = (n_pairs + kPairs - 1) / kPairs;
  const int part = part_of(problem.k) / (kPairK * kPairs);

  RowCopies<2 * kPairs, Shape::kTileM> x_copies(problem.x, first_row, problem.m, problem.k);
  PanelCopies<typename Shape::Base, kPairs, kLanes> w_copies(problem, first_column / kPanelN + own, 0,
                                                             threadIdx.x % kLanes);
  const FourPlaces<Shape::kTileM> x_places(Shape::warp_row());
  const auto start = [&](int tile, int stage) {
    if (tile < n_tiles) {
      x_copies.start(shared.stages[stage].x, problem.k - tile * kPairs * kPairK);
      w_copies.start(shared.stages[stage].w[own]);
    }
    ptx::cp_async_commit();
  };
  for (int tile = 0; tile < kStages - 1; ++tile) start(tile, tile);
  int full = 0, free = kStages - 1;  // the stage to multiply, and the one to fill
  int end = part;                    // of the part that acc is of
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the tile has arrived, and nobody still reads the stage that is filled next
    start(tile + kStages - 1, free);
    multiply_stage<Shape>(acc, shared.stages[full], x_places, n_pairs - tile * kPairs);
    free = full;
    full = full + 1 == kStages ? 0 : full + 1;
    if (tile + 1 != end) continue;
    if (end > part) add_totals(acc, shared.totals);
    keep_totals(shared.totals, acc);
    end += part;
  }
  if (end > part) add_totals(acc, shared.totals);
}

template <typename Shape>
__device__ __forceinline__ void store_tile(const QuantProblem& problem,
                                           const float (&acc)[Shape::kPanels][Shape::kTiles][4],
                                           int first_row, int first_column) {
  const int lane = threadIdx.x % 32;
  const int row = first_row + Shape::warp_row() + lane % 4 * 2;
  const int column = first_column + Shape::warp_panel() * kPanelN + lane / 4;
#pragma unroll
  for (int p = 0; p < Shape::kPanels; ++p) {
#pragma unroll
    for (int i = 0; i < Shape::kTiles; ++i)
      store_sums(problem, acc[p][i], row + kRowTile * i, column + p * kPanelN);
  }
}

// Block (i, j) computes tile (i, j) of y.
template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, 2) gemm_quant_kernel(QuantProblem problem) {
  constexpr bool kIsSmall = Shape::kTileM <= 64;
  if constexpr (kIsSmall) let_next_kernel_start(Phase::begins);
  ptx::wait_for_kernels_before();
  const int first_row = blockIdx.x * Shape::kTileM, first_column = blockIdx.y * Shape::kTileN;
  float acc[Shape::kPanels][Shape::kTiles][4] = {};
  multiply_tile<Shape>(acc, problem, first_row, first_column);
  if constexpr (kIsSmall) let_next_kernel_start(Phase::ends);
  store_tile<Shape>(problem, acc, first_row, first_column);
}

}  // namespace tuili::cuda
