#include <climits>

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

// A block of 256 threads per 1,024 elements; no shared memory.
template <typename Body>
int for_each(Stream stream, const Body& body, int64_t count) {
  if (count == 0) return cudaSuccess;  // a launch of zero blocks is an error
  if (count < 0 || count > INT_MAX) return cudaErrorInvalidValue;
  const auto n_blocks = static_cast<unsigned>(ceil_div(count, kElementTile));
  TUILI_LAUNCH(&for_each_kernel<Body>, n_blocks, kElementThreads, 0, stream, body, static_cast<int>(count));
  return cudaGetLastError();
}

constexpr int64_t kManyElements = kMultiprocessors * kFoursTile;  // a block each

template <typename T>
bool is_on_fours(const T* base) {
  return reinterpret_cast<uintptr_t>(base) % (4 * sizeof(T)) == 0;
}

// The same by fours, for a body that has them: a block per 2,048 elements. `fits`: every four lie together,
// where they can be loaded and stored at once.
template <typename Body>
int for_each_four(Stream stream, const Body& body, int64_t count, bool fits) {
  if (!fits || count % 4 != 0 || count < kManyElements || count > INT_MAX)
    return for_each(stream, body, count);
  const auto n_blocks = static_cast<unsigned>(ceil_div(count, kFoursTile));
  TUILI_LAUNCH(&for_each_four_kernel<Body>, n_blocks, kElementThreads, 0, stream, body,
               static_cast<int>(count));
  return cudaGetLastError();
}

template <typename T>
int embed_as(Stream stream, float* y, const void* table, const int32_t* ids, int64_t n_tokens, int64_t d,
             float factor) {
  const EmbedBody<T> body{y, static_cast<const T*>(table), ids, static_cast<int>(d), factor};
  return for_each(stream, body, n_tokens * d);
}

template <Activation kKind, typename Out>
int activate_into(Stream stream, Out* y, const float* gate, const float* up, int64_t count) {
  const bool fits = is_on_fours(y) && is_on_fours(gate) && is_on_fours(up);
  return for_each_four(stream, ActivateBody<kKind, Out>{y, gate, up}, count, fits);
}

template <Activation kKind>
int activate_as(Stream stream, Output y, const float* gate, const float* up, int64_t count) {
  if (y.dtype == DType::f32)
    return activate_into<kKind>(stream, static_cast<float*>(y.data), gate, up, count);
  if (y.dtype == DType::bf16)
    return activate_into<kKind>(stream, static_cast<bf16*>(y.data), gate, up, count);
  return cudaErrorInvalidValue;
}

template <typename T>
KvWriteBody<T> kv_write_body(const KvPages& pages, const float* k, const float* v, int64_t ld,
                             const int32_t* slots) {
  return {static_cast<T*>(pages.k),
          static_cast<T*>(pages.v),
          k,
          v,
          slots,
          ld,
          pages.block_stride,
          static_cast<int>(pages.n_kv_heads * pages.head_dim),
          static_cast<int>(pages.head_dim),
          static_cast<int>(pages.block_size)};
}

template <typename T>
bool is_on_fours(const KvWriteBody<T>& body) {
  return is_on_fours(body.k_pages) && is_on_fours(body.v_pages) && is_on_fours(body.k) &&
         is_on_fours(body.v) && body.ld % 4 == 0 && body.block_stride % 4 == 0 && body.head_dim % 4 == 0;
}

template <typename T>
int kv_write_as(Stream stream, const KvPages& pages, const float* k, const float* v, int64_t ld,
                const int32_t* slots, int64_t n_tokens) {
  const KvWriteBody<T> body = kv_write_body<T>(pages, k, v, ld, slots);
  return for_each_four(stream, body, n_tokens * body.d, is_on_fours(body));
}

bool is_valid(const RopeArgs& args) {
  return args.n_heads * args.head_dim <= INT_MAX && 2 * args.half <= args.head_dim;
}

RopeBody rope_body(const RopeArgs& args) {
  const bool halves = args.pairs == RopePairs::halves;
  const auto half = static_cast<int>(args.half);
  return {args.x,
          args.cos,
          args.sin,
          args.ld,
          static_cast<int>(args.n_heads),
          static_cast<int>(args.head_dim),
          half,
          halves ? 1 : 2,
          halves ? half : 1};
}

template <typename T>
int rope_kv_write_as(Stream stream, const RopeKvArgs& args) {
  const auto& [q, k, v, ld_kv, pages, slots] = args;
  const int64_t of_q = q.n_heads * q.half, of_head = 2 * pages.head_dim - q.half;
  const int64_t of_token = of_q + pages.n_kv_heads * of_head;
  if (!is_valid(q) || of_token > INT_MAX || q.head_dim != pages.head_dim) return cudaErrorInvalidValue;
  const RopeKvBody<T> body{rope_body(q), kv_write_body<T>(pages, k, v, ld_kv, slots), static_cast<int>(of_q),
                           static_cast<int>(of_head), static_cast<int>(of_token)};
  const bool fits = is_on_fours(body.kv) && is_on_fours(q.x) && is_on_fours(q.cos) && is_on_fours(q.sin) &&
                    q.ld % 4 == 0 && q.half % 4 == 0 && q.pairs == RopePairs::halves;
  return for_each_four(stream, body, q.n_tokens * of_token, fits);
}

// A block of 128 threads per four vectors of k and of v; no shared memory.
int kv_write_codes(Stream stream, const KvPages& pages, const float* k, const float* v, int64_t ld,
                   const int32_t* slots, int64_t n_tokens) {
  const int64_t n_vectors = n_tokens * pages.n_kv_heads;
  if (n_vectors == 0) return cudaSuccess;
  if (n_vectors > INT_MAX - kCodeWarps || pages.head_dim > 32 * kMostHeld || pages.k_scale == nullptr ||
      pages.v_scale == nullptr)
    return cudaErrorInvalidValue;
  const KvCodeProblem problem{{static_cast<int8_t*>(pages.k), pages.k_scale, k},
                              {static_cast<int8_t*>(pages.v), pages.v_scale, v},
                              slots,
                              ld,
                              pages.block_stride,
                              pages.scale_stride,
                              static_cast<int>(n_vectors),
                              static_cast<int>(pages.n_kv_heads),
                              static_cast<int>(pages.head_dim),
                              static_cast<int>(pages.block_size)};
  const auto n_blocks = static_cast<unsigned>(ceil_div(n_vectors, kCodeWarps));
  TUILI_LAUNCH(kv_code_kernel, n_blocks, 32 * kCodeWarps, 0, stream, problem);
  return cudaGetLastError();
}

template <typename T>
int copy_heads_as(Stream stream, const CopyHeadsArgs& args) {
  const CopyHeadsBody<T> body{static_cast<T*>(args.y) + args.at,
                              static_cast<const T*>(args.x),
                              static_cast<int>(args.n_heads),
                              static_cast<int>(args.size_y),
                              static_cast<int>(args.n_heads_x == 1 ? 0 : args.size_x),
                              static_cast<int>(args.n_heads_x * args.size_x),
                              static_cast<int>(args.count)};
  return for_each(stream, body, args.n_tokens * args.n_heads * args.count);
}

template <typename Vector>
int scatter_rows_as(Stream stream, void* y, const void* x, const int32_t* places, int64_t n_tokens,
                    int64_t n_each, int64_t row_bytes) {
  const auto n_vectors = row_bytes / static_cast<int64_t>(sizeof(Vector));
  const ScatterRowsBody<Vector> body{static_cast<Vector*>(y), static_cast<const Vector*>(x), places,
                                     static_cast<int>(n_each), static_cast<int>(n_vectors)};
  return for_each(stream, body, n_tokens * n_each * n_vectors);
}

}  // namespace

int embed(Stream stream, float* y, const void* table, DType type, const int32_t* ids, int64_t n_tokens,
          int64_t d, float factor) {
  switch (type) {
    case DType::f32: return embed_as<float>(stream, y, table, ids, n_tokens, d, factor);
    case DType::bf16: return embed_as<bf16>(stream, y, table, ids, n_tokens, d, factor);
    default: return cudaErrorInvalidValue;
  }
}

int add_rows(Stream stream, float* y, const float* table, const int32_t* ids, int64_t n_tokens, int64_t d) {
  return for_each(stream, AddRowsBody{y, table, ids, static_cast<int>(d)}, n_tokens * d);
}

int round_to_bf16(Stream stream, bf16* y, const float* x, int64_t count) {
  return for_each(stream, RoundBody{y, x}, count);
}

int activate(Stream stream, Output y, const float* gate, const float* up, Activation kind, int64_t count) {
  switch (kind) {
    case Activation::silu: return activate_as<Activation::silu>(stream, y, gate, up, count);
    case Activation::gelu: return activate_as<Activation::gelu>(stream, y, gate, up, count);
    case Activation::gelu_tanh: return activate_as<Activation::gelu_tanh>(stream, y, gate, up, count);
    case Activation::relu: return activate_as<Activation::relu>(stream, y, gate, up, count);
    case Activation::quick_gelu: return activate_as<Activation::quick_gelu>(stream, y, gate, up, count);
    case Activation::relu_squared: return activate_as<Activation::relu_squared>(stream, y, gate, up, count);
    case Activation::relu6: return activate_as<Activation::relu6>(stream, y, gate, up, count);
    case Activation::leaky_relu: return activate_as<Activation::leaky_relu>(stream, y, gate, up, count);
    case Activation::hardswish: return activate_as<Activation::hardswish>(stream, y, gate, up, count);
    case Activation::mish: return activate_as<Activation::mish>(stream, y, gate, up, count);
    case Activation::sigmoid: return activate_as<Activation::sigmoid>(stream, y, gate, up, count);
    case Activation::tanh: return activate_as<Activation::tanh>(stream, y, gate, up, count);
    case Activation::identity: return activate_as<Activation::identity>(stream, y, gate, up, count);
  }
  return cudaErrorInvalidValue;
}

int add(Stream stream, float* y, const float* x, const float* z, int64_t count) {
  return for_each(stream, AddBody{y, x, z}, count);
}

int scale(Stream stream, float* y, float factor, int64_t count) {
  return for_each(stream, ScaleBody{y, factor}, count);
}

int softcap(Stream stream, float* y, float cap, int64_t count) {
  return for_each(stream, SoftcapBody{y, cap}, count);
}

int xielu(Stream stream, float* y, const Xielu& by, int64_t count) {
  return for_each(stream, XieluBody{y, by}, count);
}

int clamp(Stream stream, float* y, float low, float high, float offset, int64_t count) {
  return for_each(stream, ClampBody{y, low, high, offset}, count);
}

int copy_heads(Stream stream, const CopyHeadsArgs& args) {
  if (args.n_heads * args.size_y > INT_MAX || args.n_heads_x * args.size_x > INT_MAX)
    return cudaErrorInvalidValue;
  if (args.type == DType::f32) return copy_heads_as<float>(stream, args);
  if (args.type == DType::bf16) return copy_heads_as<bf16>(stream, args);
  return cudaErrorInvalidValue;
}

int scatter_rows(Stream stream, bf16* y, const bf16* x, const int32_t* places, int64_t n_tokens,
                 int64_t n_each, int64_t d) {
  const int64_t row_bytes = d * static_cast<int64_t>(sizeof(bf16));
  if (has_vector_rows(x, row_bytes) && has_vector_rows(y, row_bytes))
    return scatter_rows_as<uint4>(stream, y, x, places, n_tokens, n_each, row_bytes);
  return scatter_rows_as<bf16>(stream, y, x, places, n_tokens, n_each, row_bytes);
}

int weighted_sum_rows(Stream stream, float* y, const float* x, const int32_t* places, const float* weights,
                      int64_t n_tokens, int64_t n_each, int64_t d) {
  const WeightedSumRowsBody body{y, x, places, weights, static_cast<int>(n_each), static_cast<int>(d)};
  return for_each(stream, body, n_tokens * d);
}

int add_gated(Stream stream, float* y, const float* x, const float* gate, int64_t n_tokens, int64_t d) {
  return for_each(stream, AddGatedBody{y, x, gate, static_cast<int>(d)}, n_tokens * d);
}

int rope(Stream stream, const RopeArgs& args) {
  if (!is_valid(args)) return cudaErrorInvalidValue;
  return for_each(stream, rope_body(args), args.n_tokens * args.n_heads * args.half);
}

int kv_write(Stream stream, const KvPages& pages, const float* k, const float* v, int64_t ld,
             const int32_t* slots, int64_t n_tokens) {
  if (pages.type == DType::f32) return kv_write_as<float>(stream, pages, k, v, ld, slots, n_tokens);
  if (pages.type == DType::f16) return kv_write_as<__half>(stream, pages, k, v, ld, slots, n_tokens);
  if (pages.type == DType::bf16) return kv_write_as<bf16>(stream, pages, k, v, ld, slots, n_tokens);
  if (pages.type == DType::i8) return kv_write_codes(stream, pages, k, v, ld, slots, n_tokens);
  return cudaErrorInvalidValue;
}

int rope_kv_write(Stream stream, const RopeKvArgs& args) {
  if (args.pages.type == DType::f16) return rope_kv_write_as<__half>(stream, args);
  if (args.pages.type == DType::bf16) return rope_kv_write_as<bf16>(stream, args);
  return cudaErrorInvalidValue;
}

}  // namespace tuili::cuda
