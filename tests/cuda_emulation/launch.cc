// Launches: the grid's limits, the order of its blocks, and the error that the next cudaGetLastError returns.
#include <algorithm>
#include <utility>
#include <vector>

#include "block.h"
#include "cuda_runtime.h"
#include "faults.h"
#include "recording.h"
#include "streams.h"

namespace tuili::emulation {
namespace {

constexpr int64_t kMaxThreads = 1024;
constexpr unsigned kMaxGridX = 0x7fffffff;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxSharedBytes = 48 * 1024;    // without cudaFuncAttributeMaxDynamicSharedMemorySize
constexpr size_t kOptInSharedBytes = 99 * 1024;  // with it, on the devices that have least (sm_86, 89, 120)

thread_local Random random_choices{0};
thread_local FiberStacks stacks;
thread_local int last_error = cudaSuccess;
thread_local size_t allowed_shared_bytes = kMaxSharedBytes;  // of the next launch
thread_local std::string report;
thread_local int64_t n_sampled = 0;  // blocks of a launch that run; 0: all

// cudaSuccess, or why the device refuses the launch.
int refusal(dim3 grid, dim3 block, size_t shared_bytes) {
  const int64_t n_threads = int64_t{block.x} * block.y * block.z;
  if (n_threads < 1 || n_threads > kMaxThreads || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1) return cudaErrorInvalidConfiguration;
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) return cudaErrorInvalidConfiguration;
  const bool fits =
      shared_bytes <= std::min(std::exchange(allowed_shared_bytes, kMaxSharedBytes), kOptInSharedBytes);
  return fits ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

void set_seed(uint64_t seed) { random_choices.seed(seed); }

void set_sample(int64_t n_blocks) { n_sampled = n_blocks; }

const std::string& last_report() { return report; }

void allow_shared_bytes(size_t bytes) { allowed_shared_bytes = std::max(bytes, kMaxSharedBytes); }

void launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream,
            const std::function<void()>& body, const Place& place) {
  if (last_error != cudaSuccess) return;  // until it is read, as the device keeps it
  if (next_fault() != Fault::none) {
    last_error = cudaErrorLaunchFailure;
    report = text(place) + ": a fault that was asked for";
    return;
  }
  if (stream != nullptr && stream->device != current_device()) {
    last_error = cudaErrorInvalidResourceHandle;
    report = text(place) + ": a launch into a stream of another device";
    return;
  }
  if (stream != nullptr) stream->has_work = true;
  if (is_recording()) {
    const size_t allowed = std::exchange(allowed_shared_bytes, kMaxSharedBytes);
    record([=] {
      allowed_shared_bytes = allowed;
      launch(grid, block, shared_bytes, nullptr, body, place);  // which streams wait was recorded
    });
    return;
  }
  last_error = refusal(grid, block, shared_bytes);
  if (last_error != cudaSuccess) {
    report = text(place) + ": a launch beyond the device's limits";
    return;
  }
  const int64_t n_blocks = int64_t{grid.x} * grid.y * grid.z;
  std::vector<int64_t> order(static_cast<size_t>(n_sampled > 0 ? std::min(n_sampled, n_blocks) : n_blocks));
  for (size_t i = 0; i < order.size(); ++i)
    order[i] = static_cast<int64_t>(i) * n_blocks / static_cast<int64_t>(order.size());
  std::shuffle(order.begin(), order.end(), random_choices);
  Trace* trace = tracing();
  if (trace != nullptr) {
    trace->races.begin_launch();
    trace->requests.begin_launch(n_blocks, int64_t{block.x} * block.y * block.z, shared_bytes);
  }
  Block runner(place, grid, block, shared_bytes, body, stacks, random_choices, trace);
  for (const int64_t id : order) {
    const uint3 block_id{static_cast<unsigned>(id % grid.x), static_cast<unsigned>(id / grid.x % grid.y),
                         static_cast<unsigned>(id / grid.x / grid.y)};
    const std::string fault = runner.run(block_id);
    if (fault.empty()) continue;
    last_error = cudaErrorLaunchFailure;
    report = fault;
    return;
  }
  if (trace != nullptr) trace->requests.finish_launch();
}

int take_last_error() { return std::exchange(last_error, cudaSuccess); }

const char* error_string(int status) {
  return status == cudaErrorInvalidValue ? "invalid argument" : report.c_str();
}

}  // namespace tuili::emulation
