// The vector vocabulary in plain C++: what every other simd_*.h must equal, bit for bit.
//
// A Floats is 16 float32, a panel wide, on every instruction set: 16 numbers here, 2 registers on AVX2, 1 on
// AVX-512, 4 on NEON. The .inl files are written once over these words:
//   Floats   zero splat load load_first store store_first transpose  + - * /  fma min max sum max_of
//            first_lane
//   Ints     16 int32: splat_int load_u16 store_u16 load_i8 store_i8  + - & |  shl shr max sum max_of
//            to_float as_ints as_floats
//   Mask     first less select
//   Bytes    64 codes, 16 columns × 4 k: load_codes store_codes load_signed bits bits_from  |
//   Partial  16 sums of products in progress: no_sum sum_from completed dot widen accumulate
//            SubScales sub_scales pair_dot
//   Words    codes as int16, of AVX2 alone
// min(a, b) is a < b ? a : b and max(a, b) is a > b ? a : b: with a NaN the second operand passes.
#pragma once

#include <stdint.h>

#define TUILI_INLINE inline __attribute__((always_inline))

namespace tuili::cpu::TUILI_ISA {
namespace {

constexpr int kFloatRows = 2;          // rows of a float tile: on other tables as many as the registers hold
constexpr int kManyRows = kFloatRows;  // of a tile where there are many
constexpr int kFloatSums = 2;          // sums of a float tile, rows times panels
constexpr int kInt8Rows = 1;           // rows of an integer tile
// Rows from which a weight's codes are unpacked once for all tiles; 0: never.
constexpr int kRowsUnpacked = 4;

struct Half {
  uint16_t bits;
};
struct Floats {
  float v[16];
};
struct Ints {
  int32_t v[16];
};
struct Mask {
  bool v[16];
};

template <class Out, class In>
TUILI_INLINE Out bits_as(In in) {
  static_assert(sizeof(Out) == sizeof(In));
  Out out;
  __builtin_memcpy(&out, &in, sizeof(out));
  return out;
}

// ---- Exact scalar building blocks that the hardware lacks

// Baseline x86-64 has no fma: the product is exact in double, the sum is rounded to odd there, so that the
// last rounding is the only one. Source: Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded
// sums".
TUILI_INLINE float fma_scalar(float a, float b, float c) {
  const double product = double(a) * double(b), addend = c;
  const double total = product + addend;
  const double virtual_addend = total - product;  // TwoSum: error is what `total` lost
  const double error = (product - (total - virtual_addend)) + (addend - virtual_addend);
  int64_t bits = bits_as<int64_t>(total);
  const int64_t outwards = (error > 0) - (error < 0);  // NaN: 0
  const int64_t step = total < 0 ? -outwards : outwards;
  bits += (bits & 1) ? 0 : step;
  return float(bits_as<double>(bits));
}

TUILI_INLINE float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude < 0x0400) {  // zero or subnormal: a multiple of 2^-24
    return bits_as<float>(sign | bits_as<uint32_t>(float(magnitude) * 0x1p-24f));
  }
  if (magnitude < 0x7c00) return bits_as<float>(sign | ((magnitude << 13) + (112u << 23)));
  const uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
  return bits_as<float>(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13) | quiet);
}

TUILI_INLINE uint16_t float_to_half(float f) {
  const uint32_t bits = bits_as<uint32_t>(f), magnitude = bits & 0x7fffffff;
  const uint32_t sign = (bits >> 16) & 0x8000;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {  // below 2^-14: the ulp of 0.5 is 2^-24, the spacing of subnormal halves
    return uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000));
  }
  return uint16_t(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13));
}

// ---- Floats

// Kept as loops: unrolled, the table would be megabytes.
#define TUILI_LANES _Pragma("GCC unroll 1") for (int i = 0; i < 16; ++i)

TUILI_INLINE Floats splat(float x) {
  Floats out;
  TUILI_LANES out.v[i] = x;
  return out;
}
TUILI_INLINE Floats zero() { return splat(0); }
TUILI_INLINE Floats load(const float* p) {
  Floats out;
  __builtin_memcpy(out.v, p, sizeof(out.v));
  return out;
}
TUILI_INLINE Floats load(const Half* p) {
  Floats out;
  TUILI_LANES out.v[i] = half_to_float(p[i].bits);
  return out;
}
TUILI_INLINE Floats load_first(const float* p, int64_t n) {
  Floats out;
  TUILI_LANES out.v[i] = i < n ? p[i] : 0;
  return out;
}
TUILI_INLINE void store(float* p, Floats a) { __builtin_memcpy(p, a.v, sizeof(a.v)); }
TUILI_INLINE void store(Half* p, Floats a) { TUILI_LANES p[i].bits = float_to_half(a.v[i]); }
TUILI_INLINE void store_first(float* p, Floats a, int64_t n) { TUILI_LANES if (i < n) p[i] = a.v[i]; }

// Of a block [16][16].
TUILI_INLINE void transpose(float* to, const float* from) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 16; ++column) to[16 * column + row] = from[16 * row + column];
}

TUILI_INLINE Floats operator+(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] + b.v[i];
  return a;
}
TUILI_INLINE Floats operator-(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] - b.v[i];
  return a;
}
TUILI_INLINE Floats operator*(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] * b.v[i];
  return a;
}
TUILI_INLINE Floats operator/(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] / b.v[i];
  return a;
}
TUILI_INLINE Floats fma(Floats a, Floats b, Floats c) {
  TUILI_LANES c.v[i] = fma_scalar(a.v[i], b.v[i], c.v[i]);
  return c;
}
TUILI_INLINE Floats min(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
TUILI_INLINE Floats max(Floats a, Floats b) {
  TUILI_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
TUILI_INLINE float first_lane(Floats a) { return a.v[0]; }
// Lanes j and j + 8 are added, then j and j + 4, j + 2, j + 1.
TUILI_INLINE float sum(Floats a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  return a.v[0];
}
TUILI_INLINE float max_of(Floats a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}

// ---- Ints

TUILI_INLINE Ints splat_int(int32_t x) {
  Ints out;
  TUILI_LANES out.v[i] = x;
  return out;
}
TUILI_INLINE Ints load_u16(const uint16_t* p) {
  Ints out;
  TUILI_LANES out.v[i] = p[i];
  return out;
}
TUILI_INLINE void store_u16(uint16_t* p, Ints a) { TUILI_LANES p[i] = uint16_t(a.v[i]); }
TUILI_INLINE Ints load_i8(const uint8_t* p) {
  Ints out;
  TUILI_LANES out.v[i] = int8_t(p[i]);
  return out;
}
TUILI_INLINE void store_i8(int8_t* p, Ints a) { TUILI_LANES p[i] = int8_t(a.v[i]); }

TUILI_INLINE Ints operator+(Ints a, Ints b) {
  TUILI_LANES a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]));
  return a;
}
TUILI_INLINE Ints operator-(Ints a, Ints b) {
  TUILI_LANES a.v[i] = int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i]));
  return a;
}
TUILI_INLINE Ints operator&(Ints a, Ints b) {
  TUILI_LANES a.v[i] &= b.v[i];
  return a;
}
TUILI_INLINE Ints operator|(Ints a, Ints b) {
  TUILI_LANES a.v[i] |= b.v[i];
  return a;
}
template <int kBits>
TUILI_INLINE Ints shl(Ints a) {
  TUILI_LANES a.v[i] = int32_t(uint32_t(a.v[i]) << kBits);
  return a;
}
// Arithmetic: the sign is copied in.
template <int kBits>
TUILI_INLINE Ints shr(Ints a) {
  TUILI_LANES a.v[i] >>= kBits;
  return a;
}
TUILI_INLINE Ints max(Ints a, Ints b) {
  TUILI_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
TUILI_INLINE int32_t max_of(Ints a) {
  int32_t best = a.v[0];
  TUILI_LANES best = a.v[i] > best ? a.v[i] : best;
  return best;
}
TUILI_INLINE int32_t sum(Ints a) {
  int32_t total = 0;
  TUILI_LANES total += a.v[i];
  return total;
}
TUILI_INLINE Floats to_float(Ints a) {
  Floats out;
  TUILI_LANES out.v[i] = float(a.v[i]);
  return out;
}
TUILI_INLINE Ints as_ints(Floats a) { return bits_as<Ints>(a); }
TUILI_INLINE Floats as_floats(Ints a) { return bits_as<Floats>(a); }

// ---- Mask

TUILI_INLINE Mask first(int64_t n) {
  Mask out;
  TUILI_LANES out.v[i] = i < n;
  return out;
}
TUILI_INLINE Mask less(Floats a, Floats b) {
  Mask out;
  TUILI_LANES out.v[i] = a.v[i] < b.v[i];
  return out;
}
TUILI_INLINE Floats select(Mask m, Floats a, Floats b) {
  TUILI_LANES a.v[i] = m.v[i] ? a.v[i] : b.v[i];
  return a;
}

// ---- Integer dot products

struct Bytes {
  uint8_t v[64];
};

constexpr int kSignedOffset = 0;  // what load_signed adds to a code

TUILI_INLINE Bytes load_codes(const uint8_t* p) {
  Bytes out;
  __builtin_memcpy(out.v, p, sizeof(out.v));
  return out;
}
TUILI_INLINE void store_codes(uint8_t* p, Bytes a) { __builtin_memcpy(p, a.v, sizeof(a.v)); }
TUILI_INLINE Bytes load_signed(const uint8_t* p) { return load_codes(p); }

// Each byte shifted left by kLeft (right if negative), then masked.
template <int kLeft>
TUILI_INLINE Bytes bits(Bytes a, int mask) {
  for (uint8_t& byte : a.v) byte = uint8_t((kLeft >= 0 ? byte << (kLeft & 7) : byte >> (-kLeft & 7)) & mask);
  return a;
}
// Each byte shifted right by `right`, then masked.
TUILI_INLINE Bytes bits_from(Bytes a, int right, int mask) {
  for (uint8_t& byte : a.v) byte = uint8_t((byte >> right) & mask);
  return a;
}
TUILI_INLINE Bytes operator|(Bytes a, Bytes b) {
  for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i];
  return a;
}
TUILI_INLINE Ints as_ints(Bytes a) { return bits_as<Ints>(a); }

// partial[c] + Σ_j codes[c][j] · a[j]
template <int kBits>
TUILI_INLINE Ints dot(Ints partial, const Bytes& codes, const int8_t* a) {
  const int a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
  TUILI_LANES {
    const uint8_t* c = codes.v + 4 * i;
    partial.v[i] += int8_t(c[0]) * a0 + int8_t(c[1]) * a1 + int8_t(c[2]) * a2 + int8_t(c[3]) * a3;
  }
  return partial;
}
TUILI_INLINE Ints widen(Ints partial, Ints scales) {
  TUILI_LANES partial.v[i] *= scales.v[i];
  return partial;
}
// Per lane low int16 · pair[0] + high int16 · pair[1].
TUILI_INLINE Ints pair_dot(Ints a, const int16_t* pair) {
  const int p0 = pair[0], p1 = pair[1];
  TUILI_LANES a.v[i] = int16_t(a.v[i]) * p0 + (a.v[i] >> 16) * p1;
  return a;
}

#undef TUILI_LANES

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA

#include "kernels/cpu/simd_int32_sums.h"
