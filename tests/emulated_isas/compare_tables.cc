// Every kernel of TUILI_TABLE and of the generic table on the small cases of bench/: the bits of all that
// they write. Prints "PASS name" or "FAIL name: why" for each.
#include <cstdio>
#include <cstring>

#include "cases.h"

namespace tuili::cpu {
namespace generic {
extern const Kernels kTable;
}
namespace TUILI_TABLE {
extern const Kernels kTable;
}
}  // namespace tuili::cpu

namespace {

using namespace tuili;

// "" or where the outputs differ first.
std::string difference(const bench::Case& one) {
  const bench::Work mine = one.make(cpu::TUILI_TABLE::kTable), generic = one.make(cpu::generic::kTable);
  mine.run(), generic.run();
  if (mine.outputs.empty()) return "nothing to compare";
  for (size_t i = 0; i < mine.outputs.size(); ++i) {
    const auto &a = mine.outputs[i], &b = generic.outputs[i];
    if (a.size() != b.size()) return "outputs of different sizes";
    if (std::memcmp(a.data(), b.data(), a.size()) == 0) continue;
    size_t at = 0;
    while (a[at] == b[at]) ++at;
    return join("output ", i, " differs at byte ", at, " of ", a.size());
  }
  return "";
}

}  // namespace

int main() {
  int n_failed = 0;
  for (const bench::Case& one : bench::all_cases()) {
    if (one.use == bench::Use::speed) continue;
    const std::string why = difference(one);
    std::printf("%s %s%s%s\n", why.empty() ? "PASS" : "FAIL", one.name.c_str(), why.empty() ? "" : ": ",
                why.c_str());
    n_failed += !why.empty();
  }
  return n_failed == 0 ? 0 : 1;
}
