// AVX2, FMA and F16C, with AVX-VNNI.
#define TUILI_ISA avxvnni
#include "kernels/cpu/simd_avxvnni.h"
#include "kernels/cpu/table.inl"
