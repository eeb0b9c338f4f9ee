#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

template <typename Shape>
int launch_gemm(Stream stream, const Together<GemmProblem>& products, Access loads) {
  const auto kernel = loads == Access::vector ? &gemm_kernel<Shape, Access::vector>  //
                                              : &gemm_kernel<Shape, Access::scalar>;
  const int64_t row_tiles = ceil_div(products.of[0].m, Shape::kTileM);
  return launch_tiles(stream, kernel, row_tiles, products.n_tiles<Shape>(), Shape::kThreads,
                      sizeof(typename Shape::Storage), products);
}

}  // namespace

// The shape decides how fast, never which bits.
int gemm(Stream stream, std::span<const GemmArgs> products) {
  if (!are_together(products)) return cudaErrorInvalidValue;
  const GemmArgs& first = products[0];
  Together<GemmProblem> problems{};
  Access loads = Access::vector;
  int64_t all_n = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const GemmArgs& args = products[i];
    if (args.x != first.x || args.m != first.m || args.k != first.k || args.m > kLargestExtent ||
        args.n > kLargestExtent || args.k > kLargestExtent || args.multiprocessors < 1)
      return cudaErrorInvalidValue;
    const int64_t row_bytes = args.k * static_cast<int64_t>(sizeof(bf16));
    if (!has_vector_rows(args.x, row_bytes) || !has_vector_rows(args.w, row_bytes)) loads = Access::scalar;
    all_n += args.n;
    problems.of[i] = {args.y,
                      args.x,
                      args.w,
                      args.bias,
                      static_cast<int>(args.m),
                      static_cast<int>(args.n),
                      static_cast<int>(args.k),
                      pair_access(args.y, args.n, sizeof(float))};
  }
  if (first.m == 0 || all_n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (first.m <= FewGemm::kTileM) return launch_gemm<FewGemm>(stream, problems, loads);
  if (first.m <= SlimGemm::kTileM) return launch_gemm<SlimGemm>(stream, problems, loads);
  return with_cheapest<HugeGemm, WideGemm, BroadGemm, SquareGemm, TallGemm>(
      first.m, first.n, first.multiprocessors,
      [&]<typename Shape>() { return launch_gemm<Shape>(stream, problems, loads); });
}

#define TUILI_GEMM(Shape)                                      \
  template __global__ void gemm_kernel<Shape, Access::vector>( \
      const __grid_constant__ Together<GemmProblem>);          \
  template __global__ void gemm_kernel<Shape, Access::scalar>(const __grid_constant__ Together<GemmProblem>);
TUILI_GEMM(HugeGemm)
TUILI_GEMM(WideGemm)
TUILI_GEMM(BroadGemm)
TUILI_GEMM(SquareGemm)
TUILI_GEMM(TallGemm)
TUILI_GEMM(SlimGemm)
TUILI_GEMM(FewGemm)
#undef TUILI_GEMM

}  // namespace tuili::cuda
