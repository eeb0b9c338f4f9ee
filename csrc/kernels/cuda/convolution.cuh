// The rows around each row of a text, side by side: what a convolution along the tokens multiplies.
#pragma once

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kTapThreads = 128;

// Block (x, y): row x of text y.
__global__ void __launch_bounds__(kTapThreads)
    gather_taps_kernel(__nv_bfloat16* y, const float* x, const AttentionSequence* texts, int d, int n_taps) {
  follow_kernels_before();
  const AttentionSequence text = texts[blockIdx.y];
  const int row = blockIdx.x;
  if (row >= text.n_rows) return;
  const float* const first = x + static_cast<int64_t>(text.first_row) * d;
  __nv_bfloat16* const to = y + static_cast<int64_t>(text.first_row + row) * d * n_taps;
  for (int i = threadIdx.x; i < d * n_taps; i += kTapThreads) {
    const int from = row + i % n_taps - n_taps / 2;
    const bool is_there = from >= 0 && from < text.n_rows;
    to[i] = __float2bfloat16_rn(is_there ? first[static_cast<int64_t>(from) * d + i / n_taps] : 0.0f);
  }
}

}  // namespace tuili::cuda
