// Elementwise kernels: one body per op, an element per thread, four elements apart by a block's width.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"

namespace tuili::cuda {

inline constexpr int kElementThreads = 256;
inline constexpr int kPerThread = 4;  // loads on their way at once
inline constexpr int kElementTile = kElementThreads * kPerThread;

// Calls body(i) for i in [0, count).
template <typename Body>
__global__ void __launch_bounds__(kElementThreads) for_each_kernel(Body body, int count) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kElementTile + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j * kElementThreads;
    if (i < count) body(static_cast<int>(i));
  }
}

template <typename T>
struct EmbedBody {
  float* y;
  const T* table;
  const int32_t* ids;
  int d;
  float factor;
  __device__ __forceinline__ void operator()(int i) const {
    const int64_t row = ids[i / d];
    y[i] = __fmul_rn(to_float(table[row * d + i % d]), factor);
  }
};

struct AddRowsBody {
  float* y;
  const float* table;
  const int32_t* ids;
  int d;
  __device__ __forceinline__ void operator()(int i) const {
    y[i] = __fadd_rn(y[i], table[static_cast<int64_t>(ids[i / d]) * d + i % d]);
  }
};

struct RoundBody {
  __nv_bfloat16* y;
  const float* x;
  __device__ __forceinline__ void operator()(int i) const { store(y + i, x[i]); }
};

struct AddBody {
  float* y;
  const float* x;
  const float* z;
  __device__ __forceinline__ void operator()(int i) const { y[i] = __fadd_rn(x[i], z[i]); }
};

struct ScaleBody {
  float* y;
  float factor;
  __device__ __forceinline__ void operator()(int i) const { y[i] = __fmul_rn(y[i], factor); }
};

struct SoftcapBody {
  float* y;
  float cap;
  __device__ __forceinline__ void operator()(int i) const {
    y[i] = __fmul_rn(cap, hyperbolic_tangent(__fdiv_rn(y[i], cap)));
  }
};

struct ClampBody {
  float* y;
  float low, high, offset;
  __device__ __forceinline__ void operator()(int i) const {
    const float x = y[i];
    y[i] = __fadd_rn(x < low ? low : x > high ? high : x, offset);
  }
};

// Element i is element i % count of head i / count % n_heads of token i / count / n_heads.
template <typename T>
struct CopyHeadsBody {
  T* y;  // its first head's element `at`
  const T* x;
  int n_heads, size_y;
  int head_x, row_x;  // from a head to the next (0: one for all), from a row to the next
  int count;
  __device__ __forceinline__ void operator()(int i) const {
    const int element = i % count, head = i / count % n_heads;
    const int64_t token = i / count / n_heads;
    y[(token * n_heads + head) * size_y + element] = x[token * row_x + head * head_x + element];
  }
};

struct ExpShiftedBody {
  float* y;
  const float* x;
  float shift;
  __device__ __forceinline__ void operator()(int i) const { y[i] = exponential(__fsub_rn(x[i], shift)); }
};

struct AddToLogitBody {
  float* logits;
  const int32_t* rows;
  const int32_t* ids;
  const float* values;
  int n_vocab;
  __device__ __forceinline__ void operator()(int i) const {
    float& logit = logits[static_cast<int64_t>(rows[i]) * n_vocab + ids[i]];
    logit = __fadd_rn(logit, values[i]);
  }
};

struct RepeatPenaltyBody {
  float* logits;
  const int32_t* rows;
  const int32_t* ids;
  const float* values;
  int n_vocab;
  __device__ __forceinline__ void operator()(int i) const {
    float& logit = logits[static_cast<int64_t>(rows[i]) * n_vocab + ids[i]];
    logit = logit > 0.0f ? __fdiv_rn(logit, values[i]) : __fmul_rn(logit, values[i]);
  }
};

struct MaskBody {
  float* logits;
  const uint32_t* allowed;
  int n_vocab, n_words;
  __device__ __forceinline__ void operator()(int i) const {
    const int row = i / n_vocab, id = i % n_vocab;
    const uint32_t word = allowed[static_cast<int64_t>(row) * n_words + id / 32];
    if (!(word >> id % 32 & 1u)) logits[i] = -__builtin_huge_valf();
  }
};

// Formulas and clamps: kernels/cpu/kernels.h.
template <cpu::Activation kKind>
__device__ __forceinline__ float activated(float x) {
  if constexpr (kKind == cpu::Activation::relu) {
    return larger(0.0f, x);
  } else if constexpr (kKind == cpu::Activation::relu_squared) {
    return __fmul_rn(larger(0.0f, x), larger(0.0f, x));
  } else if constexpr (kKind == cpu::Activation::silu) {
    x = larger(-128.0f, x);
    return __fdiv_rn(x, __fadd_rn(1.0f, exponential(-x)));
  } else if constexpr (kKind == cpu::Activation::quick_gelu) {
    x = larger(-128.0f, x);
    return __fdiv_rn(x, __fadd_rn(1.0f, exponential(__fmul_rn(x, -1.702f))));
  } else {
    x = larger(-16.0f, x);
    const float half = __fmul_rn(x, 0.5f);
    if constexpr (kKind == cpu::Activation::gelu) {
      return __fmaf_rn(half, error_function(__fmul_rn(x, 0.70710678f)), half);
    } else {
      const float cubic = __fmaf_rn(0.044715f, __fmul_rn(x, x), 1.0f);
      return __fmaf_rn(half, hyperbolic_tangent(__fmul_rn(__fmul_rn(x, 0.79788456f), cubic)), half);
    }
  }
}

template <cpu::Activation kKind, typename Out>
struct ActivateBody {
  Out* y;
  const float* gate;
  const float* up;
  __device__ __forceinline__ void operator()(int i) const {
    const float value = activated<kKind>(gate[i]);
    store(y + i, up == nullptr ? value : __fmul_rn(value, up[i]));
  }
};

// Element i is pair i % half of head i / half % n_heads of token i / half / n_heads.
struct RopeBody {
  float* x;
  const float* cos;
  const float* sin;
  int64_t ld;
  int n_heads, head_dim, half;
  int pair_stride;    // from a pair to the next
  int pair_distance;  // from a to b
  __device__ __forceinline__ void operator()(int i) const {
    const int pair = i % half, head = i / half % n_heads, token = i / half / n_heads;
    float* a = x + token * ld + head * head_dim + pair * pair_stride;
    float* b = a + pair_distance;
    const int64_t angle = static_cast<int64_t>(token) * half + pair;
    const float c = cos[angle], s = sin[angle], at = *a, bt = *b;
    *a = __fmaf_rn(at, c, -__fmul_rn(bt, s));
    *b = __fmaf_rn(bt, c, __fmul_rn(at, s));
  }
};

__device__ __forceinline__ float within_range(float x, const __nv_bfloat16*) { return x; }
__device__ __forceinline__ float within_range(float x, const __half*) {
  return smaller(65504.0f, larger(-65504.0f, x));
}

// Element i is dimension i % d of token i / d, d = n_kv_heads · head_dim.
template <typename T>
struct KvWriteBody {
  T* k_pages;
  T* v_pages;
  const float* k;
  const float* v;
  const int32_t* slots;
  int64_t ld, block_stride;
  int d, head_dim, block_size;
  __device__ __forceinline__ void operator()(int i) const {
    const int token = i / d, column = i % d;
    const int slot = slots[token];
    const int64_t to = slot / block_size * block_stride +
                       (static_cast<int64_t>(column / head_dim) * block_size + slot % block_size) * head_dim +
                       column % head_dim;
    const int64_t from = token * ld + column;
    store(k_pages + to, within_range(k[from], k_pages));
    store(v_pages + to, within_range(v[from], v_pages));
  }
};

// Vector i is vector i % n_vectors of the row of pair i / n_vectors.
template <typename Vector>
struct ScatterRowsBody {
  Vector* y;
  const Vector* x;
  const int32_t* places;
  int n_each;
  int n_vectors;  // of a row
  __device__ __forceinline__ void operator()(int i) const {
    const int pair = i / n_vectors, at = i % n_vectors;
    y[static_cast<int64_t>(places[pair]) * n_vectors + at] =
        x[static_cast<int64_t>(pair / n_each) * n_vectors + at];
  }
};

struct WeightedSumRowsBody {
  float* y;
  const float* x;
  const int32_t* places;
  const float* weights;
  int n_each;
  int d;
  __device__ __forceinline__ void operator()(int i) const {
    const int first = i / d * n_each;
    float sum = 0.0f;
#pragma unroll 4
    for (int pair = first; pair < first + n_each; ++pair) {
      const float value = x[static_cast<int64_t>(places[pair]) * d + i % d];
      sum = __fadd_rn(sum, __fmul_rn(weights[pair], value));
    }
    y[i] = sum;
  }
};

struct AddGatedBody {
  float* y;
  const float* x;
  const float* gate;
  int d;
  __device__ __forceinline__ void operator()(int i) const {
    y[i] = __fadd_rn(y[i], __fmul_rn(sigmoid(gate[i / d]), x[i]));
  }
};

// Vector i is vector i % n_vectors of pair i / n_vectors.
struct KvCopyBody {
  uint4* k;
  uint4* v;
  const int32_t* pairs;
  int64_t stride;  // vectors between blocks
  int n_vectors;   // of a block
  __device__ __forceinline__ void operator()(int i) const {
    const int pair = i / n_vectors, at = i % n_vectors;
    const int64_t from = pairs[2 * pair] * stride + at, to = pairs[2 * pair + 1] * stride + at;
    k[to] = k[from];
    v[to] = v[from];
  }
};

}  // namespace tuili::cuda
