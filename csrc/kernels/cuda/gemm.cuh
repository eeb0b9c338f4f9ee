// GEMM on tensor cores: y[m, n] = x[m, k] · w[n, k]ᵀ (+ bias[n]), bf16 inputs, f32 accumulators. One kernel
// for every m; its tiles differ, the sums do not.
//
// v1  one tile of 64 × 128; rows padded to 80 bytes, fragments by ldmatrix
// v2  fragments by 16-byte loads; tiles for few rows: 16 × 32 and 64 × 32. On an H200 (mma.sync 645 TFLOP/s,
//     read stream 4.8 TB/s) 189 TFLOP/s at 4,096³; m 1: n 4,096 19.9 µs (cuBLAS 12.6), n 28,672 66 (55.6)
// v3  128 × 128, a thread's copies by an addition and a predicate: 10 instructions per mma become 6: 263
//     TFLOP/s, 12.7 µs
// v4  fragments by ldmatrix: what 16-byte loads bring had to be moved, 3 moves per mma: 388 TFLOP/s (cuBLAS
//     with wgmma 797), 282 at m 512; m 64: 20 µs (12.1); m 1: 12.2 µs, n 28,672 70 µs
// v5  shared memory was as busy as the stream: copies without bank conflicts, and for m ≤ 8 half of the reads
//     of x, and five tiles under way, not three; for m ≤ 16 four: m 1 11.4 µs, n 28,672 67 µs
// v6  fragments are read while those before are multiplied; of five shapes for m > 16 the one whose tiles
//     cost least on all multiprocessors: 128 × 128 alone left most of them idle. n = k = 4,096: m 512 42 µs
//     (60), m 4,096 339 (376; tiles of 128 × 256: L2 was as busy as the tensor cores), n = k = 2,048, m 128
//     10.0 (31.7), m 1 5.6 (6.4), m 1, n 28,672 59 (68.5). Tried: 192 KiB and 8 warps for 128 × 128: slower
// v7  weights are on their way before the kernel in front has ended: n = k = 2,048, m 1 4.6, m 16 5.4 (6.2)
// v8  up to 16 rows products of one x are one launch (together.cuh). Whole decode steps on an H200: SmolLM2
//     +12 %, Llama 1.1B +3 to +7 %
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_copy.cuh"
#include "kernels/cuda/together.cuh"

namespace tuili::cuda {

// A tile of y: kWarpsM × kWarpsN warps of kTilesM × kTilesN tiles of mma (16 × 8) each; kStages tiles of
// kPlanes · 32 k are in flight. Of a tile of mma kRows rows are there: 8 or 16.
template <int kWarpsM_, int kTilesM_, int kTilesN_, int kPlanes_, int kStages_, int kThreads_ = kTileThreads,
          int kRows_ = 16>
struct GemmShape {
  static constexpr int kThreads = kThreads_, kBlocks = kThreads == kTileThreads ? 2 : 1;
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kThreads / 32 / kWarpsM_;
  static constexpr int kTilesM = kTilesM_, kTilesN = kTilesN_, kPlanes = kPlanes_, kStages = kStages_;
  static constexpr int kRows = kRows_, kWarpM = kRows * kTilesM, kWarpN = 8 * kTilesN;
  static constexpr int kTileM = kWarpsM * kWarpM, kTileN = kWarpsN * kWarpN, kTileK = kPlanes * kPlaneK;

  struct Stage {
    __nv_bfloat16 x[kPlanes][kTileM][kPlaneK];
    __nv_bfloat16 w[kPlanes][kTileN][kPlaneK];
  };
  struct Storage {
    Stage stages[kStages];
  };
  static_assert(sizeof(Storage) + 1024 <= 99 * 1024, "what an RTX 4090 has");

  // Where in the tile the warp's part begins.
  __device__ __forceinline__ static int warp_row() { return threadIdx.x / 32 / kWarpsN * kWarpM; }
  __device__ __forceinline__ static int warp_column() { return threadIdx.x / 32 % kWarpsN * kWarpN; }
};

// 60 to 96 KiB of shared memory. A block's cost: microseconds for k 4,096 on an H200.
struct HugeGemm : GemmShape<2, 4, 8, 1, 4, 256> {  // 128 × 256
  static constexpr int kCost = 75;
};
struct WideGemm : GemmShape<2, 4, 8, 1, 4> {  // 128 × 128
  static constexpr int kCost = 44;
};
struct BroadGemm : GemmShape<2, 4, 4, 2, 4> {  // 128 × 64
  static constexpr int kCost = 28;
};
struct SquareGemm : GemmShape<2, 2, 4, 2, 6> {  // 64 × 64
  static constexpr int kCost = 20;
};
struct TallGemm : GemmShape<4, 1, 4, 2, 8> {  // 64 × 32
  static constexpr int kCost = 18;
};
struct SlimGemm : GemmShape<1, 1, 1, 4, 5> {};                  // 16 × 32 for m ≤ 16
struct FewGemm : GemmShape<1, 1, 1, 4, 6, kTileThreads, 8> {};  // 8 × 32 for m ≤ 8

struct GemmProblem {
  float* y;
  const __nv_bfloat16* x;
  const __nv_bfloat16* w;
  const float* bias;
  int m, n, k;
  Access stores;
};

// Rows [first_row, first_row + kRows) × elements [first_k, first_k + 32 kPlanes) of a dense [n_rows, k]
// matrix into `to`, element by element; what lies outside the matrix is zero.
template <int kThreads, int kPlanes, int kRows>
__device__ __forceinline__ void load_tile(__nv_bfloat16 (&to)[kPlanes][kRows][kPlaneK],
                                          const __nv_bfloat16* from, int first_row, int n_rows, int first_k,
                                          int k) {
  constexpr int kTileK = kPlanes * kPlaneK;
  for (int i = threadIdx.x; i < kRows * kTileK; i += kThreads) {
    const int row = i / kTileK, column = i % kTileK;
    const bool exists = first_row + row < n_rows && first_k + column < k;
    const int plane = column / kPlaneK, place = chunk_place(row, column % kPlaneK / 8) * 8 + column % 8;
    to[plane][row_place<kRows>(row, plane)][place] =
        exists ? from[static_cast<int64_t>(first_row + row) * k + first_k + column]
               : __float2bfloat16_rn(0.0f);
  }
}

// What a warp multiplies in kSteps steps of 16 k: one, or both of a plane where there is one tile of columns.
template <typename Shape>
struct Fragments {
  static constexpr int kSteps = Shape::kTilesN == 1 ? 2 : 1, kPerStage = 2 * Shape::kPlanes / kSteps;
  uint32_t a[kSteps * Shape::kTilesM][4];
  uint32_t b[kSteps * Shape::kTilesN / 2][4];  // of two steps, or of two tiles

  // Those number `part` of a stage.
  __device__ __forceinline__ void load(const typename Shape::Stage& stage, int part, int warp_m, int warp_n) {
    if constexpr (Shape::kTilesN == 1) {
      load_b(b[0], stage.w, part, warp_n);
      if constexpr (Shape::kRows == 8) {
        load_few(a, stage.x, part);
      } else {
#pragma unroll
        for (int step = 0; step < 2; ++step) load_a(a[step], stage.x, part, warp_m, step);
      }
    } else {
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; ++i) load_a(a[i], stage.x, part / 2, warp_m + 16 * i, part % 2);
#pragma unroll
      for (int j = 0; j < Shape::kTilesN / 2; ++j)
        load_b_pair(b[j], stage.w, part / 2, warp_n + 16 * j, part % 2);
    }
  }

  __device__ __forceinline__ void multiply(float (&acc)[Shape::kTilesM][Shape::kTilesN][4]) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int j = 0; j < Shape::kTilesN; ++j) {
        const int of = j / 2, half = 2 * (kSteps == 2 ? step : j % 2);
#pragma unroll
        for (int i = 0; i < Shape::kTilesM; ++i)
          ptx::mma_m16n8k16<__nv_bfloat16>(acc[i][j], a[step + i], {b[of][half], b[of][half + 1]});
      }
    }
  }
};

// Columns c (even) and c + 1 of a row of n results, each with its bias (may be null); nothing past the row.
__device__ __forceinline__ void store_columns(float* row, const float* bias, int c, int n, Access access,
                                              float low, float high) {
  if (c >= n) return;
  const bool has_second = c + 1 < n;
  if (bias != nullptr) {
    low = __fadd_rn(low, bias[c]);
    if (has_second) high = __fadd_rn(high, bias[c + 1]);
  }
  if (access == Access::vector) {
    *reinterpret_cast<uint2*>(row + c) = uint2{__float_as_uint(low), __float_as_uint(high)};
    return;
  }
  row[c] = low;
  if (has_second) row[c + 1] = high;
}

// Writes the accumulators of the tile from (first_row, first_column) on. Layout: ptx::mma_m16n8k16.
template <typename Shape>
__device__ __forceinline__ void store_tile(const GemmProblem& problem,
                                           const float (&acc)[Shape::kTilesM][Shape::kTilesN][4],
                                           int first_row, int first_column) {
  const int lane = threadIdx.x % 32;
  const int row = first_row + Shape::warp_row() + lane / 4;
  const int column = first_column + Shape::warp_column() + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 16 * i + 8 * half;
      if (r >= problem.m) continue;
      float* const y = problem.y + static_cast<int64_t>(r) * problem.n;
#pragma unroll
      for (int j = 0; j < Shape::kTilesN; ++j) {
        store_columns(y, problem.bias, column + 8 * j, problem.n, problem.stores, acc[i][j][2 * half],
                      acc[i][j][2 * half + 1]);
      }
    }
  }
}

// Starts the tiles of x and w, one after another. The copies may still be under way on return.
template <typename Shape, Access kAccess>
struct GemmTiles {
  using Stage = typename Shape::Stage;
  const __nv_bfloat16 *x, *w;
  int m, n, k, first_row, first_column, first_k;
  RowCopies<Shape::kPlanes, Shape::kTileM, Shape::kThreads> x_copies;
  RowCopies<Shape::kPlanes, Shape::kTileN, Shape::kThreads> w_copies;

  __device__ __forceinline__ GemmTiles(const GemmProblem& problem, int first_row_, int first_column_)
      : x_copies(problem.x, first_row_, problem.m, problem.k),
        w_copies(problem.w, first_column_, problem.n, problem.k) {
    x = problem.x, w = problem.w, m = problem.m, n = problem.n, k = problem.k;
    first_row = first_row_, first_column = first_column_, first_k = 0;
  }

  // Those of all stages: of w before the kernels in front have made x.
  __device__ __forceinline__ void start_first(Stage (&stages)[Shape::kStages]) {
    if constexpr (kAccess == Access::vector) {
      for (int s = 0; s < Shape::kStages; ++s) w_copies.start(stages[s].w, k - s * Shape::kTileK);
    }
    ptx::wait_for_kernels_before();
    for (Stage& stage : stages) {
      if constexpr (kAccess == Access::vector) {
        x_copies.start(stage.x, k - first_k);
        ptx::cp_async_commit();
        first_k += Shape::kTileK;
      } else {
        start(stage);
      }
    }
  }

  __device__ __forceinline__ void start(Stage& stage) {
    if constexpr (kAccess == Access::vector) {
      x_copies.start(stage.x, k - first_k);
      w_copies.start(stage.w, k - first_k);
    } else {
      load_tile<Shape::kThreads>(stage.x, x, first_row, m, first_k, k);
      load_tile<Shape::kThreads>(stage.w, w, first_column, n, first_k, k);
    }
    ptx::cp_async_commit();
    first_k += Shape::kTileK;
  }
};

// acc += the warp's part of the tile of y from (first_row, first_column) on. Stage s holds tiles of k s, s +
// kStages, …; while one is multiplied, the next ones are on their way, and while fragments are multiplied the
// next ones are read. Tiles past the end are zeros, which keep the count of copies right.
template <typename Shape, Access kAccess>
__device__ __forceinline__ void multiply_tile(float (&acc)[Shape::kTilesM][Shape::kTilesN][4],
                                              const GemmProblem& problem, int first_row, int first_column) {
  constexpr int kStages = Shape::kStages, kParts = Fragments<Shape>::kPerStage;
  static_assert(kParts % 2 == 0, "a stage begins with fragments[0]");
  auto& shared = shared_storage<typename Shape::Storage>();
  const int warp_m = Shape::warp_row(), warp_n = Shape::warp_column();
  const int n_tiles = (problem.k + Shape::kTileK - 1) / Shape::kTileK;

  GemmTiles<Shape, kAccess> tiles(problem, first_row, first_column);
  tiles.start_first(shared.stages);
  Fragments<Shape> fragments[2];
  ptx::cp_async_wait<kStages - 1>();
  __syncthreads();  // everybody's part of the first tile has arrived
  fragments[0].load(shared.stages[0], 0, warp_m, warp_n);
  int now = 0;  // the stage that is multiplied
  for (int tile = 0; tile < n_tiles; ++tile) {
    const int next = now + 1 == kStages ? 0 : now + 1;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      auto& ahead = fragments[(part + 1) % 2];
      if (part + 1 < kParts) {
        ahead.load(shared.stages[now], part + 1, warp_m, warp_n);
      } else {
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();  // the next tile has arrived, and nobody reads this one any more
        ahead.load(shared.stages[next], 0, warp_m, warp_n);
        tiles.start(shared.stages[now]);
      }
      fragments[part % 2].multiply(acc);
    }
    now = next;
  }
}

// Block (i, j) computes tile (i, j) of y: neighbours share their part of w. Larger tiles are of one product.
template <typename Shape, Access kAccess>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    gemm_kernel(const __grid_constant__ Together<GemmProblem> products) {
  constexpr bool kIsSmall = Shape::kTileM <= 64, kIsSkinny = Shape::kTileM <= kTogetherRows;
  if constexpr (kIsSmall) let_next_kernel_start(Phase::begins);
  int tile = blockIdx.y;
  const GemmProblem& problem = kIsSkinny ? products.product_of<Shape>(tile) : products.of[0];
  const int first_row = blockIdx.x * Shape::kTileM, first_column = tile * Shape::kTileN;
  float acc[Shape::kTilesM][Shape::kTilesN][4] = {};
  multiply_tile<Shape, kAccess>(acc, problem, first_row, first_column);
  if constexpr (kIsSmall) let_next_kernel_start(Phase::ends);
  store_tile<Shape>(problem, acc, first_row, first_column);
}

}  // namespace tuili::cuda
