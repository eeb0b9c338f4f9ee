// Owned memory of the device, and of the host for copies to and from it.
#pragma once

#include <cstdint>
#include <utility>

#include "base/device.h"
#include "base/memory.h"

namespace tuili {

// Memory on the host (a Buffer) or on the device; zeroed. Throws as Buffer and device::allocate do.
class PlacedBuffer {
 public:
  PlacedBuffer() = default;
  PlacedBuffer(int64_t bytes, DeviceKind device, Pages pages = Pages::huge);
  ~PlacedBuffer() {
    if (on_device_) device::free(on_device_);  // the CPU's memory never touches the driver
  }
  PlacedBuffer(PlacedBuffer&& other) noexcept { swap(other); }
  PlacedBuffer& operator=(PlacedBuffer&& other) noexcept {
    PlacedBuffer(std::move(other)).swap(*this);
    return *this;
  }

  uint8_t* data() const { return on_device_ ? static_cast<uint8_t*>(on_device_) : on_host_.data(); }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(PlacedBuffer& other) noexcept {
    std::swap(on_host_, other.on_host_);
    std::swap(on_device_, other.on_device_);
    std::swap(bytes_, other.bytes_);
  }

  Buffer on_host_;
  void* on_device_ = nullptr;
  int64_t bytes_ = 0;
};

// Host memory that the device copies from and to without a detour; its contents are arbitrary.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes) : data_(bytes ? device::allocate_pinned(bytes) : nullptr) {}
  ~PinnedBuffer() {
    if (data_) device::free_pinned(data_);
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_ = nullptr;
};

// A stream of its own, waited for before it goes; none on the CPU.
class OwnStream {
 public:
  explicit OwnStream(DeviceKind device)
      : stream_(device == DeviceKind::cuda ? device::create_stream() : nullptr) {}
  ~OwnStream() {
    if (stream_) device::destroy_stream(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  device::Stream get() const { return stream_; }

 private:
  device::Stream stream_;
};

// A place in the work of the device's streams.
class OwnEvent {
 public:
  OwnEvent() : event_(device::create_event()) {}
  ~OwnEvent() { device::destroy_event(event_); }
  OwnEvent(const OwnEvent&) = delete;
  OwnEvent& operator=(const OwnEvent&) = delete;

  device::Event get() const { return event_; }

 private:
  device::Event event_;
};

}  // namespace tuili
