// What the kernels use of CUDA's header of this name, for a C++ compiler.
#pragma once

#include <bit>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }

// To nearest, ties to even; every NaN becomes 0x7fff, as on the device.
inline __half __float2half_rn(float x) {
  return x == x ? __half{std::bit_cast<uint16_t>(static_cast<_Float16>(x))} : __half{0x7fff};
}
