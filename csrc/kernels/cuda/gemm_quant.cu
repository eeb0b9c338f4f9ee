#include "kernels/cuda/gemm_quant.cuh"
#include "kernels/cuda/gemm_skinny.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

template <typename Shape, typename Kernel, typename Problem>
int launch_gemm(Stream stream, Kernel kernel, int m, int64_t column_tiles, const Problem& problem) {
  return launch_tiles(stream, kernel, ceil_div(m, Shape::kTileM), column_tiles, kQuantThreads,
                      sizeof(typename Shape::Storage), problem);
}

template <typename Shape>
int launch_wide(Stream stream, const QuantProblem& problem) {
  const int64_t tiles = Together<QuantProblem>::tiles_of<Shape>(problem);
  return launch_gemm<Shape>(stream, &gemm_quant_kernel<Shape>, problem.m, tiles, problem);
}
template <typename Shape>
int launch_skinny(Stream stream, const Together<QuantProblem>& products) {
  return launch_gemm<Shape>(stream, &gemm_skinny_kernel<Shape>, products.of[0].m, products.n_tiles<Shape>(),
                            products);
}

// The shape decides how fast, never which bits. `n`: all columns.
template <Format kFormat>
int launch_for_rows(Stream stream, const Together<QuantProblem>& products, int64_t n,
                    int64_t multiprocessors) {
  const int m = products.of[0].m;
  if (m <= FewQuant<kFormat>::kTileM) return launch_skinny<FewQuant<kFormat>>(stream, products);
  if constexpr (!QuantFormat<kFormat>::kHasMin) {
    if (m <= BroadQuant<kFormat>::kTileM && n >= kBroadN)
      return launch_skinny<BroadQuant<kFormat>>(stream, products);
  }
  if (m <= SlimQuant<kFormat>::kTileM) return launch_skinny<SlimQuant<kFormat>>(stream, products);
  return with_cheapest<WideQuant<kFormat>, SquareQuant<kFormat>, TallQuant<kFormat>>(
      m, n, multiprocessors, [&]<typename Shape>() { return launch_wide<Shape>(stream, products.of[0]); });
}

}  // namespace

int gemm(Stream stream, std::span<const QuantizedGemmArgs> products) {
  if (!are_together(products)) return cudaErrorInvalidValue;
  const QuantizedGemmArgs& first = products[0];
  Together<QuantProblem> problems{};
  int64_t n = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const QuantizedGemmArgs& args = products[i];
    if (args.x != first.x || args.m != first.m || args.w.k != first.w.k || args.w.format != first.w.format ||
        args.m > kLargestExtent || args.w.n > kLargestExtent || args.w.k > kLargestExtent ||
        args.w.k % kGroupK != 0 || args.multiprocessors < 1 ||
        !has_vector_rows(args.x, args.w.k * static_cast<int64_t>(sizeof(bf16))))
      return cudaErrorInvalidValue;
    n += args.w.n;
    problems.of[i] = {.y = args.y,
                      .x = args.x,
                      .w = args.w.codes,
                      .bias = args.bias,
                      .m = static_cast<int>(args.m),
                      .n = static_cast<int>(args.w.n),
                      .k = static_cast<int>(args.w.k)};
  }
  if (first.m == 0 || n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  const int64_t multiprocessors = first.multiprocessors;
  switch (first.w.format) {
    case Format::q8_0: return launch_for_rows<Format::q8_0>(stream, problems, n, multiprocessors);
    case Format::q4_0: return launch_for_rows<Format::q4_0>(stream, problems, n, multiprocessors);
    case Format::q4_1: return launch_for_rows<Format::q4_1>(stream, problems, n, multiprocessors);
    case Format::q5_0: return launch_for_rows<Format::q5_0>(stream, problems, n, multiprocessors);
    case Format::q5_1: return launch_for_rows<Format::q5_1>(stream, problems, n, multiprocessors);
    case Format::q4_k: return launch_for_rows<Format::q4_k>(stream, problems, n, multiprocessors);
    case Format::q5_k: return launch_for_rows<Format::q5_k>(stream, problems, n, multiprocessors);
    case Format::q6_k: return launch_for_rows<Format::q6_k>(stream, problems, n, multiprocessors);
    default: return cudaErrorInvalidValue;
  }
}

#define TUILI_GEMM(format)                                                               \
  template __global__ void gemm_quant_kernel<WideQuant<Format::format>>(QuantProblem);   \
  template __global__ void gemm_quant_kernel<SquareQuant<Format::format>>(QuantProblem); \
  template __global__ void gemm_quant_kernel<TallQuant<Format::format>>(QuantProblem);   \
  template __global__ void gemm_skinny_kernel<SlimQuant<Format::format>>(                \
      const __grid_constant__ Together<QuantProblem>);                                   \
  template __global__ void gemm_skinny_kernel<FewQuant<Format::format>>(                 \
      const __grid_constant__ Together<QuantProblem>);
TUILI_QUANT_FORMATS(TUILI_GEMM)
#undef TUILI_GEMM

#define TUILI_GEMM(format)                                                 \
  template __global__ void gemm_skinny_kernel<BroadQuant<Format::format>>( \
      const __grid_constant__ Together<QuantProblem>);
TUILI_GEMM(q8_0)
TUILI_GEMM(q4_0)
TUILI_GEMM(q5_0)
TUILI_GEMM(q6_k)
#undef TUILI_GEMM

}  // namespace tuili::cuda
