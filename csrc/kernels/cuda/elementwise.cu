#include <climits>

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

// One block of 256 threads per token; 32 bytes of shared memory.
template <typename T>
int launch_rms_norm(Stream stream, T* y, const T* x, const float* gain, int64_t n_tokens, int64_t d_model,
                    float eps) {
  if (n_tokens == 0 || d_model == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (n_tokens > INT_MAX || d_model > INT_MAX - kRowThreads * kRowGroup) return cudaErrorInvalidValue;
  const int64_t row_bytes = d_model * static_cast<int64_t>(sizeof(T));
  const bool vector = d_model % kRowGroup == 0 && has_vector_rows(x, row_bytes) &&
                      has_vector_rows(y, row_bytes) && has_vector_rows(gain, 0);
  const auto kernel = vector ? &rms_norm_kernel<Access::vector, T> : &rms_norm_kernel<Access::scalar, T>;
  TUILI_LAUNCH(kernel, static_cast<unsigned>(n_tokens), kRowThreads, sizeof(RowStorage), stream, y, x, gain,
               static_cast<int>(d_model), eps);
  return cudaGetLastError();
}

}  // namespace

int rms_norm(Stream stream, float* y, const float* x, const float* gain, int64_t n_tokens, int64_t d_model,
             float eps) {
  return launch_rms_norm(stream, y, x, gain, n_tokens, d_model, eps);
}

int rms_norm(Stream stream, bf16* y, const bf16* x, const float* gain, int64_t n_tokens, int64_t d_model,
             float eps) {
  return launch_rms_norm(stream, y, x, gain, n_tokens, d_model, eps);
}

template __global__ void rms_norm_kernel<Access::vector>(float*, const float*, const float*, int, float);
template __global__ void rms_norm_kernel<Access::scalar>(float*, const float*, const float*, int, float);
template __global__ void rms_norm_kernel<Access::vector>(bf16*, const bf16*, const float*, int, float);
template __global__ void rms_norm_kernel<Access::scalar>(bf16*, const bf16*, const float*, int, float);

}  // namespace tuili::cuda
