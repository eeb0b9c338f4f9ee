// What the distances between keys and queries add to scores (DeBERTa), where attention finds it as a bias.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kDistanceThreads = 128;

// Σ x[d] · row[d], one fma chain over ascending d. By vectors n is a multiple of 8, x and row on 16 bytes.
template <Access kAccess>
__device__ __forceinline__ float dot_row(const float* x, const __nv_bfloat16* row, int n) {
  float sum = 0.0f;
  const auto add = [&](float a, float b) { sum = __fmaf_rn(a, b, sum); };
  if constexpr (kAccess == Access::scalar) {
    for (int d = 0; d < n; ++d) add(x[d], to_float(row[d]));
  } else {
    for (int d = 0; d < n; d += 8) {
      const uint4 eight = *reinterpret_cast<const uint4*>(row + d);
      const float4 low = *reinterpret_cast<const float4*>(x + d),
                   high = *reinterpret_cast<const float4*>(x + d + 4);
      const auto add_pair = [&](float a, float b, uint32_t pair) {
        add(a, __uint_as_float(pair << 16));
        add(b, __uint_as_float(pair & 0xffff0000u));
      };
      add_pair(low.x, low.y, eight.x);
      add_pair(low.z, low.w, eight.y);
      add_pair(high.x, high.y, eight.z);
      add_pair(high.z, high.w, eight.w);
    }
  }
  return sum;
}

// Block (x, y, z): row x of sequence z in head y, a thread per key in turn. A sequence and its text begin at
// the same block of keys.
template <Access kAccess>
__global__ void __launch_bounds__(kDistanceThreads) distance_bias_kernel(DistanceArgs args) {
  follow_kernels_before();
  const AttentionSequence sequence = args.sequences[blockIdx.z];
  const int row = blockIdx.x, head = blockIdx.y, head_dim = static_cast<int>(args.head_dim);
  if (row >= sequence.n_rows) return;
  const AttentionSequence* text = args.texts;
  while (text->first_block != sequence.first_block) ++text;
  const int64_t first_key = text->first_row;
  const int64_t at = sequence.first_row + row, column = static_cast<int64_t>(head) * head_dim;
  if (head == 0 && threadIdx.x == 0)
    args.rows[at] = {static_cast<int32_t>(at), 1, static_cast<int32_t>(-at * args.ld_bias), sequence.n_keys,
                     sequence.first_block};
  float* const bias = args.bias + (static_cast<int64_t>(head) * args.n_tokens + at) * args.ld_bias;
  const int64_t table = static_cast<int64_t>(head) * args.n_rows * head_dim;
  for (int key = threadIdx.x; key < sequence.n_keys; key += kDistanceThreads) {
    const int64_t place =
        table + static_cast<int64_t>(args.places[args.origin + sequence.position + row - key]) * head_dim;
    float score = 0.0f;
    if (args.keys != nullptr)
      score = dot_row<kAccess>(args.q + at * args.ld + column, args.keys + place, head_dim);
    if (args.queries != nullptr) {
      const float* const k = args.k + (first_key + key) * args.ld + column;
      score = __fadd_rn(score, dot_row<kAccess>(k, args.queries + place, head_dim));
    }
    bias[key] = __fmul_rn(score, args.scale);
  }
}

}  // namespace tuili::cuda
