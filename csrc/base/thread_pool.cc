#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/float_environment.h"
#include "base/rounding.h"

namespace tuili {
namespace {

constexpr int64_t kStackBytes = 1 << 20;
constexpr const char* kCgroups = "/sys/fs/cgroup";

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

// Looks at `word` for at most spin_us, then sleeps until it differs from `old`.
template <class Word>
void wait_while_equal(std::atomic<Word>& word, Word old, int spin_us) {
  using clock = std::chrono::steady_clock;
  const auto end = clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 32; ++i) {
      if (word.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (clock::now() < end);
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

// A thread that waits must not keep the CPU from one that works: the more threads per CPU, the shorter the
// look.
int spin_us(int n_threads, int n_cpus) { return n_threads < n_cpus ? 50 : n_threads == n_cpus ? 20 : 2; }
constexpr int kExpectingUs = 200;

// The text of a small file of the kernel's; empty if there is none.
std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text, '\0');
  return text;
}

// CPUs that "quota period" (microseconds, cgroup v2's cpu.max) allows; 0 without a limit.
int cpus_of_quota(const std::string& text) {
  int64_t quota = 0, period = 0;
  const char* end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, quota);
  if (error != std::errc() || after == end) return 0;  // "max 100000"
  std::from_chars(after + 1, end, period);
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::min<int64_t>(ceil_div(quota, period), kMaxThreads));
}

// The smallest quota on the way from this process's cgroup to the root; 0 without a limit.
int cgroup_cpus() {
  const std::string groups = read_text("/proc/self/cgroup");
  const size_t line = groups.rfind("0::", 0) == 0 ? 0 : groups.find("\n0::");
  if (line == std::string::npos) {
    const auto v1 = [](const char* name) { return read_text(join(kCgroups, "/cpu/cpu.cfs_", name, "_us")); };
    return cpus_of_quota(v1("quota") + v1("period"));  // each ends in a newline
  }
  const size_t begin = groups.find('/', line);
  std::string path = begin == std::string::npos ? "" : groups.substr(begin, groups.find('\n', begin) - begin);
  int cpus = 0;
  for (;; path.resize(path.rfind('/'))) {
    const int here = cpus_of_quota(read_text(kCgroups + path + "/cpu.max"));
    if (here > 0) cpus = cpus == 0 ? here : std::min(cpus, here);
    if (path.empty()) return cpus;
  }
}

std::atomic<ThreadPool*> g_pool{nullptr};
std::mutex g_pool_mutex;

// In the child of a fork the workers do not exist; it starts over with no pool.
void forget_pool() {
  g_pool.store(nullptr);
  new (&g_pool_mutex) std::mutex;  // another thread of the parent may have held it
}

// From the start: a fork while the first pool is made must not leave its child with a mutex that nobody
// frees.
const int g_atfork_status = pthread_atfork(nullptr, nullptr, forget_pool);

// The fields of a ticket.
constexpr int kChunkBits = 12, kPartBits = 12;
static_assert(kMaxThreads * ThreadPool::kChunksPerPart < 1 << kChunkBits);
constexpr uint64_t ticket_of(uint64_t job, int n_parts, int n_left) {
  return job << (kPartBits + kChunkBits) | uint64_t(n_parts) << kChunkBits | uint64_t(n_left);
}
constexpr uint64_t job_of(uint64_t ticket) { return ticket >> (kPartBits + kChunkBits); }
constexpr int parts_of(uint64_t ticket) {
  return static_cast<int>(ticket >> kChunkBits & ((1 << kPartBits) - 1));
}
constexpr int left_of(uint64_t ticket) { return static_cast<int>(ticket & ((1 << kChunkBits) - 1)); }

}  // namespace

int allowed_cpus() {
  cpu_set_t set;
  int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
  if (cpus <= 0) cpus = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const int quota = cgroup_cpus();
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::min(cpus, kMaxThreads);
}

int default_num_threads() {
  const char* text = std::getenv("TUILI_NUM_THREADS");
  if (text == nullptr || *text == '\0') return allowed_cpus();
  int threads = 0;
  const char* end = text + std::strlen(text);
  const auto [after, error] = std::from_chars(text, end, threads);
  TUILI_CHECK(error == std::errc() && after == end && threads >= 1 && threads <= kMaxThreads,
              "TUILI_NUM_THREADS is not an integer in [1, ", kMaxThreads, "]");
  return threads;
}

int resolve_num_threads(int requested) {
  TUILI_CHECK(requested >= 0 && requested <= kMaxThreads, "num_threads must be in [1, ", kMaxThreads,
              "], or 0 for the default, not ", requested);
  return requested == 0 ? default_num_threads() : requested;
}

int missing_threads() {
  const ThreadPool* pool = g_pool.load();
  return pool == nullptr ? 0 : pool->n_missing();
}

ThreadPool& ThreadPool::shared() {
  if (ThreadPool* pool = g_pool.load()) return *pool;
  const std::lock_guard lock(g_pool_mutex);
  if (g_pool.load() == nullptr) {
    TUILI_EXPECT(g_atfork_status == 0, "thread pool: pthread_atfork failed");
    g_pool.store(new ThreadPool(allowed_cpus()));
  }
  return *g_pool.load();
}

// Runs the first chunk of the current job that nobody has taken; false if there is none for this part.
bool ThreadPool::take_chunk(int part) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (left_of(ticket) == 0 || part >= parts_of(ticket)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel));
  const uint32_t n_chunks = static_cast<uint32_t>(job_.n_chunks);  // after the last chunk job_ may change
  run_chunk(static_cast<int>(n_chunks) - left_of(ticket), part);
  if (n_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_chunks) n_done_.notify_one();
  return true;
}

void* ThreadPool::work(void* argument) {
  const auto& worker = *static_cast<Worker*>(argument);
  ThreadPool& pool = *worker.pool;
  const FloatEnvironment environment;
  for (;;) {
    const uint64_t seen = pool.ticket_.load(std::memory_order_acquire);
    if (pool.take_chunk(worker.part)) continue;
    wait_while_equal(pool.ticket_, seen, pool.spin_us_.load(std::memory_order_relaxed));
  }
  return nullptr;
}

void ThreadPool::run_chunk(int chunk, int part) noexcept {
  try {
    job_.call(job_.body, job_.n * chunk / job_.n_chunks, job_.n * (chunk + 1) / job_.n_chunks, part);
  } catch (...) {
    if (!failed_.exchange(true)) error_ = std::current_exception();
  }
}

// Starts workers until there are `wanted`, or fewer if the system refuses.
void ThreadPool::add_workers(int wanted) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals belong to the host's threads
  for (; n_workers_ < wanted; ++n_workers_) {
    workers_[n_workers_] = {this, n_workers_ + 1};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    const int status = pthread_create(&thread, &attributes, work, &workers_[n_workers_]);
    pthread_attr_destroy(&attributes);
    if (status != 0) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  n_missing_.store(std::max(0, wanted - n_workers_), std::memory_order_relaxed);
}

void ThreadPool::run(Job job) {
  TUILI_CHECK_KIND(ErrorKind::engine_forked, g_pool.load(std::memory_order_relaxed) == this,
                   "this engine was made before a fork; make a new one in the child process");
  const std::lock_guard lock(turn_);
  job.n_parts = std::min(job.n_parts, n_cpus_);  // more would only take turns
  if (job.n_parts - 1 > n_workers_) add_workers(job.n_parts - 1);
  job.n_parts = std::min(job.n_parts, n_workers_ + 1);
  const int spin = spin_us(n_workers_ + 1, n_cpus_);  // all of them look
  spin_us_.store(spin, std::memory_order_relaxed);
  job_ = job;
  failed_.store(false);
  n_done_.store(0, std::memory_order_relaxed);
  const uint64_t number = job_of(ticket_.load(std::memory_order_relaxed)) + 1;
  ticket_.store(ticket_of(number, job.n_parts, job.n_chunks), std::memory_order_release);
  ticket_.notify_all();
  while (take_chunk(0)) {
  }
  const auto n_chunks = static_cast<uint32_t>(job.n_chunks);
  for (uint32_t done; (done = n_done_.load(std::memory_order_acquire)) != n_chunks;)
    wait_while_equal(n_done_, done, spin);
  if (failed_.load()) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::expect_work() {
  if (g_pool.load(std::memory_order_relaxed) != this) return;  // in the child of a fork
  const std::unique_lock lock(turn_, std::try_to_lock);
  if (!lock || n_workers_ >= n_cpus_) return;  // they have work, or would keep a CPU from it
  spin_us_.store(kExpectingUs, std::memory_order_relaxed);
  ticket_.store(ticket_of(job_of(ticket_.load(std::memory_order_relaxed)) + 1, 0, 0),
                std::memory_order_release);
  ticket_.notify_all();
}

}  // namespace tuili
