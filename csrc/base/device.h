// The memory and the streams of the CUDA device. CMake picks the file that implements this header:
// device_cuda.cc, device_none.cc (a build without CUDA) or tests/cuda_emulation/device_emulated.cc (a CPU
// that plays the device).
//
// Nothing here runs before the first call, so importing tuili never touches the driver. Errors: out_of_memory
// when an allocation does not fit, invalid_parameter when the build has no CUDA, internal for everything the
// device reports.
#pragma once

#include <cstdint>

struct CUstream_st;  // the tag behind cudaStream_t; declared here so that no CUDA header is needed above this
                     // room

namespace tuili {

enum class DeviceKind : uint8_t { cpu, cuda };

}  // namespace tuili

namespace tuili::device {

using Stream = CUstream_st*;  // nullptr is the default stream

// Whether a device answers. False, never an error, when there is no driver or the build has no CUDA.
bool available() noexcept;

// "none", "cuda" or "emulated".
const char* build_kind() noexcept;

// `bytes` > 0 of device memory, aligned to 256, with arbitrary contents.
void* allocate(int64_t bytes);
void free(void* memory) noexcept;  // nullptr is allowed

// Both enqueue and may return before the bytes have moved: keep `from` and `to` alive until
// synchronize(stream).
void copy_to_device(void* to, const void* from, int64_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream);

Stream create_stream();
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);  // waits for all work of the stream; reports what failed in it

// Throws when a launcher of kernels/cuda returned anything but 0; `op` names it in the message.
void check(int status, const char* op);

}  // namespace tuili::device
