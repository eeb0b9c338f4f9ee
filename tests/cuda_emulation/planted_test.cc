// Kernels with one bug each, and the same without it: a trace build names every bug, under every seed, and
// says nothing about the twin.
#include <atomic>
#include <string_view>
#include <vector>

#include "base/device_memory.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "requests.h"
#include "testing.h"

namespace {

using namespace tuili;  // NOLINT: a test file
using testing::require;

constexpr int kSeeds = 10;
constexpr uint32_t kAll = emulation::kFullWarp;
constexpr int kN = 1024;  // floats of shared and of device memory

struct Storage {
  alignas(16) float values[kN];
};

enum class Bug { absent, present };

class DeviceFloats {
 public:
  DeviceFloats() : memory_(device::allocate(kN * sizeof(float))) {
    std::vector<float> values(kN);
    for (int i = 0; i < kN; ++i) values[size_t(i)] = float(i);
    device::copy_to_device(memory_.get(), values.data(), kN * sizeof(float), nullptr);
  }
  float* get() const { return static_cast<float*>(memory_.get()); }

 private:
  DeviceMemory memory_;
};

// What the emulator reports of a launch, or which of its accesses waste the memory's time.
template <typename Kernel>
std::string report_of(int n_blocks, int n_threads, Kernel kernel) {
  emulation::take_counts();
  TUILI_LAUNCH(kernel, unsigned(n_blocks), unsigned(n_threads), sizeof(Storage), nullptr);
  if (cudaGetLastError() != cudaSuccess) return emulation::last_report();
  return emulation::take_counts().wasteful(4);
}

float* shared_values() { return cuda::shared_storage<Storage>().values; }

// ---- barriers and collectives

template <Bug kBug>
std::string barrier_before_reading() {
  return report_of(1, 128, [] {
    shared_values()[threadIdx.x] = 0.0f;
    __syncthreads();
    shared_values()[threadIdx.x] = 1.0f;
    if constexpr (kBug == Bug::absent) __syncthreads();
    volatile float seen = shared_values()[127 - threadIdx.x];
    (void)seen;
  });
}

template <Bug kBug>
std::string barrier_before_overwriting() {
  return report_of(1, 128, [] {
    shared_values()[threadIdx.x] = 1.0f;
    __syncthreads();
    const float seen = shared_values()[127 - threadIdx.x];
    if constexpr (kBug == Bug::absent) __syncthreads();
    shared_values()[threadIdx.x] = seen;
  });
}

// A shuffle brings the lanes together, too, but promises nothing about memory.
template <Bug kBug>
std::string warp_barrier() {
  return report_of(1, 32, [] {
    shared_values()[threadIdx.x] = 0.0f;
    __syncwarp();
    shared_values()[threadIdx.x] = 1.0f;
    __shfl_xor_sync(kAll, 1.0f, 1);
    if constexpr (kBug == Bug::absent) __syncwarp();
    volatile float seen = shared_values()[31 - threadIdx.x];
    (void)seen;
  });
}

template <Bug kBug>
std::string warp_barrier_of_half() {
  return report_of(1, 32, [] {
    shared_values()[threadIdx.x] = 0.0f;
    __syncwarp();
    shared_values()[threadIdx.x] = 1.0f;
    __syncwarp(kBug == Bug::absent ? kAll : threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
    volatile float seen = shared_values()[31 - threadIdx.x];
    (void)seen;
  });
}

template <Bug kBug>
std::string divergent_barrier() {
  return report_of(1, 64, [] {
    if (kBug == Bug::present && threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  });
}

template <Bug kBug>
std::string barrier_that_one_warp_skips() {
  return report_of(1, 64, [] {
    if (kBug == Bug::present && threadIdx.x >= 32) return;
    __syncthreads();
  });
}

template <Bug kBug>
std::string mask_without_the_caller() {
  return report_of(1, 32, [] { __syncwarp(kBug == Bug::absent ? kAll : kAll >> 1); });
}

template <Bug kBug>
std::string mask_with_an_exited_lane() {
  return report_of(1, 32, [] {
    if (threadIdx.x == 31) return;
    __ballot_sync(kBug == Bug::absent ? kAll >> 1 : kAll, 1);
  });
}

template <Bug kBug>
std::string masks_that_differ() {
  return report_of(1, 32, [] { __syncwarp(kBug == Bug::present && threadIdx.x < 16 ? 0xffffu : kAll); });
}

template <Bug kBug>
std::string collective_beside_a_barrier() {
  return report_of(1, 32, [] {
    const auto meet = [] { __syncthreads(); };
    if (kBug == Bug::present && threadIdx.x == 3) meet();
    __syncwarp();
    if (kBug == Bug::absent || threadIdx.x != 3) meet();
  });
}

// ---- addresses

template <Bug kBug>
std::string shared_end() {
  return report_of(1, 32,
                   [] { shared_values()[kN - 32 + int(threadIdx.x) + (kBug == Bug::present)] = 1.0f; });
}

template <Bug kBug>
std::string shared_begin() {
  return report_of(1, 32, [] { shared_values()[int(threadIdx.x) - (kBug == Bug::present)] = 1.0f; });
}

template <Bug kBug>
std::string global_end() {
  const DeviceFloats memory;
  return report_of(1, 32,
                   [to = memory.get()] { to[kN - 32 + int(threadIdx.x) + (kBug == Bug::present)] = 1.0f; });
}

template <Bug kBug>
std::string global_begin_of_a_copy() {
  const DeviceFloats memory;
  return report_of(1, 32, [from = memory.get()] {
    const int i = 4 * int(threadIdx.x);
    cuda::ptx::cp_async_16(&shared_values()[i], from + i - (kBug == Bug::present ? 4 : 0), 16);
  });
}

template <Bug kBug>
std::string uninitialised() {
  return report_of(1, 32, [] {
    if (kBug == Bug::absent || threadIdx.x != 7) shared_values()[threadIdx.x] = 1.0f;
    volatile float seen = shared_values()[threadIdx.x];
    (void)seen;
  });
}

template <Bug kBug>
std::string misaligned_ldmatrix() {
  return report_of(1, 32, [] {
    for (int i = int(threadIdx.x); i < kN; i += 32) shared_values()[i] = 0.0f;
    __syncwarp();
    uint32_t d[4];
    cuda::ptx::ldmatrix_x4(d, &shared_values()[4 * threadIdx.x + (kBug == Bug::present)]);
  });
}

// ---- cp.async

enum class Copying { right, no_wait, one_group_short, late_commit, no_barrier };

// Two groups of copies; every thread reads what another has copied.
template <Copying kCopying>
std::string copies() {
  const DeviceFloats memory;
  return report_of(1, 64, [from = memory.get()] {
    constexpr bool kLate = kCopying == Copying::late_commit;
    for (int i = int(threadIdx.x); i < 512; i += 64) shared_values()[i] = 0.0f;
    __syncthreads();
    const int i = 4 * int(threadIdx.x);
    cuda::ptx::cp_async_16(&shared_values()[i], from + i, 16);
    if constexpr (!kLate) cuda::ptx::cp_async_commit();
    cuda::ptx::cp_async_16(&shared_values()[256 + i], from + i, 16);
    if constexpr (!kLate) cuda::ptx::cp_async_commit();
    if constexpr (kCopying == Copying::one_group_short) cuda::ptx::cp_async_wait<1>();
    if constexpr (kCopying != Copying::no_wait)
      cuda::ptx::cp_async_wait<kCopying == Copying::one_group_short>();
    if constexpr (kLate) cuda::ptx::cp_async_commit();
    if constexpr (kCopying != Copying::no_barrier) __syncthreads();
    volatile float seen = shared_values()[255 - threadIdx.x] + shared_values()[511 - threadIdx.x];
    (void)seen;
  });
}

template <Bug kBug>
std::string copy_into_what_is_read() {
  const DeviceFloats memory;
  return report_of(1, 64, [from = memory.get()] {
    const int i = 4 * int(threadIdx.x);
    shared_values()[threadIdx.x] = 1.0f;
    __syncthreads();
    volatile float seen = shared_values()[63 - threadIdx.x];
    (void)seen;
    if constexpr (kBug == Bug::absent) __syncthreads();
    cuda::ptx::cp_async_16(&shared_values()[i], from + i, 16);
  });
}

// ---- races on global memory

template <Bug kBug>
std::string two_writers() {
  const DeviceFloats memory;
  return report_of(1, 64,
                   [to = memory.get()] { to[kBug == Bug::absent ? threadIdx.x : threadIdx.x / 2] = 1.0f; });
}

template <Bug kBug>
std::string two_blocks() {
  const DeviceFloats memory;
  return report_of(2, 32, [to = memory.get()] {
    const unsigned i = blockIdx.x * (kBug == Bug::absent ? 32 : 31) + threadIdx.x;
    to[i] = 1.0f;
  });
}

template <Bug kBug>
std::string sum_without_atomics() {
  const DeviceFloats memory;
  return report_of(2, 32, [to = reinterpret_cast<int*>(memory.get())] {
    if (kBug == Bug::absent || threadIdx.x != 9) {
      std::atomic_ref<int>(*to).fetch_add(1);
    } else {
      *to = *to + 1;
    }
  });
}

// ---- waste

template <Bug kBug>
std::string bank_conflicts() {
  return report_of(1, 32, [] { shared_values()[threadIdx.x * (kBug == Bug::present ? 32 : 31)] = 1.0f; });
}

template <Bug kBug>
std::string uncoalesced() {
  const DeviceFloats memory;
  return report_of(1, 32, [to = memory.get()] { to[threadIdx.x * (kBug == Bug::present ? 32 : 1)] = 1.0f; });
}

// ---- a wrong layout gives wrong values

template <Bug kBug>
std::string fragment_layout() {
  uint32_t seen[32][4];
  const std::string report = report_of(1, 32, [&seen] {
    struct Tile {
      alignas(16) uint16_t elements[16][16];
    };
    Tile& shared = cuda::shared_storage<Tile>();
    const int lane = int(threadIdx.x);
    for (int i = lane; i < 256; i += 32) shared.elements[i / 16][i % 16] = uint16_t(i);
    __syncwarp();
    const int row = kBug == Bug::absent ? lane % 16 : lane % 8 + lane / 16 * 8;
    const int column = kBug == Bug::absent ? lane / 16 * 8 : lane / 8 % 2 * 8;
    cuda::ptx::ldmatrix_x4(seen[lane], &shared.elements[row][column]);
  });
  if (!report.empty()) return report;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {  // the layout of an mma's a, as PTX draws it
      const uint32_t first = (lane / 4 + i % 2 * 8) * 16 + lane % 4 * 2 + i / 2 * 8;
      if (seen[lane][i] != (first | (first + 1) << 16)) return "a wrong fragment";
    }
  }
  return "";
}

struct Row {
  const char* bug;
  std::string_view words;  // of the report
  std::string (*planted)();
  std::string (*twin)();
};

constexpr std::string_view kRace = "a race: nothing orders the two";
constexpr std::string_view kUnderWay = "a race with a cp.async that nobody has waited for";

#define TUILI_TWINS(kernel) kernel<Bug::present>, kernel<Bug::absent>
constexpr Row kRows[] = {
    {"no barrier before reading", kRace, TUILI_TWINS(barrier_before_reading)},
    {"no barrier before overwriting", kRace, TUILI_TWINS(barrier_before_overwriting)},
    {"a shuffle in place of a __syncwarp", kRace, TUILI_TWINS(warp_barrier)},
    {"a __syncwarp of half the lanes", kRace, TUILI_TWINS(warp_barrier_of_half)},
    {"warps at different barriers", "is at the barrier", TUILI_TWINS(divergent_barrier)},
    {"a barrier that one warp skips", "exit", TUILI_TWINS(barrier_that_one_warp_skips)},
    {"a mask without the caller", "is not in its own mask", TUILI_TWINS(mask_without_the_caller)},
    {"a mask with an exited lane", "exit", TUILI_TWINS(mask_with_an_exited_lane)},
    {"masks that differ", "with mask", TUILI_TWINS(masks_that_differ)},
    {"a collective beside a barrier", "", TUILI_TWINS(collective_beside_a_barrier)},
    {"past shared memory", "is outside shared memory", TUILI_TWINS(shared_end)},
    {"before shared memory", "is outside shared memory", TUILI_TWINS(shared_begin)},
    {"past device memory", "is outside device memory", TUILI_TWINS(global_end)},
    {"a copy from before device memory", "is outside device memory", TUILI_TWINS(global_begin_of_a_copy)},
    {"shared memory that nobody wrote", "which nobody has written", TUILI_TWINS(uninitialised)},
    {"a misaligned ldmatrix", "misaligned address in shared memory", TUILI_TWINS(misaligned_ldmatrix)},
    {"no wait", kUnderWay, copies<Copying::no_wait>, copies<Copying::right>},
    {"a wait for one group too few", kUnderWay, copies<Copying::one_group_short>, copies<Copying::right>},
    {"a commit after the wait", kUnderWay, copies<Copying::late_commit>, copies<Copying::right>},
    {"a wait and no barrier", kRace, copies<Copying::no_barrier>, copies<Copying::right>},
    {"a copy into what others read", "a race", TUILI_TWINS(copy_into_what_is_read)},
    {"two threads write one word", kRace, TUILI_TWINS(two_writers)},
    {"two blocks write one word", "which another block wrote", TUILI_TWINS(two_blocks)},
    {"a plain sum among atomics", kRace, TUILI_TWINS(sum_without_atomics)},
    {"32 bank conflicts", "1 requests in 32 wavefronts, 1 would do", TUILI_TWINS(bank_conflicts)},
    {"32 sectors for 128 bytes", "1 requests in 32 sectors, 4 would do", TUILI_TWINS(uncoalesced)},
    {"a fragment's matrices in the wrong order", "a wrong fragment", TUILI_TWINS(fragment_layout)},
};

TUILI_TEST(every_planted_bug_is_named) {
  for (const Row& row : kRows) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      emulation::set_seed(seed);
      const std::string report = row.planted();
      const bool named = !report.empty() && report.find(row.words) != std::string::npos;
      require(named, row.bug, ": seed ", seed, " reports \"", report, "\", not \"", row.words, "\"");
    }
  }
}

TUILI_TEST(the_twins_without_the_bugs_are_clean) {
  for (const Row& row : kRows) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      emulation::set_seed(seed);
      const std::string report = row.twin();
      require(report.empty(), "without \"", row.bug, "\": seed ", seed, " reports \"", report, "\"");
    }
  }
}

TUILI_TEST(reports_name_the_line_of_both_accesses) {
  const std::string report = barrier_before_reading<Bug::present>();
  const size_t first = report.find("planted_test.cc:", report.find(" at "));
  require(first != std::string::npos && report.find("planted_test.cc:", first + 1) != std::string::npos,
          report);
}

// Between two accesses of one thread others have run, although it waited for nobody.
TUILI_TEST(threads_give_way_at_any_access) {
  int n_interrupted = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    emulation::set_seed(seed);
    std::vector<unsigned> order;
    report_of(1, 128, [&] {
      order.push_back(threadIdx.x);
      shared_values()[threadIdx.x] = 1.0f;
      order.push_back(threadIdx.x);
    });
    for (size_t i = 0; i + 1 < order.size(); i += 2) n_interrupted += order[i] != order[i + 1];
  }
  require(n_interrupted > kSeeds, "only ", n_interrupted, " times in ", kSeeds, " seeds");
}

}  // namespace
