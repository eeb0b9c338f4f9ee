// A file in memory, read-only, its pages shared by all processes that map it.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

namespace tuili {

// The whole of an open file; the descriptor may be closed afterwards. A file that is truncated while it is
// mapped kills the process (SIGBUS), so only files that nobody truncates are mapped: those of the packed
// cache, which are renamed into place when they are complete, and from then on only unlinked.
class Mapping {
 public:
  Mapping() = default;
  // Throws model_format unless the file has exactly `bytes` bytes, out_of_memory if it cannot be mapped.
  Mapping(int fd, int64_t bytes);
  ~Mapping() { release(); }
  Mapping(Mapping&& other) noexcept { swap(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    Mapping(std::move(other)).swap(*this);
    return *this;
  }

  int64_t bytes() const { return bytes_; }

  // Bytes [begin, begin + bytes). Throws model_format if they are not all in the file.
  std::span<const uint8_t> range(int64_t begin, int64_t bytes) const;

 private:
  void release() noexcept;
  void swap(Mapping& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  const uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace tuili
