#include "base/device_memory.h"

namespace tuili {

PlacedBuffer::PlacedBuffer(int64_t bytes, DeviceKind device, Pages pages) : PlacedBuffer() {
  bytes_ = bytes;
  if (device == DeviceKind::cpu) {
    on_host_ = Buffer(bytes, pages);
    return;
  }
  if (bytes == 0) return;
  on_device_ = device::allocate(bytes);
  device::fill(on_device_, 0, bytes, nullptr);
  device::synchronize(nullptr);
}

}  // namespace tuili
