// Records of quantized weights (base/device_records.h) as mma's a: codes are small integers, exact in bf16,
// 11 instructions per 8 of 4 bits; scales meet the f32 sums of a group. The rows of y are mma's columns, so
// that 8 rows fill a tile.
#pragma once

#include "base/device_records.h"
#include "base/packed.h"
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile_copy.cuh"

namespace tuili::cuda {

inline constexpr int kQuantThreads = kTileThreads;  // 4 warps
inline constexpr int kGroupK = kPlaneK;
inline constexpr int kPanelN = 16;
inline constexpr int kRowTile = 8;  // rows of y in a tile of mma
inline constexpr int kPartK = 256;  // parts of k consist of so many
inline constexpr int kParts = 4;

// Of which k each part consists, but for the last (kernels.h).
__host__ __device__ constexpr int part_of(int k) {
  return (k + kParts * kPartK - 1) / (kParts * kPartK) * kPartK;
}

template <Format kFormat_>
struct QuantFormat {
  static constexpr Format kFormat = kFormat_;
  static constexpr DeviceRecords kRecords = device_records(kFormat);
  static constexpr int kHeader = kRecords.header, kPair = kRecords.pair_bytes(),
                       kRecord = kRecords.record_bytes();
  static constexpr bool kIsK = kHeader > 0;
  static constexpr bool kHasMin = kFormat == Format::q4_1 || kFormat == Format::q5_1 ||
                                  kFormat == Format::q4_k || kFormat == Format::q5_k;
  static constexpr bool kIsByte = kFormat == Format::q8_0;
  static constexpr int kHighWords = kRecords.high / 128;           // of a lane
  static constexpr int kHighBits = kHighWords;                     // of a code
  static constexpr bool kHasStepScales = kFormat == Format::q6_k;  // one per 16 k
  static constexpr int kScaleWords = kRecords.scales / 32;         // of two columns
  static constexpr int kZero = kFormat == Format::q4_0   ? 8
                               : kFormat == Format::q5_0 ? 16
                               : kFormat == Format::q6_k ? 32
                                                         : 0;
  static constexpr int panel_bytes(int pairs) { return kHeader + pairs * kPair; }  // in one block of 256
};

struct QuantProblem {
  float* y;
  const __nv_bfloat16* x;
  const uint8_t* w;  // records
  const float* bias;
  int m, n, k;
};

// kLanes threads' copies of a panel's pairs, kPairs by kPairs, each time with their block's header. Pairs
// past the end of the panel are what follows it in memory.
template <typename F, int kPairs, int kLanes>
struct PanelCopies {
  static constexpr int kStep = kLanes * kVectorBytes, kBytes = F::panel_bytes(kPairs);
  const uint8_t* block;  // the thread's first byte, in the block of the stage to come
  int before;            // bytes of the block's pairs before that stage
  int byte;              // of a stage, the thread's first

  // From `pair` on, which begins a block. Panels past the last one are the last one once more.
  __device__ __forceinline__ PanelCopies(const QuantProblem& problem, int panel, int pair, int thread)
      : before(0), byte(thread * kVectorBytes) {
    const int n_blocks = (problem.k + kPairK - 1) / kPairK / F::kRecords.pairs;
    const int last = (problem.n + kPanelN - 1) / kPanelN - 1;
    block = problem.w + byte +
            (static_cast<int64_t>(min(panel, last)) * n_blocks + pair / F::kRecords.pairs) * F::kRecord;
  }

  // Starts the next copies, which may still be under way on return.
  __device__ __forceinline__ void start(uint8_t (&to)[kBytes]) {
    constexpr bool kIsPart = kPairs < F::kRecords.pairs;
#pragma unroll
    for (int at = 0; at < kBytes; at += kStep) {
      if (at + kStep > kBytes && byte >= kBytes - at) break;
      const bool is_header = at == 0 && byte < F::kHeader;
      ptx::cp_async_16(&to[at + byte], block + at + (kIsPart && !is_header ? before : 0), kVectorBytes);
    }
    if constexpr (!kIsPart) {
      block += kPairs / F::kRecords.pairs * F::kRecord;
    } else {
      before += kPairs * F::kPair;
      if (before < F::kRecords.pairs * F::kPair) return;
      before = 0;
      block += F::kRecord;
    }
  }
};

struct ColumnPair {
  float of[2];  // columns g and g + 8
};

__device__ __forceinline__ ColumnPair halves(uint32_t pair) {
  return {ptx::half_to_float(static_cast<uint16_t>(pair)),
          ptx::half_to_float(static_cast<uint16_t>(pair >> 16))};
}

// Times two signed or unsigned bytes: exact products.
template <typename Byte>
__device__ __forceinline__ ColumnPair times_bytes(const ColumnPair& d, uint32_t bytes) {
  return {__fmul_rn(d.of[0], static_cast<float>(static_cast<Byte>(bytes))),
          __fmul_rn(d.of[1], static_cast<float>(static_cast<Byte>(bytes >> 8)))};
}

// A lane's part of the header: d and -dmin.
template <typename F>
struct BlockScales {
  ColumnPair d{}, minus_min{};

  __device__ __forceinline__ void load(const uint8_t* header, int lane) {
    if constexpr (F::kHasMin) {
      const uint2 both = *reinterpret_cast<const uint2*>(header + lane / 4 * 8);
      d = halves(both.x), minus_min = halves(both.y ^ 0x80008000u);
    } else {
      d = halves(*reinterpret_cast<const uint32_t*>(header + lane / 4 * 4));
    }
  }
};

// A lane's part of a pair.
template <typename F>
struct PairOfGroups {
  uint32_t codes[F::kIsByte ? 8 : 4];
  uint32_t high[F::kHighWords > 0 ? F::kHighWords : 1];
  uint32_t scales[F::kScaleWords];

  __device__ __forceinline__ void load(const uint8_t* pair, int lane) {
    load(codes, pair + lane * 16, 512);
    if constexpr (F::kHighWords > 0) load(high, pair + F::kRecords.codes + lane * 4 * F::kHighWords, 0);
    load(scales, pair + F::kRecords.codes + F::kRecords.high + lane / 4 * 4 * F::kScaleWords, 0);
  }

  // Numbers 4 step … 4 step + 3 of a group.
  __device__ __forceinline__ void unpack(uint32_t (&a)[4], int group, int step) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = two_codes(group, 4 * step + r);
  }

  // The scales of sums over a step, and what is added per unit of Σ x.
  __device__ __forceinline__ ColumnPair scale(const BlockScales<F>& block, int group, int step) const {
    if constexpr (F::kHasStepScales) return times_bytes<int8_t>(block.d, scales[group] >> 16 * step);
    if constexpr (F::kIsK && !F::kHasStepScales)
      return times_bytes<uint8_t>(block.d, scales[0] >> 16 * group);
    return halves(scales[group]);
  }
  __device__ __forceinline__ ColumnPair min(const BlockScales<F>& block, int group) const {
    if constexpr (F::kIsK) return times_bytes<uint8_t>(block.minus_min, scales[1] >> 16 * group);
    return halves(scales[F::kScaleWords / 2 + group]);
  }

 private:
  static constexpr uint32_t kOne = 0x3f803f80u, kMinusOne = 0xbf80bf80u;
  static constexpr uint32_t k128 = 0x43004300u;  // a bf16 whose fraction counts ones

  // Words that lie together, four by four `distance` bytes apart.
  template <int kWords>
  __device__ __forceinline__ static void load(uint32_t (&words)[kWords], const uint8_t* from, int distance) {
    if constexpr (kWords == 1) words[0] = *reinterpret_cast<const uint32_t*>(from);
    if constexpr (kWords == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[0] = two.x, words[1] = two.y;
    }
    if constexpr (kWords >= 4) {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(from + i / 4 * distance);
        words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
      }
    }
  }

  // Number i of a group as two bf16: exact.
  __device__ __forceinline__ uint32_t two_codes(int group, int i) const {
    if constexpr (F::kIsByte) {  // 128 + its low bits, minus 128, or 256 where the sign is set
      const uint32_t bytes = codes[4 * group + i / 2] >> 8 * (i % 2);
      return ptx::fma_bf16x2(ptx::and_or(bytes, 0x00800080u, k128), kMinusOne,
                             ptx::and_or(bytes, 0x007f007fu, k128));
    }
    uint32_t biased = ptx::and_or(codes[2 * group + i / 4] >> 4 * (i % 4), 0x000f000fu, k128);
    if constexpr (F::kHighBits == 1)
      biased = ptx::and_or(moved(high[0], 8 * group + i - 4), 0x00100010u, biased);
    if constexpr (F::kHighBits == 2) biased = ptx::and_or(moved(high[group], 2 * i - 4), 0x00300030u, biased);
    constexpr uint32_t kMinus = 0xc300c300u | static_cast<uint32_t>(F::kZero) << 16 | F::kZero;
    return ptx::fma_bf16x2(biased, kOne, kMinus);
  }
  __device__ __forceinline__ static uint32_t moved(uint32_t bits, int down) {
    return down >= 0 ? bits >> down : bits << -down;
  }
};

// mma's b of both steps of a group, of 8 rows of x: of row g the k 4 t … 4 t + 3 of a step, in order.
struct RowsOfX {
  uint32_t of[2][2];
};

// mma's a of both steps of a group, and what its sums are scaled by.
template <typename F>
struct Group {
  uint32_t a[2][4];
  ColumnPair scales[F::kHasStepScales ? 2 : 1] = {}, min{};

  __device__ __forceinline__ void unpack(const PairOfGroups<F>& pair, const BlockScales<F>& block,
                                         int group) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      pair.unpack(a[step], group, step);
      if (F::kHasStepScales || step == 0) scales[step] = pair.scale(block, group, step);
    }
    if constexpr (F::kHasMin) min = pair.min(block, group);
  }
};

// acc += a group's part of kPanels × kTiles tiles; order of sums: kernels.h. x_of(i): rows of tile i.
template <typename F, int kPanels, int kTiles, typename XOf>
__device__ __forceinline__ void multiply_group(float (&acc)[kPanels][kTiles][4], const Group<F> (&w)[kPanels],
                                               const XOf& x_of) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const RowsOfX x = x_of(i);
    float sums_of_x[4] = {};
    if constexpr (F::kHasMin) {
      const uint32_t one = ptx::pack<__nv_bfloat16>(1.0f, 1.0f);
#pragma unroll
      for (int step = 0; step < 2; ++step)
        ptx::mma_m16n8k16<__nv_bfloat16>(sums_of_x, {one, one, one, one}, x.of[step]);
    }
#pragma unroll
    for (int p = 0; p < kPanels; ++p) {
      float sums[4] = {};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        ptx::mma_m16n8k16<__nv_bfloat16>(sums, w[p].a[step], x.of[step]);
        if (!F::kHasStepScales && step == 0) continue;
        const ColumnPair& scale = w[p].scales[F::kHasStepScales ? step : 0];
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          ptx::fma_both(acc[p][i][e], acc[p][i][e + 1], scale.of[e / 2], sums[e], sums[e + 1]);
          sums[e] = sums[e + 1] = 0.0f;
        }
      }
      if constexpr (F::kHasMin) {
#pragma unroll
        for (int e = 0; e < 4; ++e)
          acc[p][i][e] = __fmaf_rn(w[p].min.of[e / 2], sums_of_x[e % 2], acc[p][i][e]);
      }
    }
  }
}

template <typename F, int kPanels, int kTiles, typename XOf>
__device__ __forceinline__ void multiply_group(float (&acc)[kPanels][kTiles][4],
                                               const PairOfGroups<F> (&pairs)[kPanels],
                                               const BlockScales<F> (&blocks)[kPanels], int group,
                                               const XOf& x_of) {
  Group<F> w[kPanels];
#pragma unroll
  for (int p = 0; p < kPanels; ++p) w[p].unpack(pairs[p], blocks[p], group);
  multiply_group(acc, w, x_of);
}

// A lane's sums of a tile of mma: columns `column` and 8 further, rows `row` and the next. Each with its bias
// (may be null); nothing past y.
__device__ __forceinline__ void store_sums(const QuantProblem& problem, const float (&sums)[4], int row,
                                           int column) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int r = row + e % 2, c = column + e / 2 * 8;
    if (r >= problem.m || c >= problem.n) continue;
    const float sum = problem.bias == nullptr ? sums[e] : __fadd_rn(sums[e], problem.bias[c]);
    problem.y[static_cast<int64_t>(r) * problem.n + c] = sum;
  }
}

}  // namespace tuili::cuda

// Every format that the kernels are made for.
#define TUILI_QUANT_FORMATS(make) \
  make(q8_0) make(q4_0) make(q4_1) make(q5_0) make(q5_1) make(q4_k) make(q5_k) make(q6_k)
