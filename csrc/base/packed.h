// Packed weights: the one layout that every kernel reads, for every m.
//
// A weight [n, k] (row = output) is cut into panels of 16 outputs ("columns" of y). Outputs past n are zero.
//
//   float formats, k1n16:   codes  [panel][k][16] elements of the format
//   quantized, k4n16:       k is cut into groups of 32, a group into 8 k-quads of 4. Plane by plane:
//     codes   8 bit  [panel][group][8 quads][16 columns][4 k]                      int8, 512 B per group
//             else   [panel][group][4][16 columns][4 k]   low nibble: quad q, high nibble: quad q + 4;  256 B
//     high    5 bit  [panel][group][16 columns][4 k]      bit q is bit 4 of quad q's code;               64 B
//             6 bit  [panel][group][2][16 columns][4 k]   row r, bits 2j and 2j + 1 are bits 4 and 5
//                                                         of the code of quad 4r + j;                   128 B
//     scale   fp16   [panel][block][16]          d of the block (32 elements; 256 in K formats)
//     min     fp16   [panel][block][16]          m of q4_1 and q5_1; dmin of q4_k and q5_k
//     sub_scale      [panel][group][16] u8       6-bit scale of q4_k and q5_k
//                    [panel][group][2][16] i8    scales of q6_k: quads 0-3, then quads 4-7
//     sub_min        [panel][group][16] u8       6-bit min of q4_k and q5_k
//
// The value of an element, every product and sum rounded to float32 as gguf's own dequantization does:
//   q8_0  d·c            q4_0  d·(c - 8)      q5_0  d·(c - 16)
//   q4_1, q5_1  d·c + m  q4_k, q5_k  (d·s)·c - dmin·sm   q6_k  (d·s)·(c - 32)
// Codes of padded outputs and of k past the end are such that they add nothing: scales and mins are zero
// there, and the activations are zero past k.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/rounding.h"

namespace tuili {

// Files of the packed cache carry it. Count up with any change of what `pack` writes, of alignments included.
inline constexpr int kPackedLayoutVersion = 2;

inline constexpr int64_t kPanel = 16;    // outputs per panel
inline constexpr int64_t kGroup = 32;    // k per group: one activation scale, one exact integer sum
inline constexpr int64_t kWide = 4;      // groups of a wide scale
inline constexpr int64_t kKBlock = 512;  // k per block of the float chains (kernels.h: gemm_float)

// A borrowed view; model/weights.h owns the memory. Every plane begins on a 64-byte boundary. In a device's
// memory `codes` alone is there: records (base/device_records.h), or the dense rows of a float format.
struct PackedMatrix {
  Format format = Format::f32;
  int64_t n = 0;  // outputs
  int64_t k = 0;  // inputs
  const uint8_t* codes = nullptr;
  const uint8_t* high = nullptr;
  const uint16_t* scale = nullptr;
  const uint16_t* min = nullptr;
  const uint8_t* sub_scale = nullptr;
  const uint8_t* sub_min = nullptr;
  // Of q8_0: all kWide groups of 128 values have one scale, and may be summed first.
  bool has_wide_scales = false;

  int64_t n_panels() const { return ceil_div(n, kPanel); }
  int64_t n_groups() const { return ceil_div(k, kGroup); }
};

// Codes of groups of 32 activations, one scale each: x = d · code.
//   amax = largest |x| of the group, rest = largest |x| that is no outlier; base = max(rest, amax / 128),
//   or amax if rest > 3/4 · amax; d = base / 127; code = round_half_even(x · (127 / base)): within ±127, of
//   outliers within ±16256.
// A group whose amax is below 2^-100 is zero (codes 0, d 0); one that holds NaN or Inf has codes 0, d = NaN.
//
// Outliers are the few values that would force a coarse d upon the 31 others of their group: those above the
// mean of the row's amaxes (summed in double, ascending; the mean rounded to float), a limit that is doubled
// (from 0: becomes 2^-149) while more than max_outliers() values are above it. A code is low + 128 · high: in
// the quads (4 k) with a code beyond ±127, high = floor((code + 64) / 128), kept on the side; elsewhere it is
// 0. One quad in 25 is so kept, and 3/4 of the rounding error is gone, which int8 has from outliers most of
// all (tests/compare_quantized.py). Who does without (keeps_outliers) has none, and codes within ±127.
//
// Beside weights with wide scales, activations without outliers have them, too: one d of 128 values, from
// their amax, and one exact sum. `scale` and `offset_sum` of all four groups are at the place of the first;
// `scaled_sum` and `half_sum`, which q8_0 does not read, are not written.
struct OutlierQuad {
  int32_t group, quad;
  int8_t high[4];
  int32_t offset_sum;   // -8 · Σ high
  int16_t half_sum[2];  // Σ high as the low codes' half_sum has it: the other half's is 0
  float scale;          // 128 · d
};

// Rows go in blocks of 4, a block's group lies together, [m / 4][n_groups][4], so that a kernel finds the
// rows of a tile at constant distances: a group of a row has a place.
inline constexpr int64_t kRowBlock = 4;

struct QuantizedRows {
  int8_t* low = nullptr;            // [places, 32], zero past k
  float* scale = nullptr;           // d                                       [places]
  float* scaled_sum = nullptr;      // d · float(Σ codes)                      [places]
  int32_t* offset_sum = nullptr;    // -8 · Σ low: offsets are multiples of 8  [places]
  int16_t* half_sum = nullptr;      // Σ low of k 0-15 and of k 16-31          [places, 2]
  OutlierQuad* outliers = nullptr;  // [m, max_outliers()], ascending; the first n_outliers[row] are used
  int32_t* n_outliers = nullptr;    // [m]
  int64_t n_groups = 0;
  bool keeps_outliers = true;
  bool has_wide_scales = false;

  int64_t max_outliers() const { return n_groups; }
  int64_t n_places(int64_t m) const { return round_up(m, kRowBlock) * n_groups; }
  int64_t place(int64_t row, int64_t group) const {
    return (row / kRowBlock * n_groups + group) * kRowBlock + row % kRowBlock;
  }
};

}  // namespace tuili
