#include <climits>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/rows.cuh"

namespace tuili::cuda {
namespace {

constexpr int64_t kLongest = INT_MAX - kRowThreads;  // room for the step past the end

bool is_too_large(int64_t n_rows, int64_t n) { return n_rows > INT_MAX || n > kLongest; }

// One block of 256 threads per row; 16 KiB of shared memory.
template <typename Out>
int launch_norm(Stream stream, void (*kernel)(NormRows<Out>), const NormArgs& args) {
  if (args.n_rows == 0 || args.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (is_too_large(args.n_rows, args.n) || args.inner < 1 || args.inner > args.n_rows)
    return cudaErrorInvalidValue;
  const NormRows<Out> rows{
      static_cast<Out*>(args.y.data), args.x,  args.addend, args.gain, args.bias, static_cast<int>(args.n),
      static_cast<int>(args.inner),   args.ld, args.eps};
  TUILI_LAUNCH(kernel, static_cast<unsigned>(args.n_rows), kRowThreads, sizeof(RowStorage), stream, rows);
  return cudaGetLastError();
}

// A thread per column.
int launch_columns(Stream stream, void (*kernel)(float*, const float*, int, int), float* y, const float* x,
                   int64_t n_tokens, int64_t n) {
  if (n == 0) return cudaSuccess;
  if (n_tokens < 1 || is_too_large(n_tokens, n) || n_tokens > INT_MAX - 32) return cudaErrorInvalidValue;
  TUILI_LAUNCH(kernel, static_cast<unsigned>((n + kRowThreads - 1) / kRowThreads), kRowThreads, 0, stream, y,
               x, static_cast<int>(n_tokens), static_cast<int>(n));
  return cudaGetLastError();
}

}  // namespace

int rms_norm(Stream stream, const NormArgs& args) {
  if (args.y.dtype == DType::f32) return launch_norm(stream, &rms_norm_kernel<float>, args);
  if (args.y.dtype == DType::bf16) return launch_norm(stream, &rms_norm_kernel<bf16>, args);
  return cudaErrorInvalidValue;
}

int layer_norm(Stream stream, const NormArgs& args) {
  if (args.y.dtype == DType::f32) return launch_norm(stream, &layer_norm_kernel<float>, args);
  if (args.y.dtype == DType::bf16) return launch_norm(stream, &layer_norm_kernel<bf16>, args);
  return cudaErrorInvalidValue;
}

int l2_normalize(Stream stream, float* y, const float* x, int64_t n_rows, int64_t n) {
  if (n_rows == 0 || n == 0) return cudaSuccess;
  if (is_too_large(n_rows, n)) return cudaErrorInvalidValue;
  TUILI_LAUNCH(l2_normalize_kernel, static_cast<unsigned>(n_rows), kRowThreads, sizeof(RowStorage), stream, y,
               x, static_cast<int>(n));
  return cudaGetLastError();
}

int mean_rows(Stream stream, float* y, const float* x, int64_t n_tokens, int64_t n) {
  return launch_columns(stream, &mean_rows_kernel, y, x, n_tokens, n);
}

int weighted_mean_rows(Stream stream, float* y, const float* x, int64_t n_tokens, int64_t n) {
  return launch_columns(stream, &weighted_mean_rows_kernel, y, x, n_tokens, n);
}

int max_rows(Stream stream, float* y, const float* x, int64_t n_tokens, int64_t n) {
  return launch_columns(stream, &max_rows_kernel, y, x, n_tokens, n);
}

template __global__ void rms_norm_kernel(NormRows<float>);
template __global__ void rms_norm_kernel(NormRows<bf16>);
template __global__ void layer_norm_kernel(NormRows<float>);
template __global__ void layer_norm_kernel(NormRows<bf16>);

}  // namespace tuili::cuda
