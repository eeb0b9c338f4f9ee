// Work that is kept to be done again, as a stream keeps it that is being captured into a graph.
#pragma once

#include <functional>
#include <vector>

namespace tuili::emulation {

using Recording = std::vector<std::function<void()>>;

// Between the two, this host thread's launches, copies and fills do not run but are kept.
void begin_recording();
Recording end_recording();
bool is_recording();

// Keeps `work` if this host thread is recording, and says whether it did.
bool record(std::function<void()> work);

}  // namespace tuili::emulation
