#include "runtime/selection.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace tuili {
namespace {

constexpr int kBinShift = 20;  // a bin is an eighth of an octave of a positive value
constexpr int64_t kBins = int64_t{1} << (32 - kBinShift);
constexpr int kDigitBits = 11, kDigits = 3;  // of a radix sort by 32-bit keys
constexpr int64_t kDigitValues = int64_t{1} << kDigitBits;
constexpr size_t kFewRanks = 2048;  // fewer are sorted by comparing
constexpr int64_t kGroup = 64;      // values with a maximum of their own

using Four = float __attribute__((vector_size(16)));  // arrays of lanes end up as scalars

Four max(Four a, Four b) { return a > b ? a : b; }

float max_of_group(const float* values) {
  Four lanes[4];
  std::memcpy(lanes, values, sizeof(lanes));
  for (int64_t i = 16; i < kGroup; i += 16) {
    Four more[4];
    std::memcpy(more, values + i, sizeof(more));
    for (int j = 0; j < 4; ++j) lanes[j] = max(lanes[j], more[j]);
  }
  const Four best = max(max(lanes[0], lanes[1]), max(lanes[2], lanes[3]));
  return std::max(std::max(best[0], best[1]), std::max(best[2], best[3]));
}

}  // namespace

Selection::Selection(int64_t n_most) {
  const auto carve = [&](Carver carver) {
    keys_ = carver.take<uint32_t>(n_most);
    ranks_ = carver.take<Rank>(n_most);
    spare_ = carver.take<Rank>(n_most);
    sums_ = carver.take<double>(2 * kBins);
    counts_ = carver.take<uint32_t>(std::max(2 * kBins, kDigits * kDigitValues));
    maxima_ = carver.take<float>(2 * (n_most / kGroup));
    return carver.used();
  };
  memory_ = Buffer(carve(Carver()));
  carve(Carver(memory_.data()));
}

// Ranks of the candidates in bins up to last_bin, by number.
std::span<Rank> Selection::collect(int64_t n, uint32_t last_bin) {
  size_t count = 0;
  for (int64_t i = 0; i < n; ++i) {  // without a branch: where the keys lie is unpredictable
    ranks_[count] = rank_of(keys_[i], i);
    count += keys_[i] >> kBinShift <= last_bin;
  }
  return collected_ = {ranks_, count};
}

Rank Selection::nth(int64_t n, int64_t count) {
  // Two histograms, because neighbours often fall into the same bin and would wait for each other.
  std::fill_n(counts_, 2 * kBins, 0u);
  for (int64_t i = 0; i < n; ++i) ++counts_[(i & 1) * kBins + (keys_[i] >> kBinShift)];
  uint32_t bin = 0;
  for (int64_t sum = counts_[0] + counts_[kBins]; sum < count;) {
    ++bin;
    sum += counts_[bin] + counts_[kBins + bin];
  }
  const std::span<Rank> ranks = collect(n, bin);
  std::nth_element(ranks.begin(), ranks.begin() + (count - 1), ranks.end());
  return ranks[static_cast<size_t>(count - 1)];
}

std::span<const Rank> Selection::first(int64_t n, int64_t count) {
  if (count == 0) return {};
  nth(n, count);  // leaves them at the front
  std::sort(ranks_, ranks_ + count);
  return {ranks_, static_cast<size_t>(count)};
}

// Where as many groups have a maximum of at least that, as many candidates reach it, and those below it are
// behind them.
float Selection::bound(const float* values, int64_t n, int64_t count) {
  const int64_t n_groups = n / kGroup;
  float* const best = maxima_ + n_groups;  // the greatest first
  std::fill_n(best, count, -std::numeric_limits<float>::infinity());
  for (int64_t g = 0; g < n_groups; ++g) {
    const float own = maxima_[g] = max_of_group(values + g * kGroup);
    int64_t place = count;
    for (; place > 0 && own > best[place - 1]; --place)
      if (place < count) best[place] = best[place - 1];
    if (place < count) best[place] = own;
  }
  return best[count - 1];
}

int64_t Selection::reaching(const float* values, int64_t n, float least, int32_t* out) const {
  const int64_t n_groups = n / kGroup;
  int64_t found = 0;
  const auto take = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {  // without a branch: who stays is unpredictable
      out[found] = static_cast<int32_t>(i);
      found += values[i] >= least;
    }
  };
  for (int64_t g = 0; g < n_groups; ++g)
    if (maxima_[g] >= least) take(g * kGroup, (g + 1) * kGroup);
  take(n_groups * kGroup, n);
  return found;
}

std::span<const Rank> Selection::greatest(const float* values, std::span<const int32_t> candidates,
                                          int64_t count) {
  Rank* end = ranks_;
  for (const int32_t i : candidates) *end++ = rank_of(key_descending(values[i]), i);
  std::partial_sort(ranks_, ranks_ + count, end);
  return {ranks_, static_cast<size_t>(count)};
}

Rank Selection::until(std::span<const float> weights, double part) {
  const int64_t n = std::ssize(weights);
  std::fill_n(sums_, 2 * kBins, 0.0);
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += weights[i];
    sums_[(i & 1) * kBins + (keys_[i] >> kBinShift)] += weights[i];
  }
  const double mass = part * total;
  uint32_t bin = 0;
  for (double sum = sums_[0] + sums_[kBins]; sum < mass && bin < kBins - 1;) {
    ++bin;
    sum += sums_[bin] + sums_[kBins + bin];
  }
  // In the candidates' order the sum may round to less: then all matter.
  for (const uint32_t last_bin : {bin, static_cast<uint32_t>(kBins - 1)}) {
    double sum = 0;
    for (const Rank rank : sorted(collect(n, last_bin))) {
      sum += weights[static_cast<uint32_t>(rank)];
      if (sum >= mass) return rank;
    }
  }
  return ~Rank{0};
}

std::optional<std::span<const Rank>> Selection::list(Rank last) {
  if (collected_.size() >= kFewRanks) return std::nullopt;  // and a radix sort may have moved them
  const auto end = std::partition(collected_.begin(), collected_.end(), [&](Rank r) { return r <= last; });
  for (auto rank = collected_.begin(); rank != end; ++rank) *rank &= 0xffffffff;
  std::sort(collected_.begin(), end);
  return std::span<const Rank>(collected_.begin(), end);
}

// Sorts by radix, the lowest digit of the keys first. Equal keys keep their order: give them by number.
std::span<Rank> Selection::sorted(std::span<Rank> ranks) {
  if (ranks.size() < kFewRanks) {
    std::ranges::sort(ranks);
    return ranks;
  }
  std::fill_n(counts_, kDigits * kDigitValues, 0u);
  const auto digit = [](Rank rank, int d) { return (rank >> (32 + d * kDigitBits)) & (kDigitValues - 1); };
  for (const Rank rank : ranks)
    for (int d = 0; d < kDigits; ++d) ++counts_[d * kDigitValues + static_cast<int64_t>(digit(rank, d))];
  Rank *from = ranks_, *to = spare_;
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* const places = counts_ + d * kDigitValues;
    if (places[digit(ranks[0], d)] == ranks.size()) continue;  // all the same
    uint32_t place = 0;
    for (int64_t value = 0; value < kDigitValues; ++value) place += std::exchange(places[value], place);
    for (size_t i = 0; i < ranks.size(); ++i) to[places[digit(from[i], d)]++] = from[i];
    std::swap(from, to);
  }
  return {from, ranks.size()};
}

}  // namespace tuili
