// A build without CUDA: the ops that only a device has are not there.
#include "bindings/bindings.h"

namespace tuili::bindings {

void bind_device_ops(pybind11::module_&) {}

}  // namespace tuili::bindings
