// Every kernel of every instruction set, one thread, beside what this machine could do.
//
//   bench_kernels --benchmark_filter='avx2/gemm_int8/q4_0/cached'
//   bench_kernels --benchmark_filter='avx512/attention' --benchmark_repetitions=5
//
// A cycle is of a clock measured right before each case. "%peak" is of the multiply-adds that the instruction
// set does at most in registers (float, or exact int8), "%read" of a read stream of one thread through the
// same kind of memory: in cache it may pass 100.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>

#include "cases.h"
#include "ops/limits.h"

namespace tuili::bench {
namespace {

constexpr int kSamples = 3;

template <class Sample>
double best_of(Sample&& sample) {
  double best = 0;
  for (int i = 0; i < kSamples; ++i) best = std::max(best, sample());
  return best;
}

double clock_hz() { return best_of(ops::clock_hz); }

// Measured at first use: multiply-adds a cycle, and bytes a second.
double peak_per_cycle(const char* isa, Unit unit) {
  static std::map<std::pair<std::string, Unit>, double> known;
  double& peak = known[{isa, unit}];
  if (peak == 0) {
    const auto measure = unit == Unit::int8 ? ops::int8_peak : ops::float_peak;
    peak = best_of([&] { return measure(isa, 1); }) / clock_hz();
  }
  return peak;
}

double read_stream() {
  static const double rate = best_of([] { return ops::read_bandwidth(1); });
  return rate;
}

void run_case(benchmark::State& state, const cpu::Kernels* kernels, const Case* one) {
  const Work work = one->make(*kernels);
  const double clock = clock_hz(), read = read_stream();
  work.run();
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) {
    work.run();
    benchmark::ClobberMemory();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const double runs = static_cast<double>(state.iterations()) / elapsed.count();
  if (work.macs > 0) {
    state.counters["MAC/cycle"] = runs * work.macs / clock;
    state.counters["%peak"] = 100 * runs * work.macs / clock / peak_per_cycle(kernels->isa, work.unit);
  } else {
    state.counters["items/cycle"] = runs * work.items / clock;
  }
  state.counters["GB/s"] = runs * work.bytes / 1e9;
  state.counters["%read"] = 100 * runs * work.bytes / read;
}

void print_limits() {
  std::printf("clock %.2f GHz, read stream %.1f GB/s, one thread\n", clock_hz() / 1e9, read_stream() / 1e9);
  for (const char* const* isa = cpu::available_isas(); *isa != nullptr; ++isa)
    std::printf("%s: %.1f float, %.1f exact int8 multiply-adds a cycle in registers\n", *isa,
                peak_per_cycle(*isa, Unit::float_fma), peak_per_cycle(*isa, Unit::int8));
}

int run_benchmarks(int argc, char** argv) {
  const std::vector<Case> cases = all_cases();
  for (const char* const* isa = cpu::available_isas(); *isa != nullptr; ++isa) {
    const cpu::Kernels* kernels = cpu::find_kernels(*isa);
    for (const Case& one : cases) {
      const bool small_gemm = one.name.find("/counted/") != std::string::npos;
      if (one.use == Use::odd || small_gemm) continue;
      benchmark::RegisterBenchmark(join(*isa, '/', one.name).c_str(), run_case, kernels, &one)->MinTime(0.1);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  print_limits();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace tuili::bench

int main(int argc, char** argv) { return tuili::bench::run_benchmarks(argc, argv); }
