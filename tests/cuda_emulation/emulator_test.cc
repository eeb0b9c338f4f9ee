// The emulator's own tests: right kernels pass under every seed, and each planted bug is caught.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <limits>
#include <set>
#include <string_view>

#include "kernels/cuda/launch.h"
#include "testing.h"

namespace {

using namespace tuili;  // NOLINT: a test file
using testing::require;

constexpr int kSeeds = 50;
constexpr uint32_t kAll = emulation::kFullWarp;

struct Storage {
  alignas(16) float values[256];
};

// What the emulator says about one launch of `body`; empty if it finds nothing.
template <typename Body>
std::string report_of(uint64_t seed, int n_threads, Body body) {
  emulation::set_seed(seed);
  TUILI_LAUNCH(body, 1, unsigned(n_threads), sizeof(Storage), nullptr);
  return cudaGetLastError() == cudaSuccess ? "" : emulation::last_report();
}

// The bug must be reported, in these words, whatever the schedule.
template <typename Body>
void require_report(std::string_view words, int n_threads, Body body) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::string report = report_of(seed, n_threads, body);
    require(report.find(words) != std::string::npos, "seed ", seed, " reports \"", report, "\", not \"",
            words, "\"");
  }
}

// How many of the seeds give a wrong result.
template <typename Attempt>
int n_wrong(Attempt attempt) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) wrong += attempt(seed) ? 0 : 1;
  return wrong;
}

// ---- right kernels

// Reverses the block's values through shared memory, twice, with the barriers or without.
template <bool kFirst, bool kSecond>
bool reverses(uint64_t seed) {
  std::vector<float> out(256, -1.0f);
  const std::string report = report_of(seed, 256, [&] {
    auto& shared = cuda::shared_storage<Storage>();
    const int i = int(threadIdx.x);
    shared.values[i] = float(i);
    if constexpr (kFirst) __syncthreads();
    const float seen = shared.values[255 - i];
    if constexpr (kSecond) __syncthreads();
    shared.values[i] = seen + 1.0f;
    __syncthreads();
    out[size_t(i)] = shared.values[255 - i];
  });
  for (int i = 0; i < 256; ++i) {
    if (out[size_t(i)] != float(i + 1)) return false;
  }
  return report.empty();
}

TUILI_TEST(a_right_kernel_passes_under_every_seed) {
  require(n_wrong(reverses<true, true>) == 0, "some seed went wrong");
}

TUILI_TEST(a_warp_sums_by_butterflies) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int n_right = 0;
    const std::string report = report_of(seed, 128, [&] {
      int sum = int(threadIdx.x);
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAll, sum, distance);
      const int warp = int(threadIdx.x) / 32;
      n_right += sum == 32 * (32 * warp) + 31 * 32 / 2;
    });
    require(report.empty(), report);
    require(n_right == 128, n_right, " of 128 lanes have the sum");
  }
}

TUILI_TEST(halves_of_a_warp_meet_apart) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int n_right = 0;
    const std::string report = report_of(seed, 32, [&] {
      if (threadIdx.x < 16) {
        n_right += __ballot_sync(0x0000ffffu, threadIdx.x < 4) == 0xfu;
      } else {
        n_right += __ballot_sync(0xffff0000u, threadIdx.x == 31) == 0x80000000u;
      }
    });
    require(report.empty(), report);
    require(n_right == 32, n_right, " of 32 votes");
  }
}

TUILI_TEST(threads_and_blocks_have_their_ids) {
  std::set<std::vector<unsigned>> seen;
  const auto body = [&] {
    seen.insert({blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z});
    require(blockDim.x == 5 && gridDim.z == 2, "wrong sizes");
  };
  TUILI_LAUNCH(body, dim3(2, 3, 2), dim3(5, 4, 3), 0, nullptr);
  require(cudaGetLastError() == cudaSuccess, emulation::last_report());
  require(seen.size() == size_t{12 * 60} && seen.contains({1, 2, 1, 4, 3, 2}), seen.size(), " ids of 720");
}

std::vector<unsigned> schedule(uint64_t seed) {
  std::vector<unsigned> order;
  report_of(seed, 96, [&] {
    order.push_back(threadIdx.x);
    __syncwarp();
    order.push_back(threadIdx.x);
  });
  return order;
}

TUILI_TEST(a_seed_repeats_its_schedule_and_another_does_not) {
  require(schedule(7) == schedule(7), "seed 7 gave two schedules");
  require(schedule(7) != schedule(8), "seeds 7 and 8 gave the same schedule");
}

// ---- planted bugs: collectives

TUILI_TEST(catches_a_mask_without_the_caller) {
  require_report("is not in its own mask", 32, [] { __syncwarp(0x7fffffffu); });
}

TUILI_TEST(catches_a_mask_that_names_an_exited_lane) {
  require_report("", 32, [] {});
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::string report = report_of(seed, 32, [] {
      if (threadIdx.x == 5) return;
      __ballot_sync(kAll, 1);
    });
    const bool caught = report.find("which has exited") != std::string::npos ||
                        report.find("exits, but the mask") != std::string::npos;
    require(caught, "seed ", seed, " reports \"", report, "\"");
  }
}

TUILI_TEST(catches_a_mask_past_the_end_of_the_block) {
  require_report("past the end of the block", 20, [] { __syncwarp(kAll); });
}

TUILI_TEST(catches_lanes_at_different_collectives) {
  require_report("emulator_test.cc", 32, [] {
    if (threadIdx.x % 2 == 0) {
      __shfl_xor_sync(kAll, 1.0f, 1);
    } else {
      __ballot_sync(kAll, 1);
    }
  });
}

TUILI_TEST(catches_lanes_with_different_masks) {
  require_report("with mask", 32, [] { __syncwarp(threadIdx.x < 16 ? 0xffffu : kAll); });
}

TUILI_TEST(catches_a_deadlock_between_a_collective_and_a_barrier) {
  const auto meet = [] { __syncthreads(); };  // one barrier, reached from two places
  require_report("deadlock", 64, [&] {
    if (threadIdx.x == 3) meet();
    __syncwarp();
    meet();
  });
}

// ---- planted bugs: barriers

TUILI_TEST(catches_a_barrier_that_an_exited_thread_misses) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::string report = report_of(seed, 64, [] {
      if (threadIdx.x == 40) return;
      __syncthreads();
    });
    const bool caught = report.find("have exited never reach") != std::string::npos ||
                        report.find("exits while others wait at a barrier") != std::string::npos;
    require(caught, "seed ", seed, " reports \"", report, "\"");
  }
}

TUILI_TEST(catches_threads_at_different_barriers) {
  require_report("is at the barrier", 64, [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  });
}

TUILI_TEST(a_missing_barrier_gives_wrong_values) {
  const int before_reading = n_wrong(reverses<false, true>);
  const int before_writing = n_wrong(reverses<true, false>);
  require(before_reading >= kSeeds * 9 / 10, "before reading: seen by ", before_reading, " of ", kSeeds,
          " seeds");
  require(before_writing >= kSeeds * 9 / 10, "before writing: seen by ", before_writing, " of ", kSeeds,
          " seeds");
}

// ---- planted bugs: shared memory

TUILI_TEST(shared_memory_begins_as_nan) {
  int n_nan = 0;
  const std::string report = report_of(0, 256, [&] {
    const float value = cuda::shared_storage<Storage>().values[threadIdx.x];
    n_nan += value != value;
  });
  require(report.empty() && n_nan == 256, n_nan, " of 256 are NaN; ", report);
}

TUILI_TEST(catches_writing_past_shared_memory) {
  require_report("wrote to byte 1024", 32, [] {
    float* values = cuda::shared_storage<Storage>().values;
    values[256 + (threadIdx.x & 3)] = 1.0f;
  });
}

struct Larger {
  Storage parts[2];
};

TUILI_TEST(catches_a_storage_larger_than_launched) {
  require_report("bytes of shared memory, launched with 1024", 32, [] { cuda::shared_storage<Larger>(); });
}

TUILI_TEST(catches_addresses_that_vector_accesses_refuse) {
  static float outside[8];
  require_report("outside shared memory", 32, [] { emulation::checked_shared(outside, 16, 16); });
  require_report("misaligned address in shared memory", 32,
                 [] { emulation::checked_shared(&cuda::shared_storage<Storage>().values[1], 16, 16); });
  require_report("copies from a misaligned address", 32,
                 [] { emulation::copy_async(cuda::shared_storage<Storage>().values, &outside[1], 16, 16); });
}

// ---- planted bugs: cp.async

enum class Wait { none, one_group_short, right };

// Each of 64 threads copies 16 bytes in each of two groups, then reads a neighbour's.
template <Wait kWait, bool kBarrier>
bool copies_arrive(uint64_t seed) {
  alignas(16) static float source[512];
  for (int i = 0; i < 512; ++i) source[i] = float(i);
  int n_right = 0;
  const std::string report = report_of(seed, 32, [&] {
    auto& shared = cuda::shared_storage<Storage>();
    const int i = int(threadIdx.x);
    for (int group = 0; group < 2; ++group) {
      emulation::copy_async(&shared.values[128 * group + 4 * i], &source[128 * group + 4 * i], 16, 12);
      emulation::commit_copies();
    }
    if constexpr (kWait != Wait::none) emulation::wait_copies(kWait == Wait::right ? 0 : 1);
    if constexpr (kBarrier) __syncthreads();
    for (int group = 0; group < 2; ++group) {
      const int neighbour = 128 * group + 4 * (31 - i);
      n_right += shared.values[neighbour] == source[neighbour] && shared.values[neighbour + 3] == 0.0f;
    }
  });
  require(report.empty(), report);
  return n_right == 64;
}

TUILI_TEST(copies_arrive_by_their_wait_and_a_barrier) {
  require(n_wrong(copies_arrive<Wait::right, true>) == 0, "some seed went wrong");
}

TUILI_TEST(catches_copies_that_nobody_waits_for) {
  const int without = n_wrong(copies_arrive<Wait::none, true>);
  const int too_few = n_wrong(copies_arrive<Wait::one_group_short, true>);
  const int no_barrier = n_wrong(copies_arrive<Wait::right, false>);
  require(without > kSeeds / 2, "no wait: seen by ", without, " of ", kSeeds, " seeds");
  require(too_few > kSeeds / 2, "a wait for too few groups: seen by ", too_few, " of ", kSeeds, " seeds");
  require(no_barrier > kSeeds * 9 / 10, "no barrier: seen by ", no_barrier, " of ", kSeeds, " seeds");
}

// ---- launches and stacks

TUILI_TEST(refuses_launches_beyond_the_limits) {
  const auto nothing = [] {};
  TUILI_LAUNCH(nothing, 0, 32, 0, nullptr);
  require(cudaGetLastError() == cudaErrorInvalidConfiguration, "a grid of zero blocks");
  TUILI_LAUNCH(nothing, 1, 1025, 0, nullptr);
  require(cudaGetLastError() == cudaErrorInvalidConfiguration, "1025 threads");
  TUILI_LAUNCH(nothing, dim3(1, 65536), 32, 0, nullptr);
  require(cudaGetLastError() == cudaErrorInvalidConfiguration, "65536 blocks in y");
  TUILI_LAUNCH(nothing, 1, 32, 48 * 1024 + 1, nullptr);
  require(cudaGetLastError() == cudaErrorInvalidValue, "more than 48 KiB of shared memory");
  require(cudaGetLastError() == cudaSuccess, "reading the error clears it");
}

int depth_of(volatile char* below, int depth) {
  volatile char frame[4096];
  frame[0] = below[0];
  return depth == 0 ? frame[0] : depth_of(frame, depth - 1) + 1;
}

// Whether a child process that runs `act` dies of it.
template <typename Act>
bool ends_the_process(Act act) {
  const pid_t child = fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);  // a sanitizer's report is expected
    std::signal(SIGSEGV, [](int) { _exit(99); });
    act();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

TUILI_TEST(a_stack_overflow_ends_at_the_guard_page) {
  volatile char first = 0;
  require(ends_the_process([&] { report_of(0, 2, [&] { depth_of(&first, 10'000); }); }),
          "both stacks were overrun and nobody noticed");
}

// ---- where C++ and the device differ

#if defined(__SANITIZE_ADDRESS__)
TUILI_TEST(sanitizers_report_plain_casts_and_shifts_out_of_range) {
  static volatile float large = 1e20f;
  static volatile int word = 40;
  require(ends_the_process([] { report_of(0, 1, [] { word = int(large); }); }), "1e20 became an int");
  require(ends_the_process([] { report_of(0, 1, [] { word = 1 << word; }); }), "a shift by 40 passed");
}
#endif

}  // namespace
