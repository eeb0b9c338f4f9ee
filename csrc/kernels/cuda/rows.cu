#include <algorithm>
#include <climits>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/rows.cuh"

namespace tuili::cuda {
namespace {

constexpr int64_t kLongest = INT_MAX - kRowThreads;  // room for the step past the end

bool is_too_large(int64_t n_rows, int64_t n) { return n_rows > INT_MAX || n > kLongest; }

constexpr int64_t kManyRows = 4 * kMultiprocessors;  // a warp each keeps a device as busy as a block each

// A block of 128 threads per four rows of at most 32 · kPerLane elements; no shared memory.
template <typename Norm, int kPerLane>
int launch_narrow(Stream stream, const NormRows& rows) {
  const auto n_blocks = static_cast<unsigned>(ceil_div(rows.n_rows, kNarrowWarps));
  TUILI_LAUNCH((&narrow_norm_kernel<Norm, kPerLane>), n_blocks, 32 * kNarrowWarps, 0, stream, rows);
  return cudaGetLastError();
}

// One block of 256 threads per row, and 16 KiB of shared memory, or launch_narrow. The shape decides how
// fast, never which bits.
template <typename Norm>
int launch_norm(Stream stream, const NormArgs& args) {
  if (args.n_rows == 0 || args.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  const bool is_f32 = args.y.dtype == DType::f32;
  if (is_too_large(args.n_rows, args.n) || args.inner < 1 || args.inner > args.n_rows ||
      !(is_f32 || (args.y.dtype == DType::bf16 && args.rounded == nullptr)))
    return cudaErrorInvalidValue;
  const NormRows rows{is_f32 ? static_cast<float*>(args.y.data) : nullptr,
                      is_f32 ? args.rounded : static_cast<bf16*>(args.y.data),
                      args.x,
                      args.addend,
                      args.gain,
                      args.bias,
                      static_cast<int>(args.n_rows),
                      static_cast<int>(args.n),
                      static_cast<int>(args.inner),
                      args.ld,
                      args.eps};
  if (args.n_rows >= kManyRows && args.n_rows <= INT_MAX - kNarrowWarps) {
    if (args.n <= 1024) return launch_narrow<Norm, 32>(stream, rows);
    if (args.n <= 2048) return launch_narrow<Norm, 64>(stream, rows);
  }
  TUILI_LAUNCH(&norm_kernel<Norm>, static_cast<unsigned>(args.n_rows), kRowThreads, sizeof(RowStorage),
               stream, rows);
  return cudaGetLastError();
}

// A block of 256 threads per 32 columns of each text, and 1 KiB of shared memory; 512 texts at once.
int launch_pool(Stream stream, void (*kernel)(PooledTexts), float* y, const float* x,
                std::span<const int32_t> n_rows, int64_t n) {
  if (n == 0 || n > kLongest) return n == 0 ? cudaSuccess : cudaErrorInvalidValue;
  const auto n_blocks = static_cast<unsigned>((n + 31) / 32);
  PooledTexts texts{y, x, static_cast<int>(n), {}};
  while (!n_rows.empty()) {
    const size_t n_texts = std::min(n_rows.size(), size_t{kTextsAtOnce});
    int64_t row = 0;
    for (size_t i = 0; i < n_texts; ++i) {
      row += n_rows[i];
      if (n_rows[i] < 1 || row > INT_MAX - kRowsAhead * kRowWarps) return cudaErrorInvalidValue;
      texts.first_row[i + 1] = static_cast<int>(row);
    }
    TUILI_LAUNCH(kernel, dim3(n_blocks, static_cast<unsigned>(n_texts)), kRowThreads, sizeof(PoolStorage),
                 stream, texts);
    if (const int status = cudaGetLastError()) return status;
    texts.y += static_cast<int64_t>(n_texts) * n;
    texts.x += row * n;
    n_rows = n_rows.subspan(n_texts);
  }
  return cudaSuccess;
}

}  // namespace

int rms_norm(Stream stream, const NormArgs& args) { return launch_norm<RmsNorm>(stream, args); }
int layer_norm(Stream stream, const NormArgs& args) { return launch_norm<LayerNorm>(stream, args); }

int l2_normalize(Stream stream, float* y, const float* x, int64_t n_rows, int64_t n) {
  if (n_rows == 0 || n == 0) return cudaSuccess;
  if (is_too_large(n_rows, n)) return cudaErrorInvalidValue;
  TUILI_LAUNCH(l2_normalize_kernel, static_cast<unsigned>(n_rows), kRowThreads, sizeof(RowStorage), stream, y,
               x, static_cast<int>(n));
  return cudaGetLastError();
}

int mean_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n) {
  return launch_pool(stream, &pool_kernel<Mean>, y, x, n_rows, n);
}

int weighted_mean_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n) {
  return launch_pool(stream, &pool_kernel<WeightedMean>, y, x, n_rows, n);
}

int max_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n) {
  return launch_pool(stream, &pool_kernel<Largest>, y, x, n_rows, n);
}

template __global__ void pool_kernel<Mean>(PooledTexts);
template __global__ void pool_kernel<WeightedMean>(PooledTexts);
template __global__ void pool_kernel<Largest>(PooledTexts);
template __global__ void norm_kernel<RmsNorm>(NormRows);
template __global__ void norm_kernel<LayerNorm>(NormRows);
template __global__ void narrow_norm_kernel<RmsNorm, 32>(NormRows);
template __global__ void narrow_norm_kernel<RmsNorm, 64>(NormRows);
template __global__ void narrow_norm_kernel<LayerNorm, 32>(NormRows);
template __global__ void narrow_norm_kernel<LayerNorm, 64>(NormRows);

}  // namespace tuili::cuda
