// AVX2, FMA and F16C.
#define TUILI_ISA avx2
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table.inl"
