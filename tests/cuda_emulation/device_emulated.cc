// base/device.h for the emulator: device memory is host memory that only this file hands out, so a pointer
// from the wrong side is an error here as it is on the device. New memory holds NaN. Streams complete at
// once.
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "base/check.h"
#include "base/device.h"
#include "emulation.h"

struct CUstream_st {};

namespace tuili::device {
namespace {

constexpr std::align_val_t kAlignment{256};
constexpr int kPoison = 0xff;
constexpr int64_t kCapacity = int64_t{16} << 30;  // of the emulated device, whatever the host has

std::mutex ledger_mutex;
std::map<uintptr_t, int64_t>& ledger() {  // begin of each live allocation -> bytes
  static std::map<uintptr_t, int64_t> allocations;
  return allocations;
}

void check_device_range(const void* memory, int64_t bytes, const char* op) {
  const std::lock_guard lock(ledger_mutex);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  auto next = ledger().upper_bound(begin);
  const bool found = next != ledger().begin() &&
                     begin + static_cast<uintptr_t>(bytes) <=
                         std::prev(next)->first + static_cast<uintptr_t>(std::prev(next)->second);
  TUILI_CHECK_KIND(ErrorKind::internal, found, op, ": ", bytes,
                   " bytes are not all inside one device allocation");
}

}  // namespace

bool available() noexcept { return true; }
const char* build_kind() noexcept { return "emulated"; }

void* allocate(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "device memory: ", bytes, " bytes; must be positive");
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, bytes <= kCapacity, "device memory: ", bytes,
                   " bytes do not fit");
  void* memory = ::operator new(static_cast<size_t>(bytes), kAlignment, std::nothrow);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, memory != nullptr, "device memory: ", bytes,
                   " bytes do not fit");
  std::memset(memory, kPoison, static_cast<size_t>(bytes));
  const std::lock_guard lock(ledger_mutex);
  ledger()[reinterpret_cast<uintptr_t>(memory)] = bytes;
  return memory;
}

void free(void* memory) noexcept {
  if (memory == nullptr) return;
  const std::lock_guard lock(ledger_mutex);
  ledger().erase(reinterpret_cast<uintptr_t>(memory));
  ::operator delete(memory, kAlignment);
}

void copy_to_device(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(to, bytes, "copy to device");
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(from, bytes, "copy to host");
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

Stream create_stream() { return new CUstream_st; }
void destroy_stream(Stream stream) noexcept { delete stream; }
void synchronize(Stream) {}

void check(int status, const char* op) {
  TUILI_CHECK_KIND(ErrorKind::internal, status == 0, op, ": the CUDA emulator reports ", status, ": ",
                   emulation::error_string(status));
}

}  // namespace tuili::device
