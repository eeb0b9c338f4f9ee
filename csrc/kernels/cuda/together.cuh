// Products of one x in one launch: blocks beside blocks need no stream beside the stream, whose kernels would
// start only once all in front have ended.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"

namespace tuili::cuda {

// Whether a launcher may take them together.
template <typename Args>
bool are_together(std::span<const Args> products) {
  return products.size() == 1 ||
         (!products.empty() && products.size() <= kMostTogether && products[0].m <= kTogetherRows);
}

// Their tiles of columns follow one another. Products that are not there have n = 0.
template <typename Problem>
struct Together {
  Problem of[kMostTogether];

  template <typename Shape>
  __host__ __device__ __forceinline__ static int tiles_of(const Problem& problem) {
    return (problem.n + Shape::kTileN - 1) / Shape::kTileN;
  }
  template <typename Shape>
  int64_t n_tiles() const {
    int64_t n = 0;
    for (const Problem& problem : of) n += tiles_of<Shape>(problem);
    return n;
  }

  // The product that tile number `tile` belongs to; `tile` becomes its number there.
  template <typename Shape>
  __device__ __forceinline__ const Problem& product_of(int& tile) const {
    int product = 0, first = 0, before = 0;
#pragma unroll
    for (int i = 1; i < kMostTogether; ++i) {
      before += tiles_of<Shape>(of[i - 1]);
      if (tile >= before) product = i, first = before;
    }
    tile -= first;
    return of[product];
  }
};

}  // namespace tuili::cuda
