// Attention whose scores also tell how far key and query stand apart (DeBERTa).
//
// A head's rows meet the table's keys and queries first, in products of [rows, head_dim] and [head_dim, table
// rows]. A tile of rows then gathers from these what the distances to all keys add to its scores, and goes
// through the kernel as so many heads of one row, which may each have a bias of their own.
#include <algorithm>
#include <cstring>

#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr int64_t kRowsPerProduct = 32;
constexpr int64_t kRowsPerTile = cpu::kQueryTile;  // queries that the kernel computes together

int64_t padded(int64_t n) { return round_up(n, 16); }

// A thread's scratch: the kernel's own, then a tile's query, output and bias.
struct Scratch {
  float *kernel, *q, *out, *bias;

  static int64_t floats(int64_t head_dim, int64_t most_keys) {
    return padded(cpu::attention_scratch(head_dim)) +
           kRowsPerTile * (2 * padded(head_dim) + bias_stride(most_keys));
  }
  static int64_t bias_stride(int64_t n_keys) { return round_up(n_keys, cpu::kKeyTile); }

  Scratch(const Context& context, int part, int64_t head_dim)
      : kernel(context.scratch_of(part)),
        q(kernel + padded(cpu::attention_scratch(head_dim))),
        out(q + kRowsPerTile * padded(head_dim)),
        bias(out + kRowsPerTile * padded(head_dim)) {}
};

// One head's part of the pages, as pages of one head.
KvPages pages_of(const KvPages& pages, int64_t head) {
  const int64_t bytes = head * pages.head_dim * pages.block_size * size_of(pages.type);
  KvPages one = pages;
  one.k = static_cast<char*>(pages.k) + bytes;
  one.v = static_cast<char*>(pages.v) + bytes;
  one.n_kv_heads = 1;
  return one;
}

// Heads [first, first + count) of one call, and all its rows: k has those of the whole batch.
struct Pass {
  const Context& context;
  const AttentionSpec& spec;
  const Distances& distances;
  const TensorView &out, &q, &k;
  const KvPages& pages;
  int64_t first, count;

  float* row_of(const TensorView& room, int64_t slot, int64_t row) const {
    return room.f32() + (slot * k.rows() + row) * distances.n_rows;
  }

  // Products of all rows with the table, one call of the kernel per head and some rows.
  void meet_table(const cpu::Range& panels) const {
    const int64_t chunks = ceil_div(k.rows(), kRowsPerProduct);
    const auto product = [&](const TensorView& x, const TensorView& room, const PackedMatrix& w, int64_t slot,
                             int64_t row, int part) {
      cpu::GemmArgs args{};
      args.y = row_of(room, slot, row);
      args.ldy = distances.n_rows;
      args.x = x.f32_row(row) + (first + slot) * spec.head_dim;
      args.ldx = x.row_stride;
      args.w = w;
      args.m = std::min(kRowsPerProduct, x.rows() - row);
      args.scratch = context.scratch_of(part);
      context.kernels->gemm_float(args, panels);
    };
    context.pool->parallel_for(
        count * chunks, context.threads_for(count * k.rows() * spec.head_dim, 1024),
        [&](int64_t begin, int64_t end, int part) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t slot = i / chunks, row = i % chunks * kRowsPerProduct;
            if (!distances.keys.empty() && row < q.rows())
              product(q, distances.room.by_query, distances.keys[first + slot], slot, row, part);
            if (!distances.queries.empty())
              product(k, distances.room.by_key, distances.queries[first + slot], slot, row, part);
          }
        });
  }

  // bias[r][j] = (by_query[row r][place] + by_key[key j][place]) · scale, place of the distance from j to r
  void gather_bias(float* bias, int64_t stride, const SequenceRows& s, int64_t first_key, int64_t slot,
                   int64_t row, int64_t n_rows) const {
    const float* from_row[kRowsPerTile];
    for (int64_t r = 0; r < n_rows; ++r)
      from_row[r] =
          distances.keys.empty() ? nullptr : row_of(distances.room.by_query, slot, s.first_row + row + r);
    for (int64_t j = 0; j < s.n_keys; ++j) {
      const float* const from_key =
          distances.queries.empty() ? nullptr : row_of(distances.room.by_key, slot, first_key + j);
      const int32_t* const places = distances.places + distances.origin + s.position + row - j;
      for (int64_t r = 0; r < n_rows; ++r) {
        const int32_t place = places[r];
        const float score = (from_row[r] ? from_row[r][place] : 0) + (from_key ? from_key[place] : 0);
        bias[r * stride + j] = score * spec.scale;
      }
    }
    for (int64_t r = 0; r < n_rows; ++r)
      for (int64_t j = s.n_keys; j < stride; ++j) bias[r * stride + j] = 0;
  }

  void attend(const SequenceRows& s, int64_t first_key, int64_t slot, int64_t row, int part) const {
    const int64_t d = spec.head_dim, n_rows = std::min(kRowsPerTile, s.n_rows - row);
    const int64_t stride = Scratch::bias_stride(s.n_keys), at = (first + slot) * d;
    const Scratch scratch(context, part, d);
    gather_bias(scratch.bias, stride, s, first_key, slot, row, n_rows);
    const size_t bytes = static_cast<size_t>(d) * sizeof(float);
    for (int64_t r = 0; r < n_rows; ++r)
      std::memcpy(scratch.q + r * d, q.f32_row(s.first_row + row + r) + at, bytes);
    const cpu::AttentionArgs args{.out = scratch.out,
                                  .ld_out = n_rows * d,
                                  .q = scratch.q,
                                  .ld_q = n_rows * d,
                                  .pages = pages_of(pages, first + slot),
                                  .blocks = s.blocks,
                                  .n_heads = n_rows,
                                  .position = 0,
                                  .n_keys = s.n_keys,
                                  .window = 0,
                                  .causal = false,
                                  .scale = spec.scale,
                                  .softcap = 0,
                                  .bias = scratch.bias,
                                  .bias_stride = stride,
                                  .bias_origin = 0,
                                  .bias_relative = false,
                                  .sinks = nullptr,
                                  .scratch = scratch.kernel};
    context.kernels->attention(args, 0, {0, 1});
    for (int64_t r = 0; r < n_rows; ++r)
      std::memcpy(out.f32_row(s.first_row + row + r) + at, scratch.out + r * d, bytes);
  }

  void attend_all(std::span<const SequenceRows> sequences, std::span<const SequenceRows> texts) const {
    int64_t n_items = 0, work = 0;
    for (const SequenceRows& s : sequences) {
      n_items += ceil_div(s.n_rows, kRowsPerTile) * count;
      work += s.n_rows * s.n_keys * count;
    }
    const int threads = context.threads_for(work * spec.head_dim, 65536);
    context.pool->parallel_for(n_items, threads, [&](int64_t begin, int64_t end, int part) {
      int64_t item = 0;
      const SequenceRows* text = texts.data();
      for (const SequenceRows& s : sequences) {
        while (text->blocks != s.blocks) ++text;
        for (int64_t slot = 0; slot < count; ++slot)
          for (int64_t row = 0; row < s.n_rows; row += kRowsPerTile, ++item)
            if (item >= begin && item < end) attend(s, text->first_row, slot, row, part);
      }
    });
  }
};

void check_plain(const AttentionSpec& spec, const KvPages& pages) {
  TUILI_EXPECT(pages.n_kv_heads == spec.n_heads && pages.head_dim == spec.head_dim &&
                   pages.k_scale == nullptr && may_hold_keys(pages.type) && spec.n_kv_heads == spec.n_heads &&
                   !spec.causal && spec.window == 0 && spec.softcap == 0 && spec.bias == nullptr &&
                   spec.sinks == nullptr,
               "distance_attention: plain heads that see every key alone");
}

void check(const AttentionSpec& spec, const TensorView& out, const TensorView& q, const TensorView& k,
           std::span<const SequenceRows> sequences, std::span<const SequenceRows> texts,
           const Distances& distances) {
  for (const TensorView& x : {out, q, k}) expect("distance_attention", "q, k or out", x);
  TUILI_EXPECT(same_shape(q, out) && q.rows() <= k.rows() && q.size(1) == k.size(1) &&
                   q.size(1) == spec.n_heads * spec.head_dim,
               "distance_attention: q is ", q, ", k is ", k, ", out is ", out, " for ", spec.n_heads,
               " heads of ", spec.head_dim);
  const int64_t rows = std::min(distances.room.by_query.rows(), distances.room.by_key.rows());
  TUILI_EXPECT(rows >= k.rows(), "distance_attention: room for ", rows, " rows, k is ", k);
  auto text = texts.begin();
  for (const SequenceRows& s : sequences) {
    while (text != texts.end() && text->blocks != s.blocks) ++text;
    TUILI_EXPECT(text != texts.end() && text->first_row >= 0 && text->first_row + s.n_keys <= k.rows(),
                 "distance_attention: rows of no text, or of one whose ", s.n_keys, " keys are not in k, ",
                 k);
    TUILI_EXPECT(s.first_row >= 0 && s.first_row + s.n_rows <= q.rows() && s.position >= 0 &&
                     s.position + s.n_rows <= s.n_keys && s.n_keys <= distances.origin + 1,
                 "distance_attention: ", s.n_rows, " rows of ", s.n_keys, " keys at position ", s.position);
  }
}

}  // namespace

DistanceRoom distance_room(Carver& carver, int64_t n_tokens, int64_t most_keys, int64_t n_heads,
                           int64_t n_rows, DeviceKind device) {
  const auto take = [&](int64_t n, int64_t size) {
    return TensorView(carver.take<float>(n * size), DType::f32, {n, size}, device);
  };
  DistanceRoom room;
  if (device == DeviceKind::cuda) {
    room.scores = take(n_heads, n_rows ? n_tokens * device_keys(most_keys) : 0);
  } else {
    room.by_query = take(n_tokens, n_rows);
    room.by_key = take(n_tokens, n_rows);
  }
  return room;
}

int64_t distance_scratch_floats(int64_t head_dim, int64_t most_keys) {
  return std::max(scratch_floats_for(head_dim), Scratch::floats(head_dim, most_keys));
}

void distance_attention(const Context& context, const AttentionSpec& spec, const TensorView& out,
                        const TensorView& q, const TensorView& k, const KvPages& pages, const BatchRows& rows,
                        const BatchRows& texts, const Distances& distances, std::span<float> partials) {
  check_plain(spec, pages);
  if (q.device == DeviceKind::cuda)
    return on_device::distance_attention(context, spec, out, q, k, pages, rows.on_device, texts.on_device,
                                         distances, partials);
  const std::span<const SequenceRows> sequences = rows.on_cpu;
  check(spec, out, q, k, sequences, texts.on_cpu, distances);
  int64_t behind = 0, ahead = 0;  // keys of a row, at most
  for (const SequenceRows& s : sequences) {
    behind = std::max(behind, s.position + s.n_rows - 1);
    ahead = std::max(ahead, s.n_keys - 1 - s.position);
  }
  const int64_t low = distances.places[distances.origin - ahead];
  const int64_t high = distances.places[distances.origin + behind];
  const cpu::Range panels{low / kPanel, high / kPanel + 1};
  const int64_t at_once =
      std::max<int64_t>(1, distances.room.by_query.rows() / std::max<int64_t>(k.rows(), 1));
  for (int64_t first = 0; first < spec.n_heads; first += at_once) {
    const Pass pass{
        context, spec, distances, out, q, k, pages, first, std::min(at_once, spec.n_heads - first)};
    pass.meet_table(panels);
    pass.attend_all(sequences, texts.on_cpu);
  }
}

}  // namespace tuili::ops
