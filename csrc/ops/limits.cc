#include "ops/limits.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "kernels/cpu/limits.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr double kSampleSeconds = 0.1;

template <class Body>
double seconds_of(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// More threads than CPUs only take turns.
int usable_threads(int n_threads) { return std::min(resolve_num_threads(n_threads), allowed_cpus()); }

// Rounds per second of `loop` on all threads together, in one run of about kSampleSeconds.
double rounds_per_second(void (*loop)(int64_t n_rounds), int n_threads) {
  const auto run = [&](int64_t n_rounds) {
    return seconds_of([&] {
      ThreadPool::shared().parallel_for(n_threads, n_threads, [&](int64_t, int64_t, int) { loop(n_rounds); });
    });
  };
  int64_t n_rounds = 1 << 14;
  double seconds = run(n_rounds);
  while (seconds < kSampleSeconds / 8) seconds = run(n_rounds *= 2);
  n_rounds =
      std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(n_rounds) * kSampleSeconds / seconds));
  return static_cast<double>(n_rounds * n_threads) / run(n_rounds);
}

const cpu::Peaks& peaks(const char* isa) {
  const cpu::Peaks* found = cpu::find_peaks(find_kernels(isa).isa);
  TUILI_EXPECT(found != nullptr, "no peak loops for isa ", find_kernels(isa).isa);
  return *found;
}

}  // namespace

double clock_hz() {
  constexpr int64_t kAdds = 20'000'000;
  double best = 0;  // whatever disturbs a slice makes it longer
  for (int slice = 0; slice < 5; ++slice)
    best = std::max(best, kAdds / seconds_of([] { cpu::dependent_adds(kAdds); }));
  return best;
}

double read_bandwidth(int n_threads, int64_t bytes) {
  n_threads = usable_threads(n_threads);
  const int64_t part = bytes / n_threads / kAlignment * kAlignment;
  TUILI_CHECK(part > 0, "read_bandwidth: ", bytes, " bytes are too few for ", n_threads, " threads");
  const Buffer buffer(part * n_threads);
  const auto each = [&](auto&& body) {
    ThreadPool::shared().parallel_for(n_threads, n_threads, [&](int64_t begin, int64_t end, int) {
      body(buffer.data() + begin * part, (end - begin) * part);
    });
  };
  each([](uint8_t* memory, int64_t size) { std::memset(memory, 1, static_cast<size_t>(size)); });
  std::array<double, 5> seconds;
  for (double& pass : seconds) pass = seconds_of([&] { each(cpu::read_stream); });
  std::sort(seconds.begin(), seconds.end());
  return static_cast<double>(buffer.bytes()) / seconds[seconds.size() / 2];
}

double float_peak(const char* isa, int n_threads) {
  const cpu::Peaks& peak = peaks(isa);
  return static_cast<double>(peak.float_macs) * rounds_per_second(peak.float_peak, usable_threads(n_threads));
}

double int8_peak(const char* isa, int n_threads) {
  const cpu::Peaks& peak = peaks(isa);
  return static_cast<double>(peak.int8_macs) * rounds_per_second(peak.int8_peak, usable_threads(n_threads));
}

}  // namespace tuili::ops
