// A thread's part in copying tiles of matrices to shared memory by cp.async: what does not change from tile
// to tile is computed once, so that a copy costs an addition and a predicate beside itself.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kTileThreads = 128;  // of a block that copies tiles, but for the largest
inline constexpr int kPlaneK = 32;        // k of a row that lie together in shared memory: 64 bytes

// Where the chunk of 16 bytes with k 8 chunk … of a row of a plane lies in that row: eight rows that follow
// one another have it in eight different places of the banks, as ldmatrix wants, and four rows have a pair of
// chunks in four, as FourPlaces::load wants.
__device__ __forceinline__ int chunk_place(int row, int chunk) {
  return chunk ^ ((row & 2) | (row >> 2 & 1));
}

// Where a row lies in a plane: in odd ones neighbours change places. Eight threads copy half of a row into
// each of two planes, and meet no bank twice. Large tiles wait for the tensor cores, and have no register to
// spare.
template <int kRows>
__device__ __forceinline__ int row_place(int row, int plane) {
  return kRows < 128 ? row ^ (plane & 1) : row;
}

// mma's a: k 16 step … of rows row … row + 15 of a plane. mma's b of both steps: k 0 … 31 of rows row … row
// + 7.
template <int kPlanes, int kRows>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const __nv_bfloat16 (&tile)[kPlanes][kRows][kPlaneK],
                                       int plane, int row, int step) {
  const int lane = threadIdx.x % 32, r = row_place<kRows>(row + lane % 16, plane);
  ptx::ldmatrix_x4(a, &tile[plane][r][chunk_place(r, 2 * step + lane / 16) * 8]);
}
template <int kPlanes, int kRows>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const __nv_bfloat16 (&tile)[kPlanes][kRows][kPlaneK],
                                       int plane, int row) {
  const int lane = threadIdx.x % 32, r = row_place<kRows>(row + lane % 8, plane);
  ptx::ldmatrix_x4(b, &tile[plane][r][chunk_place(r, lane / 8) * 8]);
}

// mma's b of one step: k 16 step … of rows row … row + 7, and of the eight behind them.
template <int kPlanes, int kRows>
__device__ __forceinline__ void load_b_pair(uint32_t (&b)[4],
                                            const __nv_bfloat16 (&tile)[kPlanes][kRows][kPlaneK], int plane,
                                            int row, int step) {
  const int lane = threadIdx.x % 32, r = row_place<kRows>(row + lane / 16 * 8 + lane % 8, plane);
  ptx::ldmatrix_x4(b, &tile[plane][r][chunk_place(r, 2 * step + lane / 8 % 2) * 8]);
}

// mma's a of both steps where there are rows 0 … 7 alone; the others are zero.
template <int kPlanes>
__device__ __forceinline__ void load_few(uint32_t (&a)[2][4],
                                         const __nv_bfloat16 (&tile)[kPlanes][8][kPlaneK], int plane) {
  const int r = row_place<8>(threadIdx.x % 8, plane);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    ptx::ldmatrix_x1(a[step][0], &tile[plane][r][chunk_place(r, 2 * step) * 8]);
    ptx::ldmatrix_x1(a[step][2], &tile[plane][r][chunk_place(r, 2 * step + 1) * 8]);
    a[step][1] = a[step][3] = 0;
  }
}

// Where a lane finds, of row `row` + lane / 4 of a tile, the k 16 step + 4 t …, t = lane % 4: rows 8 apart
// have them in the same place, so that two numbers, or four, serve all rows and planes.
template <int kRows>
struct FourPlaces {
  static constexpr int kParities = kRows < 128 ? 2 : 1;  // of planes
  int at[kParities][2];

  __device__ __forceinline__ explicit FourPlaces(int row) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int plane = 0; plane < kParities; ++plane) {
      const int r = row_place<kRows>(row + threadIdx.x % 32 / 4, plane);
#pragma unroll
      for (int step = 0; step < 2; ++step)
        at[plane][step] = r * kPlaneK + chunk_place(r, 2 * step + t / 2) * 8 + t % 2 * 4,
        ptx::keep(at[plane][step]);
    }
  }

  // Those of the row 8 i further, as two registers.
  template <int kPlanes>
  __device__ __forceinline__ void load(uint32_t (&four)[2],
                                       const __nv_bfloat16 (&tile)[kPlanes][kRows][kPlaneK], int plane, int i,
                                       int step) const {
    const uint2 loaded = *reinterpret_cast<const uint2*>(&tile[0][0][0] + at[plane % kParities][step] +
                                                         (plane * kRows + 8 * i) * kPlaneK);
    four[0] = loaded.x, four[1] = loaded.y;
  }
};

// Tiles of kRows rows × 32 kPlanes k of a dense [n_rows, k] matrix, in order of k. What lies outside the
// matrix is zero. Rows begin on 16 bytes.
template <int kPlanes, int kRows, int kThreads = kTileThreads>
struct RowCopies {
  using Element = __nv_bfloat16;
  static constexpr int kChunk = kVectorBytes / sizeof(Element);
  static constexpr int kPerRow = kPlanes * kPlaneK / kChunk;
  static constexpr int kStep = kThreads / kPerRow;  // rows from one of the thread's copies to the next
  static constexpr int kCopies = kRows / kStep;
  static constexpr int kPlaces = kStep % 8 == 0 ? 1 : 2;
  static_assert(kStep % 4 == 0 && kRows % kStep == 0,
                "copies c and c + 2 lie in the same place of their rows");

  const Element* next;  // of the first copy in the tile to come
  int64_t stride;       // from one copy to the next
  uint32_t exists;      // bit c: copy c's row
  int column;
  int places[kPlaces];  // of the copies with even and odd c, from that of row 0

  __device__ __forceinline__ RowCopies(const Element* matrix, int first_row, int n_rows, int k) {
    const int row = threadIdx.x / kPerRow, chunk = threadIdx.x % kPerRow;
    column = chunk * kChunk;
#pragma unroll
    for (int c = 0; c < kPlaces; ++c) {
      const int r = row + c * kStep;
      places[c] = (chunk / 4 * kRows + row_place<kRows>(row, chunk / 4)) * kPlaneK +
                  chunk_place(r, chunk % 4) * kChunk;
    }
    next = matrix + static_cast<int64_t>(first_row + row) * k + column;
    stride = static_cast<int64_t>(kStep) * k;
    exists = 0;
#pragma unroll
    for (int c = 0; c < kCopies; ++c) exists |= (first_row + row + c * kStep < n_rows ? 1u : 0u) << c;
    ptx::keep(exists);
  }

  // Starts to copy the next tile, of which k_left k exist.
  __device__ __forceinline__ void start(Element (&to)[kPlanes][kRows][kPlaneK], int k_left) {
    const uint32_t present = column < k_left ? exists : 0;
    const Element* source = next;
#pragma unroll
    for (int c = 0; c < kCopies; ++c) {
      ptx::cp_async_16_if(&to[0][0][0] + places[c % kPlaces] + c * kStep * kPlaneK, source,
                          present & 1u << c);
      source += stride;
    }
    next += kPlanes * kPlaneK;
  }
};

}  // namespace tuili::cuda
