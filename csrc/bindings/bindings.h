// The parts of the extension module, one file each.
#pragma once

#include <pybind11/pybind11.h>

namespace tuili::bindings {

void bind_limits(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_runtime(pybind11::module_& module);
void bind_cache(pybind11::module_& module);    // called by bind_runtime
void bind_beams(pybind11::module_& module);    // the same
void bind_device_ops(pybind11::module_& ops);  // nothing in a build without CUDA
void bind_ops(pybind11::module_& module);      // after bind_runtime: it takes SamplingParams

}  // namespace tuili::bindings
