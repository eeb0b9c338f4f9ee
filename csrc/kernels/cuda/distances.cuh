// What the distances between keys and queries add to scores (DeBERTa), where attention finds it as a bias.
//
// A block has a tile of rows and keys of one head. Rows of q, or of k, and those of the table that the tile's
// distances choose, one each, are copied to shared memory, a slice of dimensions at a time; a thread has 4 ×
// 4 pairs, whose 7 distances it reads once.
//
// Versions, on an H200 (12 heads of 64; 1 × 128, 32 × 128, 8 × 512 rows): a thread per pair, which reads
// global memory 42, 846, 2,990 µs. This one 10.2, 80.4, 304 µs.
#pragma once

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kDistanceThreads = 128;
inline constexpr int kTileRows = 32, kTileKeys = 64;
inline constexpr int kTileDistances = kTileRows + kTileKeys - 1;
inline constexpr int kDistanceSlice = 64;  // dimensions
inline constexpr int kPairs = 4;           // rows, and keys, of a thread
inline constexpr int kPairStep = 8;        // from one of them to the next

// Rows of shared memory are an odd number of 16 bytes: eight that follow one another meet no bank twice.
struct alignas(kVectorBytes) DistanceStorage {
  float x[kTileKeys][kDistanceSlice + 4];
  __nv_bfloat16 table[kTileDistances][kDistanceSlice + 8];
  int32_t places[kTileDistances];
  int32_t first_key;
};

// The rows and keys of a block. Those beyond the last are copies of it, so that all of them can be read.
struct DistanceTile {
  int row, key;        // the first
  int n_rows, n_keys;  // of the sequence
  __device__ __forceinline__ int row_of(int i) const { return row + i < n_rows ? row + i : n_rows - 1; }
  __device__ __forceinline__ int key_of(int i) const { return key + i < n_keys ? key + i : n_keys - 1; }
  // Distance i is that of row 0 and key kTileKeys - 1 - i, or of row i - (kTileKeys - 1) and key 0.
  __device__ __forceinline__ int distance(int i) const {
    return i < kTileKeys ? row - key_of(kTileKeys - 1 - i) : row_of(i - (kTileKeys - 1)) - key;
  }
};

// n elements, of which the first n_present exist. The others are `rest`; n is a multiple of 8.
template <Access kAccess, typename T>
__device__ __forceinline__ void copy_row(T* to, const T* from, int first, int step, int n, int n_present,
                                         T rest) {
  constexpr int kChunk = kAccess == Access::vector ? kVectorBytes / sizeof(T) : 1;
  for (int d = first * kChunk; d < n; d += step * kChunk) {
    if constexpr (kAccess == Access::vector) {
      ptx::cp_async_16(to + d, from + d, kVectorBytes);
    } else {
      to[d] = d < n_present ? from[d] : rest;
    }
  }
}

// sums[i][j] += Σ x[d] · table[distance of row i and key j][d] over ascending d, where x is that row or that
// key.
template <bool kOfRows>
__device__ __forceinline__ void add_products(float (&sums)[kPairs][kPairs], const DistanceStorage& shared,
                                             int row, int key, int n) {
  const float* const x = shared.x[kOfRows ? row : key];
  const __nv_bfloat16* const table = shared.table[row - key + kTileKeys - 1 - (kPairs - 1) * kPairStep];
  constexpr int kXStep = kPairStep * (sizeof(shared.x[0]) / sizeof(float));
  constexpr int kTableStep = kPairStep * (sizeof(shared.table[0]) / sizeof(__nv_bfloat16));
  for (int d = 0; d < n; d += 8) {
    uint4 rows[2 * kPairs - 1];
    float4 xs[kPairs][2];
#pragma unroll
    for (int i = 0; i < 2 * kPairs - 1; ++i)
      rows[i] = *reinterpret_cast<const uint4*>(table + i * kTableStep + d);
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        xs[i][half] = *reinterpret_cast<const float4*>(x + i * kXStep + d + 4 * half);
    const auto add = [&](int pair, bool high) {
      float w[2 * kPairs - 1];
#pragma unroll
      for (int i = 0; i < 2 * kPairs - 1; ++i) {
        const uint32_t word = pair == 0   ? rows[i].x
                              : pair == 1 ? rows[i].y
                              : pair == 2 ? rows[i].z
                                          : rows[i].w;
        w[i] = __uint_as_float(high ? word & 0xffff0000u : word << 16);
      }
#pragma unroll
      for (int i = 0; i < kPairs; ++i)
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
          const float4 four = xs[kOfRows ? i : j][pair / 2];
          const float x_d = pair % 2 == 0 ? (high ? four.y : four.x) : (high ? four.w : four.z);
          sums[i][j] = __fmaf_rn(x_d, w[i - j + kPairs - 1], sums[i][j]);
        }
    };
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) add(pair, false), add(pair, true);
  }
}

// One product of each pair of the tile: x has the rows, or the keys, of a head from `x` on, ld apart.
template <Access kAccess, bool kOfRows>
__device__ __forceinline__ void multiply_tile(float (&sums)[kPairs][kPairs], DistanceStorage& shared,
                                              const DistanceTile& tile, const float* x, int64_t ld,
                                              const __nv_bfloat16* table, int head_dim, int row, int key) {
  constexpr int kCopiers = 16;  // threads of a row
  const int first = threadIdx.x % kCopiers, copier = threadIdx.x / kCopiers;
  for (int slice = 0; slice < head_dim; slice += kDistanceSlice) {
    const int n_present = head_dim - slice < kDistanceSlice ? head_dim - slice : kDistanceSlice;
    const int n = (n_present + 7) / 8 * 8;
    __syncthreads();  // the slice before is read, and the places are there
    for (int i = copier; i < (kOfRows ? kTileRows : kTileKeys); i += kDistanceThreads / kCopiers) {
      const float* const from = x + (kOfRows ? tile.row_of(i) : tile.key_of(i)) * ld + slice;
      copy_row<kAccess>(shared.x[i], from, first, kCopiers, n, n_present, -0.0f);  // -0 · 0 changes no sum
    }
    constexpr int kFewer = kCopiers / 2;  // half as many bytes
    for (int i = threadIdx.x / kFewer; i < kTileDistances; i += kDistanceThreads / kFewer) {
      const __nv_bfloat16* const from = table + static_cast<int64_t>(shared.places[i]) * head_dim + slice;
      copy_row<kAccess>(shared.table[i], from, threadIdx.x % kFewer, kFewer, n, n_present, __nv_bfloat16{});
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
    add_products<kOfRows>(sums, shared, row, key, n);
  }
}

// Block (x, y, z): tile x of sequence z in head y, the tiles of keys side by side. A sequence and its text
// begin at the same block of keys.
template <Access kAccess>
__global__ void __launch_bounds__(kDistanceThreads, 5)
    distance_bias_kernel(DistanceArgs args, int key_tiles) {
  let_next_kernel_start(Phase::begins);
  ptx::wait_for_kernels_before();
  auto& shared = shared_storage<DistanceStorage>();
  const AttentionSequence sequence = args.sequences[blockIdx.z];
  const int head = blockIdx.y, head_dim = static_cast<int>(args.head_dim);
  const int row_tile = static_cast<int>(blockIdx.x) / key_tiles;
  const DistanceTile tile{row_tile * kTileRows,
                          (static_cast<int>(blockIdx.x) - row_tile * key_tiles) * kTileKeys, sequence.n_rows,
                          sequence.n_keys};
  if (tile.row >= tile.n_rows || tile.key >= tile.n_keys) return;
  const int thread = threadIdx.x;
  for (int64_t i = thread; i < args.n_texts; i += kDistanceThreads)
    if (args.texts[i].first_block == sequence.first_block) shared.first_key = args.texts[i].first_row;
  if (thread < kTileDistances)
    shared.places[thread] = args.places[args.origin + sequence.position + tile.distance(thread)];
  // A warp has 4 rows and 8 keys, and those 8, 16 and 24 further on.
  const int row = thread / 8 % kPairStep, key = thread % kPairStep + thread / 64 * kPairs * kPairStep;
  const int64_t column = static_cast<int64_t>(head) * head_dim, table = column * args.n_rows;
  float scores[kPairs][kPairs] = {};
  if (args.keys != nullptr)
    multiply_tile<kAccess, true>(scores, shared, tile, args.q + sequence.first_row * args.ld + column,
                                 args.ld, args.keys + table, head_dim, row, key);
  if (args.queries != nullptr) {
    __syncthreads();  // the text is found
    float more[kPairs][kPairs] = {};
    multiply_tile<kAccess, false>(more, shared, tile, args.k + shared.first_key * args.ld + column, args.ld,
                                  args.queries + table, head_dim, row, key);
#pragma unroll
    for (int i = 0; i < kPairs; ++i)
#pragma unroll
      for (int j = 0; j < kPairs; ++j) scores[i][j] = __fadd_rn(scores[i][j], more[i][j]);
  }
  const int64_t first_row = static_cast<int64_t>(head) * args.n_tokens + sequence.first_row;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int r = tile.row + row + i * kPairStep;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int c = tile.key + key + j * kPairStep;
      if (r < tile.n_rows && c < tile.n_keys)
        args.bias[(first_row + r) * args.ld_bias + c] = __fmul_rn(scores[i][j], args.scale);
    }
  }
}

}  // namespace tuili::cuda
