// The first of many candidates, without sorting them all.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <span>

#include "base/memory.h"

namespace tuili {

// A candidate's place in the order: by key ascending, then by its number. All differ.
using Rank = uint64_t;
constexpr Rank rank_of(uint32_t key, int64_t i) { return Rank{key} << 32 | static_cast<uint32_t>(i); }

constexpr int32_t id_of(Rank rank) { return static_cast<int32_t>(rank & 0xffffffff); }

// Keys of values, the best first. Equal values have equal keys, ±0 too. Values are not NaN.
inline uint32_t key_ascending(float x) {  // of x >= 0
  return std::bit_cast<uint32_t>(x + 0.0f);
}
inline uint32_t key_descending(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(0.0f - x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Candidates 0 … n - 1 with a key or a value each. Nothing is sorted but those in the leading bins of a
// histogram of the keys, and these by radix when they are many. Allocates only in its constructor; pages are
// touched on use.
class Selection {
 public:
  explicit Selection(int64_t n_most);

  // To be filled before the calls below.
  std::span<uint32_t> keys(int64_t n) { return {keys_, static_cast<size_t>(n)}; }

  // The rank of the last of the `count` first ones; 1 <= count <= n.
  Rank nth(int64_t n, int64_t count);

  // The rank of the first one at which the sum of the weights, in double and in the candidates' order,
  // reaches that part of their sum by number; one that is past all if it never does. Weights are >= 0.
  Rank until(std::span<const float> weights, double part);

  // Numbers of the candidates up to the rank that nth or until returned, ascending; no value if looking at a
  // few candidates is not enough to tell.
  std::optional<std::span<const Rank>> list(Rank last);

  // The `count` first ones, in order.
  std::span<const Rank> first(int64_t n, int64_t count);

  // Whether looking at the maxima of groups of values finds the `count` greatest of n sooner than keys do.
  static bool few(int64_t n, int64_t count) { return count <= n / 1024; }

  // A value that `count` of them reach, and few more. few(n, count); values are not NaN.
  float bound(const float* values, int64_t n, int64_t count);

  // Candidates whose value is at least `least`, into `out` [n] by number; returns how many they are. After
  // bound() of the same values.
  int64_t reaching(const float* values, int64_t n, float least, int32_t* out) const;

  // The `count` greatest of these candidates, in order.
  std::span<const Rank> greatest(const float* values, std::span<const int32_t> candidates, int64_t count);

 private:
  std::span<Rank> collect(int64_t n, uint32_t last_bin);
  std::span<Rank> sorted(std::span<Rank> ranks);

  Buffer memory_;
  uint32_t* keys_ = nullptr;                  // [n_most]
  Rank *ranks_ = nullptr, *spare_ = nullptr;  // [n_most]
  std::span<Rank> collected_;
  double* sums_ = nullptr;      // [2][bins]
  uint32_t* counts_ = nullptr;  // [2][bins], or [3][digits]
  float* maxima_ = nullptr;     // [2][n_most / 64]
};

}  // namespace tuili
