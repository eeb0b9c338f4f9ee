// Streams beside one, for small kernels that do not depend on each other: alone each leaves most of the
// device idle.
#pragma once

#include <array>

#include "base/check.h"
#include "base/device_memory.h"

namespace tuili {

class SideStreams {
 public:
  static constexpr int kCount = 2;

  SideStreams() = default;
  SideStreams(const SideStreams&) = delete;
  SideStreams& operator=(const SideStreams&) = delete;

 private:
  friend class Fork;
  struct Side {
    OwnStream stream{DeviceKind::cuda};
    OwnEvent done;
  };
  OwnEvent opened_;
  std::array<Side, kCount> sides_;
};

// What the first n sides are given until join() comes after what `main` was given, and before what it will
// be. An error that unwinds past a Fork joins it, too: nothing may still run when the next step begins.
class Fork {
 public:
  Fork(const SideStreams* sides, device::Stream main, int n) : sides_(sides), main_(main), n_(n) {
    if (n == 0) return;
    device::mark(sides->opened_.get(), main);
    for (int i = 0; i < n; ++i) device::wait_for(sides->opened_.get(), stream(i));
  }
  ~Fork() {
    for (int i = n_joined_; i < n_; ++i) join_after_error(i);
  }
  Fork(const Fork&) = delete;
  Fork& operator=(const Fork&) = delete;

  // The i-th side's, or `main` for i >= n.
  device::Stream stream(int i) const { return i < n_ ? sides_->sides_[i].stream.get() : main_; }
  void join() {
    for (; n_joined_ < n_; ++n_joined_) join(n_joined_);
  }

 private:
  void join(int i) const {
    const SideStreams::Side& side = sides_->sides_[i];
    device::mark(side.done.get(), side.stream.get());
    device::wait_for(side.done.get(), main_);
  }
  void join_after_error(int i) const noexcept {
    try {
      join(i);
    } catch (const Error&) {  // the first error is on its way, and a device that cannot join has stopped
    }
  }

  const SideStreams* sides_;
  device::Stream main_;
  int n_, n_joined_ = 0;
};

}  // namespace tuili
