#include "base/memory.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/check.h"

namespace tuili {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kFromSystem = 2 * kHugePage;  // so large buffers are the system's pages, not the heap's

thread_local int64_t t_allocations = 0;

// Zeroed memory of the system, from a huge page's boundary on; null if it has none.
struct Mapped {
  void* raw;
  uint8_t* data;
};
size_t mapped_bytes(int64_t bytes) { return static_cast<size_t>(bytes) + kHugePage; }
Mapped map_memory(int64_t bytes, Pages pages) {
  void* const raw =
      mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return {};
  const auto address = reinterpret_cast<uintptr_t>(raw);
  auto* const data = static_cast<uint8_t*>(raw) + (kHugePage - address % kHugePage) % kHugePage;
  // Each small page costs a walk of the page tables. A refusal changes nothing.
  if (pages == Pages::huge) madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return {raw, data};
}

}  // namespace

int64_t n_heap_allocations() { return t_allocations; }

void detail::count_allocation() { ++t_allocations; }

Buffer::Buffer(int64_t bytes, Pages pages) {
  TUILI_EXPECT(bytes >= 0, "buffer of ", bytes, " bytes");
  if (bytes == 0) return;
  detail::count_allocation();
  if (bytes >= kFromSystem) {
    const Mapped mapped = map_memory(bytes, pages);
    raw_ = mapped.raw;
    data_ = mapped.data;
  } else {
    raw_ = std::calloc(1, static_cast<size_t>(bytes) + kAlignment - 1);
    const auto address = reinterpret_cast<uintptr_t>(raw_);
    data_ = static_cast<uint8_t*>(raw_) + (kAlignment - address % kAlignment) % kAlignment;
  }
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, raw_ != nullptr, "no memory for a buffer of ", bytes, " bytes");
  bytes_ = bytes;
}

void Buffer::release() noexcept {
  if (bytes_ >= kFromSystem)
    munmap(raw_, mapped_bytes(bytes_));
  else
    std::free(raw_);
}

}  // namespace tuili
