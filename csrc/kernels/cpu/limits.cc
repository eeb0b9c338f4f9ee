// The loops are written in intrinsics, apart from the vocabulary of the kernels: a clumsy word there must not
// lower the limit that it is measured against. Each function names its instruction set itself and is local to
// this file.
#include "kernels/cpu/limits.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tuili::cpu {
namespace {

// Constants that the compiler does not know, or it would fold the loops.
template <class T>
T opaque(T value) {
  asm volatile("" : "+r"(value));
  return value;
}

using Float4 = float __attribute__((vector_size(16)));
using Short8 = uint16_t __attribute__((vector_size(16)));
using Word2 = uint64_t __attribute__((vector_size(16)));

#if defined(__x86_64__)
#define TUILI_KEEP(vector) asm volatile("" : : "x"(vector))
#elif defined(__aarch64__)
#define TUILI_KEEP(vector) asm volatile("" : : "w"(vector))
#else
#define TUILI_KEEP(vector) asm volatile("" : : "m"(vector))
#endif

// acc = acc · a + b in 12 chains; 16 registers. The generic tables cannot count on an fma.
constexpr int kGenericChains = 12;

template <class Vector, class Number>
void generic_rounds(int64_t n_rounds, Number factor, Number addend) {
  const Vector a = opaque(factor) - Vector{}, b = opaque(addend) - Vector{};
  Vector acc[kGenericChains] = {};
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 12
    for (Vector& chain : acc) chain = chain * a + b;
  }
  for (const Vector& chain : acc) TUILI_KEEP(chain);
}

void generic_float(int64_t n_rounds) { generic_rounds<Float4, float>(n_rounds, 0.5f, 1.0f); }
void generic_int8(int64_t n_rounds) { generic_rounds<Short8, uint16_t>(n_rounds, 3, 1); }

constexpr Peaks kGeneric{"generic", kGenericChains * 4, generic_float, kGenericChains * 8, generic_int8};

#if defined(__x86_64__)

#define TUILI_AVX2 __attribute__((target("avx2,fma")))
#define TUILI_AVXVNNI __attribute__((target("avx2,fma,avxvnni")))
#define TUILI_AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))

// Latency 4 or 5, two a cycle: 10 chains at least; 16 registers.
constexpr int kAvx2Chains = 12;

TUILI_AVX2 void avx2_float(int64_t n_rounds) {
  const __m256 a = _mm256_set1_ps(opaque(0.5f)), b = _mm256_set1_ps(opaque(1.0f));
  __m256 acc[kAvx2Chains];
  for (__m256& chain : acc) chain = b;
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 12
    for (__m256& chain : acc) chain = _mm256_fmadd_ps(chain, a, b);
  }
  for (const __m256& chain : acc) TUILI_KEEP(chain);
}

// 5 runs of int16 sums and their 5 int32 totals, a product, codes, activations and ones: 14 of 16 registers.
constexpr int kAvx2Runs = 5, kRunLength = 8;

TUILI_AVX2 void avx2_int8(int64_t n_rounds) {
  __m256i codes = _mm256_set1_epi8(opaque(15)), total[kAvx2Runs];
  const __m256i a = _mm256_set1_epi8(opaque(-127)), ones = _mm256_set1_epi16(opaque(1));
  for (__m256i& sum : total) sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < n_rounds; ++i) {
    __m256i run[kAvx2Runs];
#pragma GCC unroll 5
    for (__m256i& sum : run) {
      asm volatile("" : "+x"(codes));  // as if they were others each time
      sum = _mm256_maddubs_epi16(codes, a);
    }
#pragma GCC unroll 8
    for (int step = 1; step < kRunLength; ++step) {
#pragma GCC unroll 5
      for (__m256i& sum : run) {
        asm volatile("" : "+x"(codes), "+x"(sum));  // in this order: GCC would spill all products
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, a));
      }
    }
#pragma GCC unroll 5
    for (int r = 0; r < kAvx2Runs; ++r)
      total[r] = _mm256_add_epi32(total[r], _mm256_madd_epi16(run[r], ones));
  }
  for (const __m256i& sum : total) TUILI_KEEP(sum);
}

constexpr Peaks kAvx2{"avx2", kAvx2Chains * 8, avx2_float, int64_t{kAvx2Runs} * kRunLength * 32, avx2_int8};

TUILI_AVXVNNI void avxvnni_int8(int64_t n_rounds) {
  const __m256i codes = _mm256_set1_epi8(opaque(15)), a = _mm256_set1_epi8(opaque(-127));
  __m256i acc[kAvx2Chains];
  for (__m256i& chain : acc) chain = a;
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 12
    for (__m256i& chain : acc) chain = _mm256_dpbusd_avx_epi32(chain, codes, a);
  }
  for (const __m256i& chain : acc) TUILI_KEEP(chain);
}

constexpr Peaks kAvxVnni{"avxvnni", kAvx2Chains * 8, avx2_float, kAvx2Chains * 32, avxvnni_int8};

constexpr int kAvx512Chains = 16;

TUILI_AVX512 void avx512_float(int64_t n_rounds) {
  const __m512 a = _mm512_set1_ps(opaque(0.5f)), b = _mm512_set1_ps(opaque(1.0f));
  __m512 acc[kAvx512Chains];
  for (__m512& chain : acc) chain = b;
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 16
    for (__m512& chain : acc) chain = _mm512_fmadd_ps(chain, a, b);
  }
  for (const __m512& chain : acc) asm volatile("" : : "v"(chain));
}

TUILI_AVX512 void avx512_int8(int64_t n_rounds) {
  const __m512i codes = _mm512_set1_epi8(char(opaque(15))), a = _mm512_set1_epi8(char(opaque(-127)));
  __m512i acc[kAvx512Chains];
  for (__m512i& chain : acc) chain = a;
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 16
    for (__m512i& chain : acc) chain = _mm512_dpbusd_epi32(chain, codes, a);
  }
  for (const __m512i& chain : acc) asm volatile("" : : "v"(chain));
}

constexpr Peaks kAvx512{"avx512", kAvx512Chains * 16, avx512_float, kAvx512Chains * 64, avx512_int8};
constexpr const Peaks* kAll[] = {&kGeneric, &kAvx2, &kAvxVnni, &kAvx512};

#elif defined(__aarch64__)

constexpr int kNeonChains = 20;  // latency 4, up to four a cycle; 32 registers

void neon_float(int64_t n_rounds) {
  const float32x4_t a = vdupq_n_f32(opaque(0.5f)), b = vdupq_n_f32(opaque(1.0f));
  float32x4_t acc[kNeonChains];
  for (float32x4_t& chain : acc) chain = b;
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 20
    for (float32x4_t& chain : acc) chain = vfmaq_f32(chain, a, b);
  }
  for (const float32x4_t& chain : acc) TUILI_KEEP(chain);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) void neon_int8(int64_t n_rounds) {
  const int8x16_t codes = vdupq_n_s8(int8_t(opaque(15))), a = vdupq_n_s8(int8_t(opaque(-127)));
  int32x4_t acc[kNeonChains];
  for (int32x4_t& chain : acc) chain = vdupq_n_s32(0);
  for (int64_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 20
    for (int32x4_t& chain : acc) chain = vdotq_s32(chain, codes, a);
  }
  for (const int32x4_t& chain : acc) TUILI_KEEP(chain);
}

constexpr Peaks kNeon{"neon", kNeonChains * 4, neon_float, kNeonChains * 16, neon_int8};
constexpr const Peaks* kAll[] = {&kGeneric, &kNeon};

#else

constexpr const Peaks* kAll[] = {&kGeneric};

#endif

}  // namespace

const Peaks* find_peaks(const char* isa) {
  for (const Peaks* peaks : kAll)
    if (std::strcmp(peaks->isa, isa) == 0) return peaks;
  return nullptr;
}

void dependent_adds(int64_t n) {
  uint64_t x = 0, one = 1;
  for (int64_t i = 0; i < n; i += 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      x += one;  // of a register: some cores run additions of constants in no time
      asm volatile("" : "+r"(x), "+r"(one));
    }
  }
}

void read_stream(const uint8_t* memory, int64_t bytes) {
  Word2 seen[4] = {};
  for (int64_t at = 0; at < bytes; at += 64) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) seen[i] |= *reinterpret_cast<const Word2*>(memory + at + 16 * i);
  }
  for (const Word2& word : seen) TUILI_KEEP(word);
}

}  // namespace tuili::cpu
