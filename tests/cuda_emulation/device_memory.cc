#include "device_memory.h"

#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include "streams.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tuili::emulation {
namespace {

constexpr std::align_val_t kAlignment{256};
constexpr int kPoison = 0xff;  // four of these are a NaN, so are two

std::mutex ledger_mutex;
struct Allocation {
  uintptr_t end;
  int device;
};
std::map<uintptr_t, Allocation>& ledger() {  // by the begin of each live allocation
  static std::map<uintptr_t, Allocation> allocations;
  return allocations;
}

#if defined(__SANITIZE_ADDRESS__)
void forbid(void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
void permit(void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
void forbid(void*, size_t) {}
void permit(void*, size_t) {}
#endif

}  // namespace

void* take_device_memory(int64_t bytes) {
  const size_t all = static_cast<size_t>(bytes + 2 * kRedZoneBytes);
  auto* memory = static_cast<char*>(::operator new(all, kAlignment, std::nothrow));
  if (memory == nullptr) return nullptr;
  char* begin = memory + kRedZoneBytes;
  std::memset(memory, kPoison, all);
  forbid(memory, kRedZoneBytes);
  forbid(begin + bytes, kRedZoneBytes);
  const std::lock_guard lock(ledger_mutex);
  ledger()[reinterpret_cast<uintptr_t>(begin)] = {reinterpret_cast<uintptr_t>(begin + bytes),
                                                  current_device()};
  return begin;
}

void release_device_memory(void* memory) noexcept {
  const std::lock_guard lock(ledger_mutex);
  const auto found = ledger().find(reinterpret_cast<uintptr_t>(memory));
  if (found == ledger().end()) return;
  char* begin = static_cast<char*>(memory) - kRedZoneBytes;
  permit(begin, found->second.end - found->first + 2 * static_cast<size_t>(kRedZoneBytes));
  ledger().erase(found);
  ::operator delete(begin, kAlignment);
}

int64_t device_bytes_taken(int device) {
  const std::lock_guard lock(ledger_mutex);
  uintptr_t bytes = 0;
  for (const auto& [begin, allocation] : ledger())
    if (allocation.device == device) bytes += allocation.end - begin;
  return static_cast<int64_t>(bytes);
}

Zone zone_of(const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  constexpr auto kRed = static_cast<uintptr_t>(kRedZoneBytes);
  const std::lock_guard lock(ledger_mutex);
  auto next = ledger().upper_bound(begin);
  if (next != ledger().end() && end + kRed > next->first) return Zone::red;
  if (next == ledger().begin()) return Zone::elsewhere;
  const uintptr_t last_end = std::prev(next)->second.end;
  if (end <= last_end) return Zone::inside;
  return begin < last_end + kRed ? Zone::red : Zone::elsewhere;
}

bool is_here(const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  const std::lock_guard lock(ledger_mutex);
  const auto next = ledger().upper_bound(begin);
  if (next == ledger().begin()) return false;
  const Allocation& last = std::prev(next)->second;
  return end <= last.end && last.device == current_device();
}

}  // namespace tuili::emulation
