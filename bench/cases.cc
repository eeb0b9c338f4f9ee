#include "cases.h"

#include <algorithm>
#include <random>

namespace tuili::bench {

std::vector<Case> all_cases() {
  std::vector<Case> all = gemm_cases();
  for (auto* more : {attention_cases, elementwise_cases})
    for (Case& one : more()) all.push_back(std::move(one));
  return all;
}

std::vector<float> normal_values(int64_t n, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

float* Arena::take(const std::vector<float>& values) {
  float* out = take<float>(static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), out);
  return out;
}

}  // namespace tuili::bench
