// The angles of rotary position embeddings. Sine and cosine are our own, so that no libm decides a bit.
#include "ops/checks.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

// π/2 in pieces of 24 bits and a rest. A multiple n < 2^28 of a piece is exact in double, and so are the
// differences below until the last one, for every angle that is a float32 (Cody & Waite 1980).
constexpr double kPiece0 = 0x1.921fb6p+0;
constexpr double kPiece1 = -0x1.777a5cp-25;
constexpr double kPiece2 = -0x1.ee59dap-50;
constexpr double kPiece3 = 0x1.98a2e03707345p-77;
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;

struct SinCos {
  double sin, cos;
};

// Taylor series on [-π/4, π/4]: the first term left out is below 2^-60. Each begins with its two largest
// terms, added last.
SinCos sin_cos_reduced(double r) {
  constexpr double kSin[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
                             -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
  constexpr double kCos[] = {
      1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
      1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
  const double z = r * r;
  double s = kSin[7], c = kCos[7];
  for (int i = 6; i >= 0; --i) {
    s = s * z + kSin[i];
    c = c * z + kCos[i];
  }
  const double half_z = 0.5 * z, head = 1.0 - half_z;
  return {r + r * (z * s), head + (((1.0 - head) - half_z) + z * z * c)};
}

// |angle| < 2^28
SinCos sin_cos(double angle) {
  constexpr double kRound = 0x1.8p52;  // adding and subtracting it rounds to the nearest integer
  const double n = (angle * kTwoOverPi + kRound) - kRound;
  const double r = ((angle - n * kPiece0) - n * kPiece1) - n * kPiece2 - n * kPiece3;
  const SinCos value = sin_cos_reduced(r);
  switch (static_cast<int64_t>(n) & 3) {
    case 0: return value;
    case 1: return {value.cos, -value.sin};
    case 2: return {-value.sin, -value.cos};
    default: return {-value.cos, value.sin};
  }
}

}  // namespace

void rope_table(const Context& context, const TensorView& cos, const TensorView& sin,
                const int32_t* positions, const float* inv_freq, float factor) {
  expect_dense("rope_table", "cos", cos);
  expect_dense("rope_table", "sin", sin);
  TUILI_EXPECT(same_shape(cos, sin), "rope_table: cos is ", cos, ", sin is ", sin);
  const int64_t half = cos.size(1);
  const int threads = context.threads_for(cos.count(), 1024);
  context.pool->parallel_for(cos.rows(), threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(positions[t]) * inv_freq[i];
        const SinCos value = sin_cos(angle);
        cos.f32()[t * half + i] = static_cast<float>(value.cos * factor);
        sin.f32()[t * half + i] = static_cast<float>(value.sin * factor);
      }
    }
  });
}

}  // namespace tuili::ops
