#include <climits>

#include "kernels/cuda/gemm_quant.cuh"
#include "kernels/cuda/gemm_skinny.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

constexpr int64_t kLargest = INT_MAX - 1024;  // room for tile arithmetic past the end

// One block of 128 threads per tile of y; up to 100 KiB of shared memory, for which the device must be asked.
template <typename Shape, typename Kernel>
int launch_gemm(Stream stream, Kernel kernel, const QuantProblem& problem) {
  const dim3 grid(static_cast<unsigned>((problem.m + Shape::kTileM - 1) / Shape::kTileM),
                  static_cast<unsigned>((problem.n + Shape::kTileN - 1) / Shape::kTileN));
  constexpr size_t kBytes = sizeof(typename Shape::Storage);
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes});
  if (status != cudaSuccess) return status;
  TUILI_LAUNCH(kernel, grid, kQuantThreads, kBytes, stream, problem);
  return cudaGetLastError();
}

template <typename Shape>
int launch_wide(Stream stream, const QuantProblem& problem) {
  return launch_gemm<Shape>(stream, &gemm_quant_kernel<Shape>, problem);
}
template <typename Shape>
int launch_skinny(Stream stream, const QuantProblem& problem) {
  return launch_gemm<Shape>(stream, &gemm_skinny_kernel<Shape>, problem);
}

// The shape decides how fast, never which bits.
template <Format kFormat>
int launch_for_rows(Stream stream, const QuantProblem& problem, int64_t multiprocessors) {
  if (problem.m <= FewQuant<kFormat>::kTileM) return launch_skinny<FewQuant<kFormat>>(stream, problem);
  if constexpr (!QuantFormat<kFormat>::kHasMin) {
    if (problem.m <= BroadQuant<kFormat>::kTileM && problem.n >= kBroadN)
      return launch_skinny<BroadQuant<kFormat>>(stream, problem);
  }
  if (problem.m <= SlimQuant<kFormat>::kTileM) return launch_skinny<SlimQuant<kFormat>>(stream, problem);
  return with_cheapest<WideQuant<kFormat>, SquareQuant<kFormat>, TallQuant<kFormat>>(
      problem.m, problem.n, multiprocessors,
      [&]<typename Shape>() { return launch_wide<Shape>(stream, problem); });
}

}  // namespace

int gemm(Stream stream, const QuantizedGemmArgs& args) {
  const PackedMatrix& w = args.w;
  if (args.m == 0 || w.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (args.m > kLargest || w.n > kLargest || w.k > kLargest || w.k % kGroupK != 0 ||
      args.multiprocessors < 1 || !has_vector_rows(args.x, w.k * static_cast<int64_t>(sizeof(bf16))))
    return cudaErrorInvalidValue;
  const int64_t multiprocessors = args.multiprocessors;
  const QuantProblem problem{.y = args.y,
                             .x = args.x,
                             .w = w.codes,
                             .bias = args.bias,
                             .m = static_cast<int>(args.m),
                             .n = static_cast<int>(w.n),
                             .k = static_cast<int>(w.k)};
  switch (w.format) {
    case Format::q8_0: return launch_for_rows<Format::q8_0>(stream, problem, multiprocessors);
    case Format::q4_0: return launch_for_rows<Format::q4_0>(stream, problem, multiprocessors);
    case Format::q4_1: return launch_for_rows<Format::q4_1>(stream, problem, multiprocessors);
    case Format::q5_0: return launch_for_rows<Format::q5_0>(stream, problem, multiprocessors);
    case Format::q5_1: return launch_for_rows<Format::q5_1>(stream, problem, multiprocessors);
    case Format::q4_k: return launch_for_rows<Format::q4_k>(stream, problem, multiprocessors);
    case Format::q5_k: return launch_for_rows<Format::q5_k>(stream, problem, multiprocessors);
    case Format::q6_k: return launch_for_rows<Format::q6_k>(stream, problem, multiprocessors);
    default: return cudaErrorInvalidValue;
  }
}

#define TUILI_GEMM(format)                                                               \
  template __global__ void gemm_quant_kernel<WideQuant<Format::format>>(QuantProblem);   \
  template __global__ void gemm_quant_kernel<SquareQuant<Format::format>>(QuantProblem); \
  template __global__ void gemm_quant_kernel<TallQuant<Format::format>>(QuantProblem);   \
  template __global__ void gemm_skinny_kernel<SlimQuant<Format::format>>(QuantProblem);  \
  template __global__ void gemm_skinny_kernel<FewQuant<Format::format>>(QuantProblem);
TUILI_QUANT_FORMATS(TUILI_GEMM)
#undef TUILI_GEMM

#define TUILI_GEMM(format) \
  template __global__ void gemm_skinny_kernel<BroadQuant<Format::format>>(QuantProblem);
TUILI_GEMM(q8_0)
TUILI_GEMM(q4_0)
TUILI_GEMM(q5_0)
TUILI_GEMM(q6_k)
#undef TUILI_GEMM

}  // namespace tuili::cuda
