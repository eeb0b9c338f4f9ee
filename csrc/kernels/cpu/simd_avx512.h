// The vector vocabulary (see simd_generic.h) on AVX-512 F, BW, DQ, VL and VNNI: 16 lanes are one register.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define TUILI_INLINE inline __attribute__((always_inline))

namespace tuili::cpu::TUILI_ISA {
namespace {

// Latency 4 × 2 fma a cycle needs 8 chains; 12 also spare loads of w.
constexpr int kFloatRows = 12;
// Of many rows 6, with 4 panels: 10 loads for 24 fma, where 12 with 2 need 14.
constexpr int kManyRows = 6;
// Sums of a float tile, rows times panels: 24 of 32 registers.
constexpr int kFloatSums = 24;
// 8 integer and 8 float sums, codes and scales: 32 registers hold them all.
constexpr int kInt8Rows = 8;
// A tile has rows enough to unpack for itself: see simd_avx2.h.
constexpr int kRowsUnpacked = 0;

struct Half {
  uint16_t bits;
};
struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

TUILI_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// ---- Floats

TUILI_INLINE Floats splat(float x) { return {_mm512_set1_ps(x)}; }
TUILI_INLINE Floats zero() { return {_mm512_setzero_ps()}; }
TUILI_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
TUILI_INLINE Floats load(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
TUILI_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
TUILI_INLINE void store(Half* p, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

TUILI_INLINE Mask first(int64_t n) { return {__mmask16((1u << n) - 1)}; }
TUILI_INLINE Floats load_first(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n).v, p)}; }
TUILI_INLINE void store_first(float* p, Floats a, int64_t n) { _mm512_mask_storeu_ps(p, first(n).v, a.v); }

TUILI_INLINE void transpose(float* to, const float* from) {
  __m512 pairs[16], quads[16];  // quads[4 g + c]: of rows 4 g to 4 g + 3 the columns c, c + 4, c + 8, c + 12
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    const __m512 a = _mm512_loadu_ps(from + 16 * i), b = _mm512_loadu_ps(from + 16 * i + 16);
    pairs[i] = _mm512_unpacklo_ps(a, b);
    pairs[i + 1] = _mm512_unpackhi_ps(a, b);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    const int at = i / 4 * 4 + i % 4 / 2;
    const __m512d a = _mm512_castps_pd(pairs[at]), b = _mm512_castps_pd(pairs[at + 2]);
    quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_0 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88);
    const __m512 even_1 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88);
    const __m512 odd_0 = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xdd);
    const __m512 odd_1 = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xdd);
    _mm512_storeu_ps(to + 16 * c, _mm512_shuffle_f32x4(even_0, even_1, 0x88));
    _mm512_storeu_ps(to + 16 * (c + 4), _mm512_shuffle_f32x4(odd_0, odd_1, 0x88));
    _mm512_storeu_ps(to + 16 * (c + 8), _mm512_shuffle_f32x4(even_0, even_1, 0xdd));
    _mm512_storeu_ps(to + 16 * (c + 12), _mm512_shuffle_f32x4(odd_0, odd_1, 0xdd));
  }
}

TUILI_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
TUILI_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
TUILI_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
TUILI_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
TUILI_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
TUILI_INLINE Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
TUILI_INLINE Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }

// math.inl's in one instruction.
TUILI_INLINE Floats scaled(Floats a, Floats shifted) {
  return {_mm512_scalef_ps(a.v, _mm512_sub_ps(shifted.v, _mm512_set1_ps(0x1.8p23f)))};
}
TUILI_INLINE float first_lane(Floats a) { return _mm512_cvtss_f32(a.v); }
TUILI_INLINE float sum(Floats a) {
  const __m256 by8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
TUILI_INLINE float max_of(Floats a) {
  const __m256 by8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

// ---- Ints

TUILI_INLINE Ints splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
TUILI_INLINE Ints load_u16(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
TUILI_INLINE void store_u16(uint16_t* p, Ints a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}
TUILI_INLINE Ints load_i8(const uint8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
TUILI_INLINE void store_i8(int8_t* p, Ints a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}

TUILI_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
TUILI_INLINE Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
TUILI_INLINE Ints operator&(Ints a, Ints b) { return {_mm512_and_si512(a.v, b.v)}; }
TUILI_INLINE Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int kBits>
TUILI_INLINE Ints shl(Ints a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
TUILI_INLINE Ints shr(Ints a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
TUILI_INLINE Ints max(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
TUILI_INLINE int32_t max_of(Ints a) { return _mm512_reduce_max_epi32(a.v); }
TUILI_INLINE int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a.v); }
TUILI_INLINE Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
TUILI_INLINE Ints as_ints(Floats a) { return {_mm512_castps_si512(a.v)}; }
TUILI_INLINE Floats as_floats(Ints a) { return {_mm512_castsi512_ps(a.v)}; }

// ---- Mask

TUILI_INLINE Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
TUILI_INLINE Floats select(Mask m, Floats a, Floats b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }

// ---- Integer dot products: vpdpbusd takes unsigned codes, so signed ones carry an offset of 128

struct Bytes {
  __m512i v;
};

constexpr int kSignedOffset = 128;

TUILI_INLINE Bytes load_codes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
TUILI_INLINE void store_codes(uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
TUILI_INLINE Bytes load_signed(const uint8_t* p) {
  return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))};
}
// Shifts of 16 bits: what crosses from byte to byte is masked away.
template <int kLeft>
TUILI_INLINE Bytes bits(Bytes a, int mask) {
  if constexpr (kLeft > 0) a.v = _mm512_slli_epi16(a.v, kLeft);
  if constexpr (kLeft < 0) a.v = _mm512_srli_epi16(a.v, -kLeft);
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(char(mask)))};
}
TUILI_INLINE Bytes bits_from(Bytes a, int right, int mask) {
  return {_mm512_and_si512(_mm512_srl_epi16(a.v, _mm_cvtsi32_si128(right)), _mm512_set1_epi8(char(mask)))};
}
TUILI_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
TUILI_INLINE Ints as_ints(Bytes a) { return {a.v}; }

TUILI_INLINE __m512i splat_4_bytes(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

template <int kBits>
TUILI_INLINE Ints dot(Ints sum, Bytes codes, const int8_t* a) {
  return {_mm512_dpbusd_epi32(sum.v, codes.v, splat_4_bytes(a))};
}
TUILI_INLINE Ints widen(Ints sum, Ints scales) { return {_mm512_mullo_epi32(sum.v, scales.v)}; }
TUILI_INLINE Ints pair_dot(Ints a, const int16_t* pair) {
  return {_mm512_madd_epi16(a.v, splat_4_bytes(pair))};
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA

#include "kernels/cpu/simd_int32_sums.h"
