// What sampling asks of one row of logits, and its random numbers.
#include <algorithm>
#include <bit>
#include <limits>

#include "ops/checks.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

void expect_draw(const TensorView& tokens, const TensorView& logits) {
  expect_dense("draw", "logits", logits, DeviceKind::cuda);
  expect("draw", "tokens", tokens, DeviceKind::cuda, DType::i32);
  TUILI_EXPECT(tokens.count() == logits.rows(), "draw: logits are ", logits, ", tokens ", tokens);
}

}  // namespace

SoftmaxStats softmax_stats(const Context& context, const float* x, int64_t n) {
  SoftmaxStats stats{};
  context.kernels->softmax_stats(x, n, &stats.max, &stats.sum);
  return stats;
}

void exp_shifted(const Context& context, float* y, const float* x, float shift, int64_t n) {
  context.kernels->exp_shifted(y, x, shift, {0, n});
}

void draw(const Context& context, const TensorView& tokens, const TensorView& logits, const Draw* draws) {
  expect_draw(tokens, logits);
  device::check(cuda::draw(context.stream, static_cast<int32_t*>(tokens.data), logits.f32(), draws,
                           logits.rows(), logits.size(1)),
                "draw");
}

void draw_likeliest(const Context& context, const TensorView& tokens, const TensorView& logits,
                    const Draw* draws) {
  expect_draw(tokens, logits);
  device::check(cuda::draw_likeliest(context.stream, static_cast<int32_t*>(tokens.data), logits.f32(), draws,
                                     logits.rows(), logits.size(1)),
                "draw_likeliest");
}

void best_logits(const Context& context, const TensorView& y, const TensorView& logits, int64_t n_best,
                 int64_t capacity) {
  const int64_t n_rows = logits.rows();
  expect_dense("best_logits", "logits", logits, DeviceKind::cuda);
  expect("best_logits", "y", y, DeviceKind::cuda, DType::u8);
  TUILI_EXPECT(y.count() == best_logits_bytes(n_rows, capacity), "best_logits: logits are ", logits,
               ", capacity ", capacity, ", y ", y);
  auto* const rows = static_cast<BestLogits*>(y.data);
  device::check(cuda::best_logits(context.stream, rows, reinterpret_cast<BestLogit*>(rows + n_rows),
                                  logits.f32(), n_rows, logits.size(1), n_best, capacity),
                "best_logits");
}

// Pieces of x go through lanes that a compiler makes vectors of; only a piece with a new maximum is searched.
int64_t argmax(const float* x, int64_t n) {
  constexpr int64_t kLanes = 32, kPiece = 1024;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float best = kLowest;
  int64_t at = kNothingAllowed;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = std::min(n, begin + kPiece), whole = begin + (end - begin) / kLanes * kLanes;
    float lanes[kLanes];
    uint32_t unordered[kLanes] = {};
    std::fill_n(lanes, kLanes, kLowest);
    for (int64_t i = begin; i < whole; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) {
        const float value = x[i + j];
        lanes[j] = value > lanes[j] ? value : lanes[j];
        unordered[j] |= value == value ? 0u : 1u;
      }
    for (int64_t i = whole; i < end; ++i) {
      lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
      unordered[0] |= x[i] == x[i] ? 0u : 1u;
    }
    if (std::any_of(unordered, unordered + kLanes, [](uint32_t u) { return u != 0; })) return kNotANumber;
    const float highest = *std::max_element(lanes, lanes + kLanes);
    if (!(highest > best)) continue;
    best = highest;
    at = std::find(x + begin, x + end, highest) - x;
  }
  return at;
}

// x = 2^e · m with m in [√½, √2); log m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172: the first term
// left out of the series is below 2^-60 of the result.
double natural_log(double x) {
  constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  int exponent = 0;
  if (x < std::numeric_limits<double>::min()) {
    x *= 0x1p54;
    exponent = -54;
  }
  uint64_t bits = std::bit_cast<uint64_t>(x);
  constexpr uint64_t kRootHalf = 0x3FE6A09E667F3BCDu;
  const uint64_t offset = bits - kRootHalf;
  exponent += static_cast<int>(static_cast<int64_t>(offset) >> 52);
  bits = (offset & 0x000FFFFFFFFFFFFFu) + kRootHalf;
  const double m = std::bit_cast<double>(bits);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double series = 0;
  for (int i = 23; i >= 3; i -= 2) series = (series + 1.0 / i) * z;
  return exponent * kLn2High + (2.0 * s + (2.0 * s * series + exponent * kLn2Low));
}

Random4 philox(uint64_t key, uint64_t counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

double uniform(uint64_t key, uint64_t counter) {
  const Random4 random = philox(key, counter);
  const uint64_t bits = uint64_t{random.word[0]} << 32 | random.word[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace tuili::ops
