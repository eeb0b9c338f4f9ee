// What attention is asked: sequences, the keys that a query sees, and where partial results lie.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kAttentionWarps = 4;
inline constexpr int kAttentionThreads = 32 * kAttentionWarps;
inline constexpr int kKeyTile = 64;  // keys per step of the softmax, at absolute positions
inline constexpr int kKeySplit = kAttentionSplit;
inline constexpr int kChunk = 8;  // halves in 16 bytes
inline constexpr int kLargestHead = 256;
inline constexpr int kCombined = 64;  // dimensions that a warp combines
inline constexpr float kLog2E = 0x1.715476p0f;

inline constexpr int kInverseBits = 31;

// AttentionArgs in the types of the kernel.
struct AttentionProblem {
  void* out;
  const float* q;
  const void* k;
  const void* v;
  const int32_t* blocks;
  const AttentionSequence* sequences;
  float* partials;
  int64_t ld_out, ld_q, block_stride;
  int64_t n_queries;  // n_tokens · n_heads
  int n_heads, head_dim;
  int group;               // heads of a kv head
  uint32_t group_inverse;  // to divide by it: 2^kInverseBits / group, rounded up
  int block_size, block_shift;
  int window;
  int n_splits;  // that blocks share; 1: a block computes all
  Causal causal;
  DType out_type;
  float scale;    // of scores, to units of log2(e), or to units of the cap
  float softcap;  // in units of log2(e)
  float unit;     // of scores in exponents: `scale` where nothing but it is done to them, else 1
  const float* bias;
  const float* sinks;
  int64_t bias_stride, bias_row_stride, bias_origin;
  bool bias_relative;
  const float* k_scale;  // of pages of codes
  const float* v_scale;
  int64_t scale_stride;
};

struct SeenKeys {
  int begin, end;
};

__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ SeenKeys seen_keys(const AttentionProblem& problem,
                                              const AttentionSequence& sequence, int row) {
  const int position = sequence.position + row;
  const int after = problem.causal == Causal::yes ? 1 : problem.window;  // 0: all
  const bool is_cut = after > 0 && after < sequence.n_keys - position;
  return {problem.window > 0 ? larger(0, position - problem.window + 1) : 0,
          is_cut ? position + after : sequence.n_keys};
}

// out, then maximum and sum, of one query in one split: [split][query] of each.
struct Partial {
  float* out;
  float* max;
  float* sum;
  __device__ __forceinline__ float2* pair(int d) const { return reinterpret_cast<float2*>(out + d); }
};

__device__ __forceinline__ Partial partial_of(const AttentionProblem& problem, int64_t query, int split) {
  float* const one = problem.partials + (split * problem.n_queries + query) * (problem.head_dim + 2);
  return {one + 2, one, one + 1};
}

// The maximum of no keys, and the score of a key that is not seen.
inline constexpr float kNone = -__builtin_huge_valf();

// What is subtracted from exponents: the maximum, or 0 before any key is seen.
__device__ __forceinline__ float shift_of(float max) { return max == kNone ? 0.0f : max; }

// Partials a and b of ascending splits become one. An empty one (maximum -inf, the rest 0) changes no bit.
struct Merge {
  float max, sum, factor_a, factor_b;
  __device__ __forceinline__ Merge(float max_a, float sum_a, float max_b, float sum_b) {
    max = fmaxf(max_a, max_b);  // in the body: nvcc shows the host's compiler what initialises members
    factor_a = ptx::exp2_approximate(__fsub_rn(max_a, shift_of(max)));
    factor_b = ptx::exp2_approximate(__fsub_rn(max_b, shift_of(max)));
    sum = of(sum_a, sum_b);
  }
  __device__ __forceinline__ float of(float a, float b) const {
    return __fmaf_rn(a, factor_a, __fmul_rn(b, factor_b));
  }
  __device__ __forceinline__ float2 of(float2 a, float2 b) const { return {of(a.x, b.x), of(a.y, b.y)}; }
};

// What remains to be done to `out` of a query of which all keys are merged: the head's sink, then 1 / sum.
struct Finish {
  float factor = 1.0f, inverse;
  __device__ __forceinline__ Finish(const AttentionProblem& problem, int head, float max, float sum) {
    if (problem.sinks != nullptr) {
      const float sink = __fmul_rn(problem.sinks[head], kLog2E), new_max = fmaxf(max, sink);
      factor = ptx::exp2_approximate(__fsub_rn(max, shift_of(new_max)));
      sum = __fmaf_rn(sum, factor, ptx::exp2_approximate(__fsub_rn(sink, shift_of(new_max))));
    }
    inverse = sum == 0.0f ? 0.0f : __fdiv_rn(1.0f, sum);
  }
  __device__ __forceinline__ float of(float out) const {
    return __fmaf_rn(__fmul_rn(out, factor), inverse, 0.0f);
  }
};

__device__ __forceinline__ void store_result(const AttentionProblem& problem, int64_t row, int head, int d,
                                             float value) {
  const int64_t at = row * problem.ld_out + static_cast<int64_t>(head) * problem.head_dim + d;
  if (problem.out_type == DType::f32) {
    store(static_cast<float*>(problem.out) + at, value);
  } else {
    store(static_cast<__nv_bfloat16*>(problem.out) + at, value);
  }
}

// The queries of a block: numbered row by row, and in a row by the heads of the kv head.
struct QueryTile {
  const AttentionProblem& problem;
  const AttentionSequence& sequence;  // read again when it is asked for: registers are dearer
  int kv_head;
  int first;  // number of the first query
  int count;
  int begin, end;  // the keys that at least one of them sees

  __device__ __forceinline__ QueryTile(const AttentionProblem& problem_, int sequence_id, int kv_head_,
                                       int tile, int n_queries)
      : problem(problem_),
        sequence(problem.sequences[sequence_id]),
        kv_head(kv_head_),
        first(tile * n_queries),
        count(smaller(n_queries, sequence.n_rows * problem.group - first)),
        begin(0),
        end(0) {
    if (count <= 0) return;
    begin = seen(0).begin;
    end = seen(count - 1).end;
  }

  __device__ __forceinline__ bool has(int query) const {
    return first + query < sequence.n_rows * problem.group;
  }
  // Of the sequence's rows.
  __device__ __forceinline__ int row_of(int query) const {
    return static_cast<int>(static_cast<uint64_t>(first + query) * problem.group_inverse >> kInverseBits);
  }
  __device__ __forceinline__ int64_t row(int query) const { return sequence.first_row + row_of(query); }
  __device__ __forceinline__ int position(int query) const { return sequence.position + row_of(query); }
  __device__ __forceinline__ int head(int query) const {
    return kv_head * problem.group + first + query - row_of(query) * problem.group;
  }
  __device__ __forceinline__ SeenKeys seen(int query) const {
    if (!has(query)) return {0, 0};
    return seen_keys(problem, sequence, row_of(query));
  }
  __device__ __forceinline__ const float* bias_of_key_0(int query) const {
    return problem.bias + head(query) * problem.bias_stride + row(query) * problem.bias_row_stride +
           problem.bias_origin - (problem.bias_relative ? position(query) : 0);
  }
  // By each of queries [from, from + n), of which some may not exist; rows ascend, and so do their keys.
  __device__ __forceinline__ SeenKeys all_see(int from, int n) const {
    return {seen(smaller(from + n, count) - 1).begin, seen(from).end};
  }
  __device__ __forceinline__ Partial partial(int query, int split) const {
    return partial_of(problem, row(query) * problem.n_heads + head(query), split);
  }
};

inline constexpr int kPiece = 16;  // keys, the least that a block of pages holds

// The blocks of a tile's pieces, one in each lane. None is 0, a valid address, too. They are looked up a load
// in advance: their latency is nobody's.
struct TileBlocks {
  int32_t id = 0;  // of piece lane % 4
  __device__ __forceinline__ void find(const AttentionProblem& problem, const QueryTile& tile,
                                       int first_key) {
    const int key = first_key + threadIdx.x % (kKeyTile / kPiece) * kPiece;
    const bool exists = key < tile.end && key + kPiece > tile.begin;
    id = exists ? problem.blocks[tile.sequence.first_block + (key >> problem.block_shift)] : 0;
  }
  __device__ __forceinline__ int64_t of(int piece) const { return __shfl_sync(0xffffffffu, id, piece); }
};

}  // namespace tuili::cuda
