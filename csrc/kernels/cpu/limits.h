// What this CPU could do at most: loops with nothing in the way of the unit that they load. Every percentage
// that a benchmark prints is of one of these, measured in the same process.
#pragma once

#include <cstdint>

namespace tuili::cpu {

// The peaks of one instruction set. A round is a fixed number of multiply-adds in registers, in chains enough
// to hide the latency; nothing is loaded or stored.
struct Peaks {
  const char* isa;
  int64_t float_macs;                    // of a round of float_peak
  void (*float_peak)(int64_t n_rounds);  // float32 fused multiply-adds; "generic" multiplies, then adds
  int64_t int8_macs;
  // Exact int8 products: vpdpbusd or sdot where they exist; on AVX2 eight vpmaddubsw summed in int16 for each
  // vpmaddwd, the most that 4-bit codes allow; "generic" multiplies int16.
  void (*int8_peak)(int64_t n_rounds);
};

// Of the table with this name (kernels.h: find_kernels); null if there is none.
const Peaks* find_peaks(const char* isa);

// `n` additions, each of which waits for the one before: n cycles on every x86-64 and AArch64 core.
void dependent_adds(int64_t n);

// Loads every byte; `bytes` is a multiple of 64, `memory` is aligned to 64.
void read_stream(const uint8_t* memory, int64_t bytes);

}  // namespace tuili::cpu
