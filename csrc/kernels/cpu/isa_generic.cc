// The table that runs everywhere.
#define TUILI_ISA generic
#include "kernels/cpu/simd_generic.h"
#include "kernels/cpu/table.inl"
