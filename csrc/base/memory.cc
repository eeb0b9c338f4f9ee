#include "base/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "base/check.h"

namespace tuili {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

thread_local int64_t t_allocations = 0;

// Asks for huge pages in what is large, which then is committed 2 MiB at a time: keys and values are read
// page by page, and each costs a walk of the page tables. A refusal changes nothing.
void advise_huge_pages(uint8_t* data, int64_t bytes) {
  if (bytes < 2 * kHugePage) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

int64_t n_heap_allocations() { return t_allocations; }

void detail::count_allocation() { ++t_allocations; }

Buffer::Buffer(int64_t bytes) {
  TUILI_CHECK_KIND(ErrorKind::internal, bytes >= 0, "buffer of ", bytes, " bytes");
  if (bytes == 0) return;
  detail::count_allocation();
  // calloc knows which pages come zeroed from the system and leaves those untouched.
  raw_ = std::calloc(1, static_cast<size_t>(bytes) + kAlignment - 1);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, raw_ != nullptr, "no memory for a buffer of ", bytes, " bytes");
  const auto address = reinterpret_cast<uintptr_t>(raw_);
  data_ = static_cast<uint8_t*>(raw_) + (kAlignment - address % kAlignment) % kAlignment;
  bytes_ = bytes;
  advise_huge_pages(data_, bytes_);
}

void Buffer::release() noexcept { std::free(raw_); }

}  // namespace tuili
