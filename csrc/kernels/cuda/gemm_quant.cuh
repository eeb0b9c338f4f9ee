// GEMM with quantized weights on tensor cores: y[m, n] = x[m, k] · w[n, k]ᵀ (+ bias[n]), x bf16, w packed as
// base/packed.h says: the CPU's planes, which are mma's fragments as they lie. Lane 4g + t takes quad t of
// column g for the first step of a group and quad t + 4 for the second, so that a step is 16 consecutive k
// and the scales of every format belong to one step or to both. Codes are small integers, exact in bf16;
// scales meet the f32 sums of a group.
//
// v1  16 × 32 tiles for m ≤ 16, 64 × 64 above. Predicted for m ≤ 16: 12 KiB (4 bit) to 24 KiB (8 bit) of w on
//     their way per block, bound by memory from n = 8,192 on; 4-bit codes cost 1.3 instructions each.
#pragma once

#include "base/packed.h"
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kQuantThreads = 128;  // 4 warps
inline constexpr int kGroupK = 32;
inline constexpr int kPanelN = 16;
inline constexpr int kBlockGroups = 8;  // of a block of 256 in the K formats

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

template <Format kFormat_, int kWarpsM_, int kTilesM_, int kTilesN_, int kGroups_, int kStages_>
struct QuantShape : QuantFormat<kFormat_> {
  using Base = QuantFormat<kFormat_>;
  static constexpr Format kFormat = kFormat_;
  static constexpr int kWarpsN = kQuantThreads / 32 / kWarpsM_;
  static constexpr int kTilesM = kTilesM_, kTilesN = kTilesN_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kWarpM = 16 * kTilesM, kWarpN = 8 * kTilesN;
  static constexpr int kTileM = kWarpsM_ * kWarpM, kTileN = kWarpsN * kWarpN;
  static constexpr int kPanels = kTileN / kPanelN;
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
using WideQuant = QuantShape<kFormat, 2, 2, 4, 2, 3>;  // 64 × 64
template <Format kFormat>
using SlimQuant = QuantShape<kFormat, 1, 1, 1, 8, 4>;  // 16 × 32

struct QuantProblem {
  void* y;
  const __nv_bfloat16* x;
  PackedMatrix w;
  const float* bias;
  int m, n, k;
  DType y_type;
};

// Where a 16-byte chunk of a row of 32 x lies: rows that begin at the same bank exchange their halves.
__device__ __forceinline__ int swizzled_chunk(int row, int chunk) { return chunk ^ (row / 2 % 2 * 2); }

// Rows [first_row, …) of x, groups [first_group, …); zero outside. The copies may still be under way on
// return.
template <typename Shape>
__device__ __forceinline__ void start_activations(typename Shape::Stage& stage, const QuantProblem& problem,
                                                  int first_row, int first_group) {
  constexpr int kChunk = kVectorBytes / sizeof(__nv_bfloat16), kChunks = kGroupK / kChunk;
  constexpr int kPerRow = Shape::kGroups * kChunks;
#pragma unroll
  for (int i = threadIdx.x; i < Shape::kTileM * kPerRow; i += kQuantThreads) {
    const int row = i / kPerRow, group = i % kPerRow / kChunks, chunk = i % kChunks;
    const int k = (first_group + group) * kGroupK + chunk * kChunk;
    const bool exists = first_row + row < problem.m && k < problem.k;
    const __nv_bfloat16* source = problem.x + static_cast<int64_t>(first_row + row) * problem.k + k;
    ptx::cp_async_16(&stage.x[group][row][swizzled_chunk(row, chunk) * kChunk], exists ? source : problem.x,
                     exists ? kVectorBytes : 0);
  }
}

// Entries [first, first + kCount) of each of the block's panels, of `count` entries of kBytes each; zero
// outside.
template <int kPanels, int kCount, int kBytes>
__device__ __forceinline__ void start_plane(uint8_t (&to)[kPanels][kCount][kBytes], const void* plane,
                                            int first_panel, int n_panels, int first, int count) {
  constexpr int kChunks = kCount * kBytes / kVectorBytes;  // of a panel
  const auto* from = static_cast<const uint8_t*>(plane);
#pragma unroll
  for (int i = threadIdx.x; i < kPanels * kChunks; i += kQuantThreads) {
    const int panel = i / kChunks, byte = i % kChunks * kVectorBytes, entry = first + byte / kBytes;
    const bool exists = first_panel + panel < n_panels && entry < count;
    const int64_t at = (static_cast<int64_t>(first_panel + panel) * count + first) * kBytes + byte;
    ptx::cp_async_16(&to[panel][0][0] + byte, exists ? from + at : from, exists ? kVectorBytes : 0);
  }
}

template <typename Shape>
__device__ __forceinline__ void start_weights(typename Shape::Stage& stage, const PackedMatrix& w,
                                              int first_panel, int first_group) {
  const int groups = static_cast<int>(w.k) / kGroupK;
  const int panels = (static_cast<int>(w.n) + kPanelN - 1) / kPanelN;
  const int blocks = Shape::kIsK ? groups / kBlockGroups : groups;
  const int block = Shape::kIsK ? first_group / kBlockGroups : first_group;
  start_plane(stage.codes, w.codes, first_panel, panels, first_group, groups);
  start_plane(stage.scale, w.scale, first_panel, panels, block, blocks);
  if constexpr (Shape::kHighBytes > 0)
    start_plane(stage.high, w.high, first_panel, panels, first_group, groups);
  if constexpr (Shape::kHasMin) start_plane(stage.min, w.min, first_panel, panels, block, blocks);
  if constexpr (Shape::kSubScaleBytes > 0)
    start_plane(stage.sub_scale, w.sub_scale, first_panel, panels, first_group, groups);
  if constexpr (Shape::kSubMinBytes > 0)
    start_plane(stage.sub_min, w.sub_min, first_panel, panels, first_group, groups);
}

__device__ __forceinline__ uint32_t word_at(const uint8_t* bytes) {
  return *reinterpret_cast<const uint32_t*>(bytes);
}

// mma's b: quad t + 4 · step of a column of the panel, as bf16 integers.
template <typename Shape>
__device__ __forceinline__ void load_codes(uint32_t (&b)[2], const typename Shape::Stage& stage, int panel,
                                           int group, int column, int t, int step) {
  const uint8_t* codes = stage.codes[panel][group];
  if constexpr (Shape::kIsByte) {
    const uint32_t quad = word_at(codes + (t + 4 * step) * 64 + column * 4);
    b[0] = ptx::signed_bytes_to_bf16<0>(quad);
    b[1] = ptx::signed_bytes_to_bf16<2>(quad);
  } else {
    uint32_t quad = word_at(codes + t * 64 + column * 4) >> 4 * step & 0x0f0f0f0fu;
    const uint8_t* high = stage.high[panel][group];
    if constexpr (Shape::kHasFifthBit)
      quad |= (word_at(high + column * 4) >> (t + 4 * step) & 0x01010101u) << 4;
    if constexpr (Shape::kHasStepScales)
      quad |= (word_at(high + step * 64 + column * 4) >> 2 * t & 0x03030303u) << 4;
    b[0] = ptx::bytes_to_bf16<0, Shape::kZero>(quad);
    b[1] = ptx::bytes_to_bf16<2, Shape::kZero>(quad);
  }
}

__device__ __forceinline__ float half_at(const uint8_t* halves, int i) {
  return to_float(reinterpret_cast<const __half*>(halves)[i]);
}

// The scale of a column's sums over a step, and what is added per unit of Σ x: exact products.
template <typename Shape>
__device__ __forceinline__ float scale_of(const typename Shape::Stage& stage, int panel, int group,
                                          int column, int step) {
  const float d = half_at(stage.scale[panel][Shape::kIsK ? 0 : group], column);
  if constexpr (Shape::kHasStepScales)
    return __fmul_rn(
        d, static_cast<float>(static_cast<int8_t>(stage.sub_scale[panel][group][16 * step + column])));
  if constexpr (Shape::kIsK) return __fmul_rn(d, static_cast<float>(stage.sub_scale[panel][group][column]));
  return d;
}

template <typename Shape>
__device__ __forceinline__ float min_of(const typename Shape::Stage& stage, int panel, int group,
                                        int column) {
  const float m = half_at(stage.min[panel][Shape::kIsK ? 0 : group], column);
  if constexpr (Shape::kIsK) return -__fmul_rn(m, static_cast<float>(stage.sub_min[panel][group][column]));
  return m;
}

// x of both steps of a group as mma's a, and its sums over the group for formats with a min.
template <typename Shape>
struct GroupOfX {
  uint32_t a[Shape::kTilesM][2][4];  // by step
  float sums[Shape::kTilesM][4];

  __device__ __forceinline__ GroupOfX(const typename Shape::Stage& stage, int group, int warp_m, int lane) {
    const uint32_t one = ptx::pack<__nv_bfloat16>(1.0f, 1.0f);
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_m + 16 * i + 8 * half + lane / 4;
          const int chunk = swizzled_chunk(row, 2 * step + lane % 4 / 2);
          const uint2 quad = *reinterpret_cast<const uint2*>(&stage.x[group][row][chunk * 8 + lane % 2 * 4]);
          a[i][step][half] = quad.x;
          a[i][step][2 + half] = quad.y;
        }
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
  float sums[Shape::kTilesM][4] = {};
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t b[2];
    load_codes<Shape>(b, stage, panel, group, first_column + lane / 4, t, step);
#pragma unroll
    for (int i = 0; i < Shape::kTilesM; ++i) ptx::mma_m16n8k16<__nv_bfloat16>(sums[i], x.a[i][step], b);
    if (!Shape::kHasStepScales && step == 0) continue;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float scale = scale_of<Shape>(stage, panel, group, first_column + 2 * t + e, step);
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
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float min = min_of<Shape>(stage, panel, group, first_column + 2 * t + e % 2);
#pragma unroll
      for (int i = 0; i < Shape::kTilesM; ++i) acc[i][j][e] = __fmaf_rn(min, x.sums[i][e], acc[i][j][e]);
    }
  }
}

template <typename Shape>
__device__ __forceinline__ void store_sums(const QuantProblem& problem,
                                           const float (&acc)[Shape::kTilesM][Shape::kTilesN][4], int row,
                                           int column) {
#pragma unroll
  for (int i = 0; i < Shape::kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < Shape::kTilesN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + 16 * i + e / 2 * 8, c = column + 8 * j + e % 2;
        if (r >= problem.m || c >= problem.n) continue;
        const float value = problem.bias == nullptr ? acc[i][j][e] : __fadd_rn(acc[i][j][e], problem.bias[c]);
        const int64_t at = static_cast<int64_t>(r) * problem.n + c;
        if (problem.y_type == DType::f32) {
          store(static_cast<float*>(problem.y) + at, value);
        } else {
          store(static_cast<__nv_bfloat16*>(problem.y) + at, value);
        }
      }
    }
  }
}

// Block (i, j) computes tile (i, j) of y; the pipeline is gemm.cuh's.
template <typename Shape>
__global__ void __launch_bounds__(kQuantThreads, Shape::kTilesM == 1 ? 4 : 2)
    gemm_quant_kernel(QuantProblem problem) {
  constexpr int kStages = Shape::kStages;
  auto& shared = shared_storage<typename Shape::Storage>();
  const int first_row = blockIdx.x * Shape::kTileM, first_column = blockIdx.y * Shape::kTileN;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_m = warp / Shape::kWarpsN * Shape::kWarpM, warp_n = warp % Shape::kWarpsN * Shape::kWarpN;
  const int n_tiles = (problem.k / kGroupK + Shape::kGroups - 1) / Shape::kGroups;

  const auto start_tile = [&](int tile) {
    if (tile < n_tiles) {
      typename Shape::Stage& stage = shared.stages[tile % kStages];
      start_activations<Shape>(stage, problem, first_row, tile * Shape::kGroups);
      start_weights<Shape>(stage, problem.w, first_column / kPanelN, tile * Shape::kGroups);
    }
    ptx::cp_async_commit();  // an empty group keeps the count right past the end
  };

  float acc[Shape::kTilesM][Shape::kTilesN][4] = {};
  for (int tile = 0; tile < kStages - 1; ++tile) start_tile(tile);
  for (int tile = 0; tile < n_tiles; ++tile) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the tile has arrived, and nobody still reads the stage that is filled next
    start_tile(tile + kStages - 1);
    const typename Shape::Stage& stage = shared.stages[tile % kStages];
#pragma unroll 1
    for (int group = 0; group < Shape::kGroups; ++group) {
      const GroupOfX<Shape> x(stage, group, warp_m, lane);
#pragma unroll
      for (int j = 0; j < Shape::kTilesN; ++j) multiply_columns<Shape>(acc, x, stage, group, warp_n, j, lane);
    }
  }
  store_sums<Shape>(problem, acc, first_row + warp_m + lane / 4, first_column + warp_n + lane % 4 * 2);
}

}  // namespace tuili::cuda
