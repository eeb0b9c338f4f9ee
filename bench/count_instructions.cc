// Runs each counted case once under callgrind, which writes one dump per case; bench/instructions.py reads
// them.
//
//   valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file=out count_instructions ISA [PART]
//
// PART is of a case's name. Prints the cases in the order of the dumps. The data are made before counting
// begins, and the kernel has run once.
#include <cstdio>
#include <cstring>

#include "cases.h"

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#error "count_instructions needs valgrind/callgrind.h (Debian: valgrind)"
#endif

namespace tuili::bench {
namespace {

int count(const char* isa, const char* part) {
  const cpu::Kernels* kernels = cpu::find_kernels(isa);
  if (kernels == nullptr) {
    std::fprintf(stderr, "%s does not run here\n", isa);
    return 3;
  }
  for (const Case& one : all_cases()) {
    if (one.use != Use::counted || one.name.find(part) == std::string::npos) continue;
    const Work work = one.make(*kernels);
    work.run();
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
    work.run();
    CALLGRIND_DUMP_STATS_AT(one.name.c_str());
    CALLGRIND_STOP_INSTRUMENTATION;
    std::puts(one.name.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace tuili::bench

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: count_instructions ISA [PART]\n");
    return 2;
  }
  return tuili::bench::count(argv[1], argc > 2 ? argv[2] : "");
}
