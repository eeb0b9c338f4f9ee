// The memory and the streams of the CUDA device. CMake picks the file that implements this header:
// device_cuda.cc, device_none.cc (a build without CUDA) or tests/cuda_emulation/device_emulated.cc (a CPU
// that plays the device).
//
// Nothing here runs before the first call, so importing tuili never touches the driver. Errors: out_of_memory
// when an allocation does not fit, invalid_parameter when the build has no CUDA or no code for the device,
// device_lost for what only a restart of the process mends, internal for everything else that the device
// reports.
#pragma once

#include <cstdint>
#include <string>

struct CUevent_st;
struct CUgraphExec_st;
struct CUstream_st;  // the tag behind cudaStream_t: no CUDA header is needed above this room

namespace tuili {

enum class DeviceKind : uint8_t { cpu, cuda };

// The CPU, or one of the devices that the driver shows this process.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int ordinal = 0;  // of cuda
  bool operator==(const Device&) const = default;
};

}  // namespace tuili

namespace tuili::device {

using Stream = CUstream_st*;  // nullptr is the default stream

// How many devices answer. 0, never an error, when there is no driver or the build has no CUDA.
int count() noexcept;

// "none", "cuda" or "emulated".
const char* build_kind() noexcept;

// While it lives, "the device" of this thread's calls and launches is this one, the first otherwise; of the
// CPU it does nothing. Whoever owns memory or streams chooses their device before using them; they may be
// destroyed under any. Throws invalid_parameter if there is no such device.
class Chosen {
 public:
  explicit Chosen(Device device);
  ~Chosen();
  Chosen(const Chosen&) = delete;
  Chosen& operator=(const Chosen&) = delete;

 private:
  int before_ = -1;  // the device to come back to, if this is another
};

// What the device is called: kernels may give other bits on one of another name.
std::string name();

// `bytes` > 0 of device memory, aligned to 256, with arbitrary contents.
void* allocate(int64_t bytes);
void free(void* memory) noexcept;  // nullptr is allowed

// `bytes` > 0 of host memory that copies reach without a detour.
void* allocate_pinned(int64_t bytes);
void free_pinned(void* memory) noexcept;  // nullptr is allowed

struct Bytes {
  int64_t free, total;
};
Bytes memory();  // of the device, now

// All enqueue and may return before the bytes have moved: keep `from` and `to` alive until
// synchronize(stream).
void copy_to_device(void* to, const void* from, int64_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream);
void copy(void* to, const void* from, int64_t bytes, Stream stream);  // on the device; no overlap
void fill(void* memory, uint8_t value, int64_t bytes, Stream stream);

Stream create_stream();
void destroy_stream(Stream stream) noexcept;  // waits for its work
void synchronize(Stream stream);              // waits for all work of the stream; reports what failed in it

// A place in a stream's work that other streams wait for.
using Event = CUevent_st*;
Event create_event();
void destroy_event(Event event) noexcept;
void mark(Event event, Stream stream);      // after what the stream was given so far
void wait_for(Event event, Stream stream);  // before what the stream will be given

// Work that was recorded once and is enqueued again as one. What is recorded between begin_recording and
// end_recording does not run; launches read their arguments, so only what is behind pointers may change.
// Where nothing can be recorded, begin_recording says so and everything runs as ever.
using Graph = CUgraphExec_st*;
bool begin_recording(Stream stream);
Graph end_recording(Stream stream);              // throws if what was recorded cannot be enqueued
void discard_recording(Stream stream) noexcept;  // in the place of end_recording, after an error
void enqueue(Graph graph, Stream stream);
void destroy_graph(Graph graph) noexcept;

// Throws when a launcher of kernels/cuda returned anything but 0; `op` names it in the message.
void check(int status, const char* op);

}  // namespace tuili::device
