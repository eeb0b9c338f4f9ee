#include <climits>

#include "kernels/cuda/distances.cuh"

namespace tuili::cuda {

// A block of 128 threads per row and head; no shared memory.
int distance_bias(Stream stream, const DistanceArgs& args) {
  if (args.n_sequences == 0 || args.max_rows == 0 || args.n_heads == 0) return cudaSuccess;
  constexpr int64_t kMaxGrid = 65535;  // in y and z
  const bool fits = args.max_rows <= INT_MAX && args.n_heads <= kMaxGrid && args.n_sequences <= kMaxGrid &&
                    args.n_tokens * args.ld_bias <= INT_MAX;
  const bool has_rows = args.head_dim % 8 == 0 && has_vector_rows(args.q, args.ld * int64_t{sizeof(float)}) &&
                        has_vector_rows(args.k, args.ld * int64_t{sizeof(float)}) &&
                        has_vector_rows(args.keys, args.head_dim * 2) &&
                        has_vector_rows(args.queries, args.head_dim * 2);
  if (!fits) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.max_rows), static_cast<unsigned>(args.n_heads),
                  static_cast<unsigned>(args.n_sequences));
  const auto kernel = has_rows ? distance_bias_kernel<Access::vector> : distance_bias_kernel<Access::scalar>;
  TUILI_LAUNCH(kernel, grid, kDistanceThreads, 0, stream, args);
  return cudaGetLastError();
}

}  // namespace tuili::cuda
