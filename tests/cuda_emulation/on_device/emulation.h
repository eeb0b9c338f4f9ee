// Stands in for the emulator's header where the kernels' tests run on a device: nothing chooses its
// schedules.
#pragma once

#include <cstdint>

namespace tuili::emulation {

struct TensorCore {};
inline constexpr TensorCore kAmpere, kHopper;

inline void set_seed(uint64_t) {}
inline void set_tensor_core(TensorCore) {}

}  // namespace tuili::emulation
