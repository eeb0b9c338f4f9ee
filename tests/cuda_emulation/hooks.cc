// The calls that g++ -fsanitize=thread puts before every access of instrumented code, answered by the
// emulator in place of the sanitizer's own runtime, which is not linked.
#include <cstddef>
#include <cstdint>

#include "block.h"

namespace tuili::emulation {

Trace* tracing() {
  thread_local Trace trace;
  return &trace;
}

}  // namespace tuili::emulation

using tuili::emulation::Act;
using tuili::emulation::touch;

#define TUILI_CALLER __builtin_return_address(0)

// NOLINTBEGIN: names and types are the compiler's
#define TUILI_ACCESS(name, bytes, act) \
  extern "C" void __tsan_##name(void* address) { touch(address, bytes, act, TUILI_CALLER); }
TUILI_ACCESS(read1, 1, Act::read)
TUILI_ACCESS(read2, 2, Act::read)
TUILI_ACCESS(read4, 4, Act::read)
TUILI_ACCESS(read8, 8, Act::read)
TUILI_ACCESS(read16, 16, Act::read)
TUILI_ACCESS(write1, 1, Act::write)
TUILI_ACCESS(write2, 2, Act::write)
TUILI_ACCESS(write4, 4, Act::write)
TUILI_ACCESS(write8, 8, Act::write)
TUILI_ACCESS(write16, 16, Act::write)
TUILI_ACCESS(unaligned_read2, 2, Act::read)
TUILI_ACCESS(unaligned_read4, 4, Act::read)
TUILI_ACCESS(unaligned_read8, 8, Act::read)
TUILI_ACCESS(unaligned_read16, 16, Act::read)
TUILI_ACCESS(unaligned_write2, 2, Act::write)
TUILI_ACCESS(unaligned_write4, 4, Act::write)
TUILI_ACCESS(unaligned_write8, 8, Act::write)
TUILI_ACCESS(unaligned_write16, 16, Act::write)

// Structs of other sizes, in pieces that a lane could move.
static void touch_range(void* address, size_t bytes, Act act, const void* code) {
  constexpr size_t kLargest = 16;
  for (size_t done = 0; done < bytes; done += kLargest) {
    touch(static_cast<char*>(address) + done, bytes - done < kLargest ? bytes - done : kLargest, act, code);
  }
}
extern "C" void __tsan_read_range(void* address, size_t bytes) {
  touch_range(address, bytes, Act::read, TUILI_CALLER);
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  touch_range(address, bytes, Act::write, TUILI_CALLER);
}

extern "C" void __tsan_func_entry(void*) { tuili::emulation::enter_function(TUILI_CALLER); }

// Atomics are replaced as a whole: announced, then done. Orders are ignored, threads run one at a time.
#define TUILI_CHANGE(bits, name, expression)                                                                \
  extern "C" uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t* at, uint##bits##_t value, \
                                                         int) {                                             \
    touch(const_cast<uint##bits##_t*>(at), sizeof(*at), Act::atomic, TUILI_CALLER);                         \
    const uint##bits##_t old = *at;                                                                         \
    *at = static_cast<uint##bits##_t>(expression);                                                          \
    return old;                                                                                             \
  }
#define TUILI_ATOMICS(bits)                                                                             \
  TUILI_CHANGE(bits, fetch_add, old + value)                                                            \
  TUILI_CHANGE(bits, fetch_sub, old - value)                                                            \
  TUILI_CHANGE(bits, fetch_and, old& value)                                                             \
  TUILI_CHANGE(bits, fetch_or, old | value)                                                             \
  TUILI_CHANGE(bits, fetch_xor, old ^ value)                                                            \
  TUILI_CHANGE(bits, exchange, value)                                                                   \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* at, int) {        \
    touch(const_cast<uint##bits##_t*>(at), sizeof(*at), Act::atomic, TUILI_CALLER);                     \
    return *at;                                                                                         \
  }                                                                                                     \
  extern "C" void __tsan_atomic##bits##_store(volatile uint##bits##_t* at, uint##bits##_t value, int) { \
    touch(const_cast<uint##bits##_t*>(at), sizeof(*at), Act::atomic, TUILI_CALLER);                     \
    *at = value;                                                                                        \
  }                                                                                                     \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(                                         \
      volatile uint##bits##_t* at, uint##bits##_t* expected, uint##bits##_t value, int, int) {          \
    touch(const_cast<uint##bits##_t*>(at), sizeof(*at), Act::atomic, TUILI_CALLER);                     \
    const bool same = *at == *expected;                                                                 \
    if (same) *at = value;                                                                              \
    if (!same) *expected = *at;                                                                         \
    return same;                                                                                        \
  }                                                                                                     \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(                                           \
      volatile uint##bits##_t* at, uint##bits##_t* expected, uint##bits##_t value, int a, int b) {      \
    return __tsan_atomic##bits##_compare_exchange_strong(at, expected, value, a, b);                    \
  }
TUILI_ATOMICS(8)
TUILI_ATOMICS(16)
TUILI_ATOMICS(32)
TUILI_ATOMICS(64)

// What is announced and of no interest here.
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_vptr_read(void*) {}
extern "C" void __tsan_atomic_thread_fence(int) {}
extern "C" void __tsan_atomic_signal_fence(int) {}
// NOLINTEND
