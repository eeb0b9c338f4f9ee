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
// v8  the next pair is read and unpacked while the last group is multiplied; places of x and predicates of
//     copies stay in registers: 8.1 instructions per mma become 6.2. n = k = 4,096, m 512: Q4_0 67 µs (75),
//     Q8_0 76 (78), Q4_K 100 (108), Q6_K 81 (95). Shapes by what two blocks cost: m 128 29 (37). Tried: 128 ×
//     128 by 8 warps, 72 µs; three blocks per multiprocessor spill
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
  // Of sm_100's code the formats with minima would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  static constexpr bool kReadsAhead = !QuantFormat<kFormat>::kHasMin;
#else
  static constexpr bool kReadsAhead = true;
#endif
  __device__ __forceinline__ static int warp_panel() { return threadIdx.x / 32 % 2 * kPanels; }
};

// What a block and what two at once cost: microseconds for k 4,096 on an H200, of Q4_0.
template <Format kFormat>
struct WideQuant : QuantShape<kFormat, 8, 2, 1, 3> {  // 128 × 64
  static constexpr int kCost = 44, kCostOfTwo = 66;
};
template <Format kFormat>
struct SquareQuant : QuantShape<kFormat, 4, 2, 2, 3> {  // 64 × 64
  static constexpr int kCost = 35, kCostOfTwo = 41;
};
template <Format kFormat>
struct TallQuant : QuantShape<kFormat, 4, 1, 4, 2> {  // 64 × 32
  static constexpr int kCost = 20, kCostOfTwo = 29;
};

// The weights of a pair of groups that a warp multiplies next.
template <typename Shape>
struct PairOfPanels {
  using F = typename Shape::Base;
  BlockScales<F> blocks[Shape::kPanels];
  PairOfGroups<F> w[Shape::kPanels];

  // Of pair q of a stage. Its block's header is every stage's.
  __device__ __forceinline__ void load(const typename Shape::Stage& stage, int q) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) {
      const uint8_t* const panel = stage.w[Shape::warp_panel() + p];
      if (F::kIsK && q == 0) blocks[p].load(panel, lane);
      w[p].load(panel + F::kHeader + q * F::kPair, lane);
    }
  }
  __device__ __forceinline__ void unpack(Group<F> (&groups)[Shape::kPanels], int group) const {
#pragma unroll
    for (int p = 0; p < Shape::kPanels; ++p) groups[p].unpack(w[p], blocks[p], group);
  }
};

// A group of the rows of tile i of the warp's.
template <typename Shape>
__device__ __forceinline__ RowsOfX rows_of(const typename Shape::Stage& stage,
                                           const FourPlaces<Shape::kTileM>& places, int group, int i) {
  RowsOfX x;
#pragma unroll
  for (int step = 0; step < 2; ++step) places.load(x.of[step], stage.x, group, i, step);
  return x;
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
  for (int tile = 0; tile < kStages; ++tile) start(tile, tile);
  PairOfPanels<Shape> pair;
  ptx::cp_async_wait<kStages - 1>();
  __syncthreads();  // everybody's part of the first tile has arrived
  Group<typename Shape::Base> groups[2][Shape::kPanels];
  const auto begin = [&](const typename Shape::Stage& stage, int q) {
    pair.load(stage, q);
    pair.unpack(groups[0], 0);
  };
  if constexpr (Shape::kReadsAhead) begin(shared.stages[0], 0);
  int now = 0;     // the stage that is multiplied
  int end = part;  // of the part that acc is of
  for (int tile = 0; tile < n_tiles; ++tile) {
    const auto& stage = shared.stages[now];
    const int next = tile + 1 == n_tiles ? now : now + 1 == kStages ? 0 : now + 1;
#pragma unroll
    for (int q = 0; q < kPairs; ++q) {
      if (!Shape::Base::kIsK && kPairs > 1 && q >= n_pairs - tile * kPairs) break;
      if constexpr (!Shape::kReadsAhead) begin(stage, q);
      multiply_group(acc, groups[0], [&](int i) { return rows_of<Shape>(stage, x_places, 2 * q, i); });
      pair.unpack(groups[1], 1);
      RowsOfX x[Shape::kTiles];
#pragma unroll
      for (int i = 0; i < Shape::kTiles; ++i) x[i] = rows_of<Shape>(stage, x_places, 2 * q + 1, i);
      if (q + 1 < kPairs) {
        if constexpr (Shape::kReadsAhead) pair.load(stage, q + 1);
      } else {
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();  // the next tile has arrived, and nobody reads this one any more
        if constexpr (Shape::kReadsAhead) pair.load(shared.stages[next], 0);
      }
      multiply_group(acc, groups[1], [&](int i) { return x[i]; });
      if constexpr (Shape::kReadsAhead) pair.unpack(groups[0], 0);
    }
    start(tile + kStages, now);
    now = next;
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
