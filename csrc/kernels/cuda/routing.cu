#include <climits>

#include "kernels/cuda/routing.cuh"

namespace tuili::cuda {

// A block of one warp per token; 16 KiB of shared memory.
int route(Stream stream, const RouteArgs& args) {
  if (args.n_tokens == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (args.n_tokens > INT_MAX || args.n_experts > kMostExperts || args.n_used < 1 ||
      args.n_used > args.n_experts || args.n_groups < 1 || args.n_experts % args.n_groups != 0)
    return cudaErrorInvalidValue;
  TUILI_LAUNCH(route_kernel, static_cast<unsigned>(args.n_tokens), 32, sizeof(RouteStorage), stream, args);
  return cudaGetLastError();
}

// A block of 256 threads per expert; 64 bytes of shared memory.
int sort_by_expert(Stream stream, int32_t* places, int32_t* first, const int32_t* experts, int64_t n,
                   int64_t n_experts) {
  if (n_experts == 0) return cudaSuccess;
  if (n > INT_MAX - kSortThreads || n_experts > kMostExperts) return cudaErrorInvalidValue;
  TUILI_LAUNCH(sort_by_expert_kernel, static_cast<unsigned>(n_experts), kSortThreads, sizeof(SortStorage),
               stream, places, first, experts, static_cast<int>(n));
  return cudaGetLastError();
}

}  // namespace tuili::cuda
