// The vector vocabulary on AVX2 with AVX-VNNI, which CPUs of clients have in place of AVX-512: vpdpbusd takes
// unsigned codes, so signed ones carry an offset of 128.
//
// MAC a cycle in cache, m = 1 / 4 / 16, with simd_avx2.h -> with this; one core of a busy Zen 4, on which
// both were compiled with 16 registers, this with the encoding of AVX-512 VL. It has never run on a CPU
// without AVX-512.
//   q4_0  21.7 / 28.5 / 28.0 -> 23.8 / 34.9 / 37.9     q8_0  14.0 / 18.3 / 19.2 -> 22.4 / 38.2 / 39.1
//   q4_1  20.7 / 29.1 / 29.2 -> 21.9 / 33.5 / 34.6     q4_k  16.6 / 24.9 / 24.5 -> 17.8 / 28.7 / 27.9
//   q5_0  11.8 / 21.4 / 24.7 -> 16.9 / 27.8 / 31.6     q6_k  10.4 / 16.2 / 18.2 -> 13.0 / 20.4 / 22.9
#pragma once

#include "kernels/cpu/simd_avx2_base.h"

namespace tuili::cpu::TUILI_ISA {
namespace {

// 4 rows × 2 registers of sums, 2 of codes, 1 of activations; the float sums wait in memory.
constexpr int kInt8Rows = 4;
// So many rows have a weight's codes unpacked once, not by each tile.
constexpr int kRowsUnpacked = 16;

constexpr int kSignedOffset = 128;

TUILI_INLINE Bytes load_signed(const uint8_t* p) {
  const Bytes a = load_codes(p);
  const __m256i offset = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(a.lo, offset), _mm256_xor_si256(a.hi, offset)};
}

template <int kBits>
TUILI_INLINE Ints dot(Ints sum, Bytes codes, const int8_t* a) {
  const __m256i x = splat_4_bytes(a);
  return {_mm256_dpbusd_avx_epi32(sum.lo, codes.lo, x), _mm256_dpbusd_avx_epi32(sum.hi, codes.hi, x)};
}
TUILI_INLINE Ints widen(Ints sum, Ints scales) {
  return {_mm256_mullo_epi32(sum.lo, scales.lo), _mm256_mullo_epi32(sum.hi, scales.hi)};
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA

#include "kernels/cpu/simd_int32_sums.h"
