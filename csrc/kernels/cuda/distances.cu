#include <climits>

#include "kernels/cuda/distances.cuh"

namespace tuili::cuda {

// A block of 128 threads per tile of 32 rows × 64 keys and head; 30.7 KiB of shared memory.
int distance_bias(Stream stream, const DistanceArgs& args) {
  if (args.n_sequences == 0 || args.max_rows == 0 || args.n_heads == 0) return cudaSuccess;
  const int64_t row_tiles = ceil_div(args.max_rows, kTileRows);
  const int64_t key_tiles = ceil_div(args.ld_bias, kTileKeys);
  const bool fits = args.max_rows <= INT_MAX && args.n_heads <= kMaxGrid && args.n_sequences <= kMaxGrid &&
                    args.ld_bias <= INT_MAX && row_tiles * key_tiles <= INT_MAX;
  const bool has_rows = args.head_dim % 8 == 0 && has_vector_rows(args.q, args.ld * int64_t{sizeof(float)}) &&
                        has_vector_rows(args.k, args.ld * int64_t{sizeof(float)}) &&
                        has_vector_rows(args.keys, args.head_dim * 2) &&
                        has_vector_rows(args.queries, args.head_dim * 2);
  if (!fits) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(row_tiles * key_tiles), static_cast<unsigned>(args.n_heads),
                  static_cast<unsigned>(args.n_sequences));
  const auto kernel = has_rows ? distance_bias_kernel<Access::vector> : distance_bias_kernel<Access::scalar>;
  TUILI_LAUNCH(kernel, grid, kDistanceThreads, sizeof(DistanceStorage), stream, args,
               static_cast<int>(key_tiles));
  return cudaGetLastError();
}

}  // namespace tuili::cuda
