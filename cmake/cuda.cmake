# TUILI_CUDA chooses the files behind base/device.h and kernels/cuda/kernels.h; no source asks which.
#   OFF       no device; every launcher throws
#   ON        nvcc, with the CUDA runtime linked statically
#   EMULATED  the same kernels as C++, on the emulator of tests/cuda_emulation (x86-64, for tests)
# Use: include(cuda), then tuili_add_cuda(<target>) for the library that holds the core.
get_filename_component(TUILI_SOURCE_DIR ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
set(TUILI_CUDA_EMULATION_DIR ${TUILI_SOURCE_DIR}/tests/cuda_emulation)
set(TUILI_CUDA_EMULATION_INCLUDES ${TUILI_CUDA_EMULATION_DIR} ${TUILI_CUDA_EMULATION_DIR}/include)
# All but hooks.cc or no_hooks.cc: whether accesses are traced (tests/cuda_emulation/CMakeLists.txt).
set(TUILI_CUDA_EMULATION_SOURCES)
foreach(name fiber block block_trace launch recording tensor_core faults device_memory device_emulated touch races requests)
  list(APPEND TUILI_CUDA_EMULATION_SOURCES ${TUILI_CUDA_EMULATION_DIR}/${name}.cc)
endforeach()
# Vector accesses read arrays of other types, as device code may; every product and sum rounds as the kernel says.
set(TUILI_CUDA_EMULATION_FLAGS -fno-strict-aliasing -ffp-contract=off -Wno-unknown-pragmas)

set(TUILI_CUDA_KERNELS attention convolution distances elementwise gemm gemm_experts gemm_quant routing rows sampling)
list(TRANSFORM TUILI_CUDA_KERNELS PREPEND ${TUILI_SOURCE_DIR}/csrc/kernels/cuda/)
list(TRANSFORM TUILI_CUDA_KERNELS APPEND .cu)

# The kernels copy by cp.async and multiply bf16 on tensor cores; before compute capability 8.0 there is neither.
function(tuili_check_cuda_architectures)
  foreach(architecture IN LISTS ARGN)
    if(architecture MATCHES "^all" OR (architecture MATCHES "^([0-9]+)" AND CMAKE_MATCH_1 LESS 80))
      message(FATAL_ERROR "CUDA architecture ${architecture}: tuili needs 80 or above (cp.async, bf16 tensor cores). "
                          "Set CMAKE_CUDA_ARCHITECTURES to a list of such, or TUILI_CUDA_RELEASE to ON")
    endif()
  endforeach()
endfunction()

if(TUILI_CUDA STREQUAL "ON")
  option(TUILI_CUDA_RELEASE "Code for all devices from sm_80 on, and PTX for those to come" OFF)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real)  # what sass_check.py reads
    if(TUILI_CUDA_RELEASE)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real 100-real 120)
    endif()
  endif()
  tuili_check_cuda_architectures(${CMAKE_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native")
    tuili_check_cuda_architectures(${CMAKE_CUDA_ARCHITECTURES_NATIVE})
  endif()
  find_package(CUDAToolkit REQUIRED)
elseif(TUILI_CUDA STREQUAL "EMULATED" AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  message(FATAL_ERROR "TUILI_CUDA=EMULATED: the emulator switches fibers on x86-64 only, this is "
                      "${CMAKE_SYSTEM_PROCESSOR}")
elseif(NOT TUILI_CUDA MATCHES "^(OFF|ON|EMULATED)$")
  message(FATAL_ERROR "TUILI_CUDA=${TUILI_CUDA}: must be OFF, ON or EMULATED")
endif()

function(tuili_add_cuda target)
  set(base ${TUILI_SOURCE_DIR}/csrc/base)
  if(TUILI_CUDA STREQUAL "ON")
    # Objects of their own: nvcc does not know the C++ compiler's flags that the target may carry.
    add_library(tuili_cuda_kernels OBJECT ${TUILI_CUDA_KERNELS})
    target_include_directories(tuili_cuda_kernels PRIVATE ${TUILI_SOURCE_DIR}/csrc)
    set_target_properties(tuili_cuda_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_compile_options(tuili_cuda_kernels PRIVATE -std=c++20)  # older CMakes do not know nvcc's C++20
    if(TUILI_WERROR)
      target_compile_options(tuili_cuda_kernels PRIVATE -Werror all-warnings)
    endif()
    target_sources(${target} PRIVATE ${base}/device_cuda.cc $<TARGET_OBJECTS:tuili_cuda_kernels>)
    target_link_libraries(${target} PUBLIC CUDA::cudart_static)
  elseif(TUILI_CUDA STREQUAL "EMULATED")
    if(NOT TARGET tuili_emulator)
      add_library(tuili_emulator OBJECT ${TUILI_CUDA_EMULATION_SOURCES})
      target_include_directories(tuili_emulator PRIVATE ${TUILI_CUDA_EMULATION_INCLUDES} ${TUILI_SOURCE_DIR}/csrc)
      target_compile_options(tuili_emulator PRIVATE ${TUILI_CUDA_EMULATION_FLAGS})
      target_link_libraries(tuili_emulator PRIVATE tuili_flags)
    endif()
    set_source_files_properties(${TUILI_CUDA_KERNELS} PROPERTIES LANGUAGE CXX
      COMPILE_OPTIONS "${TUILI_CUDA_EMULATION_FLAGS}" INCLUDE_DIRECTORIES "${TUILI_CUDA_EMULATION_INCLUDES}")
    target_sources(${target} PRIVATE
      ${TUILI_CUDA_KERNELS} $<TARGET_OBJECTS:tuili_emulator> ${TUILI_CUDA_EMULATION_DIR}/no_hooks.cc)
    target_link_libraries(${target} PUBLIC ${CMAKE_DL_LIBS})
  else()
    target_sources(${target} PRIVATE ${base}/device_none.cc ${TUILI_SOURCE_DIR}/csrc/kernels/cuda/absent.cc)
  endif()
endfunction()
