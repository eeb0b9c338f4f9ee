// Where the keys and values of one layer lie: in pages, one per block of tokens and head.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace tuili {

// A page has block_size · head_dim elements, in an order that is its device's own (kernels/*/kernels.h);
// those of a block's heads follow one another. Blocks are block_stride elements apart: those of all layers
// may lie together. i8 pages hold codes, and for each token and head a scale of its key and one of its value:
//   x = scale · code;  k_scale, v_scale  f32 [n_blocks][n_kv_heads][block_size], blocks scale_stride floats
//   apart
struct KvPages {
  void* k;
  void* v;
  DType type;          // f32, f16, bf16 or i8
  int64_t block_size;  // 16, 32 or 64
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t block_stride;
  float* k_scale = nullptr;  // of i8
  float* v_scale = nullptr;
  int64_t scale_stride = 0;
};

constexpr bool may_hold_keys(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16 || type == DType::i8;
}

}  // namespace tuili
