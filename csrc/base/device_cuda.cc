// The device through the CUDA runtime, linked statically: the driver is looked for at the first call.
#include <cuda_runtime_api.h>

#include "base/check.h"
#include "base/device.h"

namespace tuili::device {
namespace {

// Memory from `allocate`, which the runtime's error of a full memory names.
template <class Allocate>
void* allocated(const char* what, int64_t bytes, const Allocate& allocate) {
  TUILI_CHECK(bytes > 0, what, " must be positive, not ", bytes, " bytes");
  void* memory = nullptr;
  const cudaError_t status = allocate(&memory, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next launch starts clean
    throw Error(ErrorKind::out_of_memory, join(what, ": ", bytes, " bytes do not fit"));
  }
  check(status, what);
  return memory;
}

// What nobody can act upon: of an end, or beside an error that is reported. The next launch is not blamed for
// it; a device that is lost says so again.
void forgive(cudaError_t status) noexcept {
  if (status != cudaSuccess) cudaGetLastError();
}

void check_ordinal(int ordinal) {
  TUILI_CHECK(ordinal >= 0 && ordinal < count(), "device: there is no cuda:", ordinal, "; ", count(),
              " CUDA devices answer, from cuda:0 on");
}

}  // namespace

int count() noexcept {
  int n_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&n_devices);
  forgive(status);  // of an absent driver
  return status == cudaSuccess ? n_devices : 0;
}

const char* build_kind() noexcept { return "cuda"; }

Chosen::Chosen(Device device) {
  if (device.kind == DeviceKind::cpu) return;
  int current = 0;
  check(cudaGetDevice(&current), "device");
  if (device.ordinal == current) return;
  check_ordinal(device.ordinal);
  check(cudaSetDevice(device.ordinal), "device");
  before_ = current;
}

Chosen::~Chosen() {
  if (before_ >= 0) forgive(cudaSetDevice(before_));
}

std::string name() {
  int device = 0;
  cudaDeviceProp properties;
  check(cudaGetDevice(&device), "device");
  check(cudaGetDeviceProperties(&properties, device), "device");
  return properties.name;
}

void* allocate(int64_t bytes) {
  return allocated("device memory", bytes, [](void** memory, size_t n) { return cudaMalloc(memory, n); });
}

void free(void* memory) noexcept { forgive(cudaFree(memory)); }

void* allocate_pinned(int64_t bytes) {
  return allocated("pinned memory", bytes, [](void** memory, size_t n) { return cudaMallocHost(memory, n); });
}

void free_pinned(void* memory) noexcept { forgive(cudaFreeHost(memory)); }

Bytes memory() {
  size_t n_free = 0, total = 0;
  check(cudaMemGetInfo(&n_free, &total), "device memory");
  return {static_cast<int64_t>(n_free), static_cast<int64_t>(total)};
}

void copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
        "copy to device");
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream),
        "copy to host");
}

void copy(void* to, const void* from, int64_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream),
        "copy on the device");
}

void fill(void* memory, uint8_t value, int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(memory, value, static_cast<size_t>(bytes), stream), "fill");
}

Stream create_stream() {
  Stream stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return stream;
}

void destroy_stream(Stream stream) noexcept {
  forgive(cudaStreamSynchronize(stream));
  forgive(cudaStreamDestroy(stream));
}

void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "stream"); }

Event create_event() {
  Event event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  return event;
}

void destroy_event(Event event) noexcept { forgive(cudaEventDestroy(event)); }
void mark(Event event, Stream stream) { check(cudaEventRecord(event, stream), "event"); }
void wait_for(Event event, Stream stream) { check(cudaStreamWaitEvent(stream, event, 0), "event"); }

bool begin_recording(Stream stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph");
  return true;
}

Graph end_recording(Stream stream) {
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(stream, &recorded), "graph");
  cudaGraphExec_t graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, recorded, 0);
  forgive(cudaGraphDestroy(recorded));
  check(status, "graph");
  return graph;
}

void discard_recording(Stream stream) noexcept {
  cudaGraph_t recorded = nullptr;
  forgive(cudaStreamEndCapture(stream, &recorded));  // that it was broken off is known
  if (recorded) forgive(cudaGraphDestroy(recorded));
}

void enqueue(Graph graph, Stream stream) { check(cudaGraphLaunch(graph, stream), "graph"); }
void destroy_graph(Graph graph) noexcept { forgive(cudaGraphExecDestroy(graph)); }

void check(int status, const char* op) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  cudaGetLastError();  // unless it is sticky, nothing reports it again
  if (error == cudaErrorNoKernelImageForDevice)
    throw Error(ErrorKind::invalid_parameter,
                "this build of tuili has no code for this GPU: build with -DCMAKE_CUDA_ARCHITECTURES=native, "
                "for compute capability 8.0 or above");
  const bool is_full = error == cudaErrorMemoryAllocation, is_sticky = cudaDeviceSynchronize() == error;
  throw Error(is_full     ? ErrorKind::out_of_memory
              : is_sticky ? ErrorKind::device_lost
                          : ErrorKind::internal,
              join(op, ": CUDA reports ", cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
}

}  // namespace tuili::device
