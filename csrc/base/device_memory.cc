#include "base/device_memory.h"

namespace tuili {

PlacedBuffer::PlacedBuffer(int64_t bytes, DeviceKind device, Pages pages) : bytes_(bytes) {
  if (device == DeviceKind::cpu) {
    on_host_ = Buffer(bytes, pages);
  } else if (bytes > 0) {
    on_device_.reset(device::allocate(bytes));
    device::fill(on_device_.get(), 0, bytes, nullptr);
    device::synchronize(nullptr);
  }
}

}  // namespace tuili
