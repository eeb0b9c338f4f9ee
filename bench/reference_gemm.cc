#include "reference_gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#define TUILI_FROZEN __attribute__((target("avx2,fma")))

namespace tuili::bench {
namespace {

constexpr int kRows = 4, kFloatRows = 6;

// 4 rows × 16 columns × 32 k, added to acc.
TUILI_FROZEN void add_group(__m256 (&acc)[kRows][2], const uint8_t* codes, const float* scale,
                            const int8_t* a, const float* a_scale, int64_t lda, int64_t n_groups) {
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; ++half) {
    __m256i sum[kRows] = {};
    for (int quad = 0; quad < 4; ++quad) {
      const __m256i both =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 64 * quad + 32 * half));
      const __m256i low = _mm256_and_si256(both, nibble);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        int32_t first, second;
        std::memcpy(&first, a + r * lda + 4 * quad, 4);
        std::memcpy(&second, a + r * lda + 4 * quad + 16, 4);
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(low, _mm256_set1_epi32(first)));
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(high, _mm256_set1_epi32(second)));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256 total = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[r], ones));
      const __m256 factor =
          _mm256_mul_ps(_mm256_loadu_ps(scale + 8 * half), _mm256_set1_ps(a_scale[r * n_groups]));
      acc[r][half] = _mm256_fmadd_ps(total, factor, acc[r][half]);
    }
  }
}

}  // namespace

TUILI_FROZEN void reference_int4(const ReferenceInt4& args) {
  const int64_t n_groups = args.k / 32;
  for (int64_t panel = 0; panel < args.n / 16; ++panel) {
    for (int64_t row = 0; row < args.m; row += kRows) {
      __m256 acc[kRows][2];
      for (auto& pair : acc) pair[0] = pair[1] = _mm256_setzero_ps();
      for (int64_t g = 0; g < n_groups; ++g) {
        const int64_t at = panel * n_groups + g;
        add_group(acc, args.codes + at * 256, args.scale + at * 16, args.a + row * args.k + g * 32,
                  args.a_scale + row * n_groups + g, args.k, n_groups);
      }
      for (int r = 0; r < kRows; ++r) {
        float* y = args.y + (row + r) * args.n + panel * 16;
        _mm256_storeu_ps(y, acc[r][0]);
        _mm256_storeu_ps(y + 8, acc[r][1]);
      }
    }
  }
}

TUILI_FROZEN void reference_float(const ReferenceFloat& args) {
  for (int64_t panel = 0; panel < args.n / 16; ++panel) {
    for (int64_t row = 0; row < args.m; row += kFloatRows) {
      __m256 acc[kFloatRows][2];
      for (auto& pair : acc) pair[0] = pair[1] = _mm256_setzero_ps();
      const float* w = args.w + panel * 16 * args.k;
      for (int64_t k = 0; k < args.k; ++k, w += 16) {
        const __m256 low = _mm256_loadu_ps(w), high = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 6
        for (int r = 0; r < kFloatRows; ++r) {
          const __m256 x = _mm256_set1_ps(args.x[(row + r) * args.k + k]);
          acc[r][0] = _mm256_fmadd_ps(x, low, acc[r][0]);
          acc[r][1] = _mm256_fmadd_ps(x, high, acc[r][1]);
        }
      }
      for (int r = 0; r < kFloatRows; ++r) {
        float* y = args.y + (row + r) * args.n + panel * 16;
        _mm256_storeu_ps(y, acc[r][0]);
        _mm256_storeu_ps(y + 8, acc[r][1]);
      }
    }
  }
}

bool reference_runs_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace tuili::bench

#else

namespace tuili::bench {
void reference_int4(const ReferenceInt4&) {}
void reference_float(const ReferenceFloat&) {}
bool reference_runs_here() { return false; }
}  // namespace tuili::bench

#endif
