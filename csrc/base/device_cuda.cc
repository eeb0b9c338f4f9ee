// The device through the CUDA runtime, linked statically: the driver is looked for at the first call.
#include <cuda_runtime_api.h>

#include "base/check.h"
#include "base/device.h"

namespace tuili::device {

bool available() noexcept {
  int n_devices = 0;
  const bool found = cudaGetDeviceCount(&n_devices) == cudaSuccess && n_devices > 0;
  if (!found) cudaGetLastError();  // an absent driver must not fail the next launch
  return found;
}

const char* build_kind() noexcept { return "cuda"; }

void* allocate(int64_t bytes) {
  TUILI_CHECK(bytes > 0, "device memory: ", bytes, " bytes; must be positive");
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky: the next launch starts clean
    throw Error(ErrorKind::out_of_memory, join("device memory: ", bytes, " bytes do not fit"));
  }
  check(status, "device memory");
  return memory;
}

void free(void* memory) noexcept { cudaFree(memory); }

void copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
        "copy to device");
}

void copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream),
        "copy to host");
}

Stream create_stream() {
  Stream stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return stream;
}

void destroy_stream(Stream stream) noexcept { cudaStreamDestroy(stream); }

void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "stream"); }

void check(int status, const char* op) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // unless it is sticky, the next launch does not report it again
  const auto error = static_cast<cudaError_t>(status);
  throw Error(ErrorKind::internal,
              join(op, ": CUDA reports ", cudaGetErrorName(error), ": ", cudaGetErrorString(error)));
}

}  // namespace tuili::device
