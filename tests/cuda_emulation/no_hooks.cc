// A build whose compiler announces no access: nothing is traced.
#include "trace.h"

namespace tuili::emulation {

Trace* tracing() { return nullptr; }

}  // namespace tuili::emulation
