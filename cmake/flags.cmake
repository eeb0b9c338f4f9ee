# Compiler and linker flags, in one place.
include(CheckCXXCompilerFlag)

# Adds each flag that this compiler knows.
function(tuili_add_known_flags target)
  foreach(flag IN LISTS ARGN)
    string(MAKE_C_IDENTIFIER "TUILI_HAS${flag}" known)
    check_cxx_compiler_flag("${flag}" ${known})
    if(${known})
      target_compile_options(${target} INTERFACE "${flag}")
    endif()
  endforeach()
endfunction()

# All code. Nothing here may let the compiler reorder floating point: results are the same in every build.
add_library(tuili_flags INTERFACE)
target_compile_options(tuili_flags INTERFACE
  -Wall -Wextra -Wvla -ffp-contract=off -fno-math-errno -fno-trapping-math)
if(TUILI_WERROR)
  target_compile_options(tuili_flags INTERFACE -Werror)
endif()
if(TUILI_SANITIZE)
  # -O1 comes after the build type's own level: half the time to compile, and fewer accesses are optimized away unseen.
  # GCC then warns of variables that every path sets.
  target_compile_options(tuili_flags INTERFACE
    -fsanitize=${TUILI_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1
    -Wno-maybe-uninitialized)
  target_link_options(tuili_flags INTERFACE -fsanitize=${TUILI_SANITIZE})
endif()

# All code but the kernels, which touch no untrusted size and run hot.
add_library(tuili_hardening INTERFACE)
target_compile_definitions(tuili_hardening INTERFACE _GLIBCXX_ASSERTIONS)
if(NOT TUILI_SANITIZE)
  # Fortified functions need optimization; the first flag drops a level that a distribution has set.
  target_compile_options(tuili_hardening INTERFACE
    $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE> $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=3>)
endif()
tuili_add_known_flags(tuili_hardening
  -fstack-protector-strong -fstack-clash-protection -fcf-protection -ftrivial-auto-var-init=zero
  -Wframe-larger-than=16384)
target_link_options(tuili_hardening INTERFACE LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)
