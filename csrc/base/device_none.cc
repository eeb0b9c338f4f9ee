// A build without CUDA: no device answers, and asking for one is an error that says what to do.
#include "base/check.h"
#include "base/device.h"

namespace tuili::device {
namespace {

[[noreturn]] void fail(const char* what) {
  throw Error(
      ErrorKind::invalid_parameter,
      join(what, ": this build of tuili has no CUDA; use device \"cpu\", or build with -DTUILI_CUDA=ON"));
}

}  // namespace

int count() noexcept { return 0; }
const char* build_kind() noexcept { return "none"; }

Chosen::Chosen(Device device) {
  if (device.kind == DeviceKind::cuda) fail("device");
}
Chosen::~Chosen() = default;

std::string name() { fail("device"); }

void* allocate(int64_t) { fail("device memory"); }
void free(void*) noexcept {}
void* allocate_pinned(int64_t) { fail("pinned memory"); }
void free_pinned(void*) noexcept {}
Bytes memory() { fail("device memory"); }

void copy_to_device(void*, const void*, int64_t, Stream) { fail("copy to device"); }
void copy_to_host(void*, const void*, int64_t, Stream) { fail("copy to host"); }
void copy(void*, const void*, int64_t, Stream) { fail("copy on the device"); }
void fill(void*, uint8_t, int64_t, Stream) { fail("fill"); }

Stream create_stream() { fail("stream"); }
void destroy_stream(Stream) noexcept {}
void synchronize(Stream) { fail("stream"); }

Event create_event() { fail("event"); }
void destroy_event(Event) noexcept {}
void mark(Event, Stream) { fail("event"); }
void wait_for(Event, Stream) { fail("event"); }

bool begin_recording(Stream) { return false; }
Graph end_recording(Stream) { fail("graph"); }
void discard_recording(Stream) noexcept {}
void enqueue(Graph, Stream) { fail("graph"); }
void destroy_graph(Graph) noexcept {}

void check(int status, const char* op) {
  if (status != 0) fail(op);
}

}  // namespace tuili::device
