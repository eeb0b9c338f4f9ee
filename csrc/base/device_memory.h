// Owned memory of the device, and of the host for copies to and from it.
#pragma once

#include <cstdint>
#include <memory>

#include "base/device.h"
#include "base/memory.h"

namespace tuili {

// Gives back what a function of device.h has made, by another.
template <auto kGiveBack>
struct GiveBack {
  template <class Handle>
  void operator()(Handle* handle) const noexcept {
    kGiveBack(handle);
  }
};

using DeviceMemory = std::unique_ptr<void, GiveBack<device::free>>;  // null never touches the driver

// Memory on the host (a Buffer) or on the device; zeroed. Throws as Buffer and device::allocate do.
class PlacedBuffer {
 public:
  PlacedBuffer() = default;
  PlacedBuffer(int64_t bytes, DeviceKind device, Pages pages = Pages::huge);

  uint8_t* data() const { return on_device_ ? static_cast<uint8_t*>(on_device_.get()) : on_host_.data(); }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
  Buffer on_host_;
  DeviceMemory on_device_;
};

// Host memory that the device copies from and to without a detour; its contents are arbitrary.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes) : data_(bytes ? device::allocate_pinned(bytes) : nullptr) {}

  uint8_t* data() const { return static_cast<uint8_t*>(data_.get()); }

 private:
  std::unique_ptr<void, GiveBack<device::free_pinned>> data_;
};

// A stream of its own, waited for before it goes; none on the CPU.
class OwnStream {
 public:
  explicit OwnStream(DeviceKind device)
      : stream_(device == DeviceKind::cuda ? device::create_stream() : nullptr) {}

  device::Stream get() const { return stream_.get(); }

 private:
  std::unique_ptr<CUstream_st, GiveBack<device::destroy_stream>> stream_;
};

// A place in the work of the device's streams.
class OwnEvent {
 public:
  device::Event get() const { return event_.get(); }

 private:
  std::unique_ptr<CUevent_st, GiveBack<device::destroy_event>> event_{device::create_event()};
};

}  // namespace tuili
