// base/device.h for the emulator, which has two devices: their memory is host memory that only this file
// hands out, so a pointer from the wrong side, or to the other device, is an error here as it is on the
// device. New memory holds NaN. Streams complete at once, and all of a thread share what is recorded; the
// host may not go on before streams beside its own are joined.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/device.h"
#include "device_memory.h"
#include "emulation.h"
#include "faults.h"
#include "recording.h"
#include "streams.h"

struct CUgraphExec_st {
  int device;
  tuili::emulation::Recording work;
};

namespace tuili::device {
namespace {

using emulation::Fault;

constexpr int64_t kCapacity = int64_t{16} << 30;  // of an emulated device, whatever the host has

ErrorKind kind_of(Fault fault) {
  return fault == Fault::full   ? ErrorKind::out_of_memory
         : fault == Fault::lost ? ErrorKind::device_lost
                                : ErrorKind::internal;
}

// Where a call begins that the device may refuse.
void begin_call(const char* op) {
  const Fault fault = emulation::next_fault();
  TUILI_CHECK_KIND(kind_of(fault), fault == Fault::none, op, ": a fault that was asked for");
}

// Everything that the devices keep for somebody: each takes a part of its device's memory.
std::mutex ledger_mutex;
std::vector<CUstream_st*> streams;
std::map<const void*, int> kept;  // -> the device

template <class Handle>
Handle* keep(Handle* handle) {
  const std::lock_guard lock(ledger_mutex);
  kept[handle] = emulation::current_device();
  return handle;
}
void forget(const void* handle) {
  const std::lock_guard lock(ledger_mutex);
  kept.erase(handle);
}

void check_device_range(const void* memory, int64_t bytes, const char* op) {
  TUILI_EXPECT(emulation::is_here(memory, static_cast<size_t>(bytes)), op, ": ", bytes,
               " bytes are not all inside one device allocation");
}

// A stream, an event or a graph that is used while another device is chosen.
template <class Handle>
void check_is_here(const Handle* handle, const char* op) {
  TUILI_EXPECT(handle == nullptr || handle->device == emulation::current_device(), op,
               ": it belongs to device ", handle ? handle->device : 0, ", and device ",
               emulation::current_device(), " is chosen");
}

void run(const std::function<void()>& work) {
  if (!emulation::record(work)) work();
}

}  // namespace

int count() noexcept { return emulation::kDevices; }
const char* build_kind() noexcept { return "emulated"; }

Chosen::Chosen(Device device) {
  int& current = emulation::current_device();
  if (device.kind == DeviceKind::cpu || device.ordinal == current) return;
  TUILI_CHECK(device.ordinal >= 0 && device.ordinal < count(), "device: there is no cuda:", device.ordinal,
              "; ", count(), " CUDA devices answer, from cuda:0 on");
  begin_call("device");
  before_ = std::exchange(current, device.ordinal);
}
Chosen::~Chosen() {
  if (before_ >= 0) emulation::current_device() = before_;
}

std::string name() { return "emulated"; }

void* allocate(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "device memory must be positive, not ", bytes, " bytes");
  begin_call("device memory");
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, bytes <= kCapacity, "device memory: ", bytes,
                   " bytes do not fit");
  void* memory = emulation::take_device_memory(bytes);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, memory != nullptr, "device memory: ", bytes,
                   " bytes do not fit");
  return memory;
}

void free(void* memory) noexcept { emulation::release_device_memory(memory); }

void* allocate_pinned(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "pinned memory must be positive, not ", bytes, " bytes");
  begin_call("pinned memory");
  void* memory = std::aligned_alloc(256, (static_cast<size_t>(bytes) + 255) / 256 * 256);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, memory != nullptr, "pinned memory: ", bytes,
                   " bytes do not fit");
  return keep(memory);
}

void free_pinned(void* memory) noexcept {
  forget(memory);
  std::free(memory);
}

Bytes memory() {
  const std::lock_guard lock(ledger_mutex);
  const int device = emulation::current_device();
  const auto n_kept = std::ranges::count(kept, device, [](const auto& entry) { return entry.second; });
  return {kCapacity - emulation::device_bytes_taken(device) - n_kept, kCapacity};
}

void copy_to_device(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  begin_call("copy to device");
  check_device_range(to, bytes, "copy to device");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  begin_call("copy to host");
  check_device_range(from, bytes, "copy to host");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void copy(void* to, const void* from, int64_t bytes, Stream) {
  if (bytes == 0) return;
  begin_call("copy on the device");
  check_device_range(to, bytes, "copy on the device");
  check_device_range(from, bytes, "copy on the device");
  run([=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void fill(void* memory, uint8_t value, int64_t bytes, Stream) {
  if (bytes == 0) return;
  begin_call("fill");
  check_device_range(memory, bytes, "fill");
  run([=] { std::memset(memory, value, static_cast<size_t>(bytes)); });
}

Stream create_stream() {
  begin_call("stream");
  CUstream_st* const stream = keep(new CUstream_st);
  const std::lock_guard lock(ledger_mutex);
  return streams.emplace_back(stream);
}
void destroy_stream(Stream stream) noexcept {
  forget(stream);
  const std::lock_guard lock(ledger_mutex);
  std::erase(streams, stream);
  delete stream;
}
void synchronize(Stream stream) {
  TUILI_EXPECT(!emulation::is_recording(), "a stream that records is waited for");
  begin_call("stream");
  const std::lock_guard lock(ledger_mutex);
  for (const CUstream_st* side : streams)
    TUILI_EXPECT(stream == nullptr || side->forked_from != stream || !side->has_work,
                 "stream: the host goes on, and work on a stream beside is not waited for");
}

Event create_event() {
  begin_call("event");
  return keep(new CUevent_st);
}
void destroy_event(Event event) noexcept {
  forget(event);
  delete event;
}
void mark(Event event, Stream stream) {
  begin_call("event");
  check_is_here(event, "event");
  check_is_here(stream, "event");
  event->marked = stream;
}
void wait_for(Event event, Stream stream) {
  begin_call("event");
  check_is_here(stream, "event");
  CUstream_st* const marked = event->marked;
  if (marked == nullptr || stream == nullptr) return;
  if (marked->forked_from == stream) {
    marked->has_work = false;
  } else {
    stream->forked_from = marked;
  }
}

bool begin_recording(Stream) {
  begin_call("graph");
  emulation::begin_recording();
  return true;
}
Graph end_recording(Stream) {
  emulation::Recording work = emulation::end_recording();  // which is over whatever comes of it
  begin_call("graph: what was recorded");
  begin_call("graph: made of what was recorded");
  return new CUgraphExec_st{emulation::current_device(), std::move(work)};
}
void discard_recording(Stream) noexcept { emulation::end_recording(); }
void enqueue(Graph graph, Stream) {
  begin_call("graph");
  check_is_here(graph, "graph");
  for (const auto& work : graph->work) work();
  check(emulation::take_last_error(), "graph");
}
void destroy_graph(Graph graph) noexcept { delete graph; }

void check(int status, const char* op) {
  if (status == 0) return;
  const bool was_asked_for = std::string_view(emulation::error_string(status)).ends_with("asked for");
  throw Error(was_asked_for ? kind_of(emulation::last_fault()) : ErrorKind::internal,
              join(op, ": the CUDA emulator reports ", status, ": ", emulation::error_string(status)));
}

}  // namespace tuili::device
