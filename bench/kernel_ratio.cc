// The speed of today's AVX2 kernels over that of two frozen ones (reference_gemm.h), alternating in one run:
// a ratio that a busy neighbour hardly moves. Higher is faster; one line a case, the median and the extremes
// of the rounds.
//
//   kernel_ratio [ISA]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "cases.h"
#include "reference_gemm.h"

namespace tuili::bench {
namespace {

constexpr int kRounds = 25;
constexpr int64_t kM = 12, kN = 128, kK = 2048;
constexpr double kRoundSeconds = 0.004;

double seconds_of(const std::function<void()>& run, int64_t n) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < n; ++i) run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Work int4_reference() {
  const auto arena = std::make_shared<Arena>(int64_t{4} << 20);
  uint8_t* codes = arena->take<uint8_t>(kN * kK / 2);
  int8_t* a = arena->take<int8_t>(kM * kK);
  std::mt19937 random(3);
  for (int64_t i = 0; i < kN * kK / 2; ++i) codes[i] = static_cast<uint8_t>(random());
  for (int64_t i = 0; i < kM * kK; ++i) a[i] = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
  const ReferenceInt4 args{arena->take<float>(kM * kN),
                           codes,
                           arena->take(normal_values(kN * kK / 32, 0.01f)),
                           a,
                           arena->take(normal_values(kM * kK / 32, 0.01f)),
                           kM,
                           kN,
                           kK};
  return {.run = [arena, args] { reference_int4(args); },
          .macs = static_cast<double>(kM * kN * kK),
          .outputs = {}};
}

Work float_reference() {
  const auto arena = std::make_shared<Arena>(int64_t{4} << 20);
  const ReferenceFloat args{arena->take<float>(kM * kN),
                            arena->take(normal_values(kM * kK)),
                            arena->take(normal_values(kN * kK, 0.02f)),
                            kM,
                            kN,
                            kK};
  return {.run = [arena, args] { reference_float(args); },
          .macs = static_cast<double>(kM * kN * kK),
          .outputs = {}};
}

void compare(const char* name, const Work& today, const Work& reference) {
  today.run(), reference.run();
  const auto repeats = [](const Work& work) {
    return std::max<int64_t>(1, static_cast<int64_t>(kRoundSeconds / seconds_of(work.run, 1)));
  };
  const int64_t n_today = repeats(today), n_reference = repeats(reference);
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    const double mine = today.macs * static_cast<double>(n_today) / seconds_of(today.run, n_today);
    const double theirs =
        reference.macs * static_cast<double>(n_reference) / seconds_of(reference.run, n_reference);
    ratios.push_back(mine / theirs);
  }
  std::sort(ratios.begin(), ratios.end());
  std::printf("%-32s %5.2f  [%.2f - %.2f]\n", name, ratios[kRounds / 2], ratios.front(), ratios.back());
}

int run(const char* isa) {
  const cpu::Kernels* kernels = cpu::find_kernels(isa);
  if (!reference_runs_here() || kernels == nullptr) {
    std::fprintf(stderr, "needs AVX2 and a table that runs here\n");
    return 3;
  }
  std::printf("%s over the frozen AVX2 kernels, times\n", isa);
  for (const Case& one : gemm_cases()) {
    const bool integer = one.name.rfind("gemm_int8/", 0) == 0,
               f32 = one.name.rfind("gemm_float/f32/", 0) == 0;
    if ((!integer && !f32) || one.name.find("/cached/") == std::string::npos) continue;
    if (!one.name.ends_with("m:1") && !one.name.ends_with("m:16")) continue;
    compare(one.name.c_str(), one.make(*kernels), f32 ? float_reference() : int4_reference());
  }
  return 0;
}

}  // namespace
}  // namespace tuili::bench

int main(int argc, char** argv) { return tuili::bench::run(argc > 1 ? argv[1] : "avx2"); }
