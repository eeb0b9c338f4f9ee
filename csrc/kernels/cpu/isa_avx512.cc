// AVX-512 F, BW, DQ, VL and VNNI.
#define TUILI_ISA avx512
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table.inl"
