// What the kernels use of CUDA's header of this name, for a C++ compiler: a launch ends in the emulator.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "../emulation.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

using cudaStream_t = CUstream_st*;

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorLaunchFailure = 719,
};

inline cudaError_t cudaGetLastError() {
  return static_cast<cudaError_t>(tuili::emulation::take_last_error());
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

// Holds for the next launch alone, whichever kernel it is of.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  tuili::emulation::allow_shared_bytes(static_cast<size_t>(bytes));
  return cudaSuccess;
}

inline void __syncthreads(std::source_location place = std::source_location::current()) {
  tuili::emulation::barrier(place);
}

inline void __syncwarp(uint32_t mask = 0xffffffffu,
                       std::source_location place = std::source_location::current()) {
  int nothing = 0;
  tuili::emulation::warp_op(mask, nothing, [=](const auto&) { tuili::emulation::order_warp(mask); }, place);
}

// The value of lane ^ distance; reading a lane outside the mask gives a value that nobody should use.
template <typename T>
inline T __shfl_xor_sync(uint32_t mask, T value, int distance,
                         std::source_location place = std::source_location::current()) {
  struct Lane {
    T in, out;
    int distance;
  };
  Lane lane{value, std::bit_cast<T>(0xffffffffu), distance};
  tuili::emulation::warp_op(
      mask, lane,
      [](const tuili::emulation::Lanes<Lane>& lanes) {
        for (int l = 0; l < tuili::emulation::kWarpSize; ++l) {
          if (lanes[l] == nullptr) continue;
          const Lane* source = lanes[l ^ (lanes[l]->distance & 31)];
          if (source != nullptr) lanes[l]->out = source->in;
        }
      },
      place);
  return lane.out;
}

// The value of a lane of the mask.
template <typename T>
inline T __shfl_sync(uint32_t mask, T value, int source,
                     std::source_location place = std::source_location::current()) {
  struct Lane {
    T in, out;
    int source;
  };
  Lane lane{value, std::bit_cast<T>(0xffffffffu), source};
  tuili::emulation::warp_op(
      mask, lane,
      [](const tuili::emulation::Lanes<Lane>& lanes) {
        for (Lane* reader : lanes) {
          if (reader == nullptr) continue;
          const Lane* from = lanes[reader->source & 31];
          if (from != nullptr) reader->out = from->in;
        }
      },
      place);
  return lane.out;
}

// A bit per lane of the mask whose predicate holds.
inline uint32_t __ballot_sync(uint32_t mask, int predicate,
                              std::source_location place = std::source_location::current()) {
  struct Lane {
    int predicate;
    uint32_t out;
  };
  Lane lane{predicate, 0};
  tuili::emulation::warp_op(
      mask, lane,
      [](const tuili::emulation::Lanes<Lane>& lanes) {
        uint32_t votes = 0;
        for (int l = 0; l < tuili::emulation::kWarpSize; ++l) {
          if (lanes[l] != nullptr && lanes[l]->predicate) votes |= 1u << l;
        }
        for (Lane* voter : lanes) {
          if (voter != nullptr) voter->out = votes;
        }
      },
      place);
  return lane.out;
}

// Built with -ffp-contract=off, each of these rounds once.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }

inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline int32_t __float_as_int(float x) { return std::bit_cast<int32_t>(x); }
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }

// Four bytes of y:x, chosen by the nibbles of the selector.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xffu) << 8 * i;
  }
  return out;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int __popc(uint32_t x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(x)) + 1; }
inline int __clzll(int64_t x) { return std::countl_zero(static_cast<uint64_t>(x)); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}
