// The arithmetic of the tensor cores for bf16 or f16 inputs and f32 sums, after MMA-Sim's published
// measurements: per step the products and c are aligned to the largest exponent among them, cut below
// `fraction_bits`, added exactly, and the sum is rounded toward zero.
#include <algorithm>
#include <bit>
#include <cmath>

#include "emulation.h"
#include "trace.h"

namespace tuili::emulation {
namespace {

thread_local TensorCore model = kAmpere;

// significand · 2^(exponent - point); exponents are those of the encoding, so a product may be in [1, 4).
struct Term {
  int64_t significand;  // signed
  int exponent;
};

// Bits of a half's fraction; its exponent fills the rest.
template <HalfType kType>
constexpr int kFractionBits = kType == HalfType::bf16 ? 7 : 10;

constexpr int kFloatPoint = 23;

Term decode(uint32_t sign, uint32_t exponent, uint32_t fraction, int fraction_bits, int bias) {
  const int64_t magnitude = exponent == 0 ? fraction : fraction | 1u << fraction_bits;
  return {sign ? -magnitude : magnitude, static_cast<int>(std::max(exponent, 1u)) - bias};
}

template <HalfType kType>
Term decode_half(uint16_t x) {
  constexpr int kBits = kFractionBits<kType>;
  constexpr uint32_t kLargest = (1u << (15 - kBits)) - 1;
  return decode(x >> 15, x >> kBits & kLargest, x & ((1u << kBits) - 1), kBits, kLargest / 2);
}

Term decode_float(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return decode(bits >> 31, bits >> 23 & 0xffu, bits & 0x7fffffu, 23, 127);
}

template <HalfType kType>
double to_double(uint16_t x) {
  if constexpr (kType == HalfType::f16) return static_cast<double>(std::bit_cast<_Float16>(x));
  return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
}

// significand · 2^shift without the bits below 1; cuts toward zero.
int64_t align(int64_t significand, int shift) {
  if (significand == 0) return 0;
  if (shift >= 0) return significand << shift;
  if (shift <= -63) return 0;
  const int64_t magnitude = std::abs(significand) >> -shift;
  return significand < 0 ? -magnitude : magnitude;
}

float round_toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  if (std::abs(static_cast<double>(nearest)) <= std::abs(x) || std::isinf(nearest)) return nearest;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) - 1);  // one towards zero, whatever the sign
}

template <HalfType kType>
bool is_finite(uint16_t x) {
  constexpr uint32_t kExponent = 0x7fffu >> kFractionBits<kType> << kFractionBits<kType>;
  return (x & kExponent) != kExponent;
}

// Infinities and NaN as IEEE adds them.
template <HalfType kType>
float add_plainly(double sum, const uint16_t* a, const uint16_t* b, int n) {
  for (int i = 0; i < n; ++i) sum += to_double<kType>(a[i]) * to_double<kType>(b[i]);
  return static_cast<float>(sum);
}

template <HalfType kType>
float add_step(float c, const uint16_t* a, const uint16_t* b, int n, int fraction_bits) {
  bool finite = std::isfinite(c);
  Term terms[kWarpSize];
  const Term start = decode_float(c);
  int largest = start.significand != 0 ? start.exponent : INT32_MIN;
  for (int i = 0; i < n; ++i) {
    finite = finite && is_finite<kType>(a[i]) && is_finite<kType>(b[i]);
    const Term x = decode_half<kType>(a[i]), y = decode_half<kType>(b[i]);
    terms[i] = {x.significand * y.significand, x.exponent + y.exponent};
    if (terms[i].significand != 0) largest = std::max(largest, terms[i].exponent);
  }
  if (!finite) return add_plainly<kType>(c, a, b, n);
  if (largest == INT32_MIN) return 0.0f;
  int64_t sum = align(start.significand, fraction_bits - kFloatPoint - (largest - start.exponent));
  for (int i = 0; i < n; ++i) {
    sum +=
        align(terms[i].significand, fraction_bits - 2 * kFractionBits<kType> - (largest - terms[i].exponent));
  }
  const double unit = std::bit_cast<double>(static_cast<uint64_t>(1023 + largest - fraction_bits) << 52);
  return round_toward_zero(static_cast<double>(sum) * unit);  // below 2^53: exact until here
}

}  // namespace

void set_tensor_core(TensorCore core) { model = core; }

template <HalfType kType>
float tensor_core_dot(float c, const uint16_t* a, const uint16_t* b, int n) {
  if (Trace* trace = tracing()) trace->requests.add_macs(n);
  for (int i = 0; i < n; i += model.terms) {
    c = add_step<kType>(c, a + i, b + i, std::min(model.terms, n - i), model.fraction_bits);
  }
  return c;
}

template float tensor_core_dot<HalfType::bf16>(float, const uint16_t*, const uint16_t*, int);
template float tensor_core_dot<HalfType::f16>(float, const uint16_t*, const uint16_t*, int);

}  // namespace tuili::emulation
