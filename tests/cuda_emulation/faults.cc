#include "faults.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <string>

namespace tuili::emulation {
namespace {

std::mutex mutex;
std::string wanted;  // what the variable said
int64_t n_left = 0;  // calls until the fault
Fault kind = Fault::none, last = Fault::none;

void read(const std::string& text) {
  if (text == wanted) return;
  wanted = text;
  std::string name;
  std::istringstream(text) >> n_left >> name;
  kind = name == "full"     ? Fault::full
         : name == "failed" ? Fault::failed
         : name == "lost"   ? Fault::lost
                            : Fault::none;
}

}  // namespace

Fault next_fault() {
  const std::lock_guard lock(mutex);
  const char* const text = std::getenv("TUILI_EMULATED_FAULT");
  read(text == nullptr ? "" : text);
  if (kind == Fault::none) return kind;
  --n_left;
  const bool is_hit = n_left == 0 || (n_left < 0 && kind == Fault::lost);
  return is_hit ? last = kind : Fault::none;
}

Fault last_fault() {
  const std::lock_guard lock(mutex);
  return last;
}

}  // namespace tuili::emulation
