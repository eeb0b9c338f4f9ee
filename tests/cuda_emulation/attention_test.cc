// Attention over pages on the emulated device: against a float64 reference with a derived bound, and bit for
// bit against itself under every way to share the work.
#include <limits>

#include "cuda_runtime.h"
#include "device_testing.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT
using cuda::Causal;

constexpr int32_t kNoBlock = 1 << 28;  // reading it would fault

struct Spec {
  int64_t n_heads = 4, n_kv_heads = 2, head_dim = 64, block_size = 16, window = 0;
  Causal causal = Causal::yes;
  float softcap = 0;
  enum class Bias { none, by_key, by_distance, by_row } bias = Bias::none;
  bool has_sinks = false;
  float scale() const { return 1 / std::sqrt(float(head_dim)); }
  int64_t row() const { return n_heads * head_dim; }
};

enum class Sharing { splits, none };

// One sequence of keys and values of type T, and queries for each position.
template <typename T>
struct Text {
  Spec spec;
  int64_t n_keys;
  std::vector<float> q = normals<float>(size_t(n_keys * spec.row()), 1);
  std::vector<float> k = normals<float>(size_t(n_keys * spec.n_kv_heads * spec.head_dim), 2);
  std::vector<float> v = normals<float>(size_t(n_keys * spec.n_kv_heads * spec.head_dim), 3);
  // No key lies where the table is NaN: three values before the first of a head, and three after the last.
  int64_t bias_origin = spec.bias == Spec::Bias::by_distance ? n_keys + 2 : 3;
  int64_t bias_stride = bias_origin + n_keys + 3;
  int64_t bias_row_stride = spec.bias == Spec::Bias::by_row ? spec.n_heads * bias_stride : 0;
  std::vector<float> bias = spec.bias == Spec::Bias::none ? std::vector<float>() : bias_table();
  std::vector<float> sinks =
      spec.has_sinks ? normals<float>(size_t(spec.n_heads), 5, 3) : std::vector<float>();

  std::vector<float> bias_table() const {
    std::vector<float> table =
        normals<float>(size_t((bias_row_stride ? n_keys : 1) * spec.n_heads * bias_stride), 4);
    for (int64_t i = 0; i < std::ssize(table); ++i)
      if (i % bias_stride < 3 || i % bias_stride >= bias_stride - 3) table[size_t(i)] = NAN;
    return table;
  }
  double added(int64_t row, int64_t head, int64_t key) const {
    if (bias.empty()) return 0;
    const int64_t from = spec.bias == Spec::Bias::by_distance ? row : 0;
    return double{bias[size_t(row * bias_row_stride + head * bias_stride + bias_origin + key - from)]};
  }
  double key(int64_t t, int64_t head, int64_t d) const { return at(k, t, head, d); }
  double val(int64_t t, int64_t head, int64_t d) const { return at(v, t, head, d); }
  double query(int64_t t, int64_t head, int64_t d) const {
    return value(rounded<T>(double{q[size_t(t * spec.row() + head * spec.head_dim + d)]}));
  }

 private:
  double at(const std::vector<float>& x, int64_t t, int64_t head, int64_t d) const {
    return value(rounded<T>(double{x[size_t((t * spec.n_kv_heads + head) * spec.head_dim + d)]}));
  }
};

// Rows [position, position + n_rows) of a text of which n_keys keys exist.
struct Part {
  int64_t position, n_rows, n_keys;
};

struct Seen {
  int64_t begin, end;
};
Seen seen_by(const Spec& spec, int64_t position, int64_t n_keys) {
  const int64_t after = spec.causal == Causal::yes ? 1 : spec.window > 0 ? spec.window : n_keys;
  return {spec.window > 0 ? std::max<int64_t>(0, position - spec.window + 1) : 0,
          std::min(position + after, n_keys)};
}

// The pages of a text; slots that no key fills stay NaN, and so do scattered blocks in between.
template <typename T>
class Pages {
 public:
  Pages(const Text<T>& text, int64_t n_keys)
      : spec_(text.spec),
        n_blocks_((n_keys + spec_.block_size - 1) / spec_.block_size),
        stride_(spec_.block_size * spec_.n_kv_heads * spec_.head_dim),
        k_(std::vector<T>(size_t(3 * n_blocks_ * stride_), rounded<T>(NAN))),
        v_(std::vector<T>(size_t(3 * n_blocks_ * stride_), rounded<T>(NAN))) {
    for (int64_t i = 0; i < n_blocks_; ++i) blocks_.push_back(int32_t((n_blocks_ - 1 - i) * 3 + i % 2));
    std::vector<int32_t> slots;
    for (int64_t t = 0; t < n_keys; ++t) {
      slots.push_back(blocks_[size_t(t / spec_.block_size)] * int32_t(spec_.block_size) +
                      int32_t(t % spec_.block_size));
    }
    OnDevice<float> k(text.k), v(text.v);
    OnDevice<int32_t> places(slots);
    device::check(cuda::kv_write(nullptr, view(), k.get(), v.get(), spec_.n_kv_heads * spec_.head_dim,
                                 places.get(), n_keys),
                  "kv_write");
  }

  KvPages view() {
    return {k_.get(), v_.get(), type_of<T>(), spec_.block_size, spec_.n_kv_heads, spec_.head_dim, stride_};
  }

  // The table of a part; blocks that none of its rows sees are not there.
  std::vector<int32_t> table(const Part& part) const {
    std::vector<int32_t> table = blocks_;
    const int64_t begin = seen_by(spec_, part.position, part.n_keys).begin;
    const int64_t end = seen_by(spec_, part.position + part.n_rows - 1, part.n_keys).end;
    for (int64_t i = 0; i < n_blocks_; ++i) {
      if ((i + 1) * spec_.block_size <= begin || i * spec_.block_size >= end) table[size_t(i)] = kNoBlock;
    }
    return table;
  }

 private:
  Spec spec_;
  int64_t n_blocks_, stride_;
  OnDevice<T> k_, v_;
  std::vector<int32_t> blocks_;
};

// The parts in one launch; their rows of the output one after another.
template <typename Out = float, typename T>
std::vector<Out> attend(const Text<T>& text, Pages<T>& pages, const std::vector<Part>& parts, Sharing sharing,
                        uint64_t seed, int64_t max_keys = 0) {
  const Spec& spec = text.spec;
  std::vector<float> q, biases;
  std::vector<int32_t> blocks;
  std::vector<cuda::AttentionSequence> sequences;
  int64_t max_rows = 0, n_tokens = 0;
  for (const Part& part : parts) {
    sequences.push_back({int32_t(n_tokens), int32_t(part.n_rows), int32_t(part.position),
                         int32_t(part.n_keys), int32_t(blocks.size())});
    const std::vector<int32_t> table = pages.table(part);
    blocks.insert(blocks.end(), table.begin(), table.end());
    q.insert(q.end(), text.q.begin() + part.position * spec.row(),
             text.q.begin() + (part.position + part.n_rows) * spec.row());
    const int64_t row = text.bias_row_stride;
    biases.insert(biases.end(), text.bias.begin() + part.position * row,
                  row ? text.bias.begin() + (part.position + part.n_rows) * row : text.bias.end());
    n_tokens += part.n_rows;
    max_rows = std::max(max_rows, part.n_rows);
    max_keys = std::max(max_keys, part.n_keys);
  }
  const int64_t keys = sharing == Sharing::splits ? max_keys : std::min<int64_t>(max_keys, 1);
  const int64_t one_split = max_keys > 512 ? n_tokens * spec.n_heads * (spec.head_dim + 2) : 0;
  const int64_t floats =
      std::max(one_split, cuda::attention_partial_floats(n_tokens, spec.n_heads, spec.head_dim, keys));
  OnDevice<float> queries(q), partials(std::vector<float>(size_t(floats), NAN)), bias(biases),
      sinks(text.sinks);
  OnDevice<int32_t> tables(blocks);
  OnDevice<cuda::AttentionSequence> list(sequences);
  OnDevice<Out> out(q.size());
  emulation::set_seed(seed);
  device::check(cuda::attention(nullptr, {.out = out.output(),
                                          .ld_out = spec.row(),
                                          .q = queries.get(),
                                          .ld_q = spec.row(),
                                          .pages = pages.view(),
                                          .blocks = tables.get(),
                                          .sequences = list.get(),
                                          .n_sequences = int64_t(sequences.size()),
                                          .max_rows = max_rows,
                                          .max_keys = max_keys,
                                          .n_tokens = n_tokens,
                                          .n_heads = spec.n_heads,
                                          .window = spec.window,
                                          .causal = spec.causal,
                                          .scale = spec.scale(),
                                          .softcap = spec.softcap,
                                          .partials = partials.get(),
                                          .partial_floats = floats,
                                          .bias = text.bias.empty() ? nullptr : bias.get(),
                                          .bias_stride = text.bias_stride,
                                          .bias_row_stride = text.bias_row_stride,
                                          .bias_origin = text.bias_origin,
                                          .bias_relative = spec.bias == Spec::Bias::by_distance,
                                          .sinks = text.sinks.empty() ? nullptr : sinks.get()}),
                "attention");
  return out.read();
}

// What one query should be: its probabilities, and how far each may be off.
template <typename T>
struct Query {
  std::vector<double> weights;  // of the keys seen
  Seen seen;
  double relative = 0;  // largest relative error of a probability
  double absolute = 0;  // and what small ones lose to the f16's subnormals, relative to the largest

  Query(const Text<T>& text, int64_t row, int64_t head, int64_t n_keys)
      : seen(seen_by(text.spec, row, n_keys)) {
    const Spec& spec = text.spec;
    const int64_t kv_head = head / (spec.n_heads / spec.n_kv_heads);
    double max = -std::numeric_limits<double>::infinity();
    for (int64_t t = seen.begin; t < seen.end; ++t) {
      double score = 0, magnitude = 0;
      for (int64_t d = 0; d < spec.head_dim; ++d) {
        const double product = text.query(row, head, d) * text.key(t, kv_head, d);
        score += product;
        magnitude += std::abs(product);
      }
      score *= double{spec.scale()};
      // The chain of the tensor cores (kernels.h: gemm), then at most 8 roundings; tanh has a slope of at
      // most 1.
      double error = 1.4 * double(spec.head_dim + 80) * kUnitF32 * magnitude * double{spec.scale()};
      if (spec.softcap > 0) score = double{spec.softcap} * std::tanh(score / double{spec.softcap});
      score += text.added(row, head, t);
      error += 8 * kUnitF32 * std::abs(score) + (spec.softcap > 0 ? 4 * kUnitF32 * double{spec.softcap} : 0);
      error += 2 * kUnitF32 * std::abs(text.added(row, head, t));
      relative = std::max(relative, error);
      weights.push_back(score);
      max = std::max(max, score);
    }
    double sum = 0;
    if (spec.has_sinks) {
      const double sink = text.sinks[size_t(head)];
      relative += 2 * kUnitF32 * std::abs(sink);
      max = std::max(max, sink);
      sum = std::exp(sink - max);
      relative = std::max(relative, kUnitF32 * (max - sink));
    }
    for (double& w : weights) {
      relative = std::max(relative, kUnitF32 * (max - w));  // of the difference
      sum += w = std::exp(w - max);
    }
    // The maximum is off by as much as a score; 2^x by 2^-22, also of each rescaling; p is rounded.
    relative = 2 * relative + double(n_keys / 64 + 4) * 0x1p-22 + unit<T>();
    absolute = std::is_same_v<T, __half> ? double(weights.size()) * 0x1p-25 / sum : 0;
    for (double& w : weights) w /= sum;
  }
};

template <typename T>
void check(const Text<T>& text, const std::vector<Part>& parts, const std::vector<float>& out) {
  const Spec& spec = text.spec;
  size_t at = 0;
  for (const Part& part : parts) {
    for (int64_t row = part.position; row < part.position + part.n_rows; ++row) {
      for (int64_t head = 0; head < spec.n_heads; ++head) {
        const Query<T> query(text, row, head, part.n_keys);
        const int64_t kv_head = head / (spec.n_heads / spec.n_kv_heads);
        for (int64_t d = 0; d < spec.head_dim; ++d, ++at) {
          double expected = 0, magnitude = 0;
          for (int64_t t = query.seen.begin; t < query.seen.end; ++t) {
            const double v = text.val(t, kv_head, d), w = query.weights[size_t(t - query.seen.begin)];
            expected += w * v;
            magnitude += w * std::abs(v);
          }
          // Σ p·v and Σ p both carry the errors of p and of their chains.
          const double chain = 1.4 * double(part.n_keys + 96) * kUnitF32;
          const double bound = 1.05 * (2 * (query.relative + chain) * magnitude + 8 * query.absolute);
          const double error = std::abs(double{out[at]} - expected);
          require(error <= bound, "row ", row, ", head ", head, ", d ", d, " of ", part.n_keys,
                  " keys: off by ", error, ", allowed ", bound);
        }
      }
    }
  }
}

template <typename T>
void check_bound(const Spec& spec, int64_t n_keys, const std::vector<Part>& parts) {
  const Text<T> text{spec, n_keys};
  Pages<T> pages(text, n_keys);
  check(text, parts, attend(text, pages, parts, Sharing::splits, uint64_t(n_keys)));
}

TUILI_TEST(attention_stays_within_its_error_bound) {
  check_bound<bf16>({}, 75, {{0, 75, 75}});
  check_bound<bf16>({}, 130, {{129, 1, 130}, {60, 7, 67}, {0, 1, 1}});
  check_bound<__half>({}, 130, {{129, 1, 130}, {60, 20, 80}});
}

TUILI_TEST(attention_of_every_size_of_head_stays_within_its_error_bound) {
  for (const int64_t head_dim : {8, 24, 80, 128, 256}) {
    const Spec spec{.n_heads = 2, .n_kv_heads = 1, .head_dim = head_dim, .block_size = 32};
    check_bound<bf16>(spec, 70, {{66, 4, 70}, {40, 20, 60}});
    check_bound<bf16>(spec, 70, {{69, 1, 70}});
    check_bound<__half>(spec, 70, {{69, 1, 70}});
    check_bound<__half>(spec, 70, {{50, 10, 60}});
  }
}

TUILI_TEST(attention_of_windows_caps_and_encoders_stays_within_its_error_bound) {
  check_bound<bf16>({.window = 50}, 200, {{190, 10, 200}, {150, 3, 153}});
  check_bound<bf16>({.n_heads = 3, .n_kv_heads = 3, .softcap = 5}, 70, {{0, 30, 30}, {69, 1, 70}});
  check_bound<bf16>({.block_size = 64, .causal = Causal::no}, 70, {{0, 70, 70}, {3, 2, 40}});
  check_bound<__half>({.n_heads = 9, .n_kv_heads = 1, .window = 3, .causal = Causal::no}, 70, {{10, 3, 70}});
}

TUILI_TEST(attention_over_several_splits_stays_within_its_error_bound) {
  check_bound<bf16>({.n_heads = 2, .n_kv_heads = 1}, 1100, {{1099, 1, 1100}, {520, 1, 521}, {100, 1, 101}});
}

TUILI_TEST(attention_with_biases_and_sinks_stays_within_its_error_bound) {
  using enum Spec::Bias;
  check_bound<bf16>({.bias = by_distance}, 75, {{0, 75, 75}, {74, 1, 75}});
  check_bound<__half>({.n_heads = 2, .head_dim = 24, .softcap = 5, .bias = by_key, .has_sinks = true}, 130,
                      {{129, 1, 130}, {60, 20, 80}});
  check_bound<bf16>({.n_heads = 2, .n_kv_heads = 1, .bias = by_distance, .has_sinks = true}, 600,
                    {{599, 1, 600}, {560, 3, 563}});
  // T5's encoder, and GPT-OSS's layers with a window.
  check_bound<bf16>({.causal = Causal::no, .bias = by_distance}, 70, {{0, 70, 70}});
  // DeBERTa's.
  check_bound<__half>({.n_kv_heads = 4, .causal = Causal::no, .bias = by_row}, 75, {{0, 75, 75}, {9, 2, 75}});
  check_bound<bf16>({.n_heads = 8, .n_kv_heads = 1, .window = 20, .has_sinks = true}, 90, {{80, 10, 90}});
}

// Queries of a decoder and keys of an encoder: positions say nothing about the keys.
TUILI_TEST(attention_to_another_sequence_stays_within_its_error_bound) {
  const Text<bf16> text{{.n_heads = 2, .n_kv_heads = 2, .causal = Causal::no}, 90};
  Pages<bf16> pages(text, 20);  // of 90 positions only 20 have a key
  const std::vector<Part> parts{{0, 3, 20}, {50, 40, 20}, {89, 1, 20}, {7, 1, 1}};
  check(text, parts, attend(text, pages, parts, Sharing::splits, 1));
}

// Rows alone, in chunks that go through the wide kernel, with splits shared out and one after another.
template <typename T>
void check_bits(const Spec& spec, int64_t n_keys, int64_t first) {
  const Text<T> text{spec, n_keys};
  Pages<T> pages(text, n_keys);
  const int64_t row = spec.row();
  const std::vector<float> all = attend(text, pages, {{first, n_keys - first, n_keys}}, Sharing::splits, 1);
  require_same_bits(attend(text, pages, {{first, n_keys - first, n_keys}}, Sharing::none, 2), all,
                    "one after another");
  // With splits enough for a crowded device, whose shapes are others; they are not shared out.
  require_same_bits(attend(text, pages, {{first, n_keys - first, n_keys}}, Sharing::none, 4, 512 * 400), all,
                    "crowded");
  require_same_bits(attend(text, pages, {{n_keys - 1, 1, n_keys}}, Sharing::none, 5, 512 * 400),
                    std::vector<float>(all.end() - row, all.end()), "one row, crowded");
  const int64_t half = (n_keys - first) / 2;
  const int64_t keys = spec.causal == Causal::yes ? first + half : n_keys;
  require_same_bits(attend(text, pages, {{first, half, keys}, {first + half, n_keys - first - half, n_keys}},
                           Sharing::splits, 3),
                    all, "two chunks");
  for (int64_t t = first; t < n_keys; t += 7) {
    const int64_t exist = spec.causal == Causal::yes ? t + 1 : n_keys;
    const std::vector<float> one =
        attend(text, pages, {{t, 1, exist}}, t % 2 ? Sharing::splits : Sharing::none, uint64_t(t));
    require(same_bits(one.data(), &all[size_t((t - first) * row)], size_t(row)), "row ", t, " of ", n_keys,
            " depends on its companions");
  }
}

TUILI_TEST(attention_of_a_row_ignores_its_batch_its_chunk_and_the_sharing_of_splits) {
  check_bits<bf16>({}, 560, 520);
  check_bits<__half>({.n_heads = 3, .n_kv_heads = 1, .head_dim = 80, .block_size = 32}, 540, 500);
}

// 160 and 132 queries: a crowded device takes them by wide blocks.
TUILI_TEST(attention_in_wide_blocks_has_the_bits_of_the_others) {
  check_bits<bf16>({.n_heads = 4, .n_kv_heads = 1}, 560, 520);
  check_bits<__half>({.n_heads = 4, .n_kv_heads = 2, .head_dim = 80, .window = 40}, 110, 44);
  check_bits<bf16>(
      {.n_heads = 4, .n_kv_heads = 2, .head_dim = 128, .bias = Spec::Bias::by_key, .has_sinks = true}, 80,
      10);
}

TUILI_TEST(attention_of_three_splits_ignores_how_they_are_shared_out) {
  check_bits<bf16>({.n_heads = 2, .n_kv_heads = 1}, 1040, 1036);
}

TUILI_TEST(attention_with_a_window_or_without_causality_ignores_its_batch) {
  check_bits<bf16>({.n_heads = 2, .n_kv_heads = 1, .window = 30}, 560, 500);
  check_bits<bf16>({.n_heads = 2, .n_kv_heads = 1, .window = 600, .softcap = 20}, 640, 600);
  check_bits<bf16>({.n_heads = 1, .n_kv_heads = 1, .head_dim = 256, .causal = Causal::no}, 90, 20);
}

TUILI_TEST(attention_with_biases_and_sinks_ignores_its_batch) {
  using enum Spec::Bias;
  check_bits<bf16>({.n_heads = 2, .n_kv_heads = 1, .bias = by_distance, .has_sinks = true}, 560, 505);
  check_bits<__half>({.n_heads = 2, .n_kv_heads = 2, .causal = Causal::no, .bias = by_key, .has_sinks = true},
                     80, 20);
  check_bits<__half>({.n_heads = 2, .n_kv_heads = 2, .causal = Causal::no, .bias = by_row}, 560, 500);
}

// ---- without tensor cores: pages of f32, and heads of odd sizes

TUILI_TEST(plain_attention_stays_within_its_error_bound) {
  using enum Spec::Bias;
  check_bound<float>({}, 75, {{0, 75, 75}, {74, 1, 75}});
  check_bound<float>({.n_heads = 2, .n_kv_heads = 1, .head_dim = 256}, 70, {{60, 3, 63}});
  check_bound<float>({.window = 50, .softcap = 5}, 200, {{190, 10, 200}, {150, 3, 153}});
  check_bound<float>({.causal = Causal::no, .bias = by_distance, .has_sinks = true}, 130, {{0, 20, 130}});
  check_bound<float>({.causal = Causal::no, .bias = by_row}, 70, {{0, 70, 70}, {9, 2, 70}});
  check_bound<float>({.n_heads = 1, .n_kv_heads = 1}, 1100, {{1099, 1, 1100}});
  check_bound<bf16>({.n_heads = 6, .n_kv_heads = 2, .head_dim = 7, .block_size = 32}, 70, {{66, 4, 70}});
  check_bound<__half>({.head_dim = 20, .window = 9, .causal = Causal::no, .bias = by_key}, 70, {{30, 3, 70}});
}

// Stages of 32 keys and tiles of 64; blocks of 4 and of 16 queries; dimensions by 4, 32 and 64.
TUILI_TEST(plain_attention_at_the_edges_of_its_tiles_stays_within_its_error_bound) {
  for (const int64_t n : {1, 31, 32, 33, 64, 65, 96, 97})
    check_bound<float>({.head_dim = 4}, n, {{0, n, n}, {n - 1, 1, n}});
  for (const int64_t head_dim : {1, 33, 36, 68, 132})
    check_bound<float>({.n_heads = 4, .n_kv_heads = 2, .head_dim = head_dim}, 70,
                       {{60, 10, 70}, {69, 1, 70}});
  check_bound<float>({.n_heads = 5, .n_kv_heads = 1, .head_dim = 12, .window = 33}, 100, {{0, 100, 100}});
  check_bound<__half>({.n_heads = 3, .n_kv_heads = 1, .head_dim = 129}, 70, {{66, 4, 70}, {69, 1, 70}});
}

TUILI_TEST(plain_attention_ignores_its_batch_and_its_chunk) {
  check_bits<float>({.n_heads = 2, .n_kv_heads = 1, .head_dim = 16}, 560, 530);
  check_bits<float>({.n_heads = 5, .n_kv_heads = 1, .head_dim = 132, .causal = Causal::no}, 70, 40);
  check_bits<bf16>({.n_heads = 2, .n_kv_heads = 1, .head_dim = 13, .window = 40, .has_sinks = true}, 90, 60);
}

TUILI_TEST(plain_attention_without_a_key_is_zero) {
  const Text<float> text{{.window = 4, .causal = Causal::no, .has_sinks = true}, 40};
  Pages<float> pages(text, 40);
  const std::vector<float> out = attend(text, pages, {{30, 2, 20}}, Sharing::splits, 1);
  require_same_bits(out, std::vector<float>(out.size()), "no key");
}

TUILI_TEST(attention_with_a_sink_without_rivals_is_zero_and_without_weight_as_without) {
  Text<bf16> text{{.has_sinks = true}, 40};
  Pages<bf16> pages(text, 40);
  const std::vector<Part> parts{{30, 10, 40}, {39, 1, 40}};
  for (float& sink : text.sinks) sink = 1e30f;
  const std::vector<float> out = attend(text, pages, parts, Sharing::splits, 1);
  require_same_bits(out, std::vector<float>(out.size()), "a sink that takes all");
  const Text<bf16> plain{{}, 40};
  for (float& sink : text.sinks) sink = -std::numeric_limits<float>::infinity();
  require_same_bits(attend(text, pages, parts, Sharing::splits, 1),
                    attend(plain, pages, parts, Sharing::splits, 1), "a sink that takes nothing");
}

TUILI_TEST(attention_gives_the_same_bits_under_every_schedule) {
  const Text<bf16> text{{}, 200};
  Pages<bf16> pages(text, 200);
  for (const Part& part : {Part{199, 1, 200}, Part{150, 50, 200}}) {
    const std::vector<float> first = attend(text, pages, {part}, Sharing::splits, 0);
    for (uint64_t seed = 1; seed < 10; ++seed) {
      require_same_bits(attend(text, pages, {part}, Sharing::splits, seed), first, "seed ", seed);
    }
  }
}

TUILI_TEST(attention_of_more_splits_than_a_grid_holds_does_not_share_them) {
  const Text<bf16> text{{.n_heads = 1, .n_kv_heads = 1, .head_dim = 8}, 4};
  Pages<bf16> pages(text, 4);
  const std::vector<Part> parts(200, Part{3, 1, 4});
  const std::vector<float> want = attend(text, pages, parts, Sharing::splits, 1);
  require_same_bits(attend(text, pages, parts, Sharing::splits, 1, int64_t{512} * 400), want,
                    "80,000 splits");
}

TUILI_TEST(attention_rounds_to_bf16_once) {
  const Text<bf16> text{{}, 40};
  Pages<bf16> pages(text, 40);
  const std::vector<Part> parts{{30, 10, 40}};
  const std::vector<float> wide = attend(text, pages, parts, Sharing::splits, 1);
  require_same_bits(attend<bf16>(text, pages, parts, Sharing::splits, 2), rounded_all<bf16>(wide), "bf16");
}

TUILI_TEST(attention_without_a_key_is_zero) {
  const Text<bf16> text{{.window = 4, .causal = Causal::no, .has_sinks = true}, 40};
  Pages<bf16> pages(text, 40);
  for (const Sharing sharing : {Sharing::splits, Sharing::none}) {
    const std::vector<float> out = attend(text, pages, {{30, 2, 20}}, sharing, 1);
    require_same_bits(out, std::vector<float>(out.size()), "no key");
  }
}

TUILI_TEST(attention_refuses_what_it_cannot_compute) {
  const Text<bf16> text{{}, 40};
  Pages<bf16> pages(text, 40);
  const auto refused = [&](const auto& change) {
    cuda::AttentionArgs args{};
    args.pages = pages.view();
    args.n_sequences = args.max_rows = args.n_tokens = 1;
    args.max_keys = 40;
    args.n_heads = 4;
    args.scale = 1;
    change(args);
    require(cuda::attention(nullptr, args) == cudaErrorInvalidValue, "not refused");
  };
  refused([](cuda::AttentionArgs& args) { args.out.dtype = DType::f16; });
  refused([](cuda::AttentionArgs& args) { args.pages.type = DType::i8; });  // without scales
  refused([](cuda::AttentionArgs& args) { args.pages.head_dim = 264; });
  refused([](cuda::AttentionArgs& args) { args.pages.head_dim = 0; });
  refused([](cuda::AttentionArgs& args) { args.pages.block_size = 24; });
  refused([](cuda::AttentionArgs& args) { args.n_heads = 3; });
  refused([](cuda::AttentionArgs& args) { args.scale = 0; });
  refused([](cuda::AttentionArgs& args) { args.ld_q = 6; });
  refused([](cuda::AttentionArgs& args) { args.max_keys = 513; });
  refused([](cuda::AttentionArgs& args) { args.n_sequences = 70000; });
}

}  // namespace
