// Preloaded, lets one allocation of the core fail, and counts those that live. glibc only.
//
// Of `new`, those count that are made without Python's lock: pybind11's own ones, which it makes with the
// lock, end the process where they fail, as they would without us.
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

std::atomic<long> n_left{-1};  // allocations until one fails; below 0: none does
std::atomic<long> n_living{0};

// Whether the code at `caller` is the core's, or of the C++ library that it uses.
bool is_of_the_core(const void* caller) {
  Dl_info file;
  if (dladdr(caller, &file) == 0) return false;
  return std::strstr(file.dli_fname, "tuili/_core") || std::strstr(file.dli_fname, "libstdc++");
}

bool holds_pythons_lock() {
  static const auto check = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Check"));
  return check();
}

bool fails() { return n_left.fetch_sub(1) == 0; }

void* take(size_t bytes, const void* caller) {
  const bool failing = n_left >= 0 && is_of_the_core(caller) && !holds_pythons_lock() && fails();
  void* memory = failing ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  ++n_living;
  return memory;
}

void give(void* memory) {
  if (memory != nullptr) --n_living;
  std::free(memory);
}

}  // namespace

extern "C" {
void fail_after(long n) { n_left = n; }
long allocations_left() { return n_left; }
long living_allocations() { return n_living; }

void* __libc_calloc(size_t n, size_t bytes);
void* calloc(size_t n, size_t bytes) {
  if (n_left < 0 || !is_of_the_core(__builtin_return_address(0)) || !fails()) return __libc_calloc(n, bytes);
  errno = ENOMEM;
  return nullptr;
}
}

void* operator new(size_t bytes) { return take(bytes, __builtin_return_address(0)); }
void* operator new[](size_t bytes) { return take(bytes, __builtin_return_address(0)); }
void operator delete(void* memory) noexcept { give(memory); }
void operator delete[](void* memory) noexcept { give(memory); }
void operator delete(void* memory, size_t) noexcept { give(memory); }
void operator delete[](void* memory, size_t) noexcept { give(memory); }
