// Stands in for the compiler's <immintrin.h>: AVX2 to AVX-512 by SIMDe, on any x86-64, plus what SIMDe lacks
// or rounds otherwise (its fma is a product and a sum). Lane by lane, as Intel's guide describes each.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#include <stdint.h>

using __mmask16 = simde__mmask16;

namespace tuili_emulated {

template <class T, int kLanes>
struct Lanes {
  T v[kLanes];
};

// f(lane of each argument) for all lanes of `Out`, whose elements are `To`.
template <class Out, class To, class From, class In, class F>
inline Out map(In in, F f) {
  constexpr int kLanes = sizeof(Out) / sizeof(To);
  Lanes<From, sizeof(In) / sizeof(From)> a;
  Lanes<To, kLanes> b;
  __builtin_memcpy(&a, &in, sizeof(in));
  for (int i = 0; i < kLanes; ++i) b.v[i] = To(f(a.v[i]));
  Out out;
  __builtin_memcpy(&out, &b, sizeof(out));
  return out;
}

template <class V>
inline V fused(V x, V y, V z) {
  constexpr int kLanes = sizeof(V) / sizeof(float);
  Lanes<float, kLanes> a, b, c;
  __builtin_memcpy(&a, &x, sizeof(x));
  __builtin_memcpy(&b, &y, sizeof(y));
  __builtin_memcpy(&c, &z, sizeof(z));
  for (int i = 0; i < kLanes; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  V out;
  __builtin_memcpy(&out, &c, sizeof(out));
  return out;
}

// x · 2^n, rounded once, for whole n; a NaN passes.
inline __m512 scaled(__m512 x, __m512 n) {
  Lanes<float, 16> a, b;
  __builtin_memcpy(&a, &x, sizeof(x));
  __builtin_memcpy(&b, &n, sizeof(n));
  for (int i = 0; i < 16; ++i)
    if (a.v[i] == a.v[i]) a.v[i] = __builtin_ldexpf(a.v[i], int(b.v[i]));
  __builtin_memcpy(&x, &a, sizeof(x));
  return x;
}

template <class From, class F>
inline int32_t fold(__m512i in, F f) {
  Lanes<From, 16> a;
  __builtin_memcpy(&a, &in, sizeof(in));
  for (int i = 1; i < 16; ++i) a.v[0] = f(a.v[0], a.v[i]);
  return int32_t(a.v[0]);
}

inline float load_half(uint16_t h) { return simde_float16_to_float32(simde_uint16_as_float16(h)); }

// Rounds to the nearest half, ties to even.
inline uint16_t store_half(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, sizeof(f));
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (magnitude >= 0x38800000)
    return uint16_t(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13));
  float small;
  __builtin_memcpy(&small, &magnitude, sizeof(small));
  small += 0.5f;
  __builtin_memcpy(&bits, &small, sizeof(bits));
  return uint16_t(sign | (bits - 0x3f000000));
}

inline __m512 load_some(uint16_t mask, const void* p) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) __builtin_memcpy(&lanes[i], static_cast<const char*>(p) + 4 * i, 4);
  __m512 out;
  __builtin_memcpy(&out, lanes, sizeof(out));
  return out;
}

inline void store_some(void* p, uint16_t mask, __m512 a) {
  float lanes[16];
  __builtin_memcpy(lanes, &a, sizeof(a));
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) __builtin_memcpy(static_cast<char*>(p) + 4 * i, &lanes[i], 4);
}

inline __m256 eight(__m512 a, int half) {
  __m256 out;
  __builtin_memcpy(&out, reinterpret_cast<const char*>(&a) + 32 * half, sizeof(out));
  return out;
}

// A function, not a lambda in a macro: commas.
inline int32_t same(int32_t x) { return x; }

}  // namespace tuili_emulated

#define _mm256_dpbusd_avx_epi32(sum, a, b) simde_mm256_dpbusd_epi32(sum, a, b)
#undef _mm512_madd_epi16  // SIMDe gives it the arguments of its masked sister
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#undef _mm_fmadd_ps
#undef _mm256_fmadd_ps
#undef _mm512_fmadd_ps
#define _mm_fmadd_ps(a, b, c) tuili_emulated::fused<__m128>(a, b, c)
#define _mm256_fmadd_ps(a, b, c) tuili_emulated::fused<__m256>(a, b, c)
#define _mm512_fmadd_ps(a, b, c) tuili_emulated::fused<__m512>(a, b, c)
#undef _mm512_scalef_ps  // SIMDe's has no subnormal results
#define _mm512_scalef_ps(a, n) tuili_emulated::scaled(a, n)
#define _mm512_cvtepi32_epi16(a) tuili_emulated::map<__m256i, int16_t, int32_t>(a, tuili_emulated::same)
#define _mm512_cvtepi32_epi8(a) tuili_emulated::map<__m128i, int8_t, int32_t>(a, tuili_emulated::same)
#define _mm512_cvtepi32_ps(a) tuili_emulated::map<__m512, float, int32_t>(a, tuili_emulated::same)
#define _mm512_cvtepi8_epi32(a) tuili_emulated::map<__m512i, int32_t, int8_t>(a, tuili_emulated::same)
#define _mm512_cvtepu8_epi32(a) tuili_emulated::map<__m512i, int32_t, uint8_t>(a, tuili_emulated::same)
#define _mm512_cvtepu16_epi32(a) tuili_emulated::map<__m512i, int32_t, uint16_t>(a, tuili_emulated::same)
#define _mm512_cvtepi16_epi32(a) tuili_emulated::map<__m512i, int32_t, int16_t>(a, tuili_emulated::same)
#define _mm512_srai_epi32(a, n) \
  tuili_emulated::map<__m512i, int32_t, int32_t>(a, [=](int32_t x) { return x >> (n); })
#define _mm512_cvtph_ps(a) tuili_emulated::map<__m512, float, uint16_t>(a, tuili_emulated::load_half)
#define _mm512_cvtps_ph(a, rounding) \
  tuili_emulated::map<__m256i, uint16_t, float>(a, tuili_emulated::store_half)
#define _mm512_cvtss_f32(a) _mm_cvtss_f32(_mm256_castps256_ps128(tuili_emulated::eight(a, 0)))
#define _mm512_extractf32x8_ps(a, half) tuili_emulated::eight(a, half)
#define _mm512_shuffle_f32x4(a, b, lanes) \
  _mm512_castsi512_ps(_mm512_shuffle_i32x4(_mm512_castps_si512(a), _mm512_castps_si512(b), lanes))
#define _mm512_maskz_loadu_ps(mask, p) tuili_emulated::load_some(mask, p)
#define _mm512_mask_storeu_ps(p, mask, a) tuili_emulated::store_some(p, mask, a)
#define _mm512_reduce_add_epi32(a) \
  tuili_emulated::fold<uint32_t>(a, [](uint32_t x, uint32_t y) { return x + y; })
#define _mm512_reduce_max_epi32(a) \
  tuili_emulated::fold<int32_t>(a, [](int32_t x, int32_t y) { return x > y ? x : y; })
