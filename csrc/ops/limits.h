// How fast this machine is at most, measured: the figures that benchmarks divide by. Each call takes one
// sample of about a tenth of a second; on a shared machine take several, between those of what is compared.
#pragma once

#include <cstdint>

namespace tuili::ops {

inline constexpr int64_t kReadBytes = int64_t{512} << 20;  // far past the caches

// Cycles per second of this thread's core, by dependent additions; of five slices the fastest.
double clock_hz();

// Bytes per second that n_threads threads of the pool read together, each its own part of `bytes` bytes in a
// row, in memory as weights lie in (a Buffer, touched first by its reader). The median of five passes.
double read_bandwidth(int n_threads, int64_t bytes = kReadBytes);

// Multiply-adds per second in registers (kernels/cpu/limits.h), all threads together; isa null: the best one.
double float_peak(const char* isa, int n_threads);
double int8_peak(const char* isa, int n_threads);

}  // namespace tuili::ops
