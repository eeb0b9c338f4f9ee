// How a kernel is launched and finds its shared memory: nvcc's way, or the emulator's when a C++ compiler
// reads this file. There <cuda_runtime.h> and <cuda_bf16.h> are the emulator's own
// (tests/cuda_emulation/include).
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"

#if defined(__CUDACC__)
#define TUILI_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::tuili::cuda::launch((kernel), (grid), (block), (shared_bytes), (stream), __VA_ARGS__)
#else
#define TUILI_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::tuili::emulation::launch((grid), (block), (shared_bytes), (stream), [=] { (kernel)(__VA_ARGS__); })
#endif

namespace tuili::cuda {

#if defined(__CUDACC__)
// Whether kernels wait for those before them (ptx::wait_for_kernels_before): where the code that the device
// runs is for Hopper or later. A build may have older code alone for a later device, which compiles that for
// itself.
inline bool kernels_wait(const void* kernel) {
  thread_local int known_device = -1;
  thread_local bool known = false;  // of all kernels: they are built alike
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (device != known_device) {
    cudaFuncAttributes code{};
    known = cudaFuncGetAttributes(&code, kernel) == cudaSuccess && code.ptxVersion >= 90;
    known_device = device;
  }
  return known;
}

// Starts a kernel, where it can wait already before those in front of it have ended. What fails is
// cudaGetLastError's.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const Arguments&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  config.attrs = &early, config.numAttrs = kernels_wait(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
#endif

// How a small kernel begins: the next one may start, and this one waits for those before it.
__device__ __forceinline__ void follow_kernels_before() {
  ptx::let_next_kernel_start();
  ptx::wait_for_kernels_before();
}

// Called at the beginning of a larger kernel and before its last stores: when the next one may start. Where
// each multiprocessor has a block or two, blocks that came early would crowd on a few of them, and the next
// kernel would wait for these. The largest kernels never call it: one ends, then the next one starts.
enum class Phase { begins, ends };
__device__ __forceinline__ void let_next_kernel_start(Phase phase) {
  const uint32_t n_blocks = gridDim.x * gridDim.y * gridDim.z;
  const bool crowds = 2 * n_blocks > kMultiprocessors && n_blocks < 4 * kMultiprocessors;
  if (phase == Phase::ends || !crowds) ptx::let_next_kernel_start();
}

// The block's dynamic shared memory as a kernel's one SharedStorage struct. Uninitialised.
template <typename Storage>
__device__ __forceinline__ Storage& shared_storage() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return *reinterpret_cast<Storage*>(shared_bytes);
#else
  return *static_cast<Storage*>(emulation::shared_memory(sizeof(Storage)));
#endif
}

// How a kernel reads rows of global memory: 16 bytes at once, or element by element when a row may begin
// anywhere. Both read the same values in the same order of use, so the choice never changes a bit.
enum class Access { vector, scalar };

inline constexpr int kVectorBytes = 16;

// Whether every row of a dense matrix begins on 16 bytes.
inline bool has_vector_rows(const void* base, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(base) % kVectorBytes == 0 && row_bytes % kVectorBytes == 0;
}

// How dense rows of n elements are written: columns c and c + 1 at once (c even), or each alone.
inline Access pair_access(const void* base, int64_t n, int64_t element_bytes) {
  const bool aligned = reinterpret_cast<uintptr_t>(base) % static_cast<uintptr_t>(2 * element_bytes) == 0;
  return aligned && n % 2 == 0 ? Access::vector : Access::scalar;
}

inline constexpr int64_t kMaxGrid = 65535;  // in y and z

// The largest m, n and k of a product: room for tile arithmetic past the end.
inline constexpr int64_t kLargestExtent = INT_MAX - 1024;

// Starts a product's kernel, a block per tile of y; its shared memory is more than a launch has unasked.
template <typename Kernel, typename Problem>
int launch_tiles(Stream stream, Kernel kernel, int64_t row_tiles, int64_t column_tiles, int n_threads,
                 size_t shared_bytes, const Problem& problem) {
  if (row_tiles > INT_MAX || column_tiles > kMaxGrid) return cudaErrorInvalidValue;
  const int bytes = static_cast<int>(shared_bytes);
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>(row_tiles), static_cast<unsigned>(column_tiles));
  TUILI_LAUNCH(kernel, grid, n_threads, shared_bytes, stream, problem);
  return cudaGetLastError();
}

// What a product of [m, n] costs in tiles of a shape: those of the multiprocessor that has most. Two at once
// may cost less than twice as much as one.
template <typename Shape>
int64_t cost_of_tiles(int64_t m, int64_t n, int64_t multiprocessors) {
  const int64_t tiles = ceil_div(m, Shape::kTileM) * ceil_div(n, Shape::kTileN);
  const int64_t most = ceil_div(tiles, multiprocessors);
  if constexpr (requires { Shape::kCostOfTwo; })
    return most / 2 * Shape::kCostOfTwo + most % 2 * Shape::kCost;
  return most * Shape::kCost;
}

// launch<Shape>() of the shape that costs least, of equal ones the first.
template <typename Best, typename Next, typename... Others, typename Launch>
int with_cheapest(int64_t m, int64_t n, int64_t multiprocessors, const Launch& launch) {
  const bool keeps = cost_of_tiles<Best>(m, n, multiprocessors) <= cost_of_tiles<Next>(m, n, multiprocessors);
  if constexpr (sizeof...(Others) > 0) {
    return keeps ? with_cheapest<Best, Others...>(m, n, multiprocessors, launch)
                 : with_cheapest<Next, Others...>(m, n, multiprocessors, launch);
  } else {
    return keeps ? launch.template operator()<Best>() : launch.template operator()<Next>();
  }
}

}  // namespace tuili::cuda
