// Attention without tensor cores: of pages of f32, and of heads whose rows do not lie on 16 bytes.
//
// A block has queries of one kv head: 16, 4 for each warp, or with few rows 4, one for each. Keys, then
// values, travel through a ring of stages in shared memory as f32, 32 at a time, and all queries use them. A
// lane has a key: it adds up scores alone, in 32 chains and a tree, as if it were 32 lanes. Then a thread has
// dimensions of 4 queries' results.
//
// Versions, on an H200 (f32 pages, 32 heads over 8 of 128; 1, 16, 64 × 1 row with 4,096 keys; a prefill of
// 2,048): a block per query and head, a warp per key 1,960, 1,996, 4,091; 19,766 µs. This one 320, 464, 649;
// 2,580 µs.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kStageKeys = 32;  // a lane each
inline constexpr int kStagesOfTile = kKeyTile / kStageKeys;
inline constexpr int kTogether = 4;  // queries whose results a thread has dimensions of

template <int kHeadDim_, bool kNarrow_>
struct PlainShape {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kNarrow = kNarrow_;
  static constexpr int kScored = kNarrow ? 1 : kTogether;          // queries whose scores a warp computes
  static constexpr int kQueries = kScored * kAttentionWarps;       // of a block
  static constexpr int kLanes = kNarrow ? kAttentionThreads : 32;  // a thread has dimensions d, d + kLanes, …
  static constexpr int kDims = kHeadDim / kLanes;                  // of a thread
  static constexpr int kStages = kHeadDim == 128 ? 3 : 2;
  static constexpr int kResident = kHeadDim == 256 ? 2 : kNarrow ? 4 : 3;  // blocks of a multiprocessor
  static constexpr int kRow = kHeadDim + 4;  // eight rows that follow one another meet no bank twice

  using Stage = float[kStageKeys][kRow];
  struct alignas(kVectorBytes) Storage {
    Stage stages[kStages];
    float q[kQueries][kHeadDim];
    float p[kKeyTile][kQueries];
    float max[kQueries], factor[kQueries];  // of a query, and of its results so far
  };
};

// In units of log2(e).
__device__ __forceinline__ float plain_score(const QueryTile& tile, float product, int query, int key) {
  const AttentionProblem& problem = tile.problem;
  float score = __fmul_rn(product, problem.scale);
  if (problem.softcap > 0.0f) score = __fmul_rn(problem.softcap, hyperbolic_tangent(score));
  return problem.bias == nullptr ? score : __fmaf_rn(tile.bias_of_key_0(query)[key], kLog2E, score);
}

__device__ __forceinline__ int rounded_up(int n, int multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// The stages of a block in order: of each tile the keys, then the values. What does not exist is 0.
template <typename T, Access kAccess, typename Shape>
struct PlainStages {
  const AttentionProblem& problem;
  const QueryTile& tile;
  typename Shape::Storage& shared;
  int columns;
  int n_started = 0;
  TileBlocks blocks, coming;

  __device__ __forceinline__ PlainStages(const AttentionProblem& problem_, const QueryTile& tile_,
                                         typename Shape::Storage& shared_)
      : problem(problem_), tile(tile_), shared(shared_), columns(rounded_up(problem.head_dim, 64)) {
    coming.find(problem, tile, first_key(0));
#pragma unroll
    for (int i = 0; i < Shape::kStages - 1; ++i) start();
  }
  __device__ __forceinline__ int first_key(int stage) const {
    const int tile_of = tile.begin / kKeyTile + stage / (2 * kStagesOfTile);
    return tile_of * kKeyTile + stage % kStagesOfTile * kStageKeys;
  }
  __device__ __forceinline__ bool is_seen_in(int first) const {  // any of a stage's keys
    return first < tile.end && first + kStageKeys > tile.begin;
  }
  __device__ __forceinline__ bool is_seen(int key) const { return key >= tile.begin && key < tile.end; }

  __device__ __forceinline__ void copy_row(float* to, const T* from, const float* scales, int64_t scale,
                                           bool exists) const {
    const int lane = threadIdx.x % 32, n = problem.head_dim;
    if constexpr (kAccess == Access::vector) {
#pragma unroll
      for (int i = 0; i < Shape::kHeadDim / 128; ++i) {
        const int d = 4 * (lane + 32 * i);
        if (d < columns) ptx::cp_async_16(to + d, from + d, exists && d < n ? kVectorBytes : 0);
      }
    } else {
      float x[Shape::kHeadDim / 32];
#pragma unroll
      for (int i = 0; i < Shape::kHeadDim / 32; ++i) {
        const int d = lane + 32 * i;
        x[i] = 0.0f;
        if (!exists || d >= n) continue;
        if constexpr (std::is_same_v<T, int8_t>)
          x[i] = __fmul_rn(scales[scale], static_cast<float>(from[d]));
        else
          x[i] = to_float(from[d]);
      }
#pragma unroll
      for (int i = 0; i < Shape::kHeadDim / 32; ++i)
        if (lane + 32 * i < columns) to[lane + 32 * i] = x[i];
    }
  }

  // Starts to copy the next stage, if there is one.
  __device__ __forceinline__ void start() {
    const int first = first_key(n_started), half = n_started % kStagesOfTile;
    const bool of_values = n_started / kStagesOfTile % 2 == 1;
    if (n_started % (2 * kStagesOfTile) == 0) {
      blocks = coming;
      coming.find(problem, tile, first + kKeyTile);
    }
    const T* const pages = static_cast<const T*>(of_values ? problem.v : problem.k);
    const float* const scales = of_values ? problem.v_scale : problem.k_scale;
    auto& stage = shared.stages[n_started % Shape::kStages];
    ++n_started;
    if (first < tile.end) {
#pragma unroll(kAccess == Access::vector ? kStageKeys / kAttentionWarps : 1)
      for (int i = 0; i < kStageKeys / kAttentionWarps; ++i) {
        const int row = static_cast<int>(threadIdx.x) / 32 + i * kAttentionWarps, key = first + row;
        const int64_t block = blocks.of(half * (kStageKeys / kPiece) + i * kAttentionWarps / kPiece);
        const int in_block = tile.kv_head * problem.block_size + (key & (problem.block_size - 1));
        copy_row(stage[row],
                 pages + block * problem.block_stride + static_cast<int64_t>(in_block) * problem.head_dim,
                 scales, block * problem.scale_stride + in_block, is_seen(key));
      }
    }
    ptx::cp_async_commit();
  }

  // Waits for the next stage; nobody reads the one before any more.
  __device__ __forceinline__ const typename Shape::Stage& next() {
    ptx::cp_async_wait<Shape::kStages - 2>();
    __syncthreads();
    start();
    return shared.stages[n_started % Shape::kStages];
  }
};

// Of the products of kScored queries with a key, lanes `group`, group + kStride, … of groups of 4 of 32: one
// chain each, then the tree over them.
template <int kStride, int kScored, int kRow>
__device__ __forceinline__ void add_lanes(float4 (&sums)[kScored], const float (*q)[kRow], const float* k,
                                          int n, int group) {
  if constexpr (kStride < 8) {
    float4 others[kScored];
    add_lanes<2 * kStride>(sums, q, k, n, group);
    add_lanes<2 * kStride>(others, q, k, n, group + kStride);
#pragma unroll
    for (int i = 0; i < kScored; ++i)
      sums[i] = {__fadd_rn(sums[i].x, others[i].x), __fadd_rn(sums[i].y, others[i].y),
                 __fadd_rn(sums[i].z, others[i].z), __fadd_rn(sums[i].w, others[i].w)};
  } else {
#pragma unroll
    for (float4& sum : sums) sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll(kScored == 1 ? 4 : 1)  // a warp's loads wait for each other where there are few warps
    for (int d = 4 * group; d < n; d += 32) {
      const float4 b = *reinterpret_cast<const float4*>(k + d);
#pragma unroll
      for (int i = 0; i < kScored; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(&q[i][d]);
        sums[i] = {__fmaf_rn(a.x, b.x, sums[i].x), __fmaf_rn(a.y, b.y, sums[i].y),
                   __fmaf_rn(a.z, b.z, sums[i].z), __fmaf_rn(a.w, b.w, sums[i].w)};
      }
    }
  }
}

// The lane's scores of a stage's keys; -inf of one that is not seen.
template <typename Shape>
__device__ __forceinline__ void score_stage(float (&scores)[Shape::kScored], const QueryTile& tile,
                                            int first_query, const float (*q)[Shape::kHeadDim],
                                            const typename Shape::Stage& stage, int first_key) {
  const int key = first_key + threadIdx.x % 32;
  float4 sums[Shape::kScored];
  add_lanes<1>(sums, q, stage[threadIdx.x % 32], tile.problem.head_dim, 0);
#pragma unroll
  for (int i = 0; i < Shape::kScored; ++i) {
    const float product = __fadd_rn(__fadd_rn(sums[i].x, sums[i].z), __fadd_rn(sums[i].y, sums[i].w));
    const int query = first_query + i;
    const SeenKeys seen = tile.seen(query);
    scores[i] = kNone;
    if (key >= seen.begin && key < seen.end) scores[i] = plain_score(tile, product, query, key);
  }
}

// The new maximum of a query after a tile of which the lane has two scores, and their exponentials.
template <typename Shape>
__device__ __forceinline__ void share_exponentials(typename Shape::Storage& shared, float& running_max,
                                                   int at, float low, float high) {
  const int lane = threadIdx.x % 32;
  float max = fmaxf(low, high);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, distance));
  max = fmaxf(running_max, max);
  const float shift = shift_of(max);
  shared.p[lane][at] = ptx::exp2_approximate(__fsub_rn(low, shift));
  shared.p[lane + kStageKeys][at] = ptx::exp2_approximate(__fsub_rn(high, shift));
  if (lane == 0) {
    shared.factor[at] = ptx::exp2_approximate(__fsub_rn(running_max, shift));
    shared.max[at] = max;
  }
  running_max = max;
}

// A thread's part of the results of kTogether queries.
template <typename Shape>
struct PlainResults {
  float sum[kTogether] = {}, out[Shape::kDims][kTogether] = {};

  __device__ __forceinline__ void rescale(const float* factors) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      sum[i] = __fmul_rn(sum[i], factors[i]);
#pragma unroll
      for (int d = 0; d < Shape::kDims; ++d) out[d][i] = __fmul_rn(out[d][i], factors[i]);
    }
  }

  // p of the stage's keys in the order of the keys. An unseen one has p = 0, which changes no bit.
  __device__ __forceinline__ void add(const typename Shape::Stage& stage, const float (*p)[Shape::kQueries],
                                      int query, int first, int columns) {
    constexpr int kAtOnce = Shape::kNarrow ? 1 : 2;  // dimensions, so that p is read less often
#pragma unroll
    for (int i = 0; i < Shape::kDims; i += kAtOnce) {
      const int d = first + i * Shape::kLanes;
      if (d >= columns) break;
#pragma unroll(Shape::kNarrow ? 8 : 4)
      for (int key = 0; key < kStageKeys; ++key) {
        const float4 four = *reinterpret_cast<const float4*>(&p[key][query]);
        const float ps[kTogether] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int q = 0; q < kTogether; ++q) {
          if (i == 0) sum[q] = __fadd_rn(sum[q], ps[q]);
#pragma unroll
          for (int j = 0; j < kAtOnce; ++j)
            out[i + j][q] = __fmaf_rn(ps[q], stage[key][d + j * Shape::kLanes], out[i + j][q]);
        }
      }
    }
  }
};

// Block (x, y, z): query tile x of kv head y of sequence z.
template <typename T, Access kAccess, typename Shape>
__global__ void __launch_bounds__(kAttentionThreads, Shape::kResident)
    attention_plain_kernel(AttentionProblem problem) {
  let_next_kernel_start(Phase::begins);
  ptx::wait_for_kernels_before();
  auto& shared = shared_storage<typename Shape::Storage>();
  const QueryTile tile(problem, blockIdx.z, blockIdx.y, blockIdx.x, Shape::kQueries);
  if (tile.count <= 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = problem.head_dim;
  const int scored = warp * Shape::kScored;                               // the first
  const int added = Shape::kNarrow ? 0 : scored;                          // the first
  const int dim = Shape::kNarrow ? static_cast<int>(threadIdx.x) : lane;  // the first
  float max[Shape::kScored];
  PlainResults<Shape> results;
  PlainStages<T, kAccess, Shape> stages(problem, tile, shared);
#pragma unroll
  for (int i = 0; i < Shape::kScored; ++i) {
    const int query = scored + i;
    const bool exists = tile.has(query);
    const float* const q =
        exists ? problem.q + tile.row(query) * problem.ld_q + static_cast<int64_t>(tile.head(query)) * n
               : nullptr;
    for (int d = lane; d < rounded_up(n, 32); d += 32)
      shared.q[query][d] = exists && d < n ? q[d] : -0.0f;  // -0 · 0 changes no chain
    max[i] = kNone;
  }
  for (int key = tile.begin / kKeyTile * kKeyTile; key < tile.end; key += kKeyTile) {
    float scores[kStagesOfTile][Shape::kScored];
#pragma unroll
    for (int half = 0; half < kStagesOfTile; ++half) {
      const auto& stage = stages.next();
#pragma unroll
      for (float& score : scores[half]) score = kNone;
      if (scored < tile.count && stages.is_seen_in(key + half * kStageKeys))
        score_stage<Shape>(scores[half], tile, scored, &shared.q[scored], stage, key + half * kStageKeys);
    }
#pragma unroll
    for (int i = 0; i < Shape::kScored; ++i)
      share_exponentials<Shape>(shared, max[i], scored + i, scores[0][i], scores[1][i]);
#pragma unroll
    for (int half = 0; half < kStagesOfTile; ++half) {
      const auto& stage = stages.next();
      if (added >= tile.count) continue;
      if (half == 0) results.rescale(&shared.factor[added]);
      if (stages.is_seen_in(key + half * kStageKeys))
        results.add(stage, &shared.p[half * kStageKeys], added, dim, stages.columns);
    }
  }
#pragma unroll
  for (int i = 0; i < kTogether; ++i) {
    if (!tile.has(added + i)) break;
    const float last_max = tile.begin < tile.end ? shared.max[added + i] : kNone;
    const Finish finish(problem, tile.head(added + i), last_max, results.sum[i]);
#pragma unroll
    for (int j = 0; j < Shape::kDims; ++j) {
      const int d = dim + j * Shape::kLanes;
      if (d < n)
        store_result(problem, tile.row(added + i), tile.head(added + i), d, finish.of(results.out[j][i]));
    }
  }
}

}  // namespace tuili::cuda
