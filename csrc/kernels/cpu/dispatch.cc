// Chooses a table, once.
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/cpu_info.h"
#include "kernels/cpu/kernels.h"

namespace tuili::cpu {

namespace generic {
extern const Kernels kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kTable;
}
namespace avxvnni {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
#elif defined(__aarch64__)
namespace neon {
extern const Kernels kTable;
}
#endif

namespace {

// The tables that run here, best first.
struct Available {
  const Kernels* tables[5] = {};
  const char* names[6] = {};
  int count = 0;

  Available() {
    [[maybe_unused]] const CpuInfo& info = cpu_info();
#if defined(__x86_64__)
    if (info.has_avx512) add(avx512::kTable);
    if (info.has_avxvnni) add(avxvnni::kTable);
    if (info.has_avx2) add(avx2::kTable);
#elif defined(__aarch64__)
    if (info.has_neon_dot) add(neon::kTable);
#endif
    add(generic::kTable);
  }

  void add(const Kernels& table) {
    tables[count] = &table;
    names[count++] = table.isa;
  }
};

const Available& available() {
  static const Available all;
  return all;
}

const Kernels& choose() {
  const char* name = std::getenv("TUILI_CPU_ISA");
  if (!name || !*name) return *available().tables[0];
  const Kernels* table = find_kernels(name);
  std::string names;
  for (const char* const* isa = available_isas(); *isa; ++isa) names += join(names.empty() ? "" : ", ", *isa);
  TUILI_CHECK(table, "TUILI_CPU_ISA is \"", name,
              "\", which this build or CPU does not have; available: ", names);
  return *table;
}

}  // namespace

const Kernels* find_kernels(const char* isa) {
  for (int i = 0; i < available().count; ++i) {
    if (std::strcmp(available().names[i], isa) == 0) return available().tables[i];
  }
  return nullptr;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* const* available_isas() { return available().names; }

}  // namespace tuili::cpu
