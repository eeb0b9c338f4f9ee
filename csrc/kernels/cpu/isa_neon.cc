// Armv8.2 with dot products.
#define TUILI_ISA neon
#include "kernels/cpu/simd_neon.h"
#include "kernels/cpu/table.inl"
