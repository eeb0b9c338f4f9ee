// What a trace build learns from the accesses of kernels that the compiler announces (hooks.cc).
#pragma once

#include "races.h"
#include "requests.h"

namespace tuili::emulation {

struct Trace {
  Races races;
  Requests requests;
};

// This host thread's, or null in a build whose accesses are not announced (hooks.cc or no_hooks.cc).
Trace* tracing();

}  // namespace tuili::emulation
