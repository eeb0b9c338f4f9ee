// The CUDA emulator: runs kernels of csrc/kernels/cuda on the CPU, thread by thread, to show that they are
// correct.
//
// Every CUDA thread is a fiber (fiber.h). Fibers of a block run one at a time and give way only when they
// wait for others: in a warp collective, which is always `warp_op`, or at a barrier. Which one runs next is
// drawn from a seed, so a race that the device would lose once a year is lost here in most of a few dozen
// seeds, and again with the same seed. Blocks run one after another in a shuffled order; launches complete
// before they return.
//
// Reported, with launch, block, thread and source line: deadlock; a mask that lacks the caller, names an
// exited lane or one outside the block; lanes that meet at different collectives or with different masks; a
// barrier that a thread never reaches; shared memory used past its end; misaligned vector accesses to it.
// Shared memory begins as NaN. A copy of cp.async lands at a random moment before its wait.
//
// A trace build (hooks.cc) sees every access besides: it reports races on shared and global memory, reads of
// shared memory that nobody wrote, copies that nobody waited for, and addresses beside an allocation; it
// counts bank conflicts and sectors; and threads may give way at any access.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

struct CUstream_st;

struct uint3 {
  unsigned x, y, z;
};

struct alignas(8) uint2 {
  unsigned x, y;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct alignas(8) float2 {
  float x, y;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace tuili::emulation {

using Place = std::source_location;

inline constexpr int kWarpSize = 32;
inline constexpr uint32_t kFullWarp = 0xffffffffu;

// The arguments of the lanes that meet in a collective, by lane; null for lanes outside the mask.
template <typename Args>
using Lanes = std::array<Args*, kWarpSize>;

// ---- for tests

// Restarts the random choices of this host thread. The same seed gives the same schedule.
void set_seed(uint64_t seed);

// How many blocks of a grid run, evenly spread over it; 0, as at first: all. The rest is counted as if it had
// run, too.
void set_sample(int64_t n_blocks);

// What the last failed launch of this host thread did wrong; empty before the first.
const std::string& last_report();

// How the tensor cores add (MMA-Sim): `terms` products at once, `fraction_bits` kept below the largest
// exponent.
struct TensorCore {
  int terms;
  int fraction_bits;
};
inline constexpr TensorCore kAmpere{8, 24};
inline constexpr TensorCore kHopper{16, 25};
void set_tensor_core(TensorCore model);  // of this host thread; kAmpere at first

// ---- for launch.h

// Runs `body` in every thread of the grid, later if it is recorded (recording.h). What goes wrong is
// cudaGetLastError's next result, as on the device; reports name the kernel by the line that launched it.
void launch(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream,
            const std::function<void()>& body, const Place& place = Place::current());

// The block's dynamic shared memory, which must hold `bytes`.
void* shared_memory(size_t bytes);

// cudaFuncSetAttribute for the next launch: without it, shared memory is limited to 48 KiB.
void allow_shared_bytes(size_t bytes);

// ---- for ptx.cuh and the stand-ins of CUDA's functions

// Waits for every lane of the mask to come here. The last one gets the arguments of all, must act on them and
// then release the others; these get null when they wake.
void* const* arrive(uint32_t mask, void* args, const Place& place);
void release(uint32_t mask);

// What the lanes of the mask did before comes before all they do next: of the collectives, __syncwarp alone
// promises that. Called between `arrive` and `release`.
void order_warp(uint32_t mask);

// The one collective: each lane of the mask parks here with its arguments, and the last to come runs fn over
// all.
template <typename Args, typename Fn>
void warp_op(uint32_t mask, Args& args, Fn fn, const Place& place = Place::current()) {
  void* const* parked = arrive(mask, &args, place);
  if (parked == nullptr) return;
  Lanes<Args> lanes;
  for (int lane = 0; lane < kWarpSize; ++lane) lanes[lane] = static_cast<Args*>(parked[lane]);
  fn(lanes);
  release(mask);
}

// __syncthreads: waits for every thread of the block.
void barrier(const Place& place);

// `pointer` when `bytes` from it lie in the block's shared memory and it is aligned; reports otherwise.
const void* checked_shared(const void* pointer, size_t bytes, size_t alignment);

// cp.async and its groups.
void copy_async(void* shared, const void* global, int bytes, int source_bytes);
void commit_copies();
void wait_copies(int n_pending);

// c + Σ a[i] · b[i] over n pairs of halves, as the tensor cores of `set_tensor_core` add.
enum class HalfType { bf16, f16 };
template <HalfType kType>
float tensor_core_dot(float c, const uint16_t* a, const uint16_t* b, int n);

// "file.cu:17"
std::string text(const Place& place);

// cudaGetLastError and cudaGetErrorString.
int take_last_error();
const char* error_string(int status);

}  // namespace tuili::emulation

// CUDA's built-in variables, set before a fiber runs.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local uint3 blockDim;
extern constinit thread_local uint3 gridDim;
