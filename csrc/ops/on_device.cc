#include "ops/on_device.h"

#include <algorithm>
#include <array>

#include "ops/checks.h"

namespace tuili::ops::on_device {
namespace {

constexpr DeviceKind kCuda = DeviceKind::cuda;

cuda::NormArgs norm_args(const TensorView& y, const TensorView& x, const TensorView& gain, float eps,
                         const TensorView* addend, cuda::bf16* rounded) {
  const int64_t n = x.size(1);
  const float* const added = addend ? addend->f32() : nullptr;
  return {{y.data, y.dtype}, x.f32(), added, gain.f32(), nullptr, x.rows(), n, 1, n, eps, rounded};
}

cuda::RopeArgs rope_args(const TensorView& x, const TensorView& cos, const TensorView& sin, int64_t n_heads,
                         bool interleaved) {
  const auto pairs = interleaved ? cuda::RopePairs::neighbours : cuda::RopePairs::halves;
  return {x.f32(), x.row_stride,        cos.f32(),   sin.f32(), x.rows(),
          n_heads, x.size(1) / n_heads, cos.size(1), pairs};
}

}  // namespace

void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps, const TensorView* addend, cuda::bf16* rounded) {
  device::check(cuda::rms_norm(context.stream, norm_args(y, x, gain, eps, addend, rounded)), "rms_norm");
}

void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps) {
  const int64_t head_dim = gain.size(0), n_heads = x.size(1) / head_dim;
  const cuda::NormArgs args{{x.data, x.dtype},  x.f32(),  nullptr, gain.f32(),   nullptr,
                            x.rows() * n_heads, head_dim, n_heads, x.row_stride, eps};
  device::check(cuda::rms_norm(context.stream, args), "rms_norm_heads");
}

void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps, const TensorView* addend, cuda::bf16* rounded) {
  cuda::NormArgs args = norm_args(y, x, gain, eps, addend, rounded);
  args.bias = bias.f32();
  device::check(cuda::layer_norm(context.stream, args), "layer_norm");
}

void layer_norm_strided(const Context& context, const TensorView& x, const TensorView& gain,
                        const TensorView& bias, float eps) {
  const cuda::NormArgs args{{x.data, x.dtype}, x.f32(),   nullptr, gain.f32(),   bias.f32(),
                            x.rows(),          x.size(1), 1,       x.row_stride, eps};
  device::check(cuda::layer_norm(context.stream, args), "layer_norm_strided");
}

void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved) {
  device::check(cuda::rope(context.stream, rope_args(x, cos, sin, n_heads, interleaved)), "rope");
}

void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind) {
  const float* const factors = up.data ? up.f32() : nullptr;
  device::check(cuda::activate(context.stream, {y.data, y.dtype}, gate.f32(), factors, kind, y.count()),
                "activate");
}

void gather_taps(const Context& context, const TensorView& y, const TensorView& x,
                 const DeviceSequences& texts, int64_t n_taps) {
  expect_dense("gather_taps", "x", x, kCuda);
  expect("gather_taps", "y", y, kCuda, DType::bf16);
  const cuda::TapArgs args{
      static_cast<cuda::bf16*>(y.data), x.f32(), texts.list, texts.count, texts.max_rows, x.size(1), n_taps};
  device::check(cuda::gather_taps(context.stream, args), "gather_taps");
}

void embed(const Context& context, const TensorView& y, const PackedMatrix& w, const int32_t* ids,
           float factor) {
  expect_dense("embed", "y", y, kCuda);
  TUILI_EXPECT(w.format == Format::bf16 && y.size(1) == w.k, "embed: y is ", y, ", the table ",
               info_of(w.format).name, " with rows of ", w.k);
  device::check(cuda::embed(context.stream, y.f32(), w.codes, DType::bf16, ids, y.rows(), w.k, factor),
                "embed");
}

const cuda::bf16* rounded(const Context& context, Activations& x) {
  TUILI_EXPECT(x.x.is_dense(), "gemm: x must be dense, not ", x.x);
  if (x.x.dtype == DType::bf16) return static_cast<const cuda::bf16*>(x.x.data);
  expect("gemm", "x", x.x, kCuda);
  auto* const room = reinterpret_cast<cuda::bf16*>(x.room.rounded);
  TUILI_EXPECT(room != nullptr, "gemm: no room to round ", x.x);
  if (!x.is_ready) device::check(cuda::round_to_bf16(context.stream, room, x.x.f32(), x.x.count()), "round");
  x.is_ready = true;
  return room;
}

cuda::bf16* planned_room(Activations& x) {
  if (!x.is_planned) return nullptr;
  x.is_ready = true;
  return reinterpret_cast<cuda::bf16*>(x.room.rounded);
}

namespace {

void check(const TensorView& x, const LinearMap& map) {
  const PackedMatrix& w = *map.w;
  expect_dense("gemm", "y", map.y, kCuda);
  TUILI_EXPECT(x.size(1) == w.k && map.y.rows() == x.rows() && map.y.size(1) == w.n && w.codes != nullptr,
               "gemm: x is ", x, ", w is ", info_of(w.format).name, " [", w.n, ", ", w.k, "], y is ", map.y);
  TUILI_EXPECT(!is_float(w.format) || w.format == Format::bf16, "gemm: dense weights on cuda are bf16, not ",
               info_of(w.format).name);
}

template <typename Args, typename ToArgs>
int launch(device::Stream stream, std::span<const LinearMap> maps, const ToArgs& args_of) {
  std::array<Args, cuda::kMostTogether> products{};
  std::ranges::transform(maps, products.begin(), args_of);
  return cuda::gemm(stream, std::span<const Args>(products).first(maps.size()));
}

// Maps of one format, in one launch: `input` holds the m rows of x rounded.
void gemm(device::Stream stream, int64_t m, const cuda::bf16* input, std::span<const LinearMap> maps) {
  const auto dense = [&](const LinearMap& map) {
    const auto* const w = reinterpret_cast<const cuda::bf16*>(map.w->codes);
    return cuda::GemmArgs{map.y.f32(), input, w, map.bias, m, map.w->n, map.w->k};
  };
  const auto quantized = [&](const LinearMap& map) {
    return cuda::QuantizedGemmArgs{map.y.f32(), input, *map.w, map.bias, m};
  };
  device::check(is_float(maps[0].w->format) ? launch<cuda::GemmArgs>(stream, maps, dense)
                                            : launch<cuda::QuantizedGemmArgs>(stream, maps, quantized),
                "gemm");
}

// How many of the maps, from the first on, are one launch.
size_t n_together(int64_t m, std::span<const LinearMap> maps) {
  if (m > cuda::kTogetherRows) return 1;
  size_t n = 1;
  while (n < std::min<size_t>(maps.size(), cuda::kMostTogether) && maps[n].w->format == maps[0].w->format)
    ++n;
  return n;
}

}  // namespace

void gemm(const Context& context, Activations& x, std::span<const LinearMap> maps) {
  const cuda::bf16* const input = rounded(context, x);
  const int64_t m = x.x.rows();
  for (const LinearMap& map : maps) check(x.x, map);
  int n_launches = 0;
  for (size_t i = 0; i < maps.size(); i += n_together(m, maps.subspan(i))) ++n_launches;
  const int n_sides = context.sides && m <= kFewRows ? std::min(n_launches - 1, SideStreams::kCount) : 0;
  Fork fork(context.sides, context.stream, n_sides);
  for (int side = 0; !maps.empty(); ++side) {
    const size_t n = n_together(m, maps);
    gemm(fork.stream(side), m, input, maps.first(n));
    maps = maps.subspan(n);
  }
  fork.join();
}

void rope_kv_write(const Context& context, const RopeKv& x, const KvPages& pages, const int32_t* slots) {
  expect("rope_kv_write", "q", x.q, kCuda);
  TUILI_EXPECT(x.q.rows() == x.k.rows(), "rope_kv_write: q is ", x.q, ", k is ", x.k);
  const cuda::RopeKvArgs args{rope_args(x.q, x.cos, x.sin, x.n_heads, x.interleaved),
                              x.k.f32(),
                              x.v.f32(),
                              x.k.row_stride,
                              pages,
                              slots};
  device::check(cuda::rope_kv_write(context.stream, args), "rope_kv_write");
}

void kv_write(const Context& context, const KvPages& pages, const TensorView& k, const TensorView& v,
              const int32_t* slots) {
  device::check(cuda::kv_write(context.stream, pages, k.f32(), v.f32(), k.row_stride, slots, k.rows()),
                "kv_write");
}

int64_t partial_floats(int64_t n_tokens, int64_t n_heads, int64_t head_dim, int64_t max_keys) {
  return cuda::attention_partial_floats(n_tokens, n_heads, head_dim, max_keys);
}

namespace {

cuda::AttentionArgs attention_args(const AttentionSpec& spec, const TensorView& out, const TensorView& q,
                                   const KvPages& pages, const DeviceSequences& sequences,
                                   std::span<float> partials) {
  expect("attention", "q", q, kCuda);
  expect("attention", "out", out, kCuda, output_type(out, kCuda));
  TUILI_EXPECT(same_shape(q, out) && q.size(1) == spec.n_heads * spec.head_dim &&
                   pages.n_kv_heads == spec.n_kv_heads && pages.head_dim == spec.head_dim &&
                   spec.n_heads % spec.n_kv_heads == 0,
               "attention: q is ", q, ", out is ", out, ", pages of ", pages.n_kv_heads, " heads of ",
               pages.head_dim, " for ", spec.n_heads, " and ", spec.n_kv_heads, " heads of ", spec.head_dim);
  return {.out = {out.data, out.dtype},
          .ld_out = out.row_stride,
          .q = q.f32(),
          .ld_q = q.row_stride,
          .pages = pages,
          .blocks = sequences.blocks,
          .sequences = sequences.list,
          .n_sequences = sequences.count,
          .max_rows = sequences.max_rows,
          .max_keys = sequences.max_keys,
          .n_tokens = q.rows(),
          .n_heads = spec.n_heads,
          .window = spec.window,
          .causal = spec.causal ? cuda::Causal::yes : cuda::Causal::no,
          .scale = spec.scale,
          .softcap = spec.softcap,
          .partials = partials.data(),
          .partial_floats = static_cast<int64_t>(partials.size()),
          .bias = spec.bias,
          .bias_stride = spec.bias_stride,
          .bias_origin = spec.bias_origin,
          .bias_relative = spec.bias_relative,
          .sinks = spec.sinks};
}

}  // namespace

void attention(const Context& context, const AttentionSpec& spec, const TensorView& out, const TensorView& q,
               const KvPages& pages, const DeviceSequences& sequences, std::span<float> partials) {
  const cuda::AttentionArgs args = attention_args(spec, out, q, pages, sequences, partials);
  device::check(cuda::attention(context.stream, args), "attention");
}

void distance_attention(const Context& context, const AttentionSpec& spec, const TensorView& out,
                        const TensorView& q, const TensorView& k, const KvPages& pages,
                        const DeviceSequences& sequences, const DeviceSequences& texts,
                        const Distances& distances, std::span<float> partials) {
  expect_dense("distance_attention", "q", q, kCuda);
  expect_dense("distance_attention", "k", k, kCuda);
  expect_dense("distance_attention", "scores", distances.room.scores, kCuda);
  const int64_t n_tokens = q.rows(), ld = sequences.max_keys;
  TUILI_EXPECT(n_tokens <= k.rows() && q.size(1) == k.size(1) && q.size(1) == spec.n_heads * spec.head_dim &&
                   distances.room.scores.count() >= spec.n_heads * n_tokens * ld,
               "distance_attention: q is ", q, ", k is ", k, " for ", spec.n_heads, " heads of ",
               spec.head_dim, ", room for scores ", distances.room.scores, ", keys up to ", ld);
  TUILI_EXPECT(texts.max_rows <= distances.origin + 1, "distance_attention: texts of ", texts.max_rows,
               " rows; there are places for distances up to ", distances.origin);
  const auto table = [](std::span<const PackedMatrix> heads) {
    return heads.empty() ? nullptr : reinterpret_cast<const cuda::bf16*>(heads[0].codes);
  };
  const cuda::DistanceArgs args{.bias = distances.room.scores.f32(),
                                .ld_bias = ld,
                                .q = q.f32(),
                                .k = k.f32(),
                                .ld = q.row_stride,
                                .keys = table(distances.keys),
                                .queries = table(distances.queries),
                                .n_rows = distances.n_rows,
                                .places = distances.places,
                                .origin = distances.origin,
                                .sequences = sequences.list,
                                .texts = texts.list,
                                .n_sequences = sequences.count,
                                .n_texts = texts.count,
                                .max_rows = sequences.max_rows,
                                .n_tokens = n_tokens,
                                .n_heads = spec.n_heads,
                                .head_dim = spec.head_dim,
                                .scale = spec.scale};
  device::check(cuda::distance_bias(context.stream, args), "distance_attention");
  cuda::AttentionArgs biased = attention_args(spec, out, q, pages, sequences, partials);
  biased.bias = args.bias;
  biased.bias_stride = n_tokens * ld;
  biased.bias_row_stride = ld;
  device::check(cuda::attention(context.stream, biased), "distance_attention");
}

}  // namespace tuili::ops::on_device
