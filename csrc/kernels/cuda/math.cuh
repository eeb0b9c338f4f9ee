// exp, tanh and erf from + - × / and fma alone: the arithmetic of kernels/cpu/math.inl, and its bits.
#pragma once

#include <cuda_runtime.h>

namespace tuili::cuda {

// The second of two when one is NaN, as the CPU's vectors do it.
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }

// The sum of a warp's lanes j and j + 16, then of j and j + 8, … : how a canonical sum ends. In every lane.
__device__ __forceinline__ float sum_of_lanes(float sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
  }
  return sum;
}

// Horner's rule, the highest power first.
template <int kTerms>
__device__ __forceinline__ float polynomial(const float (&c)[kTerms], float x) {
  float value = c[0];
#pragma unroll
  for (int i = 1; i < kTerms; ++i) value = __fmaf_rn(value, x, c[i]);
  return value;
}

// The magnitude of a value >= 0 with the sign of another.
__device__ __forceinline__ float with_sign_of(float magnitude, float sign) {
  return __uint_as_float(__float_as_uint(magnitude) | (__float_as_uint(sign) & 0x80000000u));
}

// 2^n · e^r with n = round(x / ln 2), |r| <= ln 2 / 2; see the CPU's. At most 1.04 ulp off.
__device__ __forceinline__ float exponential(float x) {
  constexpr float kPowers[] = {0x1.6db42ap-10f, 0x1.123b56p-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0.5f};
  constexpr float kRounder = 0x1.8p23f;
  constexpr int kRounderBits = 0x4b400000;
  x = larger(-104.0f, smaller(89.0f, x));
  const float shifted = __fmaf_rn(x, 0x1.715476p0f, kRounder);
  const float n = __fsub_rn(shifted, kRounder);
  const float r = __fmaf_rn(n, -0x1.7f7d1cp-20f, __fmaf_rn(n, -0x1.62e4p-1f, x));
  const float e = __fadd_rn(__fmaf_rn(__fmul_rn(r, r), polynomial(kPowers, r), r), 1.0f);
  const int exponent = __float_as_int(shifted) - kRounderBits;
  const int half = exponent >> 1;
  const float scale = __uint_as_float(static_cast<unsigned>(half + 127) << 23);
  const float rest = __uint_as_float(static_cast<unsigned>(exponent - half + 127) << 23);
  return __fmul_rn(__fmul_rn(e, scale), rest);
}

// 1 / (1 + e^-x); NaN stays NaN.
__device__ __forceinline__ float sigmoid(float x) {
  return __fdiv_rn(1.0f, __fadd_rn(1.0f, exponential(x < -80.0f ? 80.0f : -x)));
}

// Below 0.55 x + x³·P(x²), above 1 - 2 / (e^2x + 1). At most 1.5 ulp off.
__device__ __forceinline__ float hyperbolic_tangent(float x) {
  constexpr float kPowers[] = {-0.0062742396f, 0.02107168f, -0.05385231f, 0.13332586f, -0.33333316f};
  const float a = fabsf(x);
  const float square = __fmul_rn(a, a);
  const float near = __fmaf_rn(__fmul_rn(a, square), polynomial(kPowers, square), a);
  const float far = __fsub_rn(1.0f, __fdiv_rn(2.0f, __fadd_rn(exponential(__fadd_rn(a, a)), 1.0f)));
  return with_sign_of(a < 0.55f ? near : far, x);
}

// Below 1 x + x·P(x²), above 1 - e^Q(x) where Q fits log(erfc(x)) up to 4. At most 2 ulp off.
__device__ __forceinline__ float error_function(float x) {
  constexpr float kNear[] = {7.889123e-05f, -0.0008020842f, 0.0051895357f, -0.026854444f,
                             0.112836f,     -0.37612626f,   0.12837917f};
  constexpr float kFar[] = {-2.1696593e-05f, 0.00044146067f, -0.004205226f, 0.025210181f,
                            -0.10842185f,    -0.6332166f,    -1.1295801f,   0.00018844267f};
  const float a = fabsf(x);
  const float near = __fmaf_rn(a, polynomial(kNear, __fmul_rn(a, a)), a);
  const float far = __fsub_rn(1.0f, exponential(polynomial(kFar, smaller(4.0f, a))));
  return with_sign_of(a < 1.0f ? near : far, x);
}

}  // namespace tuili::cuda
