// Streams beside one, for small kernels that do not depend on each other: alone each leaves most of the
// device idle.
#pragma once

#include <array>

#include "base/device.h"

namespace tuili {

class SideStreams {
 public:
  static constexpr int kCount = 2;

  SideStreams() {
    opened_ = device::create_event();
    for (Side& side : sides_) side = {device::create_stream(), device::create_event()};
  }
  ~SideStreams() {
    for (const Side& side : sides_) {
      device::destroy_stream(side.stream);
      device::destroy_event(side.done);
    }
    device::destroy_event(opened_);
  }
  SideStreams(const SideStreams&) = delete;

  // What the first n sides are given until close(n) comes after what `stream` was given, and before what it
  // will be.
  void open(device::Stream stream, int n) const {
    device::mark(opened_, stream);
    for (int i = 0; i < n; ++i) device::wait_for(opened_, sides_[i].stream);
  }
  void close(device::Stream stream, int n) const {
    for (int i = 0; i < n; ++i) {
      device::mark(sides_[i].done, sides_[i].stream);
      device::wait_for(sides_[i].done, stream);
    }
  }
  device::Stream stream(int i) const { return sides_[i].stream; }

 private:
  struct Side {
    device::Stream stream = nullptr;
    device::Event done = nullptr;
  };
  device::Event opened_ = nullptr;
  std::array<Side, kCount> sides_;
};

}  // namespace tuili
