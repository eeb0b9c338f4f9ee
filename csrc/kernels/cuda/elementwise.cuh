// Elementwise kernels: one body per op, an element per thread, four elements apart by a block's width.
//
// v1  an element after another: a load waits for the store before it, which may meet its address. H200: 44 to
//     51 % of the read stream
// v2  of many elements the bodies that matter load and store four at once, and everything before they store
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ptx.cuh"

namespace tuili::cuda {

inline constexpr int kElementThreads = 256;
inline constexpr int kPerThread = 4;  // loads on their way at once
inline constexpr int kElementTile = kElementThreads * kPerThread;

// Calls body(i) for i in [0, count).
template <typename Body>
__global__ void __launch_bounds__(kElementThreads) for_each_kernel(Body body, int count) {
  follow_kernels_before();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kElementTile + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j * kElementThreads;
    if (i < count) body(static_cast<int>(i));
  }
}

inline constexpr int kFours = 2;  // of a thread
inline constexpr int kFoursTile = 4 * kElementThreads * kFours;

struct Four {
  float of[4];
};

__device__ __forceinline__ Four load_four(const float* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  return {
      {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z), __uint_as_float(bits.w)}};
}

__device__ __forceinline__ void store_four(float* to, const Four& x) {
  *reinterpret_cast<uint4*>(to) = uint4{__float_as_uint(x.of[0]), __float_as_uint(x.of[1]),
                                        __float_as_uint(x.of[2]), __float_as_uint(x.of[3])};
}

template <typename T>
__device__ __forceinline__ void store_four(T* to, const Four& x) {
  alignas(uint2) T rounded[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) store(rounded + j, x.of[j]);
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(rounded);
}

// Calls body.finish(i, body.load(i)) for i = 0, 4, … in [0, count), each for four elements.
template <typename Body>
__global__ void __launch_bounds__(kElementThreads) for_each_four_kernel(Body body, int count) {
  follow_kernels_before();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kFoursTile + 4 * threadIdx.x;
  typename Body::Loaded loaded[kFours];
#pragma unroll
  for (int j = 0; j < kFours; ++j) {
    const int64_t i = first + j * 4 * kElementThreads;
    if (i < count) loaded[j] = body.load(static_cast<int>(i));
  }
#pragma unroll
  for (int j = 0; j < kFours; ++j) {
    const int64_t i = first + j * 4 * kElementThreads;
    if (i < count) body.finish(static_cast<int>(i), loaded[j]);
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

struct XieluBody {
  float* y;
  cpu::Xielu by;
  __device__ __forceinline__ void operator()(int i) const {
    const float x = y[i], above = larger(0.0f, x), below = smaller(0.0f, x);
    const float t = hyperbolic_tangent(__fmul_rn(below, 0.5f));
    const float e = __fdiv_rn(__fadd_rn(t, t), __fsub_rn(1.0f, t));
    const float lower = __fmaf_rn(by.alpha_n, __fsub_rn(e, below), __fmul_rn(by.beta, x));
    y[i] = __fmaf_rn(by.alpha_p, __fmul_rn(above, above), lower);
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

// Formulas and clamps: kernels/cpu/kernels.h.
template <cpu::Activation kKind>
__device__ __forceinline__ float activated(float x) {
  if constexpr (kKind == cpu::Activation::relu) {
    return larger(0.0f, x);
  } else if constexpr (kKind == cpu::Activation::relu_squared) {
    return __fmul_rn(larger(0.0f, x), larger(0.0f, x));
  } else if constexpr (kKind == cpu::Activation::relu6) {
    return smaller(6.0f, larger(0.0f, x));
  } else if constexpr (kKind == cpu::Activation::leaky_relu) {
    return larger(__fmul_rn(x, 0.01f), x);
  } else if constexpr (kKind == cpu::Activation::sigmoid) {
    return __fdiv_rn(1.0f, __fadd_rn(1.0f, exponential(-x)));
  } else if constexpr (kKind == cpu::Activation::tanh) {
    return hyperbolic_tangent(x);
  } else if constexpr (kKind == cpu::Activation::identity) {
    return x;
  } else if constexpr (kKind == cpu::Activation::hardswish) {
    x = larger(-128.0f, x);
    return __fdiv_rn(__fmul_rn(x, smaller(6.0f, larger(0.0f, __fadd_rn(x, 3.0f)))), 6.0f);
  } else if constexpr (kKind == cpu::Activation::mish) {
    x = larger(-128.0f, x);
    const float e = exponential(smaller(20.0f, x)), n = __fmul_rn(e, __fadd_rn(e, 2.0f));
    return __fmul_rn(x, __fdiv_rn(n, __fadd_rn(n, 2.0f)));
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
    store(y + i, of(gate[i], up == nullptr ? 0.0f : up[i]));
  }
  __device__ __forceinline__ float of(float from, float factor) const {
    const float value = activated<kKind>(from);
    return up == nullptr ? value : __fmul_rn(value, factor);
  }

  struct Loaded {
    Four gate, up;
  };
  __device__ __forceinline__ Loaded load(int i) const {
    return {load_four(gate + i), up == nullptr ? Four{} : load_four(up + i)};
  }
  __device__ __forceinline__ void finish(int i, Loaded x) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) x.gate.of[j] = of(x.gate.of[j], x.up.of[j]);
    store_four(y + i, x.gate);
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
    const float2 turned = turn(a, token, pair);
    *a = turned.x;
    a[pair_distance] = turned.y;
  }
  // A token's pair that begins at `a`, turned.
  __device__ __forceinline__ float2 turn(const float* a, int token, int pair) const {
    const int64_t angle = static_cast<int64_t>(token) * half + pair;
    return turned(*a, a[pair_distance], cos[angle], sin[angle]);
  }
  __device__ __forceinline__ static float2 turned(float a, float b, float c, float s) {
    return {__fmaf_rn(a, c, -__fmul_rn(b, s)), __fmaf_rn(b, c, __fmul_rn(a, s))};
  }

  // Four pairs of halves that follow one another.
  struct Pairs {
    Four a, b, cos, sin;
    __device__ __forceinline__ void turn() {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 both = turned(a.of[j], b.of[j], cos.of[j], sin.of[j]);
        a.of[j] = both.x;
        b.of[j] = both.y;
      }
    }
  };
  __device__ __forceinline__ Pairs load_pairs(const float* a, int token, int pair) const {
    const int64_t angle = static_cast<int64_t>(token) * half + pair;
    return {load_four(a), load_four(a + half), load_four(cos + angle), load_four(sin + angle)};
  }
};

__device__ __forceinline__ float within_range(float x, const float*) { return x; }
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
    const int64_t from = token * ld + column, to = place(token, column / head_dim) + column % head_dim;
    put(k_pages + to, k[from]);
    put(v_pages + to, v[from]);
  }
  // Where a token's part of a head begins in the pages.
  __device__ __forceinline__ int64_t place(int token, int head) const {
    const int slot = slots[token];
    return slot / block_size * block_stride +
           (static_cast<int64_t>(head) * block_size + slot % block_size) * head_dim;
  }
  __device__ __forceinline__ void put(T* to, float x) const { store(to, within_range(x, to)); }

  struct Loaded {
    Four k, v;
  };
  __device__ __forceinline__ Loaded load(int i) const {
    const int64_t from = i / d * ld + i % d;
    return {load_four(k + from), load_four(v + from)};
  }
  __device__ __forceinline__ void finish(int i, const Loaded& x) const {
    const int64_t to = place(i / d, i % d / head_dim) + i % d % head_dim;
    put_four(k_pages + to, x.k);
    put_four(v_pages + to, x.v);
  }
  __device__ __forceinline__ void put_four(T* to, Four x) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) x.of[j] = within_range(x.of[j], to);
    store_four(to, x);
  }
};

// Of each token the pairs of q, then per kv head the pairs of k, what of k is not turned, and v.
template <typename T>
struct RopeKvBody {
  RopeBody q;
  KvWriteBody<T> kv;
  int of_q, of_head;  // elements of a token's q, and of one kv head
  int of_token;
  __device__ __forceinline__ void operator()(int i) const {
    const int token = i / of_token, at = i % of_token;
    if (at < of_q) return q(token * of_q + at);
    const int head = (at - of_q) / of_head, element = (at - of_q) % of_head, n_plain = kv.head_dim - q.half;
    const int64_t from = token * kv.ld + head * kv.head_dim, to = kv.place(token, head);
    if (element >= n_plain)
      return kv.put(kv.v_pages + to + element - n_plain, kv.v[from + element - n_plain]);
    if (element >= q.half) return kv.put(kv.k_pages + to + element + q.half, kv.k[from + element + q.half]);
    const int d = element * q.pair_stride;
    const float2 turned = q.turn(kv.k + from + d, token, element);
    kv.put(kv.k_pages + to + d, turned.x);
    kv.put(kv.k_pages + to + d + q.pair_distance, turned.y);
  }

  using Loaded = RopeBody::Pairs;  // of what does not turn `a` alone
  __device__ __forceinline__ float* of_pair(int token, int at) const {
    return q.x + token * q.ld + at / q.half * q.head_dim + at % q.half;
  }
  __device__ __forceinline__ Loaded load(int i) const {
    const int token = i / of_token, at = i % of_token;
    if (at < of_q) return q.load_pairs(of_pair(token, at), token, at % q.half);
    const int head = (at - of_q) / of_head, element = (at - of_q) % of_head, n_plain = kv.head_dim - q.half;
    const int64_t from = token * kv.ld + head * kv.head_dim;
    if (element < q.half) return q.load_pairs(kv.k + from + element, token, element);
    return {load_four(element < n_plain ? kv.k + from + element + q.half : kv.v + from + element - n_plain),
            {},
            {},
            {}};
  }
  __device__ __forceinline__ void finish(int i, Loaded x) const {
    const int token = i / of_token, at = i % of_token;
    if (at < of_q) {
      x.turn();
      store_four(of_pair(token, at), x.a);
      return store_four(of_pair(token, at) + q.half, x.b);
    }
    const int head = (at - of_q) / of_head, element = (at - of_q) % of_head, n_plain = kv.head_dim - q.half;
    const int64_t to = kv.place(token, head);
    if (element >= n_plain) return kv.put_four(kv.v_pages + to + element - n_plain, x.a);
    if (element >= q.half) return kv.put_four(kv.k_pages + to + element + q.half, x.a);
    x.turn();
    kv.put_four(kv.k_pages + to + element, x.a);
    kv.put_four(kv.k_pages + to + element + q.half, x.b);
  }
};

// Of int8 pages: a warp per token and head, which it codes on its own.
struct KvCodes {
  int8_t* pages;
  float* scales;
  const float* x;
};

inline constexpr int kCodeWarps = 4;        // of a block
inline constexpr int kMostHeld = 256 / 32;  // elements of a head in a lane

struct KvCodeProblem {
  KvCodes k, v;
  const int32_t* slots;
  int64_t ld, block_stride, scale_stride;
  int n_vectors, n_heads, head_dim, block_size;  // n_vectors = n_tokens · n_heads
};

// Codes the warp's vector, x[0 … n), into to[0 … n); returns its scale. As code_vector of kernels/cpu.
__device__ __forceinline__ float code_vector(int8_t* to, const float* x, int n) {
  constexpr float kRounder = 0x1.8p23f;                        // + x is rounded to an integer, to even
  constexpr int kSmallest = 27 << 23, kInfinity = 0x7f800000;  // 2^-100
  const int lane = threadIdx.x % 32;
  float held[kMostHeld];
  int amax_bits = 0;  // as integers magnitudes are ordered like floats, with NaN above all
#pragma unroll
  for (int j = 0; j < kMostHeld; ++j) {
    const int d = lane + 32 * j;
    held[j] = d < n ? within_range(x[d], static_cast<const __half*>(nullptr)) : 0.0f;
    const int bits = __float_as_int(held[j]) & 0x7fffffff;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = __shfl_xor_sync(0xffffffffu, amax_bits, distance);
    amax_bits = other > amax_bits ? other : amax_bits;
  }
  const bool usable = amax_bits >= kSmallest && amax_bits < kInfinity;
  const float amax = __uint_as_float(static_cast<uint32_t>(amax_bits)), inverse = __fdiv_rn(127.0f, amax);
#pragma unroll
  for (int j = 0; j < kMostHeld; ++j) {
    const float rounded = __fadd_rn(__fmul_rn(held[j], inverse), kRounder);
    const int code = __float_as_int(rounded) - __float_as_int(kRounder);
    if (lane + 32 * j < n) to[lane + 32 * j] = static_cast<int8_t>(usable ? code : 0);
  }
  return usable ? __fdiv_rn(amax, 127.0f) : amax_bits < kInfinity ? 0.0f : __uint_as_float(0x7fc00000u);
}

__global__ void __launch_bounds__(32 * kCodeWarps) kv_code_kernel(KvCodeProblem problem) {
  follow_kernels_before();
  const int vector = blockIdx.x * kCodeWarps + threadIdx.x / 32;
  if (vector >= problem.n_vectors) return;
  const int token = vector / problem.n_heads, head = vector % problem.n_heads;
  const int slot = problem.slots[token], block = slot / problem.block_size;
  const int row = head * problem.block_size + slot % problem.block_size;
  const int64_t to = block * problem.block_stride + static_cast<int64_t>(row) * problem.head_dim;
  const int64_t scale = block * problem.scale_stride + row;
  const int64_t from = token * problem.ld + head * problem.head_dim;
  const float of_k = code_vector(problem.k.pages + to, problem.k.x + from, problem.head_dim);
  const float of_v = code_vector(problem.v.pages + to, problem.v.x + from, problem.head_dim);
  if (threadIdx.x % 32 != 0) return;
  problem.k.scales[scale] = of_k;
  problem.v.scales[scale] = of_v;
}

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

}  // namespace tuili::cuda
