// Rows of logits on the emulated device: the bits and the choices of the CPU.
#include <algorithm>
#include <numeric>
#include <set>

#include "cuda_runtime.h"
#include "device_testing.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

// What runtime/sampler.cc does with min_p at most.
int32_t draw_on_cpu(const float* logits, int64_t n, const cuda::Draw& draw) {
  const int64_t first = ops::argmax(logits, n);
  if (first < 0 || draw.temperature == 0) return int32_t(first);
  std::vector<float> weights(logits, logits + n);
  for (float& x : weights) x = (x - logits[first]) / draw.temperature;
  cpu_kernels().exp_shifted(weights.data(), weights.data(), 0, {0, n});
  for (float& w : weights) w = w >= draw.least ? w : 0;
  double total = 0, sum = 0;
  for (const float w : weights) total += w;
  const double target = ops::uniform(draw.seed, draw.counter) * total;
  int64_t last = 0;
  for (int64_t i = 0; i < n && sum <= target; ++i) {
    if (weights[size_t(i)] <= 0) continue;
    last = i;
    sum += weights[size_t(i)];
  }
  return int32_t(last);
}

std::vector<int32_t> draw(const std::vector<float>& logits, const std::vector<cuda::Draw>& draws,
                          uint64_t seed) {
  OnDevice<float> rows(logits);
  OnDevice<cuda::Draw> list(draws);
  OnDevice<int32_t> tokens(draws.size());
  emulation::set_seed(seed);
  const auto n_rows = int64_t(draws.size());
  device::check(
      cuda::draw(nullptr, tokens.get(), rows.get(), list.get(), n_rows, int64_t(logits.size()) / n_rows),
      "draw");
  return tokens.read();
}

TUILI_TEST(draws_at_temperature_0_are_the_first_maximum) {
  for (const int64_t n : {1, 31, 256, 2048, 2049, 5000}) {
    std::vector<float> logits = normals<float>(size_t(3 * n), uint64_t(n));
    for (float& x : logits) x = std::round(x);  // many ties
    for (int64_t i = n; i < 2 * n; ++i) logits[size_t(i)] = i % 3 ? -0.0f : 0.0f;
    const std::vector<int32_t> tokens = draw(logits, {{}, {}, {}}, uint64_t(n));
    for (size_t r = 0; r < tokens.size(); ++r) {
      const int64_t want = ops::argmax(&logits[r * size_t(n)], n);
      require(tokens[r] == want, "row ", r, " of ", n, ": ", tokens[r], ", not ", want);
    }
  }
}

TUILI_TEST(draws_at_temperature_0_say_what_is_not_a_number_and_what_is_nothing) {
  std::vector<float> logits(4 * 300, -INFINITY);
  logits[299] = NAN;
  logits[301] = -NAN;
  logits[302] = INFINITY;
  logits[600 + 7] = INFINITY;
  require(draw(logits, {{}, {}, {}, {}}, 1) == std::vector<int32_t>({-1, -1, 7, -2}), "wrong");
}

TUILI_TEST(draws_are_the_cpus) {
  for (const int64_t n : {1, 40, 1024, 3000}) {
    const size_t n_rows = 60;
    const std::vector<float> logits = normals<float>(n_rows * size_t(n), uint64_t(n), 3);
    std::vector<cuda::Draw> draws;
    for (size_t r = 0; r < n_rows; ++r)
      draws.push_back({r * 977 + 5, r, float(r % 4) * 0.7f, float(r % 3) * 0.05f});
    const std::vector<int32_t> tokens = draw(logits, draws, uint64_t(n));
    for (size_t r = 0; r < n_rows; ++r) {
      const int32_t want = draw_on_cpu(&logits[r * size_t(n)], n, draws[r]);
      require(tokens[r] == want, "row ", r, " of ", n, ": ", tokens[r], ", not ", want);
    }
  }
}

// ---- cut draws

struct Cut {
  int64_t top_k = 0;
  double top_p = 1;
};

// What runtime/sampler.cc does with top_k, top_p and min_p.
int32_t cut_draw_on_cpu(const float* logits, int64_t n, const cuda::Draw& draw, const Cut& cut) {
  const float best = logits[ops::argmax(logits, n)];
  std::vector<float> scaled(logits, logits + n), weights(scaled.size());
  for (float& x : scaled) x = (x - best) / draw.temperature;
  cpu_kernels().exp_shifted(weights.data(), scaled.data(), 0, {0, n});
  std::vector<size_t> ids(scaled.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  const auto sort_by = [&](const std::vector<float>& keys) {
    std::ranges::sort(ids);
    std::ranges::stable_sort(ids, [&](size_t a, size_t b) { return keys[a] > keys[b]; });
  };
  if (cut.top_k > 0 && cut.top_k < n) {
    sort_by(scaled);
    ids.resize(size_t(cut.top_k));
    std::ranges::sort(ids);
  }
  double total = 0, sum = 0;
  for (const size_t id : ids) total += weights[id];
  if (cut.top_p < 1) {
    const double mass = cut.top_p * total;
    sort_by(weights);
    size_t kept = 0;
    while (kept < ids.size() && sum < mass) sum += weights[ids[kept++]];
    ids.resize(std::max<size_t>(kept, 1));
    std::ranges::sort(ids);
  }
  std::erase_if(ids, [&](size_t id) { return weights[id] < draw.least; });
  total = sum = 0;
  for (const size_t id : ids) total += weights[id];
  const double target = ops::uniform(draw.seed, draw.counter) * total;
  for (const size_t id : ids)
    if ((sum += weights[id]) > target) return int32_t(id);
  return -1;
}

std::vector<int32_t> cut_draws(const std::vector<float>& logits, std::vector<cuda::Draw> draws,
                               const std::vector<Cut>& cuts, uint64_t seed) {
  for (size_t r = 0; r < draws.size(); ++r) {
    draws[r].top_k = cuts[r].top_k;
    draws[r].top_p = cuts[r].top_p < 1 ? uint64_t(cuts[r].top_p * 0x1p64) : 0;
  }
  OnDevice<float> rows(logits);
  OnDevice<cuda::Draw> list(draws);
  OnDevice<int32_t> tokens(std::vector<int32_t>(draws.size(), 77));
  emulation::set_seed(seed);
  const auto n_rows = int64_t(draws.size());
  const int64_t n = int64_t(logits.size()) / n_rows;
  for (auto* const launch : {cuda::draw_likeliest, cuda::draw})
    device::check(launch(nullptr, tokens.get(), rows.get(), list.get(), n_rows, n), "draw");
  return tokens.read();
}

constexpr Cut kCuts[] = {{2, 1}, {20, 1}, {0, 0.9}, {0, 0.5}, {40, 0.8}, {256, 0.99}, {5000, 0.3}};

TUILI_TEST(cut_draws_are_the_cpus) {
  for (const int64_t n : {1, 40, 1500, 5000}) {
    const size_t n_rows = 2 * std::size(kCuts);
    std::vector<float> logits = normals<float>(n_rows * size_t(n), uint64_t(n), 4);
    for (size_t i = 0; i < logits.size() / 2; ++i) logits[i] = std::round(logits[i]);  // many ties
    std::vector<cuda::Draw> draws;
    std::vector<Cut> cuts;
    for (size_t r = 0; r < n_rows; ++r) {
      draws.push_back({r * 977 + 5, r, 0.3f + float(r % 3) * 0.35f, float(r % 2) * 0.01f});
      cuts.push_back(kCuts[r % std::size(kCuts)]);
    }
    const std::vector<int32_t> tokens = cut_draws(logits, draws, cuts, uint64_t(n));
    size_t n_undecided = 0;
    for (size_t r = 0; r < n_rows; ++r) {
      if (tokens[r] == cuda::kUndecided) {
        ++n_undecided;
        continue;
      }
      const int32_t want = cut_draw_on_cpu(&logits[r * size_t(n)], n, draws[r], cuts[r]);
      require(tokens[r] == want, "row ", r, " of ", n, ": ", tokens[r], ", not ", want);
    }
    require(n_undecided <= n_rows / 3, n_undecided, " of ", n_rows, " rows of ", n, " are undecided");
  }
}

// The first of equal tokens are kept, and no other is ever drawn.
TUILI_TEST(cuts_keep_the_first_of_equal_tokens) {
  const int64_t n = 3000;
  const size_t n_rows = 24;
  std::vector<float> logits(n_rows * size_t(n), 0.0f);
  for (size_t r = 0; r < n_rows; ++r) {
    for (size_t i = 0; i < 700; ++i) logits[r * size_t(n) + 3 * i + 1] = 5.0f;  // in as many threads
    for (size_t i = 0; i < 40; ++i) logits[r * size_t(n) + 70 * i + 2] = 9.0f;
  }
  std::vector<cuda::Draw> draws;
  for (size_t r = 0; r < n_rows; ++r) draws.push_back({r, 5, 1.0f});
  const std::vector<int32_t> tokens = cut_draws(logits, draws, std::vector<Cut>(n_rows, {3, 1}), 1);
  std::set<int32_t> drawn(tokens.begin(), tokens.end());
  require(drawn == std::set<int32_t>({2, 72, 142}), "drew ", tokens[0], ", ", tokens[1], ", ", tokens[2],
          " …");
}

TUILI_TEST(cuts_that_the_list_cannot_tell_are_the_cpus) {
  const int64_t n = 4096;
  std::vector<float> logits(3 * size_t(n), 1.0f);  // of equal ones all are listed, which are too many
  for (size_t i = 0; i < size_t(n); ++i) logits[size_t(n) + i] = float(i % 1024) * 1e-4f;  // flat
  for (size_t i = 0; i < size_t(n); ++i) logits[2 * size_t(n) + i] = float(i) * -1e-3f;
  const cuda::Draw any{1, 2, 1.0f};
  const std::vector<int32_t> tokens = cut_draws(logits, {any, any, any}, {{3, 1}, {0, 0.99}, {0, 0.75}}, 1);
  require(tokens[0] == cuda::kUndecided && tokens[1] == cuda::kUndecided, "drew ", tokens[0], ", ",
          tokens[1]);
  require(tokens[2] == cuda::kUndecided, "drew ", tokens[2], " of more than are listed");
}

TUILI_TEST(cut_draws_of_special_rows) {
  std::vector<float> logits(5 * 50, -INFINITY);
  logits[49] = 0;             // the last one alone
  logits[50 + 7] = INFINITY;  // certain
  logits[100 + 3] = NAN;
  logits[200 + 4] = 1;  // at temperature 0
  const cuda::Draw any{1, 2, 1.0f};
  const std::vector<int32_t> tokens = cut_draws(logits, {any, any, any, any, {1, 2, 0.0f}},
                                                {{3, 1}, {0, 0.5}, {3, 0.5}, {3, 1}, {3, 0.5}}, 1);
  require(tokens == std::vector<int32_t>({49, 7, -1, -2, 4}), "wrong");
}

TUILI_TEST(each_launch_draws_its_own_rows) {
  const std::vector<float> logits = normals<float>(2 * 300, 1);
  const cuda::Draw any{1, 2, 1.0f};
  const std::vector<int32_t> tokens = cut_draws(logits, {any, any}, {{5, 1}, {}}, 1);
  require(tokens[0] == cut_draw_on_cpu(logits.data(), 300, any, {5, 1}), "the cut one is ", tokens[0]);
  require(tokens[1] == draw_on_cpu(&logits[300], 300, any), "the plain one is ", tokens[1]);
}

TUILI_TEST(draws_pass_over_what_is_impossible) {
  std::vector<float> logits(4 * 50, -INFINITY);
  logits[49] = 0;             // the last one alone
  logits[50 + 7] = INFINITY;  // certain
  logits[100 + 3] = NAN;
  const cuda::Draw any{1, 2, 1.0f};
  require(draw(logits, {any, any, any, any}, 1) == std::vector<int32_t>({49, 7, -1, -2}), "wrong");
}

// Equal weights: the sums are whole numbers. Of 2^11, the uniform number's first 11 bits are the token; it is
// undecided where the next 39 or so are 0 or 1, which no draw here has.
TUILI_TEST(draws_of_equal_weights_are_the_first_bits_of_their_number) {
  const int64_t n = 2048;
  const size_t n_rows = 100;
  const std::vector<float> logits(n_rows * size_t(n), 1.0f);
  std::vector<cuda::Draw> draws;
  for (size_t r = 0; r < n_rows; ++r) draws.push_back({42, r, 1.0f});
  const std::vector<int32_t> tokens = draw(logits, draws, 1);
  for (size_t r = 0; r < n_rows; ++r) {
    const auto want = int32_t(ops::uniform(42, r) * double(n));
    require(tokens[r] == want, "row ", r, ": ", tokens[r], ", not ", want);
  }
}

// Of 2^18 equal weights a sum is off by up to 2^-35 of the total on the CPU. One number in 2^16 lies that
// close to one; it is found by trying.
TUILI_TEST(draws_are_undecided_where_roundings_decide) {
  const int64_t n = 1 << 18;
  uint64_t counter = 0;
  const auto distance = [&] {
    const double place = ops::uniform(7, counter) * double(n);
    return place - std::floor(place);
  };
  while (distance() > 0x1p-18) ++counter;
  const std::vector<float> logits(2 * n, 1.0f);
  const std::vector<int32_t> tokens = draw(logits, {{7, counter, 1.0f}, {7, counter + 1, 1.0f}}, 1);
  require(tokens[0] == cuda::kUndecided, "decided for ", tokens[0], " at number ", counter);
  require(tokens[1] == int32_t(ops::uniform(7, counter + 1) * double(n)), "a clear draw is ", tokens[1]);
}

// The total of so many equal weights has all 63 bits.
TUILI_TEST(draws_from_the_largest_vocabulary_are_the_cpus) {
  const int64_t n = (1 << 19) - 1;
  const std::vector<float> logits(size_t(n), 1.0f);
  const int32_t token = draw(logits, {{42, 3, 1.0f}}, 1)[0];
  require(token == int32_t(ops::uniform(42, 3) * double(n)), "drew ", token);
  require(cuda::draw(nullptr, nullptr, nullptr, nullptr, 1, n + 1) == cudaErrorInvalidValue, "not refused");
}

// ---- the best of a row

struct Best {
  std::vector<cuda::BestLogits> rows;
  std::vector<cuda::BestLogit> listed;
};

Best best_of(const std::vector<float>& logits, int64_t n_rows, int64_t n_best, int64_t capacity) {
  OnDevice<float> values(logits);
  OnDevice<cuda::BestLogits> rows(std::vector<cuda::BestLogits>(size_t(n_rows), {-7, -7, -7, -7}));
  OnDevice<cuda::BestLogit> listed(
      std::vector<cuda::BestLogit>(size_t(std::max<int64_t>(n_rows * capacity, 1)), {-7, -7}));
  emulation::set_seed(uint64_t(n_best));
  device::check(cuda::best_logits(nullptr, rows.get(), listed.get(), values.get(), n_rows,
                                  int64_t(logits.size()) / n_rows, n_best, capacity),
                "best_logits");
  return {rows.read(), listed.read()};
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

// That the row has the CPU's sum, and that all that reach the bound are listed, and the n_best among them.
void check_best(const Best& best, size_t r, const float* logits, int64_t n, int64_t n_best,
                int64_t capacity) {
  const cuda::BestLogits& row = best.rows[r];
  float max, sum;
  cpu_kernels().softmax_stats(logits, n, &max, &sum);
  require(row.max == max && same_bits(row.sum, sum), "row ", r, " of ", n, ": max ", row.max, ", sum ",
          row.sum, ", not ", max, ", ", sum);
  std::vector<std::pair<int32_t, float>> want, found;
  for (int64_t i = 0; i < n; ++i)
    if (logits[i] >= row.bound && logits[i] > -INFINITY) want.emplace_back(int32_t(i), logits[i]);
  require(row.count == std::ssize(want), "row ", r, " of ", n, ": ", row.count, " reach ", row.bound,
          ", not ", want.size());
  const int64_t n_finite = std::count_if(logits, logits + n, [](float x) { return x > -INFINITY; });
  require(row.count >= std::min(n_best, n_finite), "row ", r, " of ", n, ": ", row.count, " of ", n_best);
  const auto* const own = &best.listed[r * size_t(capacity)];
  for (int64_t i = 0; i < capacity && own[i].id >= 0; ++i) found.emplace_back(own[i].id, own[i].logit);
  std::ranges::sort(found);
  require(row.count > capacity ? found.empty() : found == want, "row ", r, " of ", n, " lists ",
          found.size());
}

TUILI_TEST(the_best_logits_of_a_row_are_listed_beside_the_cpus_sum) {
  for (const int64_t n : {1, 5, 31, 700, 1024, 1025, 4097, 9000}) {
    for (const int64_t n_best : {1, 9, 200, 256}) {
      const int64_t capacity = n_best + n_best / 4 + 24;
      std::vector<float> logits = normals<float>(size_t(3 * n), uint64_t(n), 4);
      for (int64_t i = n; i < 2 * n; ++i)  // ties, and what nobody may choose
        logits[size_t(i)] = i % 3 ? std::round(logits[size_t(i)] * 64) / 64 : -INFINITY;
      logits[size_t(n)] = 0;
      const Best best = best_of(logits, 3, n_best, capacity);
      for (size_t r = 0; r < 3; ++r) check_best(best, r, &logits[r * size_t(n)], n, n_best, capacity);
      require(best.rows[0].count <= capacity, best.rows[0].count, " of ", n, " are listed for ", n_best);
    }
  }
}

TUILI_TEST(the_best_logits_of_the_largest_vocabularies) {
  for (const int64_t n : {262144, (1 << 19) - 1}) {
    const std::vector<float> logits = normals<float>(size_t(n), uint64_t(n), 3);
    check_best(best_of(logits, 1, 17, 45), 0, logits.data(), n, 17, 45);
  }
  require(cuda::best_logits(nullptr, nullptr, nullptr, nullptr, 1, 1 << 19, 1, 1) == cudaErrorInvalidValue,
          "too many tokens are not refused");
  require(cuda::best_logits(nullptr, nullptr, nullptr, nullptr, 1, 50, 257, 1) == cudaErrorInvalidValue,
          "too many of the best are not refused");
}

TUILI_TEST(more_that_tie_than_have_a_place_are_counted_alone) {
  std::vector<float> logits(2 * 3000, 1.0f);
  logits[3000 + 5] = 2.0f;
  const Best best = best_of(logits, 2, 4, 30);
  for (size_t r = 0; r < 2; ++r) check_best(best, r, &logits[r * 3000], 3000, 4, 30);
  require(best.rows[0].count == 3000 && best.listed[0].id == -7, "row 0 counts ", best.rows[0].count);
}

// Those below the bound have log-probabilities below those of the n_best, as rounded as they are.
TUILI_TEST(the_bound_is_below_what_rounds_to_the_same_log_probability) {
  const int64_t n = 2000;
  std::vector<float> logits(size_t(n), 0.1f);
  for (size_t i = 0; i < 20; ++i) logits[50 * i + 3] = std::nextafter(0.1f, 1.0f);
  require(best_of(logits, 1, 4, 100).rows[0].count == n, "a rounding apart is not listed");
  for (size_t i = 0; i < 20; ++i) logits[50 * i + 3] = 0.1f + 0x1p-14f;
  require(best_of(logits, 1, 4, 100).rows[0].count == 20, "what is clearly below is listed");
}

TUILI_TEST(rows_without_a_softmax_have_no_best_logits) {
  const int64_t n = 300;
  std::vector<float> logits(4 * size_t(n), 1.0f);
  logits[299] = -NAN;
  logits[300 + 4] = INFINITY;
  std::fill_n(&logits[600], n, -INFINITY);
  logits[1199] = -INFINITY;
  const Best best = best_of(logits, 4, 4, 20);
  for (size_t r = 0; r < 3; ++r)
    require(std::isnan(best.rows[r].sum) && std::isnan(best.rows[r].max) && best.rows[r].count == 0, "row ",
            r);
  check_best(best, 3, &logits[900], n, 4, 20);
}

}  // namespace
