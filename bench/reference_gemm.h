// FROZEN: two plain kernels that never change, so that a ratio to them, taken in one run, means the same on
// every day and machine. Data are in today's packed layout (base/packed.h); if that changes, these keep the
// old one.
#pragma once

#include <cstdint>

namespace tuili::bench {

// y[m, n] of 4-bit weights (4 × 16 × 4 nibbles of 32 k, one scale per column and 32 k) and int8 activations
// with one scale per row and 32 k. m and n are multiples of 4 and 16, k of 32.
//   codes   [n/16][k/32][4][16][4]   scale f32 [n/16][k/32][16]   a [m][k]   a_scale f32 [m][k/32]
struct ReferenceInt4 {
  float* y;
  const uint8_t* codes;
  const float* scale;
  const int8_t* a;
  const float* a_scale;
  int64_t m, n, k;
};
void reference_int4(const ReferenceInt4& args);

// y[m, n] = x[m, k] · w, w f32 [n/16][k][16].   m is a multiple of 6.
struct ReferenceFloat {
  float* y;
  const float* x;
  const float* w;
  int64_t m, n, k;
};
void reference_float(const ReferenceFloat& args);

bool reference_runs_here();

}  // namespace tuili::bench
