// Which addresses are memory of the emulated device. Filled by device_emulated.cc, asked by copies and
// traces.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tuili::emulation {

// Before and after each allocation; nobody may touch it. The address sanitizer knows it, traces report it.
inline constexpr int64_t kRedZoneBytes = 4096;

enum class Zone { inside, red, elsewhere };

// Of device current_device(); aligned to 256 and filled with NaN; null if the host has none.
void* take_device_memory(int64_t bytes);
void release_device_memory(void* memory) noexcept;

int64_t device_bytes_taken(int device);

// `red` when a byte of [address, address + bytes) lies in the red zone of a live allocation, `inside` when
// all lie in one live allocation.
Zone zone_of(const void* address, size_t bytes);

// Whether they lie in one live allocation of the current device.
bool is_here(const void* address, size_t bytes);

}  // namespace tuili::emulation
