// What simd_avx2.h and simd_avxvnni.h share of the vector vocabulary (see simd_generic.h), all but integer
// dot products: 16 lanes are two registers, `lo` and `hi`.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define TUILI_INLINE inline __attribute__((always_inline))

namespace tuili::cpu::TUILI_ISA {
namespace {

// 6 rows × 2 registers = 12 sums; 16 registers, 2 hold w, 1 holds x.
constexpr int kFloatRows = 6;
constexpr int kManyRows = kFloatRows;   // of a tile where there are many
constexpr int kFloatSums = kFloatRows;  // sums of a float tile, rows times panels

struct Half {
  uint16_t bits;
};
struct Floats {
  __m256 lo, hi;
};
struct Ints {
  __m256i lo, hi;
};
struct Mask {
  __m256 lo, hi;
};

TUILI_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// ---- Floats

TUILI_INLINE Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
TUILI_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
TUILI_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
TUILI_INLINE Floats load(const Half* p) {
  const __m128i* in = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(in)), _mm256_cvtph_ps(_mm_loadu_si128(in + 1))};
}
TUILI_INLINE void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
TUILI_INLINE void store(Half* p, Floats a) {
  __m128i* out = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(out, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

// All ones in lanes below n.
TUILI_INLINE Ints first_lanes(int64_t n) {
  const __m256i count = _mm256_set1_epi32(int32_t(n));
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
TUILI_INLINE Floats load_first(const float* p, int64_t n) {
  const Ints lanes = first_lanes(n);
  return {_mm256_maskload_ps(p, lanes.lo), _mm256_maskload_ps(p + 8, lanes.hi)};
}
TUILI_INLINE void store_first(float* p, Floats a, int64_t n) {
  const Ints lanes = first_lanes(n);
  _mm256_maskstore_ps(p, lanes.lo, a.lo);
  _mm256_maskstore_ps(p + 8, lanes.hi, a.hi);
}

// 8 rows and columns of it.
TUILI_INLINE void transpose_8(float* to, const float* from) {
  __m256 pairs[8], quads[8];  // quads[4 g + c]: of rows 4 g to 4 g + 3 the columns c and c + 4
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    const __m256 a = _mm256_loadu_ps(from + 16 * i), b = _mm256_loadu_ps(from + 16 * i + 16);
    pairs[i] = _mm256_unpacklo_ps(a, b);
    pairs[i + 1] = _mm256_unpackhi_ps(a, b);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    const int at = i / 4 * 4 + i % 4 / 2;
    quads[i] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0x44);
    quads[i + 1] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(to + 16 * c, _mm256_permute2f128_ps(quads[c], quads[4 + c], 0x20));
    _mm256_storeu_ps(to + 16 * (c + 4), _mm256_permute2f128_ps(quads[c], quads[4 + c], 0x31));
  }
}
TUILI_INLINE void transpose(float* to, const float* from) {
  for (int row = 0; row < 16; row += 8)
    for (int column = 0; column < 16; column += 8)
      transpose_8(to + 16 * column + row, from + 16 * row + column);
}

TUILI_INLINE Floats operator+(Floats a, Floats b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
TUILI_INLINE Floats operator-(Floats a, Floats b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
TUILI_INLINE Floats operator*(Floats a, Floats b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
TUILI_INLINE Floats operator/(Floats a, Floats b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
TUILI_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
TUILI_INLINE Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
TUILI_INLINE Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }

TUILI_INLINE float first_lane(Floats a) { return _mm256_cvtss_f32(a.lo); }
TUILI_INLINE float sum(Floats a) {
  const __m256 by8 = _mm256_add_ps(a.lo, a.hi);
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
TUILI_INLINE float max_of(Floats a) {
  const __m256 by8 = _mm256_max_ps(a.lo, a.hi);
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}

// ---- Ints

TUILI_INLINE Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
TUILI_INLINE Ints load_u16(const uint16_t* p) {
  const __m128i* in = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(in)), _mm256_cvtepu16_epi32(_mm_loadu_si128(in + 1))};
}
TUILI_INLINE void store_u16(uint16_t* p, Ints a) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
TUILI_INLINE Ints load_i8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
TUILI_INLINE void store_i8(int8_t* p, Ints a) {
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a.lo), _mm256_extracti128_si256(a.lo, 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a.hi), _mm256_extracti128_si256(a.hi, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
}
// math.inl's, with fewer shuffles.
TUILI_INLINE void store_i8(int8_t* p, Ints a, Ints b) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a.lo, a.hi), _mm256_packs_epi32(b.lo, b.hi));
  const __m256i in_order = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), in_order);
}

TUILI_INLINE Ints operator+(Ints a, Ints b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
TUILI_INLINE Ints operator-(Ints a, Ints b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
TUILI_INLINE Ints operator&(Ints a, Ints b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
TUILI_INLINE Ints operator|(Ints a, Ints b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
template <int kBits>
TUILI_INLINE Ints shl(Ints a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
TUILI_INLINE Ints shr(Ints a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
TUILI_INLINE Ints max(Ints a, Ints b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
TUILI_INLINE int32_t max_of(Ints a) {
  const __m256i by8 = _mm256_max_epi32(a.lo, a.hi);
  const __m128i by4 = _mm_max_epi32(_mm256_castsi256_si128(by8), _mm256_extracti128_si256(by8, 1));
  const __m128i by2 = _mm_max_epi32(by4, _mm_shuffle_epi32(by4, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(by2, _mm_shuffle_epi32(by2, 0xb1)));
}
TUILI_INLINE int32_t sum(Ints a) {
  const __m256i by8 = _mm256_add_epi32(a.lo, a.hi);
  const __m128i by4 = _mm_add_epi32(_mm256_castsi256_si128(by8), _mm256_extracti128_si256(by8, 1));
  const __m128i by2 = _mm_add_epi32(by4, _mm_shuffle_epi32(by4, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(by2, _mm_shuffle_epi32(by2, 0xb1)));
}
// math.inl's, with fewer shuffles.
TUILI_INLINE void sums(int32_t (&of)[2], Ints a, Ints b) {
  const __m256i a8 = _mm256_add_epi32(a.lo, a.hi), b8 = _mm256_add_epi32(b.lo, b.hi);
  const __m256i pairs = _mm256_add_epi32(_mm256_unpacklo_epi64(a8, b8), _mm256_unpackhi_epi64(a8, b8));
  const __m128i by2 = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  const __m128i both = _mm_add_epi32(by2, _mm_shuffle_epi32(by2, 0xb1));
  of[0] = _mm_cvtsi128_si32(both);
  of[1] = _mm_extract_epi32(both, 2);
}
TUILI_INLINE Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
TUILI_INLINE Ints as_ints(Floats a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
TUILI_INLINE Floats as_floats(Ints a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

// ---- Mask

TUILI_INLINE Mask first(int64_t n) {
  const Floats lanes = as_floats(first_lanes(n));
  return {lanes.lo, lanes.hi};
}
TUILI_INLINE Mask less(Floats a, Floats b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
TUILI_INLINE Floats select(Mask m, Floats a, Floats b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}

// ---- Bytes: the codes of a quad, 4 k of each of 16 columns

struct Bytes {
  __m256i lo, hi;
};

TUILI_INLINE Bytes load_codes(const uint8_t* p) {
  const __m256i* in = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(in), _mm256_loadu_si256(in + 1)};
}
TUILI_INLINE void store_codes(uint8_t* p, Bytes a) {
  __m256i* out = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(out, a.lo);
  _mm256_storeu_si256(out + 1, a.hi);
}
// Shifts of 16 bits: what crosses from byte to byte is masked away.
template <int kLeft>
TUILI_INLINE Bytes bits(Bytes a, int mask) {
  const __m256i m = _mm256_set1_epi8(char(mask));
  if constexpr (kLeft > 0) a = {_mm256_slli_epi16(a.lo, kLeft), _mm256_slli_epi16(a.hi, kLeft)};
  if constexpr (kLeft < 0) a = {_mm256_srli_epi16(a.lo, -kLeft), _mm256_srli_epi16(a.hi, -kLeft)};
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
TUILI_INLINE Bytes bits_from(Bytes a, int right, int mask) {
  const __m256i m = _mm256_set1_epi8(char(mask));
  const __m128i count = _mm_cvtsi32_si128(right);
  return {_mm256_and_si256(_mm256_srl_epi16(a.lo, count), m),
          _mm256_and_si256(_mm256_srl_epi16(a.hi, count), m)};
}
TUILI_INLINE Bytes operator|(Bytes a, Bytes b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
TUILI_INLINE Ints as_ints(Bytes a) { return {a.lo, a.hi}; }

TUILI_INLINE __m256i splat_4_bytes(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

TUILI_INLINE Ints pair_dot(Ints a, const int16_t* pair) {
  const __m256i both = splat_4_bytes(pair);
  return {_mm256_madd_epi16(a.lo, both), _mm256_madd_epi16(a.hi, both)};
}

// Without this GCC forms all products of a group before it adds the first two, and spills them.
template <class Sum>
TUILI_INLINE Sum in_registers(Sum sum) {
  __asm__("" : "+x"(sum.lo), "+x"(sum.hi));
  return sum;
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
