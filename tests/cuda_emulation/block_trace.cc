// The part of a block that a trace build adds: every access is checked, counted, and a chance to lose the
// processor.
#include <algorithm>
#include <utility>

#include "block.h"
#include "device_memory.h"

namespace tuili::emulation {
namespace {

constexpr int kMeanAccesses = 40;  // between two preemptions

Touch shared_write(const AsyncCopy& copy, const void* code) {
  return {Space::shared, Act::write, copy.shared, static_cast<uint32_t>(copy.bytes), instruction_id(code)};
}

}  // namespace

void Block::touch(const void* address, size_t bytes, Act act, const void* code) {
  if (trace_ == nullptr || in_collective_) return;
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  const auto stack = reinterpret_cast<uintptr_t>(stacks_.bottom(current_));
  if (begin >= stack && begin < stack + FiberStacks::kStackBytes) return;
  const auto shared = reinterpret_cast<uintptr_t>(shared_), shared_end = shared + shared_bytes_;
  const bool is_shared = end + kFenceBytes > shared && begin < shared_end + kFenceBytes;
  const Touch touch{is_shared ? Space::shared : Space::global, act, address, static_cast<uint32_t>(bytes),
                    instruction_id(code)};
  if (is_shared && (begin < shared || end > shared_end)) {
    stop("is outside shared memory at " + name_of_instruction(touch.instruction) + ": byte " +
         std::to_string(static_cast<int64_t>(begin - shared)) + " of " + std::to_string(shared_bytes_));
  }
  const Zone zone = is_shared ? Zone::inside : zone_of(address, bytes);
  if (zone == Zone::elsewhere) return;  // constants, arguments, what a test looks at
  if (zone == Zone::red) stop("is outside device memory at " + name_of_instruction(touch.instruction));
  std::string wrong = trace_->races.touch(current_, touch);
  if (!wrong.empty()) stop(std::move(wrong));
  trace_->requests.touch(current_, touch);
  if (--until_preemption_ > 0) return;
  until_preemption_ = 1 + draw(2 * kMeanAccesses);
  pause(CudaThread::State::ready, {});
}

void Block::enter_function(const void* code) {
  if (trace_ != nullptr) trace_->requests.enter_function(instruction_id(code));
}

void Block::trace_copy(const AsyncCopy& copy, const void* code) {
  if (trace_ == nullptr) return;
  if (copy.source_bytes > 0) touch(copy.global, static_cast<size_t>(copy.source_bytes), Act::read, code);
  const Touch write = shared_write(copy, code);
  std::string wrong = trace_->races.start_copy(current_, write);
  if (!wrong.empty()) stop(std::move(wrong));
  trace_->requests.touch(current_, write);
  CudaThread& thread = current();
  thread.unawaited.push_back({thread.n_commits, write, copy.source_bytes});
  thread.in_flight_bytes += copy.source_bytes;
  thread.most_in_flight_bytes = std::max(thread.most_in_flight_bytes, thread.in_flight_bytes);
}

void Block::trace_wait(int n_pending) {
  CudaThread& thread = current();
  const auto is_awaited = [&](const auto& copy) { return copy.group < thread.n_commits - n_pending; };
  for (const auto& copy : thread.unawaited) {
    if (!is_awaited(copy)) continue;
    trace_->races.finish_copy(current_, copy.write);
    thread.in_flight_bytes -= copy.source_bytes;
  }
  std::erase_if(thread.unawaited, is_awaited);
}

void Block::trace_end() {
  if (trace_ == nullptr) return;
  int64_t in_flight_bytes = 0;
  for (const CudaThread& thread : threads_) in_flight_bytes += thread.most_in_flight_bytes;
  trace_->requests.finish_block();
  trace_->requests.end_block(in_flight_bytes);
}

// Ends the block from within an access, whose caller the compiler believes never to throw.
void Block::stop(std::string what) {
  report_ = kernel_ + ": " + name_of(current_) + " " + std::exchange(what, {});
  current().fiber.finish();
}

Counts take_counts() {
  Trace* trace = tracing();
  return trace == nullptr ? Counts{} : trace->requests.take();
}

}  // namespace tuili::emulation
