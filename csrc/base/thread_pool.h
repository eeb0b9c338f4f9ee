// The one pool of worker threads of the process. Created by the first parallel loop, never at import.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <type_traits>

namespace tuili {

inline constexpr int kMaxThreads = 256;

// CPUs of the affinity mask, bounded by the cgroup's quota (rounded up).
int allowed_cpus();

// TUILI_NUM_THREADS if set, else allowed_cpus(). Throws invalid_parameter unless it is an integer in [1,
// 256].
int default_num_threads();

// `requested`, or the default when 0. Throws invalid_parameter outside [0, 256].
int resolve_num_threads(int requested);

// Threads that the system refused the pool when it last asked for some; the others do their work.
int missing_threads();

class ThreadPool {
 public:
  static constexpr int kChunksPerPart = 4;

  // The pool of this process; a fork has its own, with no threads yet.
  static ThreadPool& shared();

  int n_missing() const { return n_missing_.load(std::memory_order_relaxed); }

  // Has the workers look for work for a while, from now on: for who will have some in less than a millisecond
  // and would wait for them to wake up.
  void expect_work();

  // Cuts [0, n) into contiguous chunks and runs body(begin, end, part) for each, on this thread (part 0) and
  // on up to n_threads - 1 workers (never more threads than allowed_cpus()). Whoever is free takes the next
  // chunk: a worker that the system has not scheduled costs nothing. One part runs on one thread at a time,
  // and may get several chunks or none. Chunks have at least min_chunk of the n, where there is enough for
  // every part. Callers take turns, so a body has no loop of its own. The first exception of a chunk is
  // rethrown here, after all chunks have ended. Workers never touch Python. Throws engine_forked if the pool
  // was made before a fork.
  template <class Body>
  void parallel_for(int64_t n, int n_threads, Body&& body, int64_t min_chunk = 1) {
    const int n_parts = static_cast<int>(std::min<int64_t>(n_threads, n));
    if (n_parts <= 1) {
      if (n > 0) body(int64_t{0}, n, 0);
      return;
    }
    const int64_t chunks_per_part = std::clamp<int64_t>(n / (min_chunk * n_parts), 1, kChunksPerPart);
    run({[](void* object, int64_t begin, int64_t end, int part) {
           (*static_cast<std::remove_reference_t<Body>*>(object))(begin, end, part);
         },
         &body, n, n_parts, static_cast<int>(n_parts * chunks_per_part)});
  }

 private:
  struct Job {
    void (*call)(void* body, int64_t begin, int64_t end, int part);
    void* body;
    int64_t n;
    int n_parts;
    int n_chunks;
  };
  struct Worker {
    ThreadPool* pool;
    int part;
  };

  explicit ThreadPool(int n_cpus) : n_cpus_(n_cpus) {}
  ~ThreadPool() = delete;  // workers wait in it until the process ends

  void run(Job job);
  bool take_chunk(int part);
  void run_chunk(int chunk, int part) noexcept;
  void add_workers(int wanted);
  static void* work(void* argument);

  const int n_cpus_;
  std::mutex turn_;  // of callers: who has it changes what follows
  std::array<Worker, kMaxThreads> workers_;
  int n_workers_ = 0;
  Job job_{};
  // (number of the job, its parts, its chunks that nobody has taken). Who takes a chunk by changing this word
  // may read job_: the job cannot end before the chunk has.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> n_done_{0};  // chunks that have ended
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  std::atomic<int> n_missing_{0};
  std::atomic<int> spin_us_{0};  // how long a worker looks for the next job before it sleeps
};

}  // namespace tuili
