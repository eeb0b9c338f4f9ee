#include <climits>

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

// One block of 128 threads per 64 × 128 tile of y; 45 KiB of shared memory.
template <typename Out>
int launch_gemm(Stream stream, Out* y, const bf16* x, const bf16* w, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0) return cudaSuccess;                 // a launch of zero blocks is an error
  constexpr int64_t kLargest = INT_MAX - kStages * kTileN;  // room for tile arithmetic past the end
  if (m > kLargest || n > kLargest || k > kLargest) return cudaErrorInvalidValue;
  const int64_t row_bytes = k * static_cast<int64_t>(sizeof(bf16));
  const bool vector = has_vector_rows(x, row_bytes) && has_vector_rows(w, row_bytes);
  const auto kernel = vector ? &gemm_kernel<Access::vector, Out> : &gemm_kernel<Access::scalar, Out>;
  const dim3 grid(static_cast<unsigned>((m + kTileM - 1) / kTileM),
                  static_cast<unsigned>((n + kTileN - 1) / kTileN));
  TUILI_LAUNCH(kernel, grid, kGemmThreads, sizeof(GemmStorage), stream, y, x, w, static_cast<int>(m),
               static_cast<int>(n), static_cast<int>(k));
  return cudaGetLastError();
}

}  // namespace

int gemm(Stream stream, float* y, const bf16* x, const bf16* w, int64_t m, int64_t n, int64_t k) {
  return launch_gemm(stream, y, x, w, m, n, k);
}

int gemm(Stream stream, bf16* y, const bf16* x, const bf16* w, int64_t m, int64_t n, int64_t k) {
  return launch_gemm(stream, y, x, w, m, n, k);
}

template __global__ void gemm_kernel<Access::vector>(float*, const bf16*, const bf16*, int, int, int);
template __global__ void gemm_kernel<Access::scalar>(float*, const bf16*, const bf16*, int, int, int);
template __global__ void gemm_kernel<Access::vector>(bf16*, const bf16*, const bf16*, int, int, int);
template __global__ void gemm_kernel<Access::scalar>(bf16*, const bf16*, const bf16*, int, int, int);

}  // namespace tuili::cuda
