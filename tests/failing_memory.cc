// Preloaded, lets one allocation of the core fail, and counts those that live. glibc only.
//
// pybind11 ends the process, or loses an object, where it cannot note an object's address or who keeps it
// alive; memory_sweep.py finds out where it asks for that memory, and has the place spared.
#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <set>

namespace {

std::atomic<long> n_left{-1};  // allocations until one fails; below 0: none does
std::atomic<long> n_living{0};
std::set<const void*> spared;   // the code behind calls of `new` that never fail
const void** failed = nullptr;  // that behind the last one that did; forked children share it

// Whether the code at `caller` is the core's, or of the C++ library that it uses.
bool is_of_the_core(const void* caller) {
  Dl_info file;
  if (spared.contains(caller) || dladdr(caller, &file) == 0) return false;
  return std::strstr(file.dli_fname, "tuili/_core") || std::strstr(file.dli_fname, "libstdc++");
}

bool fails(const void* caller) {
  if (n_left < 0 || !is_of_the_core(caller) || n_left.fetch_sub(1) != 0) return false;
  *failed = caller;
  return true;
}

void* take(size_t bytes, const void* caller) {
  void* memory = fails(caller) ? nullptr : std::malloc(bytes);
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
void fail_after(long n) {
  if (failed == nullptr)
    failed = static_cast<const void**>(
        mmap(nullptr, sizeof(void*), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  n_left = n;
}
void spare_the_last() { spared.insert(*failed); }
// The place in the core's file, as addr2line wants it.
long place_of_the_last() {
  Dl_info file;
  return dladdr(*failed, &file) == 0
             ? 0
             : static_cast<const char*>(*failed) - static_cast<char*>(file.dli_fbase) - 1;
}
long allocations_left() { return n_left; }
long living_allocations() { return n_living; }

void* __libc_calloc(size_t n, size_t bytes);
void* calloc(size_t n, size_t bytes) {
  if (!fails(__builtin_return_address(0))) return __libc_calloc(n, bytes);
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
