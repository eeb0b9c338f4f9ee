// Faults of the emulated device, for tests of what comes after one. TUILI_EMULATED_FAULT="N KIND" lets the
// N-th call from then on go wrong that a device may refuse: an allocation, a copy, a stream, an event, a
// launch, the choice of another device, the begin and the end of a recording, what is made of it, its launch.
//   full    finds no memory          failed    fails, as does no later one
//   lost    and every later one fails, until the variable changes
#pragma once

namespace tuili::emulation {

enum class Fault { none, full, failed, lost };

// What becomes of a call that begins now; counts it.
Fault next_fault();

// The last that was not none.
Fault last_fault();

}  // namespace tuili::emulation
