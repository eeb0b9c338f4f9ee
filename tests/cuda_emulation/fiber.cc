#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what the ABI says a callee keeps, exchanges the stacks, and returns on the other one. The
// floating-point modes are the same on all fibers and stay.
extern "C" void tuili_switch_stack(void** save, void* load);
asm(R"(
.text
.globl tuili_switch_stack
.type tuili_switch_stack, @function
tuili_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tuili_switch_stack, .-tuili_switch_stack
.section .note.GNU-stack,"",@progbits
.text
)");

namespace tuili::emulation {
namespace {

constexpr int kSavedRegisters = 6;

// The stack of the host thread while a fiber runs.
thread_local void* host_stack_pointer = nullptr;

#if defined(__SANITIZE_ADDRESS__)
thread_local const void* host_stack_bottom = nullptr;
thread_local size_t host_stack_bytes = 0;

void before_switch(void** save, const void* bottom, size_t bytes) {
  __sanitizer_start_switch_fiber(save, bottom, bytes);
}
void after_switch(void* saved) { __sanitizer_finish_switch_fiber(saved, nullptr, nullptr); }
void before_switch_to_host(void** save) { before_switch(save, host_stack_bottom, host_stack_bytes); }
void after_first_switch() { __sanitizer_finish_switch_fiber(nullptr, &host_stack_bottom, &host_stack_bytes); }
void forget_frames(char* bottom) { __asan_unpoison_memory_region(bottom, FiberStacks::kStackBytes); }
#else
void before_switch(void**, const void*, size_t) {}
void after_switch(void*) {}
void before_switch_to_host(void**) {}
void after_first_switch() {}
void forget_frames(char*) {}
#endif

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
size_t slot_bytes() { return page_bytes() + FiberStacks::kStackBytes; }

}  // namespace

FiberStacks::~FiberStacks() {
  if (memory_ != nullptr) munmap(memory_, slot_bytes() * static_cast<size_t>(n_fibers_));
}

void FiberStacks::reserve(int n_fibers) {
  if (n_fibers <= n_fibers_) return;
  if (memory_ != nullptr) munmap(memory_, slot_bytes() * static_cast<size_t>(n_fibers_));
  const size_t bytes = slot_bytes() * static_cast<size_t>(n_fibers);
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memory_ = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
  n_fibers_ = memory_ == nullptr ? 0 : n_fibers;
  if (memory_ == nullptr) throw std::bad_alloc();
  for (int fiber = 0; fiber < n_fibers; ++fiber) {
    if (mprotect(bottom(fiber) - page_bytes(), page_bytes(), PROT_NONE) != 0) throw std::bad_alloc();
  }
}

char* FiberStacks::bottom(int fiber) const {
  return memory_ + slot_bytes() * static_cast<size_t>(fiber) + page_bytes();
}

void Fiber::start(char* stack_bottom, void (*entry)()) {
  stack_bottom_ = stack_bottom;
  sanitizer_stack_ = nullptr;
  forget_frames(stack_bottom);
  // The first switch pops the registers and returns into `entry`, which must find its stack at 16 n + 8: as
  // if called from a function whose address is 0, where debuggers stop looking.
  auto* top = reinterpret_cast<uintptr_t*>(stack_bottom + FiberStacks::kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
}

void Fiber::resume() {
  void* host_sanitizer_stack = nullptr;
  before_switch(&host_sanitizer_stack, stack_bottom_, FiberStacks::kStackBytes);
  tuili_switch_stack(&host_stack_pointer, stack_pointer_);
  after_switch(host_sanitizer_stack);
}

void Fiber::entered() { after_first_switch(); }

void Fiber::pause() {
  before_switch_to_host(&sanitizer_stack_);
  tuili_switch_stack(&stack_pointer_, host_stack_pointer);
  after_switch(sanitizer_stack_);
}

void Fiber::finish() {
  before_switch_to_host(nullptr);
  tuili_switch_stack(&stack_pointer_, host_stack_pointer);
  std::abort();  // a finished fiber is not resumed
}

}  // namespace tuili::emulation
