// tuili._core.limits: the measured limits of this machine (ops/limits.h).
#include "bindings/bindings.h"
#include "bindings/names.h"
#include "bindings/numpy.h"
#include "bindings/released.h"
#include "ops/limits.h"

namespace tuili::bindings {
void bind_limits(py::module_& module) {
  py::module_ limits = module.def_submodule("limits", "What this machine can do at most, measured.");
  const auto release = py::call_guard<Released>();
  limits.def("clock_hz", ops::clock_hz, release);
  limits.def("read_bandwidth", ops::read_bandwidth, "n_threads"_a = 0, "bytes"_a = ops::kReadBytes, release);
  limits.def(
      "float_peak",
      [](int n_threads, const Isa& isa) { return ops::float_peak(name_or_null(isa), n_threads); },
      "n_threads"_a = 0, "isa"_a = py::none(), release);
  limits.def(
      "int8_peak", [](int n_threads, const Isa& isa) { return ops::int8_peak(name_or_null(isa), n_threads); },
      "n_threads"_a = 0, "isa"_a = py::none(), release);
}

}  // namespace tuili::bindings
