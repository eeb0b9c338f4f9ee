#include "recording.h"

#include <optional>
#include <utility>

namespace tuili::emulation {
namespace {

thread_local std::optional<Recording> kept;

}  // namespace

void begin_recording() { kept.emplace(); }

Recording end_recording() { return *std::exchange(kept, std::nullopt); }

bool is_recording() { return kept.has_value(); }

bool record(std::function<void()> work) {
  if (!kept) return false;
  kept->push_back(std::move(work));
  return true;
}

}  // namespace tuili::emulation
