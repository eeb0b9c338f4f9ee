# The instruction sets of the CPU kernels. Each is one object file that exports one symbol, its table.
#
# Flags of every table: no contraction of a·b + c (the kernels say fma where they mean it), no errno, no traps; no
# link-time optimization, because it could move code of one instruction set into another.
set(TUILI_ISA_FLAGS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-lto -fvisibility=hidden)

# Sanitized tables are compiled with -O1, no debug information and without the checks of each pointer that ASan makes
# anyway: with more, one of them takes ten minutes. Linked after tuili_flags, whose options these undo.
add_library(tuili_isa_sanitizing INTERFACE)
if(TUILI_SANITIZE)
  target_compile_options(tuili_isa_sanitizing INTERFACE -O1 -g0 -fno-sanitize=null,object-size,pointer-overflow)
endif()

set(TUILI_ISAS generic)
set(TUILI_ISA_FLAGS_generic "")  # baseline of the architecture
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND TUILI_ISAS avx2 avxvnni avx512)
  set(TUILI_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(TUILI_ISA_FLAGS_avxvnni ${TUILI_ISA_FLAGS_avx2} -mavxvnni)
  set(TUILI_ISA_FLAGS_avx512 ${TUILI_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC bug 105593: its own AVX-512 intrinsics start from an undefined register.
    list(APPEND TUILI_ISA_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  list(APPEND TUILI_ISAS neon)
  set(TUILI_ISA_FLAGS_neon -march=armv8.2-a+dotprod+fp16)
endif()

# Adds the tables of this architecture to a library.
function(tuili_add_isa_tables target)
  foreach(isa IN LISTS TUILI_ISAS)
    set(objects "tuili_isa_${isa}")
    add_library(${objects} OBJECT "${PROJECT_SOURCE_DIR}/csrc/kernels/cpu/isa_${isa}.cc")
    target_include_directories(${objects} PRIVATE "${PROJECT_SOURCE_DIR}/csrc")
    target_compile_features(${objects} PRIVATE cxx_std_20)
    target_link_libraries(${objects} PRIVATE
      $<BUILD_INTERFACE:tuili_flags> $<BUILD_INTERFACE:tuili_isa_sanitizing>)
    target_compile_options(${objects} PRIVATE ${TUILI_ISA_FLAGS} ${TUILI_ISA_FLAGS_${isa}})
    set_target_properties(${objects} PROPERTIES POSITION_INDEPENDENT_CODE ON INTERPROCEDURAL_OPTIMIZATION OFF)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()
