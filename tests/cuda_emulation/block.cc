#include "block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <sstream>
#include <stdexcept>

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local uint3 blockDim{};
constinit thread_local uint3 gridDim{};

namespace tuili::emulation {
namespace {

using State = CudaThread::State;

constexpr size_t kSharedAlignment = 128;
constexpr std::byte kPoison{0xff};  // four of these are a NaN, so are two
constexpr std::byte kFence{0xa5};

// How many times a warp may go to its next wait before another one has its turn.
constexpr int kPasses[] = {0, 1, 3, INT32_MAX};

// Ends the thread that made the mistake, and with it the block: thrown and caught on the same fiber.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The block whose fibers run on this host thread.
thread_local Block* running = nullptr;

bool same(const Place& a, const Place& b) {
  const bool same_file = a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
  return a.line() == b.line() && a.column() == b.column() && same_file;
}

std::string hex(uint32_t mask) {
  std::ostringstream out;
  out << "0x" << std::hex << mask;
  return out.str();
}

void land(const AsyncCopy& copy) {
  auto* to = static_cast<std::byte*>(copy.shared);
  std::memcpy(to, copy.global, static_cast<size_t>(copy.source_bytes));
  std::memset(to + copy.source_bytes, 0, static_cast<size_t>(copy.bytes - copy.source_bytes));
}

}  // namespace

std::string text(const Place& place) {
  const std::string_view path = place.file_name();
  return std::string(path.substr(path.find_last_of('/') + 1)) + ":" + std::to_string(place.line());
}

Block::Block(const Place& launched_at, dim3 grid, dim3 shape, size_t shared_bytes,
             const std::function<void()>& body, FiberStacks& stacks, Random& random, Trace* trace)
    : kernel_("kernel of " + text(launched_at)),
      shape_(shape),
      body_(body),
      stacks_(stacks),
      random_(random),
      threads_(size_t{shape.x} * shape.y * shape.z),
      meetings_(static_cast<size_t>(n_warps())),
      shared_storage_(new std::byte[shared_bytes + 2 * kFenceBytes + kSharedAlignment]),
      shared_bytes_(shared_bytes),
      trace_(trace) {
  shared_ = shared_storage_.get() + kFenceBytes;
  shared_ += (kSharedAlignment - reinterpret_cast<uintptr_t>(shared_) % kSharedAlignment) % kSharedAlignment;
  stacks_.reserve(n_threads());
  blockDim = {shape.x, shape.y, shape.z};
  gridDim = {grid.x, grid.y, grid.z};
}

// ---- scheduling, on the host's stack

std::string Block::run(uint3 block_id) {
  running = this;
  blockIdx = block_id;
  start();
  std::vector<int> warps(static_cast<size_t>(n_warps()));
  for (int warp = 0; warp < n_warps(); ++warp) warps[static_cast<size_t>(warp)] = warp;
  const auto is_ready = [](const CudaThread& thread) { return thread.state == State::ready; };
  while (report_.empty() && n_exited_ < n_threads()) {
    if (std::none_of(threads_.begin(), threads_.end(), is_ready)) {
      report_ = kernel_ + ": deadlock: " + waiting_threads();
      break;
    }
    std::shuffle(warps.begin(), warps.end(), random_);
    for (const int warp : warps) run_warp(warp, kPasses[draw(std::size(kPasses))]);
  }
  if (report_.empty()) check_end();
  trace_end();
  running = nullptr;
  return report_;
}

void Block::start() {
  std::fill_n(shared_, shared_bytes_, kPoison);
  std::fill_n(shared_ + shared_bytes_, kFenceBytes, kFence);
  for (int thread = 0; thread < n_threads(); ++thread) {
    CudaThread& fresh = threads_[static_cast<size_t>(thread)];
    fresh = CudaThread{};
    fresh.fiber.start(stacks_.bottom(thread), &Block::enter);
  }
  meetings_.assign(meetings_.size(), {});
  n_exited_ = n_at_barrier_ = 0;
  eagerness_ = draw(3) * 2;  // never, at times, always: races of both kinds show
  report_.clear();
  in_collective_ = false;
  if (trace_ == nullptr) return;
  trace_->races.begin_block(shared_, shared_bytes_, n_threads());
  trace_->requests.begin_block(n_threads());
}

void Block::run_warp(int warp, int n_passes) {
  for (int pass = 0; pass < n_passes; ++pass) {
    if (!report_.empty() || !resume_ready(warp)) return;
  }
}

// Lets every ready lane of the warp run to its next wait, in random order. False if there was none.
bool Block::resume_ready(int warp) {
  std::array<int, kWarpSize> ready;
  int n_ready = 0;
  const int end = std::min(n_threads(), (warp + 1) * kWarpSize);
  for (int thread = warp * kWarpSize; thread < end; ++thread) {
    if (threads_[static_cast<size_t>(thread)].state == State::ready)
      ready[static_cast<size_t>(n_ready++)] = thread;
  }
  std::shuffle(ready.begin(), ready.begin() + n_ready, random_);
  for (int i = 0; i < n_ready && report_.empty(); ++i) {
    current_ = ready[static_cast<size_t>(i)];
    threadIdx = thread_id(current_);
    current().fiber.resume();
  }
  return n_ready > 0;
}

void Block::check_end() {
  const std::byte* fence = shared_ + shared_bytes_;
  const auto broken = std::find_if(fence, fence + kFenceBytes, [](std::byte b) { return b != kFence; });
  if (broken == fence + kFenceBytes) return;
  std::ostringstream out;
  out << kernel_ << ": wrote to byte " << shared_bytes_ + static_cast<size_t>(broken - fence)
      << " of a shared memory of " << shared_bytes_ << " bytes";
  report_ = out.str();
}

// ---- on the fibers

void Block::enter() {
  Fiber::entered();
  try {
    running->body_();
    running->exit_thread();
  } catch (const Fault& fault) {
    running->report_ = fault.what();
  }
  running->current().fiber.finish();
}

void Block::exit_thread() {
  CudaThread& thread = current();
  for (const AsyncCopy& copy : thread.copies) land(copy);
  thread.copies.clear();
  thread.state = State::exited;
  meeting().exited |= own_lane();
  ++n_exited_;
  for (const CudaThread& other : warp()) {
    if (other.state != State::in_collective || !(other.mask >> current_ % kWarpSize & 1u)) continue;
    fault("exits, but the mask " + hex(other.mask) + " at " + text(other.place) + " names it");
  }
  if (n_at_barrier_ > 0) fault("exits while others wait at a barrier: " + waiting_threads());
}

void Block::fault(const std::string& what) const {
  throw Fault(kernel_ + ": " + name_of(current_) + " " + what);
}

void Block::pause(State state, const Place& place) {
  CudaThread& thread = current();
  thread.state = state;
  thread.place = place;
  land_some_copies();
  thread.fiber.pause();
}

// Whether `other`, lane `other_lane` of the warp, waits where the current thread has just come to. Reports a
// mask that names an exited lane, and lanes that wait for each other at different places.
bool Block::waits_with(const CudaThread& other, int other_lane, uint32_t mask, const Place& place) const {
  const bool named = mask >> other_lane & 1u;
  if (named && other.state == State::exited) {
    fault("at " + text(place) + " names lane " + std::to_string(other_lane) + ", which has exited");
  }
  const bool names_us = other.mask >> current_ % kWarpSize & 1u;
  if (other.state != State::in_collective || !(named || names_us)) return false;
  if (other.mask != mask || !same(other.place, place)) {
    fault("is at " + text(place) + " with mask " + hex(mask) + ", lane " + std::to_string(other_lane) +
          " at " + text(other.place) + " with mask " + hex(other.mask));
  }
  return true;
}

// How many lanes of the warp wait where the current thread has just come to; reports as `waits_with`.
int Block::n_waiting_with(uint32_t mask, const Place& place) {
  Meeting& here = meeting();
  if (!(mask & here.exited)) {
    if (here.waiting == 0) {
      here.is_one = true;
      here.mask = mask;
      here.place = place;
      return 0;
    }
    if (here.is_one && here.mask == mask && same(here.place, place)) return std::popcount(here.waiting);
  }
  here.is_one = false;
  const std::span<CudaThread> lanes = warp();
  int n_waiting = 0;
  for (int l = 0; l < static_cast<int>(lanes.size()); ++l) {
    if (l != current_ % kWarpSize && waits_with(lanes[static_cast<size_t>(l)], l, mask, place)) ++n_waiting;
  }
  return n_waiting;
}

void* const* Block::arrive(uint32_t mask, void* args, const Place& place) {
  const std::span<CudaThread> lanes = warp();
  const int self = current_ % kWarpSize;
  if (!(mask >> self & 1u)) fault("at " + text(place) + " is not in its own mask " + hex(mask));
  if (uint64_t{mask} >> lanes.size() != 0)
    fault("at " + text(place) + " names lanes past the end of the block");
  current().mask = mask;
  current().args = args;
  const int n_here = 1 + n_waiting_with(mask, place);
  if (n_here < std::popcount(mask)) {
    meeting().waiting |= own_lane();
    pause(State::in_collective, place);
    return nullptr;
  }
  parked_.fill(nullptr);
  for (size_t l = 0; l < lanes.size(); ++l) {
    if (mask >> l & 1u) parked_[l] = lanes[l].args;
  }
  in_collective_ = true;
  if (trace_ != nullptr && n_here == static_cast<int>(lanes.size()))
    trace_->requests.finish_warp(current_ / kWarpSize);
  return parked_.data();
}

void Block::order_warp(uint32_t mask) {
  if (trace_ != nullptr) trace_->races.sync_warp(current_ / kWarpSize * kWarpSize, mask);
}

void Block::release(uint32_t mask) {
  in_collective_ = false;
  meeting().waiting &= ~mask;
  const std::span<CudaThread> lanes = warp();
  for (size_t l = 0; l < lanes.size(); ++l) {
    if (mask >> l & 1u) lanes[l].state = State::ready;
  }
}

void Block::barrier(const Place& place) {
  if (n_exited_ > 0)
    fault("is at the barrier " + text(place) + ", which threads that have exited never reach");
  if (n_at_barrier_ == 0) first_at_barrier_ = current_;
  const CudaThread& first = threads_[static_cast<size_t>(first_at_barrier_)];
  if (n_at_barrier_ > 0 && !same(first.place, place)) {
    fault("is at the barrier " + text(place) + ", " + name_of(first_at_barrier_) + " at " +
          text(first.place));
  }
  if (++n_at_barrier_ < n_threads()) return pause(State::at_barrier, place);
  n_at_barrier_ = 0;
  for (CudaThread& thread : threads_) thread.state = State::ready;
  if (trace_ == nullptr) return;
  trace_->races.barrier();
  trace_->requests.finish_block();
}

// ---- shared memory and copies into it

void* Block::shared_memory(size_t bytes) {
  if (bytes > shared_bytes_) {
    fault("uses " + std::to_string(bytes) + " bytes of shared memory, launched with " +
          std::to_string(shared_bytes_));
  }
  return shared_;
}

void Block::check_shared(const void* pointer, size_t bytes, size_t alignment) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer), begin = reinterpret_cast<uintptr_t>(shared_);
  if (address < begin || address + bytes > begin + shared_bytes_)
    fault("takes an address outside shared memory");
  if (address % alignment != 0) fault("takes a misaligned address in shared memory");
}

const void* Block::checked_shared(const void* pointer, size_t bytes, size_t alignment, const void* code) {
  check_shared(pointer, bytes, alignment);
  touch(pointer, bytes, Act::read, code);
  return pointer;
}

void Block::copy_async(const AsyncCopy& copy, const void* code) {
  check_shared(copy.shared, static_cast<size_t>(copy.bytes), static_cast<size_t>(copy.bytes));
  if (reinterpret_cast<uintptr_t>(copy.global) % static_cast<uintptr_t>(copy.bytes) != 0) {
    fault("copies from a misaligned address");
  }
  trace_copy(copy, code);
  CudaThread& thread = current();
  thread.copies.push_back(copy);
  thread.copies.back().group = thread.n_commits;
  land_some_copies();
}

// At most one of the current thread's copies, so that they land in any order and far apart.
void Block::land_some_copies() {
  std::vector<AsyncCopy>& copies = current().copies;
  if (copies.empty() || draw(4) >= eagerness_) return;
  std::swap(copies[static_cast<size_t>(draw(static_cast<int>(copies.size())))], copies.back());
  land(copies.back());
  copies.pop_back();
}

void Block::wait_copies(int n_pending) {
  CudaThread& thread = current();
  const auto is_awaited = [&](const AsyncCopy& copy) { return copy.group < thread.n_commits - n_pending; };
  for (const AsyncCopy& copy : thread.copies) {
    if (is_awaited(copy)) land(copy);
  }
  std::erase_if(thread.copies, is_awaited);
  if (trace_ != nullptr) trace_wait(n_pending);
}

// ---- naming

std::span<CudaThread> Block::warp() {
  const size_t first = static_cast<size_t>(current_ / kWarpSize * kWarpSize);
  return std::span(threads_).subspan(first, std::min<size_t>(kWarpSize, threads_.size() - first));
}

uint3 Block::thread_id(int thread) const {
  const auto id = static_cast<unsigned>(thread);
  return {id % shape_.x, id / shape_.x % shape_.y, id / shape_.x / shape_.y};
}

std::string Block::name_of(int thread) const {
  const uint3 id = thread_id(thread);
  std::ostringstream out;
  out << "thread (" << id.x << ", " << id.y << ", " << id.z << ") of block (" << blockIdx.x << ", "
      << blockIdx.y << ", " << blockIdx.z << ")";
  return out.str();
}

std::string Block::waiting_threads() const {
  constexpr int kNamed = 4;
  std::ostringstream out;
  int n_waiting = 0;
  for (int thread = 0; thread < n_threads(); ++thread) {
    const CudaThread& other = threads_[static_cast<size_t>(thread)];
    if (other.state != State::in_collective && other.state != State::at_barrier) continue;
    if (++n_waiting > kNamed) continue;
    out << name_of(thread)
        << (other.state == State::at_barrier ? " waits at the barrier " : " waits in the collective ")
        << text(other.place) << "; ";
  }
  out << n_waiting << " threads wait, " << n_exited_ << " have exited";
  return out.str();
}

// ---- the functions of emulation.h

void* shared_memory(size_t bytes) { return running->shared_memory(bytes); }
void* const* arrive(uint32_t mask, void* args, const Place& place) {
  return running->arrive(mask, args, place);
}
void release(uint32_t mask) { running->release(mask); }
void order_warp(uint32_t mask) { running->order_warp(mask); }
void barrier(const Place& place) { running->barrier(place); }
void commit_copies() { running->commit_copies(); }
void wait_copies(int n_pending) { running->wait_copies(n_pending); }

const void* checked_shared(const void* pointer, size_t bytes, size_t alignment) {
  return running->checked_shared(pointer, bytes, alignment, __builtin_return_address(0));
}

void copy_async(void* shared, const void* global, int bytes, int source_bytes) {
  running->copy_async({shared, global, bytes, source_bytes, 0}, __builtin_return_address(0));
}

void touch(const void* address, size_t bytes, Act act, const void* code) {
  if (running != nullptr) running->touch(address, bytes, act, code);
}

void enter_function(const void* code) {
  if (running != nullptr) running->enter_function(code);
}

}  // namespace tuili::emulation
