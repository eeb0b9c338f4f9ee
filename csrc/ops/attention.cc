// Attention over pages: which rows, heads and splits each thread takes.
#include <algorithm>
#include <bit>

#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr int64_t kMostDevicePartials = 1 << 24;  // floats, unless more are needed
// Query rows of one work item: full tiles of the kernel's, whatever the number of heads that share a KV head.
constexpr int64_t kRowsPerItem = cpu::kQueryTile;
constexpr int64_t kScoresPerThread = 1 << 15;   // times head_dim
constexpr int64_t kNumbersPerThread = 1 << 11;  // of keys, to write
constexpr int64_t kRowsPerPiece = 16;
constexpr int64_t kLineCost = 8;   // of a number in a line of its own
constexpr int64_t kRopeSpeed = 2;  // numbers turned while one is written

int64_t n_splits(int64_t n_keys) { return ceil_div(n_keys, cpu::kKeySplit); }

// The kernel's arguments for one sequence, its row 0 first.
cpu::AttentionArgs args_for(const Context& context, const AttentionSpec& spec, const TensorView& out,
                            const TensorView& q, const KvPages& pages, const SequenceRows& rows, int part) {
  return {.out = out.f32_row(rows.first_row),
          .ld_out = out.row_stride,
          .q = q.f32_row(rows.first_row),
          .ld_q = q.row_stride,
          .pages = pages,
          .blocks = rows.blocks,
          .n_heads = spec.n_heads,
          .position = rows.position,
          .n_keys = rows.n_keys,
          .window = spec.window,
          .causal = spec.causal,
          .scale = spec.scale,
          .softcap = spec.softcap,
          .bias = spec.bias,
          .bias_stride = spec.bias_stride,
          .bias_origin = spec.bias_origin,
          .bias_relative = spec.bias_relative,
          .sinks = spec.sinks,
          .scratch = context.scratch_of(part)};
}

void check(const AttentionSpec& spec, const TensorView& out, const TensorView& q, const KvPages& pages,
           std::span<const SequenceRows> sequences) {
  expect("attention", "q", q);
  expect("attention", "out", out);
  TUILI_EXPECT(same_shape(q, out) && q.size(1) == spec.n_heads * spec.head_dim, "attention: q is ", q,
               ", out is ", out, " for ", spec.n_heads, " heads of ", spec.head_dim);
  TUILI_EXPECT(pages.n_kv_heads == spec.n_kv_heads && pages.head_dim == spec.head_dim && pages.k != nullptr &&
                   may_hold_keys(pages.type) && spec.n_heads % spec.n_kv_heads == 0,
               "attention: ", name_of(pages.type), " pages of ", pages.n_kv_heads, " heads of ",
               pages.head_dim, " for ", spec.n_kv_heads, " heads of ", spec.head_dim);
  for (const SequenceRows& s : sequences)
    TUILI_EXPECT(s.first_row >= 0 && s.first_row + s.n_rows <= q.rows() && s.position >= 0 && s.n_keys > 0 &&
                     (!spec.causal || s.position + s.n_rows <= s.n_keys),
                 "attention: ", s.n_rows, " rows from row ", s.first_row, " at position ", s.position,
                 " with ", s.n_keys, " keys, and q is ", q);
}

// One row whose splits are shared between the threads: all (head, split) pairs first, then the merge per
// head.
void attend_long_row(const Context& context, const AttentionSpec& spec, const TensorView& out,
                     const TensorView& q, const KvPages& pages, const SequenceRows& rows, float* partials) {
  const int64_t splits = n_splits(rows.n_keys);
  const int64_t group_size = spec.n_heads / spec.n_kv_heads * cpu::attention_partial_size(spec.head_dim);
  const auto partial = [&](int64_t head, int64_t split) {
    return partials + (head * splits + split) * group_size;
  };
  context.pool->parallel_for(
      spec.n_kv_heads * splits, context.n_threads, [&](int64_t begin, int64_t end, int part) {
        const cpu::AttentionArgs args = args_for(context, spec, out, q, pages, rows, part);
        for (int64_t i = begin; i < end; ++i)
          context.kernels->attention_split(args, i / splits, 0, i % splits, partial(i / splits, i % splits));
      });
  const cpu::AttentionArgs args = args_for(context, spec, out, q, pages, rows, 0);
  for (int64_t head = 0; head < spec.n_kv_heads; ++head)
    context.kernels->attention_merge(args, head, 0, splits, partial(head, 0));
}

void check(const KvPages& pages, const TensorView& k, const TensorView& v) {
  expect("kv_write", "k", k, k.device);
  expect("kv_write", "v", v, k.device);
  TUILI_EXPECT(same_shape(k, v) && k.row_stride == v.row_stride && may_hold_keys(pages.type) &&
                   k.size(1) == pages.n_kv_heads * pages.head_dim,
               "kv_write: k is ", k, ", v is ", v, " for ", name_of(pages.type), " pages of ",
               pages.n_kv_heads, " heads of ", pages.head_dim);
}

// Whether each token has a page of its own, as those of many sequences have.
bool stand_apart(const int32_t* slots, int64_t n_tokens, int64_t block_size) {
  for (int64_t t = 1; t < n_tokens; ++t)
    if (slots[t] / block_size == slots[t - 1] / block_size) return false;
  return true;
}

// Calls prepare(tokens), of so many numbers a token, and writes their keys and values, in parts on several
// threads. Neighbours share the lines of a page: a thread takes a line's worth of them. A key that stands
// apart has a line for each of its numbers.
template <class Prepare>
void write_in_pieces(const Context& context, const KvPages& pages, const TensorView& k, const TensorView& v,
                     const int32_t* slots, int64_t n_prepared, const Prepare& prepare) {
  const int64_t n = k.rows();
  const bool apart = stand_apart(slots, n, pages.block_size);
  const int64_t work = n * (k.size(1) * (apart ? kLineCost : 1) + n_prepared / kRopeSpeed);
  const int64_t rows = apart ? 1 : kRowsPerPiece;
  context.pool->parallel_for(
      ceil_div(n, rows), context.threads_for(work, kNumbersPerThread), [&](int64_t begin, int64_t end, int) {
        const cpu::Range tokens{begin * rows, std::min(end * rows, n)};
        prepare(tokens);
        context.kernels->kv_write(pages, k.f32(), v.f32(), k.row_stride, slots, tokens);
      });
}

}  // namespace

void kv_write(const Context& context, const KvPages& pages, const TensorView& k, const TensorView& v,
              const int32_t* slots) {
  check(pages, k, v);
  if (k.device == DeviceKind::cuda) return on_device::kv_write(context, pages, k, v, slots);
  write_in_pieces(context, pages, k, v, slots, 0, [](cpu::Range) {});
}

void rope_kv_write(const Context& context, const RopeKv& x, const KvPages& pages, const int32_t* slots) {
  check(pages, x.k, x.v);
  expect_rope(x.q, x.cos, x.sin, x.n_heads);
  expect_rope(x.k, x.cos, x.sin, pages.n_kv_heads);
  if (x.k.device == DeviceKind::cuda) {
    if (pages.type == DType::f16 || pages.type == DType::bf16)
      return on_device::rope_kv_write(context, x, pages, slots);
    Beside beside(context, x.q.rows());
    rope(beside.context(), x.k, x.cos, x.sin, pages.n_kv_heads, x.interleaved);
    kv_write(beside.context(), pages, x.k, x.v, slots);
    rope(context, x.q, x.cos, x.sin, x.n_heads, x.interleaved);
    return beside.join();
  }
  const auto turn = [&](const TensorView& y, int64_t n_heads, cpu::Range tokens) {
    context.kernels->rope(y.f32(), y.row_stride, x.cos.f32(), x.sin.f32(), n_heads, y.size(1) / n_heads,
                          x.cos.size(1), x.interleaved, tokens);
  };
  write_in_pieces(context, pages, x.k, x.v, slots, x.q.size(1), [&](cpu::Range tokens) {
    turn(x.q, x.n_heads, tokens);
    turn(x.k, pages.n_kv_heads, tokens);
  });
}

int64_t attention_partial_floats(int64_t n_keys, int64_t n_heads, int64_t head_dim) {
  return n_splits(n_keys) * n_heads * cpu::attention_partial_size(head_dim);
}

int64_t device_keys(int64_t n_keys) {
  const auto n = static_cast<uint64_t>(ceil_div(n_keys, cuda::kAttentionSplit));
  return static_cast<int64_t>(std::bit_ceil(n)) * cuda::kAttentionSplit;
}

int64_t device_partial_floats(int64_t n_tokens, int64_t n_keys, int64_t n_heads, int64_t head_dim) {
  const int64_t needed = n_keys <= cuda::kAttentionSplit ? 0 : n_tokens * n_heads * (head_dim + 2);
  const int64_t wanted = on_device::partial_floats(n_tokens, n_heads, head_dim, device_keys(n_keys));
  return std::max(needed, std::min(wanted, kMostDevicePartials));
}

void attention(const Context& context, const AttentionSpec& spec, const TensorView& out, const TensorView& q,
               const KvPages& pages, const BatchRows& rows, std::span<float> partials) {
  if (q.device == DeviceKind::cuda)
    return on_device::attention(context, spec, out, q, pages, rows.on_device, partials);
  const std::span<const SequenceRows> sequences = rows.on_cpu;
  check(spec, out, q, pages, sequences);
  if (sequences.size() == 1 && sequences[0].n_rows == 1 && context.n_threads > 1 &&
      sequences[0].n_keys > cpu::kKeySplit &&
      attention_partial_floats(sequences[0].n_keys, spec.n_heads, spec.head_dim) <= std::ssize(partials))
    return attend_long_row(context, spec, out, q, pages, sequences[0], partials.data());

  // Items are (sequence, tile of rows, KV head). Late rows of a prompt see more keys than early ones, so
  // items are dealt out to lanes in turn instead of in contiguous parts. A row alone with few of all keys is
  // an item with all its heads: it waits for memory, and the kernel asks for the next head's pages.
  int64_t work = 0, n_items = 0;
  for (const SequenceRows& s : sequences)
    work += s.n_rows * round_up(s.n_keys, cpu::kKeyTile);  // a tile that is begun costs most of one
  const auto heads_of_item = [&](const SequenceRows& s) {
    return s.n_rows == 1 && 2 * context.n_threads * s.n_keys <= work ? spec.n_kv_heads : 1;
  };
  for (const SequenceRows& s : sequences)
    n_items += ceil_div(s.n_rows, kRowsPerItem) * spec.n_kv_heads / heads_of_item(s);
  const int64_t threads =
      std::min<int64_t>(context.threads_for(work * spec.n_heads * spec.head_dim, kScoresPerThread), n_items);
  const int64_t lanes = threads == 1 ? 1 : std::min(threads * ThreadPool::kChunksPerPart, n_items);
  context.pool->parallel_for(lanes, static_cast<int>(threads), [&](int64_t begin, int64_t end, int part) {
    int64_t item = 0;
    for (const SequenceRows& s : sequences) {
      const cpu::AttentionArgs args = args_for(context, spec, out, q, pages, s, part);
      const int64_t n_heads = heads_of_item(s);
      for (int64_t row = 0; row < s.n_rows; row += kRowsPerItem) {
        for (int64_t head = 0; head < spec.n_kv_heads; head += n_heads, ++item) {
          if (item % lanes < begin || item % lanes >= end) continue;
          for (int64_t h = head; h < head + n_heads; ++h)
            context.kernels->attention(args, h, {row, std::min(row + kRowsPerItem, s.n_rows)});
        }
      }
    }
  });
}

}  // namespace tuili::ops
