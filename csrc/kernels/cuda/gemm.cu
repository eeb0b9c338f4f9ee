#include <climits>

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

constexpr int64_t kLargest = INT_MAX - 1024;  // room for tile arithmetic past the end

// One block of 128 threads per tile of y; 40 to 96 KiB of shared memory, for which the device must be asked.
template <typename Shape, typename Out>
int launch_gemm(Stream stream, const GemmProblem<Out>& problem) {
  const int64_t row_bytes = problem.k * static_cast<int64_t>(sizeof(bf16));
  const bool vector = has_vector_rows(problem.x, row_bytes) && has_vector_rows(problem.w, row_bytes);
  const auto kernel =
      vector ? &gemm_kernel<Shape, Access::vector, Out> : &gemm_kernel<Shape, Access::scalar, Out>;
  const dim3 grid(static_cast<unsigned>((problem.m + Shape::kTileM - 1) / Shape::kTileM),
                  static_cast<unsigned>((problem.n + Shape::kTileN - 1) / Shape::kTileN));
  constexpr size_t kBytes = sizeof(typename Shape::Storage);
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes});
  if (status != cudaSuccess) return status;
  TUILI_LAUNCH(kernel, grid, kGemmThreads, kBytes, stream, problem);
  return cudaGetLastError();
}

// The shape decides how fast, never which bits.
template <typename Out>
int launch_for_rows(Stream stream, const GemmArgs& args) {
  const GemmProblem<Out> problem{static_cast<Out*>(args.y.data),
                                 args.x,
                                 args.w,
                                 args.bias,
                                 static_cast<int>(args.m),
                                 static_cast<int>(args.n),
                                 static_cast<int>(args.k),
                                 pair_access(args.y.data, args.n, sizeof(Out))};
  if (args.m <= FewGemm::kTileM) return launch_gemm<FewGemm>(stream, problem);
  if (args.m <= SlimGemm::kTileM) return launch_gemm<SlimGemm>(stream, problem);
  if (args.m <= TallGemm::kTileM) return launch_gemm<TallGemm>(stream, problem);
  return launch_gemm<WideGemm>(stream, problem);
}

}  // namespace

int gemm(Stream stream, const GemmArgs& args) {
  if (args.m == 0 || args.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (args.m > kLargest || args.n > kLargest || args.k > kLargest) return cudaErrorInvalidValue;
  if (args.y.dtype == DType::f32) return launch_for_rows<float>(stream, args);
  if (args.y.dtype == DType::bf16) return launch_for_rows<bf16>(stream, args);
  return cudaErrorInvalidValue;
}

#define TUILI_GEMM(Shape, Out)                                                   \
  template __global__ void gemm_kernel<Shape, Access::vector>(GemmProblem<Out>); \
  template __global__ void gemm_kernel<Shape, Access::scalar>(GemmProblem<Out>);
TUILI_GEMM(WideGemm, float)
TUILI_GEMM(WideGemm, bf16)
TUILI_GEMM(TallGemm, float)
TUILI_GEMM(TallGemm, bf16)
TUILI_GEMM(SlimGemm, float)
TUILI_GEMM(SlimGemm, bf16)
TUILI_GEMM(FewGemm, float)
TUILI_GEMM(FewGemm, bf16)
#undef TUILI_GEMM

}  // namespace tuili::cuda
