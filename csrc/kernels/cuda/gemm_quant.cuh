// GEMM with quantized weights on tensor cores: y[m, n] = x[m, k] · w[n, k]ᵀ (+ bias[n]), x bf16, w packed as
// base/packed.h says: the CPU's planes. A step of mma is 16 consecutive k, so that the scales of every format
// belong to one step of a group or to both. Codes are small integers, exact in bf16; scales meet the f32 sums
// of a group.
//
// v1  16 × 32 tiles for m ≤ 16, 64 × 64 above. H200, n = k = 4,096, Q4_0: m 1 21.0 µs, m 64 69, m 512 177
// v2  128 × 64, and 64 × 32 for m ≤ 64; four groups of a thread at once: 17.1, 44, 140
// v3  a thread's copies by an addition and a predicate: 9.8, 26.8, 97
// v4  x by ldmatrix, codes by half words: 9.8, 23.2, 80 µs (216 TFLOP/s); n 28,672 m 1: 38 µs, 1.8 TB/s of
//     4.8, bound by 20 instructions per mma
// v5  as gemm.cuh's. Not measured
#pragma once

#include "base/packed.h"
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_copy.cuh"

namespace tuili::cuda {

inline constexpr int kQuantThreads = kTileThreads;  // 4 warps
inline constexpr int kGroupK = kPlaneK;
inline constexpr int kPanelN = 16;

// What is stored per group of a panel, in bytes; and how codes become integers.
template <Format kFormat>
struct QuantFormat {
  static constexpr bool kIsK = kFormat == Format::q4_k || kFormat == Format::q5_k || kFormat == Format::q6_k;
  static constexpr bool kHasMin = kFormat == Format::q4_1 || kFormat == Format::q5_1 ||
                                  kFormat == Format::q4_k || kFormat == Format::q5_k;
  static constexpr bool kHasFifthBit =
      kFormat == Format::q5_0 || kFormat == Format::q5_1 || kFormat == Format::q5_k;
  static constexpr bool kIsByte = kFormat == Format::q8_0;
  static constexpr bool kHasStepScales = kFormat == Format::q6_k;  // one per 16 k
  static constexpr int kCodeBytes = kIsByte ? 512 : 256;
  static constexpr int kHighBytes = kHasFifthBit ? 64 : kHasStepScales ? 128 : 0;
  static constexpr int kSubScaleBytes = !kIsK ? 0 : kHasStepScales ? 32 : 16;
  static constexpr int kSubMinBytes = kIsK && kHasMin ? 16 : 0;
  static constexpr int kZero = kFormat == Format::q4_0   ? 8
                               : kFormat == Format::q5_0 ? 16
                               : kFormat == Format::q6_k ? 32
                                                         : 0;
};

template <Format kFormat_, int kWarpsM_, int kTilesM_, int kTilesN_, int kGroups_, int kStages_,
          int kRows_ = 16>
struct QuantShape : QuantFormat<kFormat_> {
  using Base = QuantFormat<kFormat_>;
  static constexpr Format kFormat = kFormat_;
  static constexpr int kWarpsN = kQuantThreads / 32 / kWarpsM_;
  static constexpr int kTilesM = kTilesM_, kTilesN = kTilesN_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kRows = kRows_, kWarpM = kRows * kTilesM, kWarpN = 8 * kTilesN;
  static constexpr int kTileM = kWarpsM_ * kWarpM, kTileN = kWarpsN * kWarpN;
  static constexpr int kPanels = kTileN / kPanelN;
  static constexpr int kUnrolled = kTilesM == 1 ? 4 : 1;  // groups whose sums wait for each other's not
  static constexpr int kBlocks =
      Base::kIsK ? 1 : kGroups;  // that have a scale: a stage lies in one block of 256

  static constexpr int at_least_a_chunk(int bytes) { return bytes > 0 ? bytes : kVectorBytes; }
  struct Stage {  // planes that a format lacks are a chunk that nobody touches
    __nv_bfloat16 x[kGroups][kTileM][kGroupK];
    uint8_t codes[kPanels][kGroups][Base::kCodeBytes];
    uint8_t high[kPanels][kGroups][at_least_a_chunk(Base::kHighBytes)];
    uint8_t scale[kPanels][kBlocks][32];  // fp16 [16]
    uint8_t min[kPanels][kBlocks][32];
    uint8_t sub_scale[kPanels][kGroups][at_least_a_chunk(Base::kSubScaleBytes)];
    uint8_t sub_min[kPanels][kGroups][at_least_a_chunk(Base::kSubMinBytes)];
  };
  struct Storage {
    Stage stages[kStages];
  };
};

template <Format kFormat>
using WideQuant = QuantShape<kFormat, 2, 4, 4, 2, 3>;  // 128 × 64
template <Format kFormat>
using TallQuant = QuantShape<kFormat, 1, 4, 1, 8, 2>;  // 64 × 32 for m ≤ 64
template <Format kFormat>
using SlimQuant = QuantShape<kFormat, 1, 1, 1, 8, 3>;  // 16 × 32 for m ≤ 16
template <Format kFormat>
using FewQuant = QuantShape<kFormat, 1, 1, 1, 8, 5, 8>;  // 8 × 32 for m ≤ 8

struct QuantProblem {
  void* y;
  const __nv_bfloat16* x;
  PackedMatrix w;
  const float* bias;
  int m, n, k;
  DType y_type;
  Access stores;
};

// Starts the tiles of x and of the planes that the format has. The copies may still be under way on return.
template <typename Shape>
struct QuantTiles {
  static constexpr int kPanels = Shape::kPanels, kGroups = Shape::kGroups, kBlocks = Shape::kBlocks;
  static constexpr int kBlockGroups = Shape::kIsK ? 256 / kGroupK : 1;  // of a block
  template <int kCount, int kBytes>
  using Copies = PlaneCopies<kPanels, kCount, Shape::at_least_a_chunk(kBytes)>;

  int n_groups, first_group;
  RowCopies<kGroups, Shape::kTileM> x;
  Copies<kGroups, Shape::kCodeBytes> codes;
  Copies<kGroups, Shape::kHighBytes> high;
  Copies<kBlocks, 32> scale, min;
  Copies<kGroups, Shape::kSubScaleBytes> sub_scale;
  Copies<kGroups, Shape::kSubMinBytes> sub_min;

  __device__ __forceinline__ QuantTiles(const QuantProblem& problem, int first_row, int first_panel,
                                        int n_panels, int groups)
      : n_groups(groups),
        first_group(0),
        x(problem.x, first_row, problem.m, problem.k),
        codes(problem.w.codes, first_panel, n_panels, groups),
        high(problem.w.high, first_panel, n_panels, groups),
        scale(problem.w.scale, first_panel, n_panels, groups / kBlockGroups),
        min(problem.w.min, first_panel, n_panels, groups / kBlockGroups),
        sub_scale(problem.w.sub_scale, first_panel, n_panels, groups),
        sub_min(problem.w.sub_min, first_panel, n_panels, groups) {}

  __device__ __forceinline__ void start(typename Shape::Stage& stage) {
    const int left = n_groups - first_group;
    const int blocks_left = Shape::kIsK ? left > 0 : left;
    x.start(stage.x, left * kGroupK);
    start_plane(codes, stage.codes, left);
    if constexpr (Shape::kHighBytes > 0) start_plane(high, stage.high, left);
    if constexpr (Shape::kSubScaleBytes > 0) start_plane(sub_scale, stage.sub_scale, left);
    if constexpr (Shape::kSubMinBytes > 0) start_plane(sub_min, stage.sub_min, left);
    scale.start(stage.scale, blocks_left);
    if constexpr (Shape::kHasMin) min.start(stage.min, blocks_left);
    ptx::cp_async_commit();
    first_group += kGroups;
    if (Shape::kIsK && first_group % kBlockGroups != 0) return;  // the next tile has the same block
    scale.advance();
    if constexpr (Shape::kHasMin) min.advance();
  }

 private:
  template <typename Plane, int kCount, int kBytes>
  __device__ __forceinline__ static void start_plane(Plane& plane, uint8_t (&to)[kPanels][kCount][kBytes],
                                                     int left) {
    plane.start(to, left);
    plane.advance();
  }
};

__device__ __forceinline__ uint32_t half_word_at(const uint8_t* bytes) {
  return *reinterpret_cast<const uint16_t*>(bytes);
}

// Bits of k 2t, 2t + 1 (low half) and k 2t + 8, 2t + 9 of a step, all four in one half word: `from` and
// further up, the second pair's `further` above the first's.
template <uint32_t kMask, int kFurther>
__device__ __forceinline__ uint32_t spread_bits(uint32_t pairs, int from) {
  const uint32_t twice = pairs | pairs << 16;
  return (twice >> from & kMask) | (twice >> (from + kFurther) & kMask << 16);
}

// Of a column of the panel the low bits of k 2t, 2t + 1, 2t + 8, 2t + 9, of both steps. Quads t / 2 and 2 + t
// / 2 hold them.
template <typename Shape>
__device__ __forceinline__ uint32_t load_nibbles(const typename Shape::Stage& stage, int panel, int group,
                                                 int column, int t) {
  if constexpr (Shape::kIsByte) return 0;
  const uint8_t* codes = stage.codes[panel][group] + t / 2 * 64 + column * 4 + t % 2 * 2;
  return half_word_at(codes) | half_word_at(codes + 128) << 16;
}

// mma's b of a step: those codes as bf16 integers. Bytes lie in quads 4 step + t / 2 and 4 step + 2 + t / 2.
template <typename Shape>
__device__ __forceinline__ void load_codes(uint32_t (&b)[2], uint32_t nibbles,
                                           const typename Shape::Stage& stage, int panel, int group,
                                           int column, int t, int step) {
  const int quad = t / 2, at = column * 4 + t % 2 * 2;
  if constexpr (Shape::kIsByte) {
    const uint8_t* codes = stage.codes[panel][group] + quad * 64 + at;
    b[0] = ptx::signed_bytes_to_bf16<0>(half_word_at(codes + step * 256));
    b[1] = ptx::signed_bytes_to_bf16<0>(half_word_at(codes + step * 256 + 128));
  } else {
    uint32_t four = nibbles >> 4 * step & 0x0f0f0f0fu;
    const uint8_t* high = stage.high[panel][group] + at;
    if constexpr (Shape::kHasFifthBit)
      four |= spread_bits<0x0101u, 2>(half_word_at(high), quad + 4 * step) << 4;
    if constexpr (Shape::kHasStepScales)
      four |= spread_bits<0x0303u, 4>(half_word_at(high + step * 64), 2 * quad) << 4;
    b[0] = ptx::bytes_to_bf16<0, Shape::kZero>(four);
    b[1] = ptx::bytes_to_bf16<2, Shape::kZero>(four);
  }
}

struct ColumnPair {
  float of[2];  // columns c (even) and c + 1
};

__device__ __forceinline__ ColumnPair halves_at(const uint8_t* halves, int c) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(halves + 2 * c);
  return {ptx::half_to_float(static_cast<uint16_t>(pair)),
          ptx::half_to_float(static_cast<uint16_t>(pair >> 16))};
}

// Times signed or unsigned bytes of the columns: exact products.
template <typename Byte>
__device__ __forceinline__ ColumnPair times_bytes(const ColumnPair& d, const uint8_t* bytes, int c) {
  const uint32_t pair = *reinterpret_cast<const uint16_t*>(bytes + c);
  return {__fmul_rn(d.of[0], static_cast<float>(static_cast<Byte>(pair))),
          __fmul_rn(d.of[1], static_cast<float>(static_cast<Byte>(pair >> 8)))};
}

// The scales of two columns' sums over a step, and what is added per unit of Σ x.
template <typename Shape>
__device__ __forceinline__ ColumnPair scales_of(const typename Shape::Stage& stage, int panel, int group,
                                                int column, int step) {
  const ColumnPair d = halves_at(stage.scale[panel][Shape::kIsK ? 0 : group], column);
  const uint8_t* const sub = stage.sub_scale[panel][group];
  if constexpr (Shape::kHasStepScales) return times_bytes<int8_t>(d, sub + 16 * step, column);
  if constexpr (Shape::kIsK && !Shape::kHasStepScales) return times_bytes<uint8_t>(d, sub, column);
  return d;
}

template <typename Shape>
__device__ __forceinline__ ColumnPair mins_of(const typename Shape::Stage& stage, int panel, int group,
                                              int column) {
  const ColumnPair m = halves_at(stage.min[panel][Shape::kIsK ? 0 : group], column);
  if constexpr (!Shape::kIsK) return m;
  const ColumnPair product = times_bytes<uint8_t>(m, stage.sub_min[panel][group], column);
  return {-product.of[0], -product.of[1]};
}

// x of both steps of a group as mma's a, and its sums over the group for formats with a min.
template <typename Shape>
struct GroupOfX {
  uint32_t a[Shape::kTilesM][2][4];  // by step
  float sums[Shape::kTilesM][4];

  __device__ __forceinline__ GroupOfX(const typename Shape::Stage& stage, int group, int warp_m) {
    const uint32_t one = ptx::pack<__nv_bfloat16>(1.0f, 1.0f);
    if constexpr (Shape::kRows == 8) load_few(a[0], stage.x, group);
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        if constexpr (Shape::kRows != 8) load_a(a[i][step], stage.x, group, warp_m + 16 * i, step);
      }
      if constexpr (Shape::kHasMin) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][e] = 0.0f;
        ptx::mma_m16n8k16<__nv_bfloat16>(sums[i], a[i][0], {one, one});
        ptx::mma_m16n8k16<__nv_bfloat16>(sums[i], a[i][1], {one, one});
      }
    }
  }
};

// acc += the group's part of one tile of 8 columns; order of sums: kernels.h.
template <typename Shape>
__device__ __forceinline__ void multiply_columns(float (&acc)[Shape::kTilesM][Shape::kTilesN][4],
                                                 const GroupOfX<Shape>& x, const typename Shape::Stage& stage,
                                                 int group, int warp_n, int j, int lane) {
  const int first = warp_n + 8 * j, panel = first / kPanelN;
  const int first_column = first % kPanelN, t = lane % 4;
  const uint32_t nibbles = load_nibbles<Shape>(stage, panel, group, first_column + lane / 4, t);
  float sums[Shape::kTilesM][4] = {};
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t b[2];
    load_codes<Shape>(b, nibbles, stage, panel, group, first_column + lane / 4, t, step);
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) ptx::mma_m16n8k16<__nv_bfloat16>(sums[i], x.a[i][step], b);
    if (!Shape::kHasStepScales && step == 0) continue;
    const ColumnPair scales = scales_of<Shape>(stage, panel, group, first_column + 2 * t, step);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float scale = scales.of[e];
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& sum = sums[i][2 * half + e];
          acc[i][j][2 * half + e] = __fmaf_rn(scale, sum, acc[i][j][2 * half + e]);
          sum = 0.0f;
        }
      }
    }
  }
  if constexpr (Shape::kHasMin) {
    const ColumnPair mins = mins_of<Shape>(stage, panel, group, first_column + 2 * t);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float min = mins.of[e % 2];
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; ++i) acc[i][j][e] = __fmaf_rn(min, x.sums[i][e], acc[i][j][e]);
    }
  }
}

template <typename Shape, typename Out>
__device__ __forceinline__ void store_sums(Out* y, const QuantProblem& problem,
                                           const float (&acc)[Shape::kTilesM][Shape::kTilesN][4], int row,
                                           int column) {
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 16 * i + 8 * half;
      if (r >= problem.m) continue;
#pragma unroll
      for (int j = 0; j < Shape::kTilesN; ++j) {
        store_columns(y + static_cast<int64_t>(r) * problem.n, problem.bias, column + 8 * j, problem.n,
                      problem.stores, acc[i][j][2 * half], acc[i][j][2 * half + 1]);
      }
    }
  }
}

// The tile of y from (first_row, first_column) on; the pipeline is gemm.cuh's.
template <typename Shape>
__device__ __forceinline__ void quant_tile(const QuantProblem& problem, int first_row, int first_column) {
  constexpr int kStages = Shape::kStages;
  auto& shared = shared_storage<typename Shape::Storage>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / Shape::kWarpsN * Shape::kWarpM, warp_n = warp % Shape::kWarpsN * Shape::kWarpN;
  const int n_groups = problem.k / kGroupK, n_panels = (problem.n + kPanelN - 1) / kPanelN;
  const int n_tiles = (n_groups + Shape::kGroups - 1) / Shape::kGroups;

  QuantTiles<Shape> tiles(problem, first_row, first_column / kPanelN, n_panels, n_groups);
  float acc[Shape::kTilesM][Shape::kTilesN][4] = {};
  for (int stage = 0; stage < kStages - 1; ++stage) tiles.start(shared.stages[stage]);
  int full = 0, free = kStages - 1;  // the stage to multiply, and the one to fill
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the tile has arrived, and nobody still reads the stage that is filled next
    tiles.start(shared.stages[free]);
    const typename Shape::Stage& stage = shared.stages[full];
    free = full;
    full = full + 1 == kStages ? 0 : full + 1;
#pragma unroll Shape::kUnrolled
    for (int group = 0; group < Shape::kGroups; ++group) {
      const GroupOfX<Shape> x(stage, group, warp_m);
#pragma unroll
      for (int j = 0; j < Shape::kTilesN; ++j) multiply_columns<Shape>(acc, x, stage, group, warp_n, j, lane);
    }
  }
  const int row = first_row + warp_m + lane / 4, column = first_column + warp_n + lane % 4 * 2;
  if (problem.y_type == DType::f32) {
    store_sums<Shape>(static_cast<float*>(problem.y), problem, acc, row, column);
  } else {
    store_sums<Shape>(static_cast<__nv_bfloat16*>(problem.y), problem, acc, row, column);
  }
}

// Block (i, j) computes tile (i, j) of y.
template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, 2) gemm_quant_kernel(QuantProblem problem) {
  quant_tile<Shape>(problem, blockIdx.x * Shape::kTileM, blockIdx.y * Shape::kTileN);
}

}  // namespace tuili::cuda

// Every format that the kernels are made for.
#define TUILI_QUANT_FORMATS(make) \
  make(q8_0) make(q4_0) make(q4_1) make(q5_0) make(q5_1) make(q4_k) make(q5_k) make(q6_k)
