// What this CPU and its operating system can run. Asked once.
#pragma once

namespace tuili {

struct CpuInfo {
  bool has_avx2 = false;      // AVX2, FMA and F16C, and the OS saves the 256-bit registers
  bool has_avxvnni = false;   // as well as AVX-VNNI
  bool has_avx512 = false;    // as well as AVX-512 F, BW, DQ, VL and VNNI, and the OS saves their registers
  bool has_neon_dot = false;  // Armv8.2 dot products
};

const CpuInfo& cpu_info();

}  // namespace tuili
