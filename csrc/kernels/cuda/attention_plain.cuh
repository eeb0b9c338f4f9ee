// Attention without tensor cores: of pages of f32, and of heads whose rows do not lie on 16 bytes.
//
// A block per query and head goes through the keys that it sees, tile by tile. A warp adds up a score, lane
// by lane, then over the lanes; a thread has two dimensions of the result. Nothing is shared between queries:
// a long prompt reads its keys once per query and head.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kPlainDims = kLargestHead / kAttentionThreads;  // of a thread

struct PlainStorage {
  float q[kLargestHead];
  float scores[kKeyTile];
};

// A kv head's rows of keys, or of values, in their pages.
template <typename T>
struct PlainPages {
  const T* data;
  const float* scales;  // of codes
  int64_t block_stride, scale_stride;
  int head, block_size, block_shift, head_dim;
  const int32_t* blocks;

  struct Row {
    const T* data;
    float scale;
    __device__ __forceinline__ float operator[](int d) const {
      if constexpr (std::is_same_v<T, int8_t>)
        return __fmul_rn(scale, static_cast<float>(data[d]));
      else
        return to_float(data[d]);
    }
  };
  __device__ __forceinline__ Row row(int key) const {
    const int64_t block = blocks[key >> block_shift];
    const int in_block = head * block_size + (key & (block_size - 1));
    return {data + block * block_stride + static_cast<int64_t>(in_block) * head_dim,
            std::is_same_v<T, int8_t> ? scales[block * scale_stride + in_block] : 1.0f};
  }
};

// In units of log2(e).
__device__ __forceinline__ float plain_score(const AttentionProblem& problem, float product, int head,
                                             int position, int key) {
  float score = __fmul_rn(product, problem.scale);
  if (problem.softcap > 0.0f) score = __fmul_rn(problem.softcap, hyperbolic_tangent(score));
  if (problem.bias == nullptr) return score;
  const float* const bias = problem.bias + head * problem.bias_stride + problem.bias_origin;
  return __fmaf_rn(bias[key - (problem.bias_relative ? position : 0)], kLog2E, score);
}

// Block (x, y, z): row x of sequence z, head y.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads) attention_plain_kernel(AttentionProblem problem) {
  follow_kernels_before();
  auto& shared = shared_storage<PlainStorage>();
  const AttentionSequence sequence = problem.sequences[blockIdx.z];
  const int head = blockIdx.y, lane = threadIdx.x % 32, n = problem.head_dim;
  if (static_cast<int>(blockIdx.x) >= sequence.n_rows) return;
  const int row = blockIdx.x, position = sequence.position + row;
  const int64_t at = sequence.first_row + row;
  const PlainPages<T> keys{static_cast<const T*>(problem.k),
                           problem.k_scale,
                           problem.block_stride,
                           problem.scale_stride,
                           head / problem.group,
                           problem.block_size,
                           problem.block_shift,
                           n,
                           problem.blocks + sequence.first_block};
  PlainPages<T> values = keys;
  values.data = static_cast<const T*>(problem.v);
  values.scales = problem.v_scale;
  for (int d = threadIdx.x; d < n; d += kAttentionThreads)
    shared.q[d] = problem.q[at * problem.ld_q + static_cast<int64_t>(head) * n + d];
  float max = kNone, sum = 0.0f, out[kPlainDims] = {};
  const SeenKeys seen = seen_keys(problem, sequence, row);
  for (int tile = seen.begin / kKeyTile * kKeyTile; tile < seen.end; tile += kKeyTile) {
    const int begin = larger(tile, seen.begin), end = smaller(tile + kKeyTile, seen.end);
    __syncthreads();  // the query is there; the scores before are read
    for (int key = begin + static_cast<int>(threadIdx.x) / 32; key < end; key += kAttentionWarps) {
      const auto k = keys.row(key);
      float product = 0.0f;
      for (int d = lane; d < n; d += 32) product = __fmaf_rn(shared.q[d], k[d], product);
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2)
        product = __fadd_rn(product, __shfl_xor_sync(0xffffffffu, product, distance));
      if (lane == 0) shared.scores[key - tile] = plain_score(problem, product, head, position, key);
    }
    __syncthreads();
    float new_max = max;
    for (int key = begin; key < end; ++key) new_max = fmaxf(new_max, shared.scores[key - tile]);
    const float shift = shift_of(new_max), factor = ptx::exp2_approximate(__fsub_rn(max, shift));
    max = new_max;
    sum = __fmul_rn(sum, factor);
#pragma unroll
    for (float& o : out) o = __fmul_rn(o, factor);
    for (int key = begin; key < end; ++key) {
      const auto v = values.row(key);
      const float p = ptx::exp2_approximate(__fsub_rn(shared.scores[key - tile], shift));
      sum = __fadd_rn(sum, p);
#pragma unroll
      for (int i = 0; i < kPlainDims; ++i) {
        const int d = static_cast<int>(threadIdx.x) + i * kAttentionThreads;
        if (d < n) out[i] = __fmaf_rn(p, v[d], out[i]);
      }
    }
  }
  const Finish finish(problem, head, max, sum);
#pragma unroll
  for (int i = 0; i < kPlainDims; ++i) {
    const int d = static_cast<int>(threadIdx.x) + i * kAttentionThreads;
    if (d < n) store_result(problem, at, head, d, finish.of(out[i]));
  }
}

}  // namespace tuili::cuda
