#include <climits>

#include "kernels/cuda/best_logits.cuh"
#include "kernels/cuda/draw.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/likeliest.cuh"
#include "kernels/cuda/sampling.cuh"

namespace tuili::cuda {
namespace {

bool has_tiles(int64_t n_rows, int64_t n_vocab) {
  return n_rows <= INT_MAX && n_vocab >= 1 && n_vocab < int64_t{kMaxTiles} * kIdsPerTile;
}

}  // namespace

// One block of 1,024 threads per row; 9 KiB of shared memory.
int draw(Stream stream, int32_t* tokens, const float* logits, const Draw* draws, int64_t n_rows,
         int64_t n_vocab) {
  if (n_rows == 0) return cudaSuccess;
  if (!has_tiles(n_rows, n_vocab)) return cudaErrorInvalidValue;
  TUILI_LAUNCH(draw_kernel, static_cast<unsigned>(n_rows), kLogitThreads, sizeof(DrawStorage), stream, tokens,
               logits, draws, static_cast<int>(n_vocab));
  return cudaGetLastError();
}

// One block of 1,024 threads per row; 25 KiB of shared memory.
int draw_likeliest(Stream stream, int32_t* tokens, const float* logits, const Draw* draws, int64_t n_rows,
                   int64_t n_vocab) {
  if (n_rows == 0) return cudaSuccess;
  if (!has_tiles(n_rows, n_vocab)) return cudaErrorInvalidValue;
  TUILI_LAUNCH(draw_likeliest_kernel, static_cast<unsigned>(n_rows), kLogitThreads, sizeof(LikeliestStorage),
               stream, tokens, logits, draws, static_cast<int>(n_vocab));
  return cudaGetLastError();
}

// One block of 1,024 threads per row; 41 KiB of shared memory.
int best_logits(Stream stream, BestLogits* rows, BestLogit* listed, const float* logits, int64_t n_rows,
                int64_t n_vocab, int64_t n_best, int64_t capacity) {
  if (n_rows == 0) return cudaSuccess;
  const bool is_listed = n_best >= 1 && n_best <= kMostBest && capacity >= 0 && capacity <= kMostListed;
  if (!has_tiles(n_rows, n_vocab) || !is_listed) return cudaErrorInvalidValue;
  TUILI_LAUNCH(best_logits_kernel, static_cast<unsigned>(n_rows), kLogitThreads, sizeof(BestStorage), stream,
               rows, listed, logits, static_cast<int>(n_vocab), static_cast<int>(n_best),
               static_cast<int>(capacity));
  return cudaGetLastError();
}

}  // namespace tuili::cuda
