// One block of CUDA threads while it runs: its lanes, what each of them waits for, and its shared memory.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "emulation.h"
#include "fiber.h"
#include "trace.h"

namespace tuili::emulation {

using Random = std::mt19937_64;

struct AsyncCopy {
  void* shared;
  const void* global;
  int bytes;
  int source_bytes;
  int group;  // commits before it
};

struct CudaThread {
  enum class State { ready, in_collective, at_barrier, exited };

  Fiber fiber;
  State state = State::ready;
  Place place;                    // where it waits
  uint32_t mask = 0;              // of the collective it waits in
  void* args = nullptr;           // its arguments there
  std::vector<AsyncCopy> copies;  // on their way
  int n_commits = 0;
  struct Unawaited {
    int group;
    Touch write;
    int source_bytes;
  };
  std::vector<Unawaited> unawaited;                       // when traced
  int64_t in_flight_bytes = 0, most_in_flight_bytes = 0;  // read for those
};

// Who of a warp waits in collectives, by lane. While all of them wait in one and the same, a newcomer is
// compared with that and not with each.
struct Meeting {
  uint32_t waiting = 0, exited = 0;
  bool is_one = true;
  uint32_t mask = 0;  // of the one
  Place place;
};

class Block {
 public:
  // `launched_at` names the kernel in reports.
  Block(const Place& launched_at, dim3 grid, dim3 shape, size_t shared_bytes,
        const std::function<void()>& body, FiberStacks& stacks, Random& random, Trace* trace);

  // Runs all threads to their end. Returns what went wrong, or an empty string.
  std::string run(uint3 block_id);

  // Called on the fiber of the running thread; the functions of emulation.h of the same names.
  void* shared_memory(size_t bytes);
  void* const* arrive(uint32_t mask, void* args, const Place& place);
  void release(uint32_t mask);
  void order_warp(uint32_t mask);
  void barrier(const Place& place);
  const void* checked_shared(const void* pointer, size_t bytes, size_t alignment, const void* code);
  void copy_async(const AsyncCopy& copy, const void* code);
  void commit_copies() { ++current().n_commits; }
  void wait_copies(int n_pending);

  // An access that the compiler announces, before it happens.
  void touch(const void* address, size_t bytes, Act act, const void* code);
  void enter_function(const void* code);

 private:
  static void enter();  // where a fiber begins
  void start();
  void exit_thread();
  void run_warp(int warp, int n_passes);
  bool resume_ready(int warp);
  int n_waiting_with(uint32_t mask, const Place& place);
  bool waits_with(const CudaThread& other, int other_lane, uint32_t mask, const Place& place) const;
  void pause(CudaThread::State state, const Place& place);
  void land_some_copies();
  void check_shared(const void* pointer, size_t bytes, size_t alignment) const;
  void check_end();
  std::string waiting_threads() const;
  void trace_copy(const AsyncCopy& copy, const void* code);
  void trace_wait(int n_pending);
  void trace_end();
  [[noreturn]] void fault(const std::string& what) const;
  [[noreturn]] void stop(std::string what);

  CudaThread& current() { return threads_[static_cast<size_t>(current_)]; }
  std::span<CudaThread> warp();  // the lanes of the current thread's warp
  Meeting& meeting() { return meetings_[static_cast<size_t>(current_ / kWarpSize)]; }
  uint32_t own_lane() const { return 1u << current_ % kWarpSize; }
  int n_threads() const { return static_cast<int>(threads_.size()); }
  int n_warps() const { return (n_threads() + kWarpSize - 1) / kWarpSize; }
  uint3 thread_id(int thread) const;
  int draw(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  std::string name_of(int thread) const;

  // Around the shared memory; the part after it must stay as it was.
  static constexpr size_t kFenceBytes = 1024;

  std::string kernel_;
  dim3 shape_;
  const std::function<void()>& body_;
  FiberStacks& stacks_;
  Random& random_;
  std::vector<CudaThread> threads_;
  std::vector<Meeting> meetings_;        // of each warp
  std::array<void*, kWarpSize> parked_;  // what `arrive` returns

  std::unique_ptr<std::byte[]> shared_storage_;
  std::byte* shared_ = nullptr;
  size_t shared_bytes_;

  int current_ = 0;
  int n_exited_ = 0;
  int n_at_barrier_ = 0;
  int first_at_barrier_ = 0;
  int eagerness_ = 0;  // of 4: how often a copy lands when it might

  Trace* trace_;                // null unless this is a trace build
  bool in_collective_ = false;  // a collective acts for all its lanes: nobody's own access
  int until_preemption_ = 1;
  std::string report_;
};

// An access by the running thread of the block that runs on this host thread, if there is one.
void touch(const void* address, size_t bytes, Act act, const void* code);
void enter_function(const void* code);  // `code` is in the function

}  // namespace tuili::emulation
