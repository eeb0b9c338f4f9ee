#include "ops/on_device.h"

#include <algorithm>

#include "ops/checks.h"

namespace tuili::ops::on_device {
namespace {

void expect(const char* op, const char* name, const TensorView& x, DType dtype = DType::f32) {
  TUILI_EXPECT(x.device == DeviceKind::cuda && x.dtype == dtype && (x.data != nullptr || x.count() == 0), op,
               ": ", name, " must be ", name_of(dtype), " on cuda, and is ", x);
}

void expect_dense(const char* op, const char* name, const TensorView& x) {
  expect(op, name, x);
  TUILI_EXPECT(x.is_dense(), op, ": ", name, " must be dense; ", x, " has rows ", x.row_stride, " apart");
}

void expect_vector(const char* op, const char* name, const TensorView& x, int64_t n) {
  expect(op, name, x);
  TUILI_EXPECT(x.n_dims == 1 && x.size(0) == n, op, ": ", name, " must be f32 [", n, "], and is ", x);
}

// A dense result of the shape of x.
cuda::Output expect_output(const char* op, const TensorView& y, const TensorView& x) {
  expect(op, "y", y, y.dtype == DType::bf16 ? DType::bf16 : DType::f32);
  TUILI_EXPECT(y.is_dense() && same_shape(x, y), op, ": x is ", x, ", y is ", y);
  return {y.data, y.dtype};
}

cuda::NormArgs norm_args(const char* op, const TensorView& y, const TensorView& x, const TensorView& gain,
                         float eps, const TensorView* addend) {
  expect_dense(op, "x", x);
  const int64_t n = x.size(1);
  expect_vector(op, "gain", gain, n);
  if (addend) {
    expect_dense(op, "addend", *addend);
    TUILI_EXPECT(same_shape(x, *addend) && y.data != x.data, op, ": x is ", x, ", addend ", *addend);
  }
  const float* const added = addend ? addend->f32() : nullptr;
  return {expect_output(op, y, x), x.f32(), added, gain.f32(), nullptr, x.rows(), n, 1, n, eps};
}

}  // namespace

void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps, const TensorView* addend) {
  device::check(cuda::rms_norm(context.stream, norm_args("rms_norm", y, x, gain, eps, addend)), "rms_norm");
}

void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps) {
  expect("rms_norm_heads", "x", x);
  const int64_t head_dim = gain.size(0);
  expect_vector("rms_norm_heads", "gain", gain, head_dim);
  TUILI_EXPECT(head_dim > 0 && x.size(1) % head_dim == 0, "rms_norm_heads: x is ", x, ", gain is ", gain);
  const int64_t n_heads = x.size(1) / head_dim;
  const cuda::NormArgs args{{x.data, x.dtype},  x.f32(),  nullptr, gain.f32(),   nullptr,
                            x.rows() * n_heads, head_dim, n_heads, x.row_stride, eps};
  device::check(cuda::rms_norm(context.stream, args), "rms_norm_heads");
}

void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps, const TensorView* addend) {
  cuda::NormArgs args = norm_args("layer_norm", y, x, gain, eps, addend);
  expect_vector("layer_norm", "bias", bias, args.n);
  args.bias = bias.f32();
  device::check(cuda::layer_norm(context.stream, args), "layer_norm");
}

void layer_norm_strided(const Context& context, const TensorView& x, const TensorView& gain,
                        const TensorView& bias, float eps) {
  const int64_t n = x.size(1);
  expect("layer_norm_strided", "x", x);
  expect_vector("layer_norm_strided", "gain", gain, n);
  expect_vector("layer_norm_strided", "bias", bias, n);
  const cuda::NormArgs args{{x.data, x.dtype}, x.f32(), nullptr, gain.f32(),   bias.f32(),
                            x.rows(),          n,       1,       x.row_stride, eps};
  device::check(cuda::layer_norm(context.stream, args), "layer_norm_strided");
}

namespace {

cuda::RopeArgs rope_args(const TensorView& x, const TensorView& cos, const TensorView& sin, int64_t n_heads,
                         bool interleaved) {
  expect("rope", "x", x);
  expect_dense("rope", "cos", cos);
  expect_dense("rope", "sin", sin);
  TUILI_EXPECT(n_heads > 0 && x.size(1) % n_heads == 0, "rope: x is ", x, " for ", n_heads, " heads");
  const int64_t head_dim = x.size(1) / n_heads, half = cos.size(1);
  TUILI_EXPECT(same_shape(cos, sin) && cos.rows() == x.rows() && 2 * half <= head_dim, "rope: x is ", x,
               " for ", n_heads, " heads, cos is ", cos, ", sin is ", sin);
  const auto pairs = interleaved ? cuda::RopePairs::neighbours : cuda::RopePairs::halves;
  return {x.f32(), x.row_stride, cos.f32(), sin.f32(), x.rows(), n_heads, head_dim, half, pairs};
}

}  // namespace

void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved) {
  device::check(cuda::rope(context.stream, rope_args(x, cos, sin, n_heads, interleaved)), "rope");
}

void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind) {
  expect_dense("activate", "gate", gate);
  const bool gated = up.data != nullptr;
  if (gated) expect_dense("activate", "up", up);
  TUILI_EXPECT(!gated || same_shape(gate, up), "activate: gate is ", gate, ", up is ", up);
  device::check(cuda::activate(context.stream, expect_output("activate", y, gate), gate.f32(),
                               gated ? up.f32() : nullptr, kind, y.count()),
                "activate");
}

void add(const Context& context, const TensorView& y, const TensorView& x, const TensorView& z) {
  expect_dense("add", "y", y);
  expect_dense("add", "x", x);
  expect_dense("add", "z", z);
  TUILI_EXPECT(same_shape(y, x) && same_shape(y, z), "add: y is ", y, ", x is ", x, ", z is ", z);
  device::check(cuda::add(context.stream, y.f32(), x.f32(), z.f32(), y.count()), "add");
}

void scale(const Context& context, const TensorView& y, float factor) {
  expect_dense("scale", "y", y);
  device::check(cuda::scale(context.stream, y.f32(), factor, y.count()), "scale");
}

void softcap(const Context& context, const TensorView& y, float cap) {
  expect_dense("softcap", "y", y);
  device::check(cuda::softcap(context.stream, y.f32(), cap, y.count()), "softcap");
}

void clamp(const Context& context, const TensorView& y, float low, float high, float offset) {
  expect_dense("clamp", "y", y);
  device::check(cuda::clamp(context.stream, y.f32(), low, high, offset, y.count()), "clamp");
}

void copy_heads(const Context& context, const TensorView& y, int64_t at, const TensorView& x, int64_t n_heads,
                int64_t n_heads_x) {
  const DType type = y.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  expect("copy_heads", "y", y, type);
  expect("copy_heads", "x", x, type);
  TUILI_EXPECT(y.is_dense() && x.is_dense() && y.rows() == x.rows() && y.size(1) % n_heads == 0 &&
                   x.size(1) % n_heads_x == 0 && (n_heads_x == 1 || n_heads_x == n_heads),
               "copy_heads: x is ", x, ", y is ", y, " for ", n_heads, " and ", n_heads_x, " heads");
  const int64_t to = y.size(1) / n_heads, from = x.size(1) / n_heads_x;
  const cuda::CopyHeadsArgs args{y.data, x.data, type,      y.rows(), n_heads,
                                 to,     at,     n_heads_x, from,     std::min(to - at, from)};
  device::check(cuda::copy_heads(context.stream, args), "copy_heads");
}

void gather_taps(const Context& context, const TensorView& y, const TensorView& x, const Sequences& texts,
                 int64_t n_taps) {
  expect_dense("gather_taps", "x", x);
  expect("gather_taps", "y", y, DType::bf16);
  const cuda::TapArgs args{
      static_cast<cuda::bf16*>(y.data), x.f32(), texts.list, texts.count, texts.max_rows, x.size(1), n_taps};
  device::check(cuda::gather_taps(context.stream, args), "gather_taps");
}

namespace {

void expect_columns(const char* op, const TensorView& y, const TensorView& x) {
  expect_dense(op, "x", x);
  expect_dense(op, "y", y);
  TUILI_EXPECT(x.rows() > 0 && y.count() == x.size(1), op, ": x is ", x, ", y is ", y);
}

}  // namespace

void mean_rows(const Context& context, const TensorView& y, const TensorView& x) {
  expect_columns("mean_rows", y, x);
  device::check(cuda::mean_rows(context.stream, y.f32(), x.f32(), x.rows(), x.size(1)), "mean_rows");
}

void weighted_mean_rows(const Context& context, const TensorView& y, const TensorView& x) {
  expect_columns("weighted_mean_rows", y, x);
  device::check(cuda::weighted_mean_rows(context.stream, y.f32(), x.f32(), x.rows(), x.size(1)),
                "weighted_mean_rows");
}

void max_rows(const Context& context, const TensorView& y, const TensorView& x) {
  expect_columns("max_rows", y, x);
  device::check(cuda::max_rows(context.stream, y.f32(), x.f32(), x.rows(), x.size(1)), "max_rows");
}

void l2_normalize(const Context& context, const TensorView& y, const TensorView& x) {
  expect_dense("l2_normalize", "x", x);
  expect_dense("l2_normalize", "y", y);
  TUILI_EXPECT(same_shape(x, y), "l2_normalize: x is ", x, ", y is ", y);
  device::check(cuda::l2_normalize(context.stream, y.f32(), x.f32(), x.rows(), x.size(1)), "l2_normalize");
}

void add_rows(const Context& context, const TensorView& y, const TensorView& table, const int32_t* ids) {
  expect_dense("add_rows", "y", y);
  expect_dense("add_rows", "table", table);
  TUILI_EXPECT(table.size(1) == y.size(1), "add_rows: y is ", y, ", the table ", table);
  device::check(cuda::add_rows(context.stream, y.f32(), table.f32(), ids, y.rows(), y.size(1)), "add_rows");
}

void gather_rows(const Context& context, const TensorView& y, const TensorView& x, const int32_t* rows) {
  expect_dense("gather_rows", "y", y);
  expect_dense("gather_rows", "x", x);
  TUILI_EXPECT(x.size(1) == y.size(1), "gather_rows: x is ", x, ", y is ", y);
  device::check(cuda::embed(context.stream, y.f32(), x.f32(), DType::f32, rows, y.rows(), y.size(1), 1),
                "gather_rows");
}

void embed(const Context& context, const TensorView& y, const PackedMatrix& w, const int32_t* ids,
           float factor) {
  expect_dense("embed", "y", y);
  TUILI_EXPECT(w.format == Format::bf16 && y.size(1) == w.k, "embed: y is ", y, ", the table ",
               info_of(w.format).name, " with rows of ", w.k);
  device::check(cuda::embed(context.stream, y.f32(), w.codes, DType::bf16, ids, y.rows(), w.k, factor),
                "embed");
}

const cuda::bf16* rounded(const Context& context, Activations& x) {
  TUILI_EXPECT(x.x.is_dense(), "gemm: x must be dense, and is ", x.x);
  if (x.x.dtype == DType::bf16) return static_cast<const cuda::bf16*>(x.x.data);
  expect("gemm", "x", x.x);
  auto* const room = reinterpret_cast<cuda::bf16*>(x.room.rounded);
  TUILI_EXPECT(room != nullptr, "gemm: no room to round ", x.x);
  if (!x.is_ready) device::check(cuda::round_to_bf16(context.stream, room, x.x.f32(), x.x.count()), "round");
  x.is_ready = true;
  return room;
}

namespace {

// One of the maps of x, whose rows `input` holds rounded.
void gemm(device::Stream stream, const TensorView& x, const cuda::bf16* input, const LinearMap& map) {
  const auto& [y, w, bias] = map;
  const int64_t m = x.rows();
  expect_dense("gemm", "y", y);
  TUILI_EXPECT(x.size(1) == w->k && y.rows() == m && y.size(1) == w->n && w->codes != nullptr, "gemm: x is ",
               x, ", w is ", info_of(w->format).name, " [", w->n, ", ", w->k, "], y is ", y);
  const cuda::Output out{y.data, y.dtype};
  if (!is_float(w->format)) {
    device::check(cuda::gemm(stream, cuda::QuantizedGemmArgs{out, input, *w, bias, m}), "gemm");
    return;
  }
  TUILI_EXPECT(w->format == Format::bf16, "gemm: dense weights on cuda are bf16, not ",
               info_of(w->format).name);
  const auto* const dense = reinterpret_cast<const cuda::bf16*>(w->codes);
  device::check(cuda::gemm(stream, cuda::GemmArgs{out, input, dense, bias, m, w->n, w->k}), "gemm");
}

}  // namespace

void gemm(const Context& context, Activations& x, std::span<const LinearMap> maps) {
  const cuda::bf16* const input = rounded(context, x);
  const int n_sides = context.sides && x.x.rows() <= kFewRows
                          ? std::min(static_cast<int>(maps.size()) - 1, SideStreams::kCount)
                          : 0;
  Fork fork(context.sides, context.stream, n_sides);
  for (int i = 0; i < static_cast<int>(maps.size()); ++i) gemm(fork.stream(i), x.x, input, maps[i]);
  fork.join();
}

void gemm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& w) {
  const int64_t m = x.size(0), k = x.size(1), n = w.size(0);
  TUILI_CHECK(
      x.n_dims == 2 && w.n_dims == 2 && y.n_dims == 2 && w.size(1) == k && y.size(0) == m && y.size(1) == n,
      "gemm: x is ", x, ", w is ", w, ", y is ", y, "; w must be [n, k], x [m, k] and y [m, n]");
  const bool on_device = x.device == DeviceKind::cuda && w.device == x.device && y.device == x.device;
  TUILI_CHECK(on_device, "gemm: dense weights are for cuda, and x is ", x, ", w ", w, ", y ", y,
              "; pack them for cpu");
  TUILI_CHECK(
      x.dtype == DType::bf16 && w.dtype == DType::bf16 && x.is_dense() && w.is_dense() && y.is_dense(),
      "gemm: x and w must be dense bf16, and are ", x, " and ", w);
  TUILI_CHECK(y.dtype == DType::f32 || y.dtype == DType::bf16, "gemm: y must be f32 or bf16, and is ", y);
  const cuda::GemmArgs args{{y.data, y.dtype},
                            static_cast<const cuda::bf16*>(x.data),
                            static_cast<const cuda::bf16*>(w.data),
                            nullptr,
                            m,
                            n,
                            k};
  device::check(cuda::gemm(context.stream, args), "gemm");
}

void gemm(const Context& context, const TensorView& y, const TensorView& x, const PackedMatrix& w) {
  expect("gemm", "x", x, DType::bf16);
  expect("gemm", "y", y, y.dtype == DType::bf16 ? DType::bf16 : DType::f32);
  TUILI_EXPECT(x.is_dense() && y.is_dense() && x.size(1) == w.k && y.size(1) == w.n && x.rows() == y.rows() &&
                   !is_float(w.format),
               "gemm: x is ", x, ", w is ", info_of(w.format).name, " [", w.n, ", ", w.k, "], y is ", y);
  const cuda::QuantizedGemmArgs args{
      {y.data, y.dtype}, static_cast<const cuda::bf16*>(x.data), w, nullptr, x.rows()};
  device::check(cuda::gemm(context.stream, args), "gemm");
}

void embed(const Context& context, const TensorView& y, const TensorView& table, const TensorView& ids,
           float factor) {
  expect_dense("embed", "y", y);
  expect("embed", "table", table, table.dtype);
  expect("embed", "ids", ids, DType::i32);
  TUILI_EXPECT(table.is_dense() && table.size(1) == y.size(1) && ids.count() == y.rows(), "embed: y is ", y,
               ", the table ", table, ", ids ", ids);
  device::check(cuda::embed(context.stream, y.f32(), table.data, table.dtype,
                            static_cast<const int32_t*>(ids.data), y.rows(), y.size(1), factor),
                "embed");
}

namespace {

void expect_kv(const KvPages& pages, const TensorView& k, const TensorView& v) {
  expect("kv_write", "k", k);
  expect("kv_write", "v", v);
  TUILI_EXPECT(
      same_shape(k, v) && k.row_stride == v.row_stride && k.size(1) == pages.n_kv_heads * pages.head_dim,
      "kv_write: k is ", k, ", v is ", v, " for ", pages.n_kv_heads, " heads of ", pages.head_dim);
}

}  // namespace

void rope_kv_write(const Context& context, const RopeKv& x, const KvPages& pages, const int32_t* slots) {
  expect_kv(pages, x.k, x.v);
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
  expect_kv(pages, k, v);
  device::check(cuda::kv_write(context.stream, pages, k.f32(), v.f32(), k.row_stride, slots, k.rows()),
                "kv_write");
}

void kv_copy(const Context& context, const KvPages& pages, const int32_t* pairs, int64_t n) {
  device::check(cuda::kv_copy(context.stream, pages, pairs, n), "kv_copy");
}

KvPages pages_of(const ops::KvPages& pages) {
  const DType type = pages.type == KvType::f32    ? DType::f32
                     : pages.type == KvType::f16  ? DType::f16
                     : pages.type == KvType::bf16 ? DType::bf16
                                                  : DType::i8;
  return {pages.k,
          pages.v,
          type,
          pages.block_size,
          pages.n_kv_heads,
          pages.head_dim,
          pages.block_stride,
          pages.k_scale,
          pages.v_scale,
          pages.scale_stride};
}

int64_t partial_floats(int64_t n_tokens, int64_t n_heads, int64_t head_dim, int64_t max_keys) {
  return cuda::attention_partial_floats(n_tokens, n_heads, head_dim, max_keys);
}

void attention(const Context& context, const AttentionSpec& spec, const TensorView& out, const TensorView& q,
               const KvPages& pages, const Sequences& sequences, std::span<float> partials) {
  expect("attention", "q", q);
  expect("attention", "out", out, out.dtype == DType::bf16 ? DType::bf16 : DType::f32);
  TUILI_EXPECT(same_shape(q, out) && q.size(1) == spec.n_heads * spec.head_dim &&
                   pages.n_kv_heads == spec.n_kv_heads && pages.head_dim == spec.head_dim &&
                   spec.n_heads % spec.n_kv_heads == 0,
               "attention: q is ", q, ", out is ", out, ", pages of ", pages.n_kv_heads, " heads of ",
               pages.head_dim, " for ", spec.n_heads, " and ", spec.n_kv_heads, " heads of ", spec.head_dim);
  const cuda::AttentionArgs args{.out = {out.data, out.dtype},
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
  device::check(cuda::attention(context.stream, args), "attention");
}

void distance_attention(const Context& context, const AttentionSpec& spec, const TensorView& out,
                        const TensorView& q, const TensorView& k, const KvPages& pages,
                        const Sequences& sequences, const Sequences& texts, const Distances& distances,
                        std::span<float> partials) {
  expect_dense("distance_attention", "q", q);
  expect_dense("distance_attention", "k", k);
  expect_dense("distance_attention", "scores", distances.scores);
  const int64_t n_tokens = q.rows(), ld = sequences.max_keys;
  TUILI_EXPECT(n_tokens <= k.rows() && q.size(1) == k.size(1) && q.size(1) == spec.n_heads * spec.head_dim &&
                   distances.scores.count() >= spec.n_heads * n_tokens * ld &&
                   distances.rows.count() >= n_tokens * int64_t{sizeof(DeviceSequence)},
               "distance_attention: q is ", q, ", k is ", k, " for ", spec.n_heads, " heads of ",
               spec.head_dim, ", room for scores ", distances.scores, ", keys up to ", ld);
  TUILI_EXPECT(texts.max_rows <= distances.origin + 1, "distance_attention: texts of ", texts.max_rows,
               " rows; there are places for distances up to ", distances.origin);
  const auto table = [](std::span<const PackedMatrix> heads) {
    return heads.empty() ? nullptr : reinterpret_cast<const cuda::bf16*>(heads[0].codes);
  };
  auto* const rows = static_cast<DeviceSequence*>(distances.rows.data);
  const cuda::DistanceArgs args{.bias = distances.scores.f32(),
                                .rows = rows,
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
                                .max_rows = sequences.max_rows,
                                .n_tokens = n_tokens,
                                .n_heads = spec.n_heads,
                                .head_dim = spec.head_dim,
                                .scale = spec.scale};
  device::check(cuda::distance_bias(context.stream, args), "distance_attention");
  AttentionSpec biased = spec;
  biased.bias = distances.scores.f32();
  biased.bias_stride = n_tokens * ld;
  biased.bias_relative = true;
  attention(context, biased, out, q, pages,
            {.list = rows, .count = n_tokens, .blocks = sequences.blocks, .max_rows = 1, .max_keys = ld},
            partials);
}

void argmax(const Context& context, const TensorView& tokens, const TensorView& logits) {
  expect_dense("argmax", "logits", logits);
  expect("argmax", "tokens", tokens, DType::i32);
  TUILI_EXPECT(tokens.count() == logits.rows(), "argmax: logits are ", logits, ", tokens ", tokens);
  device::check(cuda::argmax(context.stream, static_cast<int32_t*>(tokens.data), logits.f32(), logits.rows(),
                             logits.size(1)),
                "argmax");
}

namespace {

void expect_draw(const TensorView& tokens, const TensorView& logits) {
  expect_dense("draw", "logits", logits);
  expect("draw", "tokens", tokens, DType::i32);
  TUILI_EXPECT(tokens.count() == logits.rows(), "draw: logits are ", logits, ", tokens ", tokens);
}

}  // namespace

void draw(const Context& context, const TensorView& tokens, const TensorView& logits, const Draw* draws) {
  expect_draw(tokens, logits);
  device::check(cuda::draw(context.stream, static_cast<int32_t*>(tokens.data), logits.f32(), draws,
                           logits.rows(), logits.size(1)),
                "draw");
}

void draw_likeliest(const Context& context, const TensorView& tokens, const TensorView& logits,
                    const Draw* draws) {
  expect_draw(tokens, logits);
  device::check(cuda::draw_likeliest(context.stream, static_cast<int32_t*>(tokens.data), logits.f32(), draws,
                                     logits.rows(), logits.size(1)),
                "draw_likeliest");
}

void softmax_stats(const Context& context, const TensorView& max, const TensorView& sum,
                   const TensorView& logits) {
  expect_dense("softmax_stats", "logits", logits);
  expect_vector("softmax_stats", "max", max, logits.rows());
  expect_vector("softmax_stats", "sum", sum, logits.rows());
  device::check(
      cuda::softmax_stats(context.stream, max.f32(), sum.f32(), logits.f32(), logits.rows(), logits.size(1)),
      "softmax_stats");
}

}  // namespace tuili::ops::on_device
