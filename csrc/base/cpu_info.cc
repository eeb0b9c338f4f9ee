#include "base/cpu_info.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tuili {

namespace {

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t part = 0) {
  Registers r;
  if (!__get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

// XCR0: the register states that the operating system saves. Needs OSXSAVE.
uint64_t saved_states() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

constexpr bool has(uint64_t word, uint64_t bits) { return (word & bits) == bits; }
constexpr uint32_t bit(int i) { return 1u << i; }

CpuInfo detect() {
  CpuInfo info;
  const Registers features = cpuid(1), extended = cpuid(7);
  const uint32_t kOsXsave = bit(27), kAvx = bit(28), kFma = bit(12), kF16c = bit(29);
  if (!has(features.ecx, kOsXsave | kAvx | kFma | kF16c)) return info;
  const uint64_t states = saved_states();
  const uint32_t kAvx2 = bit(5);
  info.has_avx2 = has(extended.ebx, kAvx2) && has(states, 0x06);  // SSE, AVX
  const uint32_t kAvxVnni = bit(4);
  info.has_avxvnni = info.has_avx2 && has(cpuid(7, 1).eax, kAvxVnni);
  const uint32_t kF = bit(16), kDq = bit(17), kBw = bit(30), kVl = bit(31), kVnni = bit(11);
  info.has_avx512 = info.has_avx2 && has(extended.ebx, kF | kDq | kBw | kVl) && has(extended.ecx, kVnni) &&
                    has(states, 0xe6);  // and masks, upper halves, registers 16 to 31
  return info;
}

#elif defined(__aarch64__)

CpuInfo detect() {
  CpuInfo info;
  info.has_neon_dot = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  return info;
}

#else

CpuInfo detect() { return {}; }

#endif

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

}  // namespace tuili
