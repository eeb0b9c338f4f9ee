#include "base/memory.h"

#include <cstdlib>

#include "base/check.h"

namespace tuili {
namespace {

thread_local int64_t t_allocations = 0;

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
}

void Buffer::release() noexcept { std::free(raw_); }

}  // namespace tuili
