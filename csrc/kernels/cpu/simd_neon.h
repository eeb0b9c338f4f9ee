// The vector vocabulary (see simd_generic.h) on Armv8.2 with dot products: 16 lanes are four registers.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#define TUILI_INLINE inline __attribute__((always_inline))

namespace tuili::cpu::TUILI_ISA {
namespace {

// 6 rows × 4 registers = 24 sums; 32 registers, 4 hold w, 1 holds x.
constexpr int kFloatRows = 6;
constexpr int kManyRows = kFloatRows;   // of a tile where there are many
constexpr int kFloatSums = kFloatRows;  // sums of a float tile, rows times panels
// 4 rows × 4 registers of sums, 4 of codes; the float sums wait in memory.
constexpr int kInt8Rows = 4;
// Not measured; see simd_avx2.h.
constexpr int kRowsUnpacked = 0;

struct Half {
  uint16_t bits;
};
struct Floats {
  float32x4_t v[4];
};
struct Ints {
  int32x4_t v[4];
};
struct Mask {
  uint32x4_t v[4];
};

TUILI_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

#define TUILI_REGISTERS _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i)

// ---- Floats

TUILI_INLINE Floats splat(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
TUILI_INLINE Floats zero() { return splat(0); }
TUILI_INLINE Floats load(const float* p) {
  return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
TUILI_INLINE Floats load(const Half* p) {
  Floats out;
  TUILI_REGISTERS out.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits + 4 * i)));
  return out;
}
TUILI_INLINE Floats load_first(const float* p, int64_t n) {
  float copy[16] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}
TUILI_INLINE void store(float* p, Floats a) { TUILI_REGISTERS vst1q_f32(p + 4 * i, a.v[i]); }
TUILI_INLINE void store(Half* p, Floats a) {
  TUILI_REGISTERS vst1_u16(&p->bits + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
TUILI_INLINE void store_first(float* p, Floats a, int64_t n) {
  float copy[16];
  store(copy, a);
  for (int64_t i = 0; i < n; ++i) p[i] = copy[i];
}

// 4 rows and columns of it.
TUILI_INLINE void transpose_4(float* to, const float* from) {
  const float32x4x2_t first = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + 16));
  const float32x4x2_t second = vtrnq_f32(vld1q_f32(from + 32), vld1q_f32(from + 48));
#pragma GCC unroll 2
  for (int c = 0; c < 2; ++c) {
    vst1q_f32(to + 16 * c, vcombine_f32(vget_low_f32(first.val[c]), vget_low_f32(second.val[c])));
    vst1q_f32(to + 16 * (c + 2), vcombine_f32(vget_high_f32(first.val[c]), vget_high_f32(second.val[c])));
  }
}
TUILI_INLINE void transpose(float* to, const float* from) {
  for (int row = 0; row < 16; row += 4)
    for (int column = 0; column < 16; column += 4)
      transpose_4(to + 16 * column + row, from + 16 * row + column);
}

TUILI_INLINE Floats operator+(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vaddq_f32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Floats operator-(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vsubq_f32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Floats operator*(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vmulq_f32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Floats operator/(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vdivq_f32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Floats fma(Floats a, Floats b, Floats c) {
  TUILI_REGISTERS c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
// Not vminq and vmaxq, which return a NaN from either side.
TUILI_INLINE Floats min(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Floats max(Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
  return a;
}

TUILI_INLINE float first_lane(Floats a) { return vgetq_lane_f32(a.v[0], 0); }
TUILI_INLINE float sum(Floats a) {
  const float32x4_t by4 = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t by2 = vadd_f32(vget_low_f32(by4), vget_high_f32(by4));
  return vget_lane_f32(by2, 0) + vget_lane_f32(by2, 1);
}
TUILI_INLINE float max_of(Floats a) {
  float lanes[16];
  store(lanes, a);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}

// ---- Ints

TUILI_INLINE Ints splat_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {{v, v, v, v}};
}
TUILI_INLINE Ints load_u16(const uint16_t* p) {
  Ints out;
  TUILI_REGISTERS out.v[i] = vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p + 4 * i)));
  return out;
}
TUILI_INLINE void store_u16(uint16_t* p, Ints a) {
  TUILI_REGISTERS vst1_u16(p + 4 * i, vmovn_u32(vreinterpretq_u32_s32(a.v[i])));
}
TUILI_INLINE Ints load_i8(const uint8_t* p) {
  const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}
TUILI_INLINE void store_i8(int8_t* p, Ints a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

TUILI_INLINE Ints operator+(Ints a, Ints b) {
  TUILI_REGISTERS a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Ints operator-(Ints a, Ints b) {
  TUILI_REGISTERS a.v[i] = vsubq_s32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Ints operator&(Ints a, Ints b) {
  TUILI_REGISTERS a.v[i] = vandq_s32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Ints operator|(Ints a, Ints b) {
  TUILI_REGISTERS a.v[i] = vorrq_s32(a.v[i], b.v[i]);
  return a;
}
template <int kBits>
TUILI_INLINE Ints shl(Ints a) {
  TUILI_REGISTERS a.v[i] = vshlq_n_s32(a.v[i], kBits);
  return a;
}
template <int kBits>
TUILI_INLINE Ints shr(Ints a) {
  TUILI_REGISTERS a.v[i] = vshrq_n_s32(a.v[i], kBits);
  return a;
}
TUILI_INLINE Ints max(Ints a, Ints b) {
  TUILI_REGISTERS a.v[i] = vmaxq_s32(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE int32_t max_of(Ints a) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3])));
}
TUILI_INLINE int32_t sum(Ints a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
TUILI_INLINE Floats to_float(Ints a) {
  Floats out;
  TUILI_REGISTERS out.v[i] = vcvtq_f32_s32(a.v[i]);
  return out;
}
TUILI_INLINE Ints as_ints(Floats a) {
  Ints out;
  TUILI_REGISTERS out.v[i] = vreinterpretq_s32_f32(a.v[i]);
  return out;
}
TUILI_INLINE Floats as_floats(Ints a) {
  Floats out;
  TUILI_REGISTERS out.v[i] = vreinterpretq_f32_s32(a.v[i]);
  return out;
}

// ---- Mask

TUILI_INLINE Mask first(int64_t n) {
  static constexpr int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask out;
  TUILI_REGISTERS out.v[i] = vcltq_s32(vld1q_s32(kLanes + 4 * i), vdupq_n_s32(int32_t(n)));
  return out;
}
TUILI_INLINE Mask less(Floats a, Floats b) {
  Mask out;
  TUILI_REGISTERS out.v[i] = vcltq_f32(a.v[i], b.v[i]);
  return out;
}
TUILI_INLINE Floats select(Mask m, Floats a, Floats b) {
  TUILI_REGISTERS a.v[i] = vbslq_f32(m.v[i], a.v[i], b.v[i]);
  return a;
}

// ---- Integer dot products

struct Bytes {
  uint8x16_t v[4];
};

constexpr int kSignedOffset = 0;

TUILI_INLINE Bytes load_codes(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
TUILI_INLINE void store_codes(uint8_t* p, Bytes a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, a.v[i]);
}
TUILI_INLINE Bytes load_signed(const uint8_t* p) { return load_codes(p); }
// Each byte shifted left by kLeft (right if negative), then masked.
template <int kLeft>
TUILI_INLINE Bytes bits(Bytes a, int mask) {
  const uint8x16_t m = vdupq_n_u8(uint8_t(mask));
  TUILI_REGISTERS {
    if constexpr (kLeft > 0) a.v[i] = vshlq_n_u8(a.v[i], kLeft);
    if constexpr (kLeft < 0) a.v[i] = vshrq_n_u8(a.v[i], -kLeft);
    a.v[i] = vandq_u8(a.v[i], m);
  }
  return a;
}
TUILI_INLINE Bytes bits_from(Bytes a, int right, int mask) {
  const int8x16_t left = vdupq_n_s8(int8_t(-right));
  TUILI_REGISTERS a.v[i] = vandq_u8(vshlq_u8(a.v[i], left), vdupq_n_u8(uint8_t(mask)));
  return a;
}
TUILI_INLINE Bytes operator|(Bytes a, Bytes b) {
  TUILI_REGISTERS a.v[i] = vorrq_u8(a.v[i], b.v[i]);
  return a;
}
TUILI_INLINE Ints as_ints(Bytes a) {
  Ints out;
  TUILI_REGISTERS out.v[i] = vreinterpretq_s32_u8(a.v[i]);
  return out;
}

template <int kBits>
TUILI_INLINE Ints dot(Ints sum, Bytes codes, const int8_t* a) {
  int32_t word;
  __builtin_memcpy(&word, a, sizeof(word));
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
  TUILI_REGISTERS sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(codes.v[i]), x);
  return sum;
}
TUILI_INLINE Ints widen(Ints sum, Ints scales) {
  TUILI_REGISTERS sum.v[i] = vmulq_s32(sum.v[i], scales.v[i]);
  return sum;
}
// Per lane low int16 · pair[0] + high int16 · pair[1].
TUILI_INLINE Ints pair_dot(Ints a, const int16_t* pair) {
  const int32_t p0 = pair[0], p1 = pair[1];
  const Ints low = shr<16>(shl<16>(a)), high = shr<16>(a);
  TUILI_REGISTERS a.v[i] = vmlaq_n_s32(vmulq_n_s32(low.v[i], p0), high.v[i], p1);
  return a;
}

#undef TUILI_REGISTERS

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA

#include "kernels/cpu/simd_int32_sums.h"
