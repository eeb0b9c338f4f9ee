// The vector vocabulary on AVX2, FMA and F16C. Two products of neighbouring k are summed in int16.
#pragma once

#include "kernels/cpu/simd_avx2_base.h"

namespace tuili::cpu::TUILI_ISA {
namespace {

// 4 rows × 2 registers of int16 sums, 2 of codes, 1 of activations; the float sums wait in memory.
constexpr int kInt8Rows = 4;
// So many rows have a weight's codes unpacked once, not by each tile.
constexpr int kRowsUnpacked = 16;

struct Partial {  // int16 sums of k, k + 1 and of k + 2, k + 3, side by side
  __m256i lo, hi;
};
struct SubScales {  // int16, twice per column
  __m256i lo, hi;
};

constexpr int kSignedOffset = 0;
// Two products of a code and an activation below 128: 32767 / (2 · 127 · largest code), as a power of two.
constexpr int run_length(int bits) { return bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

TUILI_INLINE Bytes load_signed(const uint8_t* p) { return load_codes(p); }
TUILI_INLINE Partial no_sum() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// int16 sums cannot begin with `start`: it is added when they have been widened.
TUILI_INLINE Partial sum_from(Ints) { return no_sum(); }
TUILI_INLINE Ints completed(Ints run, Ints start) { return run + start; }
template <int kBits>
TUILI_INLINE Partial dot(Partial sum, Bytes codes, const int8_t* a) {
  const __m256i x = splat_4_bytes(a);
  if constexpr (kBits < 8) {
    return in_registers<Partial>({_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(codes.lo, x)),
                                  _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(codes.hi, x))});
  }
  // |w| is the unsigned operand, never |a|: w = -128 is a legal code, and a is at least -127.
  const __m256i lo = _mm256_maddubs_epi16(_mm256_abs_epi8(codes.lo), _mm256_sign_epi8(x, codes.lo));
  const __m256i hi = _mm256_maddubs_epi16(_mm256_abs_epi8(codes.hi), _mm256_sign_epi8(x, codes.hi));
  return {_mm256_add_epi16(sum.lo, lo), _mm256_add_epi16(sum.hi, hi)};
}

// Bytes as int16, k 0 and 2 of each column or k 1 and 3. Products of signed bytes by way of |w| and sign(a,
// w) are widened at once, which keeps the two multipliers busy with what is no product.
struct Words {
  static constexpr bool kAreUsed = true;

  __m256i lo, hi;

  TUILI_INLINE static __m256i even(__m256i bytes) { return odd(_mm256_slli_epi16(bytes, 8)); }
  TUILI_INLINE static __m256i odd(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }
  TUILI_INLINE static Words even(Bytes codes) { return {even(codes.lo), even(codes.hi)}; }
  TUILI_INLINE static Words odd(Bytes codes) { return {odd(codes.lo), odd(codes.hi)}; }

  // to[32] = from[32], each quad in the order 0, 2, 1, 3.
  TUILI_INLINE static void widen_group(int16_t* to, const int8_t* from) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i low = _mm256_unpacklo_epi32(even(bytes), odd(bytes));  // quads 0, 1, 4, 5
    const __m256i high = _mm256_unpackhi_epi32(even(bytes), odd(bytes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), _mm256_permute2x128_si256(low, high, 0x31));
  }
  // sum + the products with two of them.
  TUILI_INLINE Ints dot(Ints sum, const int16_t* a) const {
    const __m256i x = splat_4_bytes(a);
    return in_registers(sum + Ints{_mm256_madd_epi16(lo, x), _mm256_madd_epi16(hi, x)});
  }
};
TUILI_INLINE Ints widen(Partial sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sum.lo, ones), _mm256_madd_epi16(sum.hi, ones)};
}
TUILI_INLINE Ints accumulate(Ints total, Ints run) { return in_registers(total + run); }
TUILI_INLINE SubScales sub_scales(Ints s) {
  const Ints pairs = (s & splat_int(0xffff)) | shl<16>(s);
  return {pairs.lo, pairs.hi};
}
TUILI_INLINE Ints widen(Partial sum, SubScales scales) {
  return {_mm256_madd_epi16(sum.lo, scales.lo), _mm256_madd_epi16(sum.hi, scales.hi)};
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
