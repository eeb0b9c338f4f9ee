// Owned memory: Buffer for tensors, Vector for lists that a step touches, Carver to cut one Buffer into
// views.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/rounding.h"

namespace tuili {

inline constexpr int64_t kAlignment = 64;  // a cache line and the widest register

constexpr int64_t align_up(int64_t bytes) { return round_up(bytes, kAlignment); }

// Allocations that Buffer and Vector have made on this thread. A decode step must not move it.
int64_t n_heap_allocations();

namespace detail {
void count_allocation();
}

// What large memory is asked for in. A huge page is committed as a whole when its first byte is written.
enum class Pages : uint8_t {
  huge,   // of what a step reads from end to end: weights, keys and values
  small,  // of what may stay empty in most places: room for the largest step
};

// Zeroed memory, aligned to 64 bytes. Large buffers are zeroed by the operating system page by page on first
// touch. Throws Error out_of_memory, naming the size.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes, Pages pages = Pages::huge);
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void release() noexcept;
  void swap(Buffer& other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* raw_ = nullptr;
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

// std::allocator that counts.
template <class T>
struct CountingAllocator {
  using value_type = T;
  CountingAllocator() = default;
  template <class U>
  CountingAllocator(const CountingAllocator<U>&) {}

  T* allocate(std::size_t n) {
    detail::count_allocation();
    return std::allocator<T>().allocate(n);
  }
  void deallocate(T* memory, std::size_t n) { std::allocator<T>().deallocate(memory, n); }
  template <class U>
  bool operator==(const CountingAllocator<U>&) const {
    return true;
  }
};

template <class T>
using Vector = std::vector<T, CountingAllocator<T>>;

// Room for n more, at least doubling it, so that many small additions copy each element a few times at most.
template <class T>
void make_room(Vector<T>& list, int64_t n) {
  const size_t needed = list.size() + static_cast<size_t>(n);
  if (list.capacity() < needed) list.reserve(std::max(needed, 2 * list.capacity()));
}

// Cuts memory into aligned pieces. With no memory it only measures: run the same takes twice, once with a
// Carver() to learn used(), once over a Buffer of that size.
class Carver {
 public:
  explicit Carver(uint8_t* memory = nullptr) : memory_(memory) {}

  template <class T>
  T* take(int64_t n) {
    const int64_t at = used_;
    used_ += align_up(n * static_cast<int64_t>(sizeof(T)));
    return memory_ ? reinterpret_cast<T*>(memory_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* memory_;
  int64_t used_ = 0;
};

}  // namespace tuili
