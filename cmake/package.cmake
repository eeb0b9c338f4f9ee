# `cmake --install` gives C++ users the library, its headers and find_package(tuili). Wheels install the component
# `python` alone.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(TUILI_CONFIG_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/tuili")
install(TARGETS tuili EXPORT tuili_targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
install(DIRECTORY csrc/base csrc/ops csrc/model csrc/runtime
  DESTINATION include/tuili COMPONENT development FILES_MATCHING PATTERN "*.h" PATTERN "checks.h" EXCLUDE)
foreach(device cpu cuda)  # the contracts; what is behind them is compiled
  install(FILES csrc/kernels/${device}/kernels.h DESTINATION include/tuili/kernels/${device} COMPONENT development)
endforeach()
install(EXPORT tuili_targets NAMESPACE tuili:: DESTINATION "${TUILI_CONFIG_DIR}" COMPONENT development)
set(TUILI_CUDA_DEPENDENCY "")
if(TUILI_CUDA STREQUAL "ON")
  set(TUILI_CUDA_DEPENDENCY "find_dependency(CUDAToolkit)\n")
endif()
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/tuili-config.cmake"
  "include(CMakeFindDependencyMacro)\nfind_dependency(Threads)\n"
  "${TUILI_CUDA_DEPENDENCY}"
  "include(\"\${CMAKE_CURRENT_LIST_DIR}/tuili_targets.cmake\")\n")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/tuili-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/tuili-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/tuili-config-version.cmake"
  DESTINATION "${TUILI_CONFIG_DIR}" COMPONENT development)
