// Conversions and shifts as the device does them where C++ leaves them undefined: what is too large
// saturates, NaN becomes 0, shifts of 32 and more have a meaning. Plain casts and shifts out of range have
// none in a kernel either: the sanitized build reports them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace tuili::emulation {

template <typename Int>
inline Int saturated(float whole) {
  if (std::isnan(whole)) return 0;
  const double x = whole;  // holds every Int of 32 bits
  if (x <= double{std::numeric_limits<Int>::min()}) return std::numeric_limits<Int>::min();
  if (x >= double{std::numeric_limits<Int>::max()}) return std::numeric_limits<Int>::max();
  return static_cast<Int>(x);
}

}  // namespace tuili::emulation

inline int __float2int_rn(float x) { return tuili::emulation::saturated<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return tuili::emulation::saturated<int>(std::trunc(x)); }
inline int __float2int_ru(float x) { return tuili::emulation::saturated<int>(std::ceil(x)); }
inline int __float2int_rd(float x) { return tuili::emulation::saturated<int>(std::floor(x)); }
inline unsigned __float2uint_rn(float x) { return tuili::emulation::saturated<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return tuili::emulation::saturated<unsigned>(std::trunc(x)); }

// The upper word of high:low << shift, the lower word of high:low >> shift. The first two take the shift
// modulo 32, the others clamp it to 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}
