// Rows of logits on the emulated device: the bits and the choices of the CPU.
#include "device_testing.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

constexpr int64_t kVocabularies[] = {1, 31, 256, 2048, 2049, 5000};
constexpr int64_t kRows = 3;

std::vector<int32_t> argmax(const std::vector<float>& logits, int64_t n_vocab, uint64_t seed) {
  OnDevice<float> rows(logits);
  OnDevice<int32_t> tokens(logits.size() / size_t(n_vocab));
  emulation::set_seed(seed);
  device::check(cuda::argmax(nullptr, tokens.get(), rows.get(), int64_t(logits.size()) / n_vocab, n_vocab),
                "argmax");
  return tokens.read();
}

TUILI_TEST(argmax_is_the_first_maximum_as_on_the_cpu) {
  for (const int64_t n : kVocabularies) {
    std::vector<float> logits = normals<float>(size_t(kRows * n), uint64_t(n));
    for (float& x : logits) x = std::round(x);  // many ties
    for (int64_t i = n; i < 2 * n; ++i) logits[size_t(i)] = i % 3 ? -0.0f : 0.0f;
    const std::vector<int32_t> tokens = argmax(logits, n, uint64_t(n));
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t want = ops::argmax(&logits[size_t(r * n)], n);
      require(tokens[size_t(r)] == want, "row ", r, " of ", n, ": ", tokens[size_t(r)], ", not ", want);
    }
  }
}

TUILI_TEST(argmax_says_what_is_not_a_number_and_what_is_nothing) {
  const float inf = INFINITY;
  std::vector<float> logits(4 * 300, -inf);
  logits[299] = NAN;
  logits[301] = -NAN;
  logits[302] = inf;
  logits[600 + 7] = inf;
  require(argmax(logits, 300, 1) == std::vector<int32_t>({-1, -1, 7, -2}), "wrong");
}

TUILI_TEST(softmax_stats_have_the_bits_of_the_cpu) {
  for (const int64_t n : kVocabularies) {
    std::vector<float> logits = normals<float>(size_t(kRows * n), uint64_t(n), 5);
    if (n > 1) logits[size_t(n)] = -INFINITY;
    std::vector<float> max(kRows), sum(kRows);
    for (int64_t r = 0; r < kRows; ++r)
      cpu_kernels().softmax_stats(&logits[size_t(r * n)], n, &max[size_t(r)], &sum[size_t(r)]);
    OnDevice<float> rows(logits), maxima(kRows), sums(kRows);
    for (uint64_t seed = 0; seed < 3; ++seed) {
      emulation::set_seed(seed);
      device::check(cuda::softmax_stats(nullptr, maxima.get(), sums.get(), rows.get(), kRows, n),
                    "softmax_stats");
      require_same_bits(maxima.read(), max, "max of ", n);
      require_same_bits(sums.read(), sum, "sum of ", n);
    }
  }
}

TUILI_TEST(softmax_stats_of_what_has_no_softmax_are_nan) {
  std::vector<float> logits = normals<float>(3 * 100, 1);
  logits[5] = NAN;
  logits[105] = INFINITY;
  std::fill_n(logits.begin() + 200, 100, -INFINITY);
  OnDevice<float> rows(logits), maxima(3), sums(3);
  device::check(cuda::softmax_stats(nullptr, maxima.get(), sums.get(), rows.get(), 3, 100), "softmax_stats");
  for (const float x : maxima.read()) require(std::isnan(x), "max is ", x);
  for (const float x : sums.read()) require(std::isnan(x), "sum is ", x);
}

TUILI_TEST(exp_shifted_has_the_bits_of_the_cpu) {
  const std::vector<float> x = normals<float>(1500, 1, 30);
  std::vector<float> want(x.size());
  cpu_kernels().exp_shifted(want.data(), x.data(), 3.25f, {0, 1500});
  OnDevice<float> y(x);
  device::check(cuda::exp_shifted(nullptr, y.get(), y.get(), 3.25f, 1500), "exp_shifted");
  require_same_bits(y.read(), want, "exp_shifted");
}

TUILI_TEST(logits_are_changed_at_their_places_alone) {
  const int64_t n = 70;
  std::vector<float> logits = normals<float>(size_t(2 * n), 1), want = logits;
  OnDevice<float> rows(logits), values({1.5f, -INFINITY, 2.0f, 3.0f});
  OnDevice<int32_t> row_ids({0, 1, 1, 0}), ids({3, 69, 0, 64});
  const cuda::LogitChanges changes{row_ids.get(), ids.get(), values.get(), 4};
  device::check(cuda::change_logits(nullptr, rows.get(), n, cuda::LogitChange::add, changes),
                "change_logits");
  want[3] += 1.5f;
  want[139] = -INFINITY;
  want[70] += 2.0f;
  want[64] += 3.0f;
  require_same_bits(rows.read(), want, "add");
  device::check(cuda::change_logits(nullptr, rows.get(), n, cuda::LogitChange::repeat, changes),
                "change_logits");
  const auto penalize = [&](size_t i, float value) {
    want[i] = want[i] > 0 ? want[i] / value : want[i] * value;
  };
  penalize(3, 1.5f);
  penalize(70, 2.0f);
  penalize(64, 3.0f);
  want[139] *= -INFINITY;
  require_same_bits(rows.read(), want, "repeat");
}

TUILI_TEST(masks_leave_what_is_allowed) {
  const int64_t n = 70;
  std::vector<float> want = normals<float>(size_t(2 * n), 1);
  const std::vector<uint32_t> allowed{0x80000001u, 0u, 0x20u, 0xffffffffu, 0xffff0000u, 0u};
  OnDevice<float> rows(want);
  OnDevice<uint32_t> words(allowed);
  device::check(cuda::mask_logits(nullptr, rows.get(), words.get(), 2, n), "mask_logits");
  for (int64_t i = 0; i < 2 * n; ++i) {
    const int64_t row = i / n, id = i % n;
    if (!(allowed[size_t(row * 3 + id / 32)] >> id % 32 & 1u)) want[size_t(i)] = -INFINITY;
  }
  require_same_bits(rows.read(), want, "mask");
}

}  // namespace
