// Fibers: functions that can stop in the middle, let others run, and go on. x86-64, System V ABI.
#pragma once

#include <cstddef>

namespace tuili::emulation {

// Stacks for the fibers of one block, each below a page that may not be touched: an overflow is a fault at
// once instead of a neighbour's wrong value. Pages are given by the system when first used.
class FiberStacks {
 public:
  static constexpr size_t kStackBytes = 256 * 1024;  // address sanitizer's frames are several times larger

  FiberStacks() = default;
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  void reserve(int n_fibers);  // before any of them runs
  char* bottom(int fiber) const;

 private:
  char* memory_ = nullptr;
  int n_fibers_ = 0;
};

// The thread that resumes fibers and gets control back when one of them gives way.
// Under address sanitizer both sides announce every switch, since it keeps the bounds of the current stack.
class Fiber {
 public:
  void start(char* stack_bottom, void (*entry)());  // what ran on this stack before is abandoned
  void resume();                                    // returns at the fiber's next pause or finish

  // Called on the fiber itself.
  void pause();
  [[noreturn]] void finish();

  // First thing in `entry`.
  static void entered();

 private:
  void* stack_pointer_ = nullptr;
  char* stack_bottom_ = nullptr;
  void* sanitizer_stack_ = nullptr;
};

}  // namespace tuili::emulation
