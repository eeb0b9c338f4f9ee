#include <bit>
#include <climits>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/kernels.h"

namespace tuili::cuda {
namespace {

// With fewer blocks splits are shared out: two per SM for wide ones, for narrow ones so many that the last
// wave is a small part; what partials cost in memory is 1/50 there, and half as much as the keys in wide
// ones.
constexpr int64_t kEnoughWide = 256, kEnoughNarrow = 2048;
constexpr int64_t kQueueing = 3 * kMultiprocessors;

int64_t n_splits(int64_t n_keys) { return ceil_div(n_keys, kKeySplit); }

bool is_valid(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const bool fits = args.n_tokens * args.n_heads <= INT_MAX && args.max_rows * args.n_heads <= INT_MAX - 64 &&
                    args.max_keys <= INT_MAX - kKeySplit && args.window <= INT_MAX &&
                    args.n_sequences <= kMaxGrid;
  const bool is_coded = pages.type == DType::i8 && pages.k_scale != nullptr && pages.v_scale != nullptr;
  const bool has_elements =
      pages.type == DType::f32 || pages.type == DType::f16 || pages.type == DType::bf16 || is_coded;
  const bool has_type = args.out.dtype == DType::f32 || args.out.dtype == DType::bf16;
  const bool has_pages = has_elements && std::has_single_bit(static_cast<uint64_t>(pages.block_size)) &&
                         pages.n_kv_heads * pages.block_size * pages.head_dim <= INT_MAX;
  const bool has_heads = pages.head_dim >= 1 && pages.head_dim <= kLargestHead && pages.n_kv_heads >= 1 &&
                         args.n_heads % pages.n_kv_heads == 0;
  if (!fits || !(args.scale > 0) || !has_type || !has_pages || !has_heads) return false;
  // A quotient by the inverse, which is off by less than group / 2^kInverseBits, is exact below this.
  const int64_t group = args.n_heads / pages.n_kv_heads;
  return (args.max_rows * group + 128) * group < int64_t{1} << kInverseBits;
}

// Whether the tensor cores can read the pages.
bool has_chunks(const KvPages& pages) { return pages.type != DType::f32 && pages.head_dim % kChunk == 0; }

bool is_valid_in_chunks(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const int64_t stride_bytes = pages.block_stride * size_of(pages.type);
  const bool has_scratch = args.max_keys <= kKeySplit ||
                           args.partial_floats >= args.n_tokens * args.n_heads * (pages.head_dim + 2);
  return has_scratch && has_vector_rows(args.q, args.ld_q * int64_t{sizeof(float)}) &&
         has_vector_rows(pages.k, stride_bytes) && has_vector_rows(pages.v, stride_bytes);
}

AttentionProblem problem_of(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const bool capped = args.softcap > 0;
  const int64_t group = args.n_heads / pages.n_kv_heads;
  return {.out = args.out.data,
          .q = args.q,
          .k = pages.k,
          .v = pages.v,
          .blocks = args.blocks,
          .sequences = args.sequences,
          .partials = args.partials,
          .ld_out = args.ld_out,
          .ld_q = args.ld_q,
          .block_stride = pages.block_stride,
          .n_queries = args.n_tokens * args.n_heads,
          .n_heads = static_cast<int>(args.n_heads),
          .head_dim = static_cast<int>(pages.head_dim),
          .group = static_cast<int>(group),
          .group_inverse = static_cast<uint32_t>(ceil_div(int64_t{1} << kInverseBits, group)),
          .block_size = static_cast<int>(pages.block_size),
          .block_shift = std::countr_zero(static_cast<uint64_t>(pages.block_size)),
          .window = static_cast<int>(args.window),
          .n_splits = 1,
          .causal = args.causal,
          .out_type = args.out.dtype,
          .scale = capped ? args.scale / args.softcap : args.scale * kLog2E,
          .softcap = capped ? args.softcap * kLog2E : 0.0f,
          .unit = capped || args.bias != nullptr ? 1.0f : args.scale * kLog2E,
          .bias = args.bias,
          .sinks = args.sinks,
          .bias_stride = args.bias_stride,
          .bias_row_stride = args.bias_row_stride,
          .bias_origin = args.bias_origin,
          .bias_relative = args.bias_relative,
          .k_scale = pages.k_scale,
          .v_scale = pages.v_scale,
          .scale_stride = pages.scale_stride};
}

// 128 threads per query tile, kv head and sequence, or per split of those; up to 96 KiB of shared memory, for
// which the device must be asked.
template <typename Shape>
int launch_attention(Stream stream, const AttentionArgs& args) {
  AttentionProblem problem = problem_of(args);
  const int64_t queries = args.max_rows * (args.n_heads / args.pages.n_kv_heads);
  const int64_t n_tiles = ceil_div(queries, Shape::kQueries);
  constexpr int64_t kEnough = Shape::kKeyWarps == 1 ? kEnoughWide : kEnoughNarrow;
  if (n_tiles > kMaxGrid) return cudaErrorInvalidValue;
  const bool few = n_tiles * args.pages.n_kv_heads * args.n_sequences < kEnough &&
                   args.n_sequences * n_splits(args.max_keys) <= kMaxGrid;
  const int64_t needed =
      attention_partial_floats(args.n_tokens, args.n_heads, args.pages.head_dim, args.max_keys);
  if (few && args.partial_floats >= needed) problem.n_splits = static_cast<int>(n_splits(args.max_keys));
  const dim3 grid(static_cast<unsigned>(args.pages.n_kv_heads), static_cast<unsigned>(n_tiles),
                  static_cast<unsigned>(args.n_sequences * problem.n_splits));
  constexpr size_t kBytes = sizeof(typename Shape::Storage);
  const auto kernel = &attention_kernel<Shape>;
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes});
  if (status != cudaSuccess) return status;
  TUILI_LAUNCH(kernel, grid, kAttentionThreads, kBytes, stream, problem);
  if (problem.n_splits > 1) {
    const int64_t n_quads = ceil_div(args.max_rows * args.n_heads, kAttentionWarps);
    const dim3 quads(static_cast<unsigned>(n_quads),
                     static_cast<unsigned>(ceil_div(args.pages.head_dim, kCombined)),
                     static_cast<unsigned>(args.n_sequences));
    TUILI_LAUNCH(attention_combine_kernel, quads, kAttentionThreads, 0, stream, problem);
  }
  return cudaGetLastError();
}

// 128 threads per query tile, kv head and sequence; up to 86 KiB of shared memory.
template <typename T, Access kAccess, typename Shape>
int launch_plain(Stream stream, const AttentionArgs& args) {
  const int64_t queries = args.max_rows * (args.n_heads / args.pages.n_kv_heads);
  if (args.pages.n_kv_heads > kMaxGrid) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(ceil_div(queries, Shape::kQueries)),
                  static_cast<unsigned>(args.pages.n_kv_heads), static_cast<unsigned>(args.n_sequences));
  constexpr size_t kBytes = sizeof(typename Shape::Storage);
  const auto kernel = &attention_plain_kernel<T, kAccess, Shape>;
  const int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int{kBytes});
  if (status != cudaSuccess) return status;
  TUILI_LAUNCH(kernel, grid, kAttentionThreads, kBytes, stream, problem_of(args));
  return cudaGetLastError();
}

// Narrow for one row of few heads.
template <typename T, Access kAccess, int kHeadDim>
int launch_plain_for_queries(Stream stream, const AttentionArgs& args) {
  using Narrow = PlainShape<kHeadDim, true>;
  if (args.max_rows * (args.n_heads / args.pages.n_kv_heads) <= Narrow::kQueries)
    return launch_plain<T, kAccess, Narrow>(stream, args);
  return launch_plain<T, kAccess, PlainShape<kHeadDim, false>>(stream, args);
}

int launch_plain_of_type(Stream stream, const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  constexpr auto kElements = Access::scalar;
  if (pages.type == DType::f16) return launch_plain_for_queries<__half, kElements, 256>(stream, args);
  if (pages.type == DType::i8) return launch_plain_for_queries<int8_t, kElements, 256>(stream, args);
  if (pages.type == DType::bf16) return launch_plain_for_queries<bf16, kElements, 256>(stream, args);
  const int64_t bytes = sizeof(float), stride = pages.block_stride * bytes;
  const bool has_rows = has_vector_rows(pages.k, stride) && has_vector_rows(pages.v, stride) &&
                        pages.head_dim * bytes % kVectorBytes == 0;
  if (!has_rows) return launch_plain_for_queries<float, kElements, 256>(stream, args);
  if (pages.head_dim > 128) return launch_plain_for_queries<float, Access::vector, 256>(stream, args);
  return launch_plain_for_queries<float, Access::vector, 128>(stream, args);
}

template <typename T, int kHeadDim, int kKeyWarps, int kQueryTiles, int kSlots>
using ShapeOf =
    std::conditional_t<std::is_same_v<T, int8_t>, CodedShape<kHeadDim, kKeyWarps, kQueryTiles, kSlots>,
                       AttentionShape<T, kHeadDim, kKeyWarps, kQueryTiles, kSlots>>;

// Shapes of a type of pages and a size of heads. All fit the 99 KiB of shared memory of the smallest device.
template <typename T, int kHeadDim>
struct Shapes {
  static constexpr int kNarrowSlots = kHeadDim == 256 ? 2 : 4;
  using Narrow = ShapeOf<T, kHeadDim, kAttentionWarps, 1, kNarrowSlots>;
  using Crowded = ShapeOf<T, kHeadDim, kAttentionWarps, 1, kHeadDim == 128 ? 3 : kNarrowSlots>;
  using Slim = ShapeOf<T, kHeadDim, 1, 1, kHeadDim == 256 ? 2 : 3>;
  using Wide = std::conditional_t<kHeadDim == 256, Slim, ShapeOf<T, kHeadDim, 1, 2, 3>>;
};

// Narrow for few queries: a block or two per kv head, which read the same keys at the same time. With so many
// blocks that they queue, less memory for each leaves room for a fourth on an SM of Hopper. Wide blocks use
// keys best, slim ones leave fewer SMs idle.
template <typename T, int kHeadDim>
int launch_for_queries(Stream stream, const AttentionArgs& args) {
  using Of = Shapes<T, kHeadDim>;
  const int64_t queries = args.max_rows * (args.n_heads / args.pages.n_kv_heads);
  const int64_t n_blocks = args.pages.n_kv_heads * args.n_sequences * n_splits(args.max_keys);
  if (queries <= 2 * Of::Narrow::kQueries) {
    if (n_blocks > kQueueing) return launch_attention<typename Of::Crowded>(stream, args);
    return launch_attention<typename Of::Narrow>(stream, args);
  }
  const int64_t n_wide = n_blocks * (queries / Of::Wide::kQueries);
  if (n_wide < kEnoughWide) return launch_attention<typename Of::Slim>(stream, args);
  return launch_attention<typename Of::Wide>(stream, args);
}

template <typename T>
int launch_for_heads(Stream stream, const AttentionArgs& args) {
  if (args.pages.head_dim <= 64) return launch_for_queries<T, 64>(stream, args);
  if (args.pages.head_dim <= 128) return launch_for_queries<T, 128>(stream, args);
  return launch_for_queries<T, 256>(stream, args);
}

}  // namespace

int attention(Stream stream, const AttentionArgs& args) {
  if (args.n_sequences == 0 || args.max_rows == 0 || args.n_heads == 0) return cudaSuccess;
  if (!is_valid(args)) return cudaErrorInvalidValue;
  if (!has_chunks(args.pages)) return launch_plain_of_type(stream, args);
  if (!is_valid_in_chunks(args)) return cudaErrorInvalidValue;
  if (args.pages.type == DType::f16) return launch_for_heads<__half>(stream, args);
  if (args.pages.type == DType::i8) return launch_for_heads<int8_t>(stream, args);
  return launch_for_heads<bf16>(stream, args);
}

#define TUILI_ATTENTION(Shape) template __global__ void attention_kernel<Shape>(AttentionProblem);
#define TUILI_ATTENTIONS(T)                     \
  TUILI_ATTENTION(TUILI_SHAPE(T, 64, Narrow))   \
  TUILI_ATTENTION(TUILI_SHAPE(T, 64, Slim))     \
  TUILI_ATTENTION(TUILI_SHAPE(T, 64, Wide))     \
  TUILI_ATTENTION(TUILI_SHAPE(T, 128, Narrow))  \
  TUILI_ATTENTION(TUILI_SHAPE(T, 128, Crowded)) \
  TUILI_ATTENTION(TUILI_SHAPE(T, 128, Slim))    \
  TUILI_ATTENTION(TUILI_SHAPE(T, 128, Wide))    \
  TUILI_ATTENTION(TUILI_SHAPE(T, 256, Narrow))  \
  TUILI_ATTENTION(TUILI_SHAPE(T, 256, Slim))
#define TUILI_SHAPE(T, head_dim, name) Shapes<T, head_dim>::name
TUILI_ATTENTIONS(bf16)
TUILI_ATTENTIONS(__half)
TUILI_ATTENTIONS(int8_t)
#undef TUILI_SHAPE
#undef TUILI_ATTENTIONS
#undef TUILI_ATTENTION

}  // namespace tuili::cuda
