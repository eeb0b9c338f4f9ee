// tuili._core: the module, its facts about the build, and the one translator of errors.
#include <Python.h>

#include <new>

#include "base/check.h"
#include "base/device.h"
#include "base/thread_pool.h"
#include "bindings/bindings.h"
#include "bindings/names.h"
#include "bindings/numpy.h"

namespace tuili::bindings {
namespace {

const char* class_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_parameter: return "InvalidParameterError";
    case ErrorKind::model_format: return "ModelFormatError";
    case ErrorKind::model_unsupported: return "ModelUnsupportedError";
    case ErrorKind::token_id: return "TokenIdError";
    case ErrorKind::out_of_memory: return "EngineOutOfMemoryError";
    case ErrorKind::engine_forked: return "EngineForkedError";
    case ErrorKind::device_lost: return "EngineDeadError";
    case ErrorKind::internal: return "TuiliError";
  }
  return "TuiliError";
}

// Sets the Python error: an instance of tuili.errors.<class>.
void raise(const char* name, const char* message, bool internal) {
  const py::object type = py::module_::import("tuili.errors").attr(name);
  const py::object error = internal ? type(message, "code"_a = "internal") : type(message);
  PyErr_SetObject(type.ptr(), error.ptr());
}

void translate(std::exception_ptr pointer) {
  if (!pointer) return;
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    raise(class_of(error.kind()), error.what(), error.kind() == ErrorKind::internal);
  } catch (const std::bad_alloc&) {
    raise("EngineOutOfMemoryError", "out of memory", false);
  } catch (const py::error_already_set&) {
    throw;  // Python's own errors and pybind11's conversions keep their types
  } catch (const py::builtin_exception&) {
    throw;
  } catch (const std::exception& error) {
    raise("TuiliError", error.what(), true);
  } catch (...) {
    raise("TuiliError", "unknown error", true);
  }
}

py::list available_isas() {
  py::list names;
  for (const char* const* name = cpu::available_isas(); *name != nullptr; ++name) names.append(*name);
  return names;
}

// (bytes free, bytes in all) of a device, or None where none answers.
py::object device_memory(const std::string& name) {
  const Device device = cuda_named(name, "device_memory");
  if (device::count() == 0) return py::none();
  const device::Chosen chosen(device);
  const auto [free, total] = device::memory();
  return py::make_tuple(free, total);
}

std::string device_name(const std::string& name) {
  const device::Chosen chosen(cuda_named(name, "device_name"));
  return device::name();
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["cuda"] = device::build_kind();
  info["isas"] = py::str(", ").attr("join")(available_isas());
  info["isa"] = ops::find_kernels(nullptr).isa;
  return info;
}

constexpr const char* kRefused = "tuili._core cannot be imported in a sub-interpreter";

bool in_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

}  // namespace
}  // namespace tuili::bindings

// pybind11 itself waits for ever when a sub-interpreter of Python 3.11 imports a module of its making, so the
// module's entry is not its own. From 3.13 on that entry may run in the main interpreter on behalf of
// another.
#define PyInit__core PyInit__core_of_main
PYBIND11_MODULE(_core, module, pybind11::multiple_interpreters::not_supported()) {
  namespace py = pybind11;
  using namespace tuili::bindings;
  if (!in_main_interpreter()) throw py::import_error(kRefused);
  module.doc() = "The C++ core of tuili.";
  module.attr("__version__") = TUILI_VERSION;
  module.attr("MAX_THREADS") = tuili::kMaxThreads;
  py::register_local_exception_translator(translate);
  module.def("available_isas", available_isas);
  module.def("build_info", build_info);
  module.def("device_count", tuili::device::count);
  module.def("device_memory", device_memory, "device"_a = "cuda");
  module.def("device_name", device_name, "device"_a = "cuda");
  module.def("default_num_threads", tuili::default_num_threads);
  module.def("missing_threads", tuili::missing_threads);
  bind_model(module);
  bind_runtime(module);
  bind_ops(module);
  bind_limits(module);
}
#undef PyInit__core

extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (tuili::bindings::in_main_interpreter()) return PyInit__core_of_main();
  PyErr_SetString(PyExc_ImportError, tuili::bindings::kRefused);
  return nullptr;
}
