#include <algorithm>

#include "kernels/cuda/gemm_experts.cuh"

namespace tuili::cuda {
namespace {

// A block for each tile of y that there can be.
template <typename Shape, typename Storage, typename Kernel>
int launch(Stream stream, Kernel kernel, const ExpertProblem& problem, int64_t n_rows) {
  const int64_t n_started = std::min<int64_t>(n_rows, problem.n_experts);  // experts that have a row
  const int64_t row_tiles = n_started + (n_rows - n_started) / Shape::kTileM;
  const int64_t column_tiles = ceil_div(problem.n, Shape::kTileN);
  return launch_tiles(stream, kernel, row_tiles, column_tiles, kTileThreads, sizeof(Storage), problem);
}

template <typename Shape>
int launch_dense(Stream stream, const ExpertProblem& problem, int64_t n_rows) {
  const bool vector = problem.k * sizeof(bf16) % kVectorBytes == 0;
  return launch<Shape, ExpertStorage<Shape>>(
      stream,
      vector ? &gemm_experts_kernel<Shape, Access::vector> : &gemm_experts_kernel<Shape, Access::scalar>,
      problem, n_rows);
}

template <typename Shape>
int launch_quant(Stream stream, const ExpertProblem& problem, int64_t n_rows) {
  return launch<Shape, ExpertStorage<Shape>>(stream, &gemm_quant_experts_kernel<Shape>, problem, n_rows);
}
template <typename Shape>
int launch_skinny(Stream stream, const ExpertProblem& problem, int64_t n_rows) {
  return launch<Shape, typename Shape::Storage>(stream, &gemm_skinny_experts_kernel<Shape>, problem, n_rows);
}

// The shape, chosen for what an expert has of the rows on average, decides how fast, never which bits.
int launch_for_rows(Stream stream, const ExpertProblem& problem, int64_t n_rows) {
  const int64_t n_each = n_rows / problem.n_experts;
  if (n_each <= SlimGemm::kTileM) return launch_dense<SlimGemm>(stream, problem, n_rows);
  if (n_each <= SquareGemm::kTileM) return launch_dense<SquareGemm>(stream, problem, n_rows);
  return launch_dense<WideGemm>(stream, problem, n_rows);
}

template <Format kFormat>
int launch_for_rows(Stream stream, const ExpertProblem& problem, int64_t n_rows) {
  const int64_t n_each = n_rows / problem.n_experts;
  if (n_each <= FewQuant<kFormat>::kTileM) return launch_skinny<FewQuant<kFormat>>(stream, problem, n_rows);
  if (n_each <= TallQuant<kFormat>::kTileM) return launch_quant<TallQuant<kFormat>>(stream, problem, n_rows);
  return launch_quant<WideQuant<kFormat>>(stream, problem, n_rows);
}

}  // namespace

int gemm_experts(Stream stream, const ExpertGemmArgs& args) {
  if (args.n_rows == 0 || args.n == 0) return cudaSuccess;  // a launch of zero blocks is an error
  const bool has_format = args.format == Format::bf16 || (!is_float(args.format) && args.k % kGroupK == 0);
  if (!has_format || args.n_rows > kLargestExtent || args.n > kLargestExtent || args.k > kLargestExtent ||
      args.k < 1 || args.n_experts < 1 || args.n_experts > kMostExperts || !has_vector_rows(args.x, 0))
    return cudaErrorInvalidValue;
  const ExpertProblem problem{.y = args.y,
                              .x = args.x,
                              .maps = args.maps,
                              .first = args.first,
                              .n_experts = static_cast<int>(args.n_experts),
                              .n = static_cast<int>(args.n),
                              .k = static_cast<int>(args.k),
                              .stores = pair_access(args.y, args.n, sizeof(float))};
  switch (args.format) {
    case Format::bf16: return launch_for_rows(stream, problem, args.n_rows);
    case Format::q8_0: return launch_for_rows<Format::q8_0>(stream, problem, args.n_rows);
    case Format::q4_0: return launch_for_rows<Format::q4_0>(stream, problem, args.n_rows);
    case Format::q4_1: return launch_for_rows<Format::q4_1>(stream, problem, args.n_rows);
    case Format::q5_0: return launch_for_rows<Format::q5_0>(stream, problem, args.n_rows);
    case Format::q5_1: return launch_for_rows<Format::q5_1>(stream, problem, args.n_rows);
    case Format::q4_k: return launch_for_rows<Format::q4_k>(stream, problem, args.n_rows);
    case Format::q5_k: return launch_for_rows<Format::q5_k>(stream, problem, args.n_rows);
    case Format::q6_k: return launch_for_rows<Format::q6_k>(stream, problem, args.n_rows);
    default: return cudaErrorInvalidValue;
  }
}

#define TUILI_GEMM(Shape)                                                             \
  template __global__ void gemm_experts_kernel<Shape, Access::vector>(ExpertProblem); \
  template __global__ void gemm_experts_kernel<Shape, Access::scalar>(ExpertProblem);
TUILI_GEMM(WideGemm)
TUILI_GEMM(SquareGemm)
TUILI_GEMM(SlimGemm)
#undef TUILI_GEMM

#define TUILI_GEMM(format)                                                                      \
  template __global__ void gemm_quant_experts_kernel<WideQuant<Format::format>>(ExpertProblem); \
  template __global__ void gemm_quant_experts_kernel<TallQuant<Format::format>>(ExpertProblem); \
  template __global__ void gemm_skinny_experts_kernel<FewQuant<Format::format>>(ExpertProblem);
TUILI_QUANT_FORMATS(TUILI_GEMM)
#undef TUILI_GEMM

}  // namespace tuili::cuda
