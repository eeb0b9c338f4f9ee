#include <climits>

#include "kernels/cuda/convolution.cuh"

namespace tuili::cuda {

// A block of 128 threads per row of a text; no shared memory.
int gather_taps(Stream stream, const TapArgs& args) {
  if (args.n_texts == 0 || args.max_rows == 0 || args.d == 0) return cudaSuccess;
  if (args.n_texts > kMaxGrid || args.max_rows > INT_MAX || args.n_taps < 1 || args.d > INT_MAX / args.n_taps)
    return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.max_rows), static_cast<unsigned>(args.n_texts));
  TUILI_LAUNCH(gather_taps_kernel, grid, kTapThreads, 0, stream, args.y, args.x, args.texts,
               static_cast<int>(args.d), static_cast<int>(args.n_taps));
  return cudaGetLastError();
}

}  // namespace tuili::cuda
