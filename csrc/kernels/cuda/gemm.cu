#include <climits>

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

constexpr int64_t kLargest = INT_MAX - 1024;  // room for tile arithmetic past the end

// One block of 128 or 256 threads per tile of y; 60 to 96 KiB of shared memory, for which the device must be
// asked.
template <typename Shape>
int launch_gemm(Stream stream, const GemmProblem& problem) {
  const int64_t row_bytes = problem.k * static_cast<int64_t>(sizeof(bf16));
  const bool vector = has_vector_rows(problem.x, row_bytes) && has_vector_rows(problem.w, row_bytes);
  const auto kernel = vector ? &gemm_kernel<Shape, Access::vector> : &gemm_kernel<Shape, Access::scalar>;
  const dim3 grid(static_cast<unsigned>((problem.m + Shape::kTileM - 1) / Shape::kTileM),
                  static_cast<unsigned>((problem.n + Shape::kTileN - 1) / Shape::kTileN));
  constexpr size_t kBytes = sizeof(typename Shape::Storage);
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes});
  if (status != cudaSuccess) return status;
  TUILI_LAUNCH(kernel, grid, Shape::kThreads, kBytes, stream, problem);
  return cudaGetLastError();
}

}  // namespace

// The shape decides how fast, never which bits.
int gemm(Stream stream, const GemmArgs& args) {
  if (args.m == 0 || args.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (args.m > kLargest || args.n > kLargest || args.k > kLargest || args.multiprocessors < 1)
    return cudaErrorInvalidValue;
  const GemmProblem problem{args.y,
                            args.x,
                            args.w,
                            args.bias,
                            static_cast<int>(args.m),
                            static_cast<int>(args.n),
                            static_cast<int>(args.k),
                            pair_access(args.y, args.n, sizeof(float))};
  if (args.m <= FewGemm::kTileM) return launch_gemm<FewGemm>(stream, problem);
  if (args.m <= SlimGemm::kTileM) return launch_gemm<SlimGemm>(stream, problem);
  return with_cheapest<HugeGemm, WideGemm, BroadGemm, SquareGemm, TallGemm>(
      args.m, args.n, args.multiprocessors,
      [&]<typename Shape>() { return launch_gemm<Shape>(stream, problem); });
}

#define TUILI_GEMM(Shape)                                                   \
  template __global__ void gemm_kernel<Shape, Access::vector>(GemmProblem); \
  template __global__ void gemm_kernel<Shape, Access::scalar>(GemmProblem);
TUILI_GEMM(HugeGemm)
TUILI_GEMM(WideGemm)
TUILI_GEMM(BroadGemm)
TUILI_GEMM(SquareGemm)
TUILI_GEMM(TallGemm)
TUILI_GEMM(SlimGemm)
TUILI_GEMM(FewGemm)
#undef TUILI_GEMM

}  // namespace tuili::cuda
