# The extension module tuili._core.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3.0 CONFIG REQUIRED)

# An isolated pip build unpacks pybind11 under a new path with new time stamps every time. A copy inside the build
# folder that changes only when its contents do keeps `pip install .` incremental.
set(TUILI_PYBIND11 "${PROJECT_BINARY_DIR}/pybind11_include")
file(GLOB_RECURSE headers RELATIVE "${pybind11_INCLUDE_DIR}" "${pybind11_INCLUDE_DIR}/pybind11/*.h")
foreach(header IN LISTS headers)
  get_filename_component(folder "${TUILI_PYBIND11}/${header}" DIRECTORY)
  file(MAKE_DIRECTORY "${folder}")
  file(COPY_FILE "${pybind11_INCLUDE_DIR}/${header}" "${TUILI_PYBIND11}/${header}" ONLY_IF_DIFFERENT)
endforeach()

Python_add_library(_core MODULE WITH_SOABI
  bindings/bind_beams.cc
  bindings/bind_cache.cc
  bindings/bind_limits.cc
  bindings/bind_model.cc
  bindings/bind_ops.cc
  bindings/bind_runtime.cc
  bindings/module.cc
  bindings/$<IF:$<STREQUAL:${TUILI_CUDA},OFF>,no_device_ops.cc,bind_device_ops.cc>
)
target_include_directories(_core SYSTEM PRIVATE "${TUILI_PYBIND11}")
target_compile_definitions(_core PRIVATE TUILI_VERSION="${PROJECT_VERSION}")
target_link_libraries(_core PRIVATE tuili tuili_flags tuili_hardening)
# Export the init function alone: no std:: instantiation of ours is offered to other libraries in the process.
target_link_options(_core PRIVATE "LINKER:--version-script=${PROJECT_SOURCE_DIR}/cmake/extension.map")
set_target_properties(_core PROPERTIES LINK_DEPENDS "${PROJECT_SOURCE_DIR}/cmake/extension.map"
  LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}")
install(TARGETS _core LIBRARY DESTINATION tuili COMPONENT python)
