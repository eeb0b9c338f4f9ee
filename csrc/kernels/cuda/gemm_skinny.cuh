// gemm_quant.cuh's product for up to 16 rows, which waits for the weights: each of the four warps of a block
// takes one of the four parts of k and 32 columns, copies its weights on its own, and nobody waits for the
// others before the end. x is read once per block, from global memory some pairs of groups ahead.
//
// v6  four warps shared k and read all of x from shared memory, 20 instructions per mma of 8 columns: now 18
//     of 16, 11 with 16 rows. H200, Q4_0: n = k = 4,096 m 1 6.9 µs, m 16 8.5; n 28,672 25.9 and 40.5, 2.6 and
//     1.7 TB/s of 4.8. Predicted bound by memory; what bounds it is not established
// v7  with 8 rows x three pairs ahead, not one: 8 % less with n 4,096, 4 % with n 28,672. With 16 rows and
//     many columns stages half as long and a block more per multiprocessor: 33.1 µs. Tried: that with 8 rows
//     and five or six blocks, 24.4; with n 4,096, 17 % more; with 16 rows x two pairs ahead: registers spill
// v8  weights are on their way before the kernel in front has ended, and the next kernel starts earlier:
//     Q4_0, m 1, n = k = 2,048 3.0 µs (3.9), n = k = 4,096 6.0 (6.5), n 28,672 21.2 (24.8)
// v9  products of one x are one launch (gemm.cuh, v8)
#pragma once

#include "kernels/cuda/quant_records.cuh"
#include "kernels/cuda/together.cuh"

namespace tuili::cuda {

// Tiles of kTiles tiles of 8 rows × 2 panels. A stage is kPairs pairs of groups; kBlocks blocks are to be
// resident on a multiprocessor.
template <Format kFormat, int kTiles_, int kPairs_, int kBlocks_>
struct SkinnyShape : QuantFormat<kFormat> {
  using Base = QuantFormat<kFormat>;
  static constexpr int kTiles = kTiles_, kPanels = 2, kPairs = kPairs_, kBlocks = kBlocks_;
  static constexpr int kTileM = kTiles * kRowTile, kTileN = kPanels * kPanelN;
  static constexpr int kPairsAhead = kTiles == 1 ? kPairs - 1 : 1;  // of which x is under way
  // A B200 wants 42 KiB under way per multiprocessor, and 4,096 columns are a block each.
  static constexpr int kInFlight = (kBlocks > 3 ? 27 : 40) * 1024;
  static constexpr int kStageBytes = kPanels * Base::panel_bytes(kPairs);
  static constexpr int kStages = 1 + (kInFlight + kParts * kStageBytes - 1) / (kParts * kStageBytes);

  using Sums = float[kPanels][kTiles][4][32];  // by lane
  struct Storage {
    uint8_t w[kParts][kStages][kPanels][Base::panel_bytes(kPairs)];  // at the end a part's sums lie in front
  };
  static_assert(sizeof(Sums) <= kStageBytes && sizeof(Storage) <= 99 * 1024, "what an RTX 4090 has");
};

template <Format kFormat>
inline constexpr int kLongStage = QuantFormat<kFormat>::kIsByte ? 2 : 4;
template <Format kFormat>
using FewQuant = SkinnyShape<kFormat, 1, kLongStage<kFormat>, 3>;  // 8 × 32 for m ≤ 8
template <Format kFormat>
using SlimQuant = SkinnyShape<kFormat, 2, kLongStage<kFormat>, 3>;  // 16 × 32 for m ≤ 16
template <Format kFormat>
using BroadQuant = SkinnyShape<kFormat, 2, 2, 4>;  // 16 × 32 where columns give every place a block
// Its least n: 3 blocks for each multiprocessor of an H200. Formats with a min lack the registers.
inline constexpr int kBroadN = 12288;

// A lane's part of the rows of a tile. Rows past the end are the last one once more.
template <int kTiles>
struct SkinnyRows {
  const __nv_bfloat16* rows[kTiles];  // from the part's first k on

  __device__ __forceinline__ SkinnyRows(const QuantProblem& problem, int first_row, int first_k) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int row = min(first_row + kRowTile * i + lane / 4, problem.m - 1);
      rows[i] = problem.x + static_cast<int64_t>(row) * problem.k + first_k + lane % 4 * 4;
    }
  }

  // Of the group `k` further.
  __device__ __forceinline__ void load(RowsOfX (&x)[kTiles], int k) const {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const uint2 four = ptx::load_here(rows[i] + k + 16 * step);
        x[i].of[step][0] = four.x, x[i].of[step][1] = four.y;
      }
    }
  }
  __device__ __forceinline__ void load_pair(RowsOfX (&x)[2][kTiles], int k) const {
#pragma unroll
    for (int group = 0; group < 2; ++group) load(x[group], k + group * kGroupK);
  }
  __device__ __forceinline__ void advance(int k) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) rows[i] += k;
  }
};

// A lane's part of pair q of a stage, of all panels.
template <typename F, int kPanels, int kBytes>
__device__ __forceinline__ void load_pair(PairOfGroups<F> (&w)[kPanels],
                                          const uint8_t (&stage)[kPanels][kBytes], int q) {
#pragma unroll
  for (int p = 0; p < kPanels; ++p) w[p].load(stage[p] + F::kHeader + q * F::kPair, threadIdx.x % 32);
}

// acc += the last groups of k, which fill no stage.
template <typename F, int kPanels, int kTiles, int kBytes>
__device__ __forceinline__ void multiply_rest(float (&acc)[kPanels][kTiles][4],
                                              const SkinnyRows<kTiles>& rows,
                                              const uint8_t (&stage)[kPanels][kBytes], int n_groups) {
  const BlockScales<F> blocks[kPanels];  // K formats have whole blocks
#pragma unroll 1
  for (int first = 0; first < n_groups; first += 2) {
    PairOfGroups<F> w[kPanels];
    load_pair(w, stage, first / 2);
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      if (first + group >= n_groups) break;
      RowsOfX x[kTiles];
      rows.load(x, (first + group) * kGroupK);
      multiply_group(acc, w, blocks, group, [&](int i) { return x[i]; });
    }
  }
}

// acc += the warp's part of k.
template <typename Shape>
__device__ __forceinline__ void multiply_part(float (&acc)[Shape::kPanels][Shape::kTiles][4],
                                              typename Shape::Storage& shared, const QuantProblem& problem,
                                              int first_row, int first_column) {
  using F = typename Shape::Base;
  constexpr int kStages = Shape::kStages, kPairs = Shape::kPairs, kPanels = Shape::kPanels;
  constexpr int kStageK = kPairs * kPairK;
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32, first = part * part_of(problem.k);
  const int end = min(first + part_of(problem.k), problem.k);
  auto& ring = shared.w[part];

  PanelCopies<F, kPairs, 32> copies[kPanels] = {{problem, first_column / kPanelN, first / kPairK, lane},
                                                {problem, first_column / kPanelN + 1, first / kPairK, lane}};
  const auto start = [&](int k, int stage) {
    if (k < end) {
#pragma unroll
      for (int p = 0; p < kPanels; ++p) copies[p].start(ring[stage][p]);
    }
    ptx::cp_async_commit();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) start(first + stage * kStageK, stage);
  ptx::wait_for_kernels_before();  // x is theirs, the weights are not
  SkinnyRows<Shape::kTiles> rows(problem, first_row, first);
  constexpr int kAhead = Shape::kPairsAhead;
  static_assert(kPairs % (kAhead + 1) == 0, "a pair's x has its place in every stage");
  RowsOfX x[kAhead + 1][2][Shape::kTiles];  // by pair, in turn, and group
  int k = first;
  if (k + kStageK <= end) {
#pragma unroll
    for (int q = 0; q < kAhead; ++q) rows.load_pair(x[q], q * kPairK);
  }
  int full = 0, free = kStages - 1;  // the stage to multiply, and the one to fill
  for (; k + kStageK <= end; k += kStageK) {
    ptx::cp_async_wait<kStages - 2>();
    __syncwarp();  // every lane's part has arrived, and none still reads the stage that is filled next
    start(k + (kStages - 1) * kStageK, free);
    BlockScales<F> blocks[kPanels];
    if constexpr (F::kIsK) {
#pragma unroll
      for (int p = 0; p < kPanels; ++p) blocks[p].load(ring[full][p], lane);
    }
#pragma unroll
    for (int q = 0; q < kPairs; ++q) {
      if (q + kAhead < kPairs || k + 2 * kStageK <= end)
        rows.load_pair(x[(q + kAhead) % (kAhead + 1)], (q + kAhead) * kPairK);
      PairOfGroups<F> w[kPanels];
      load_pair(w, ring[full], q);
#pragma unroll
      for (int group = 0; group < 2; ++group)
        multiply_group(acc, w, blocks, group, [&](int i) { return x[q % (kAhead + 1)][group][i]; });
    }
    rows.advance(kStageK);
    free = full;
    full = full + 1 == kStages ? 0 : full + 1;
  }
  if (F::kIsK || k >= end) return;
  ptx::cp_async_wait<0>();
  __syncwarp();  // every lane's part has arrived
  multiply_rest<F>(acc, rows, ring[full], (end - k) / kGroupK);
}

// The tile of y from (first_row, first_column) on.
template <typename Shape>
__device__ __forceinline__ void skinny_tile(const QuantProblem& problem, int first_row, int first_column) {
  constexpr int kTiles = Shape::kTiles, kAll = Shape::kPanels * kTiles;
  auto& shared = shared_storage<typename Shape::Storage>();
  const auto sums_of = [&](int part) ->
      typename Shape::Sums& { return *reinterpret_cast<typename Shape::Sums*>(&shared.w[part]); };
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float acc[Shape::kPanels][kTiles][4] = {};
  multiply_part<Shape>(acc, shared, problem, first_row, first_column);
  let_next_kernel_start(Phase::ends);
  __syncwarp();  // none of the part still reads its weights
#pragma unroll
  for (int tile = 0; tile < kAll; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      sums_of(warp)[tile / kTiles][tile % kTiles][e][lane] = acc[tile / kTiles][tile % kTiles][e];
  }
  __syncthreads();  // the sums of all parts are there
  if (warp >= kAll) return;
  const int panel = warp / kTiles, i = warp % kTiles;
  float sums[4] = {};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[e] = __fadd_rn(sums[e], sums_of(part)[panel][i][e][lane]);
  }
  store_sums(problem, sums, first_row + kRowTile * i + lane % 4 * 2,
             first_column + panel * kPanelN + lane / 4);
}

// Block (i, j) computes tile (i, j) of y.
template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, Shape::kBlocks)
    gemm_skinny_kernel(const __grid_constant__ Together<QuantProblem> products) {
  let_next_kernel_start(Phase::begins);
  int tile = blockIdx.y;
  const QuantProblem& problem = products.product_of<Shape>(tile);
  skinny_tile<Shape>(problem, blockIdx.x * Shape::kTileM, tile * Shape::kTileN);
}

}  // namespace tuili::cuda
