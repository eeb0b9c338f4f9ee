// The kernels' cases: one list for the microbenchmarks, the count of instructions and the comparison of
// tables.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/memory.h"
#include "kernels/cpu/kernels.h"
#include "ops/ops.h"

namespace tuili::bench {

enum class Unit : uint8_t { float_fma, int8, none };

// One call of a kernel on data that it owns.
struct Work {
  std::function<void()> run;
  double macs = 0;   // multiply-adds, of Unit
  double items = 0;  // elements written, for kernels that are not counted in multiply-adds
  double bytes = 0;  // read and written, each once
  Unit unit = Unit::none;
  std::vector<std::span<const uint8_t>> outputs;  // all that it writes and promises
};

enum class Use : uint8_t {
  speed,    // sizes as in models
  counted,  // small: its instructions have a budget (instruction_budget.json); compared between tables, too
  odd,      // tails everywhere: compared between tables
};

struct Case {
  std::string name;  // "gemm_int8/q4_0/cached/m:4"
  std::function<Work(const cpu::Kernels&)> make;
  Use use = Use::speed;
};

std::vector<Case> gemm_cases();
std::vector<Case> attention_cases();
std::vector<Case> elementwise_cases();
std::vector<Case> all_cases();

template <class T>
std::span<const uint8_t> bytes_of(const T* values, int64_t n) {
  return {reinterpret_cast<const uint8_t*>(values), static_cast<size_t>(n) * sizeof(T)};
}

// Values as a model's: normally distributed around 0.
std::vector<float> normal_values(int64_t n, float deviation = 1, uint32_t seed = 1);

// Memory that many views are cut from, kept alive by whoever holds it.
struct Arena {
  explicit Arena(int64_t bytes) : buffer(bytes), carver(buffer.data()) {}
  Buffer buffer;
  Carver carver;

  template <class T>
  T* take(int64_t n) {
    return carver.take<T>(n);
  }
  float* take(const std::vector<float>& values);
};

}  // namespace tuili::bench
