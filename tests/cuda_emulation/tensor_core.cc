// The arithmetic of the tensor cores for bf16 inputs and f32 sums, after MMA-Sim's published measurements:
// per step the products and c are aligned to the largest exponent among them, cut below `fraction_bits`,
// added exactly, and the sum is rounded toward zero.
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

constexpr int kProductPoint = 14;  // two significands of 1 + 7 bits
constexpr int kFloatPoint = 23;

Term decode(uint32_t sign, uint32_t exponent, uint32_t fraction, int fraction_bits, int bias) {
  const int64_t magnitude = exponent == 0 ? fraction : fraction | 1u << fraction_bits;
  return {sign ? -magnitude : magnitude, static_cast<int>(std::max(exponent, 1u)) - bias};
}

Term decode_bf16(uint16_t x) { return decode(x >> 15, x >> 7 & 0xffu, x & 0x7fu, 7, 127); }

Term decode_float(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return decode(bits >> 31, bits >> 23 & 0xffu, bits & 0x7fffffu, 23, 127);
}

bool is_finite_bf16(uint16_t x) { return (x >> 7 & 0xffu) != 0xffu; }
double to_double(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

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

float add_step(float c, const uint16_t* a, const uint16_t* b, int n, int fraction_bits) {
  bool finite = std::isfinite(c);
  double plain = c;
  Term terms[kWarpSize];
  const Term start = decode_float(c);
  int largest = start.significand != 0 ? start.exponent : INT32_MIN;
  for (int i = 0; i < n; ++i) {
    finite = finite && is_finite_bf16(a[i]) && is_finite_bf16(b[i]);
    plain += to_double(a[i]) * to_double(b[i]);
    const Term x = decode_bf16(a[i]), y = decode_bf16(b[i]);
    terms[i] = {x.significand * y.significand, x.exponent + y.exponent};
    if (terms[i].significand != 0) largest = std::max(largest, terms[i].exponent);
  }
  if (!finite) return static_cast<float>(plain);  // infinities and NaN as IEEE adds them
  if (largest == INT32_MIN) return 0.0f;
  int64_t sum = align(start.significand, fraction_bits - kFloatPoint - (largest - start.exponent));
  for (int i = 0; i < n; ++i) {
    sum += align(terms[i].significand, fraction_bits - kProductPoint - (largest - terms[i].exponent));
  }
  const double unit = std::bit_cast<double>(static_cast<uint64_t>(1023 + largest - fraction_bits) << 52);
  return round_toward_zero(static_cast<double>(sum) * unit);  // below 2^53: exact until here
}

}  // namespace

void set_tensor_core(TensorCore core) { model = core; }

float tensor_core_dot(float c, const uint16_t* a, const uint16_t* b, int n) {
  if (Trace* trace = tracing()) trace->requests.add_macs(n);
  for (int i = 0; i < n; i += model.terms) {
    c = add_step(c, a + i, b + i, std::min(model.terms, n - i), model.fraction_bits);
  }
  return c;
}

}  // namespace tuili::emulation
