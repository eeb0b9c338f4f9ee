// base/device.h for the emulator: device memory is host memory that only this file hands out, so a pointer
// from the wrong side is an error here as it is on the device. New memory holds NaN. Streams complete at
// once, and all of a thread share what is recorded.
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/device.h"
#include "device_memory.h"
#include "emulation.h"
#include "recording.h"

struct CUstream_st {};
struct CUgraphExec_st {
  tuili::emulation::Recording work;
};

namespace tuili::device {
namespace {

constexpr int64_t kCapacity = int64_t{16} << 30;  // of the emulated device, whatever the host has

void check_device_range(const void* memory, int64_t bytes, const char* op) {
  const bool found = emulation::zone_of(memory, static_cast<size_t>(bytes)) == emulation::Zone::inside;
  TUILI_CHECK_KIND(ErrorKind::internal, found, op, ": ", bytes,
                   " bytes are not all inside one device allocation");
}

void run(const std::function<void()>& work) {
  if (!emulation::record(work)) work();
}

}  // namespace

bool available() noexcept { return true; }
const char* build_kind() noexcept { return "emulated"; }
std::string name() { return "emulated"; }

void* allocate(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "device memory: ", bytes, " bytes; must be positive");
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, bytes <= kCapacity, "device memory: ", bytes,
                   " bytes do not fit");
  void* memory = emulation::take_device_memory(bytes);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, memory != nullptr, "device memory: ", bytes,
                   " bytes do not fit");
  return memory;
}

void free(void* memory) noexcept { emulation::release_device_memory(memory); }

void* allocate_pinned(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "pinned memory: ", bytes, " bytes; must be positive");
  void* memory = std::aligned_alloc(256, (static_cast<size_t>(bytes) + 255) / 256 * 256);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, memory != nullptr, "pinned memory: ", bytes,
                   " bytes do not fit");
  return memory;
}

void free_pinned(void* memory) noexcept { std::free(memory); }

Bytes memory() { return {kCapacity, kCapacity}; }

void copy_to_device(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(to, bytes, "copy to device");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(from, bytes, "copy to host");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void copy(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(to, bytes, "copy on the device");
  check_device_range(from, bytes, "copy on the device");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void fill(void* memory, uint8_t value, int64_t bytes, Stream) {
  if (bytes == 0) return;
  check_device_range(memory, bytes, "fill");
  run([=] { std::memset(memory, value, static_cast<size_t>(bytes)); });
}

Stream create_stream() { return new CUstream_st; }
void destroy_stream(Stream stream) noexcept { delete stream; }
void synchronize(Stream) {
  TUILI_CHECK_KIND(ErrorKind::internal, !emulation::is_recording(), "a stream that records is waited for");
}

Event create_event() { return nullptr; }
void destroy_event(Event) noexcept {}
void mark(Event, Stream) {}
void wait_for(Event, Stream) {}

bool begin_recording(Stream) {
  emulation::begin_recording();
  return true;
}
Graph end_recording(Stream) { return new CUgraphExec_st{emulation::end_recording()}; }
void discard_recording(Stream) noexcept { emulation::end_recording(); }
void enqueue(Graph graph, Stream) {
  for (const auto& work : graph->work) work();
  check(emulation::take_last_error(), "graph");
}
void destroy_graph(Graph graph) noexcept { delete graph; }

void check(int status, const char* op) {
  TUILI_CHECK_KIND(ErrorKind::internal, status == 0, op, ": the CUDA emulator reports ", status, ": ",
                   emulation::error_string(status));
}

}  // namespace tuili::device
