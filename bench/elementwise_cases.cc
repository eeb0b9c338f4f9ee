// Every other kernel of the table: rows of a model's width, in cache, one thread.
#include <cmath>
#include <memory>

#include "cases.h"

namespace tuili::bench {
namespace {

constexpr int64_t kVocabulary = 32000;

struct RowShape {
  int64_t rows, heads, head_dim;
  int64_t width() const { return heads * head_dim; }
  int64_t size() const { return rows * width(); }
};
constexpr RowShape kModel{8, 32, 64}, kOdd{3, 7, 22};

// What most kernels take: x, y, z [rows, width], gain and bias [width].
struct RowData {
  explicit RowData(RowShape of) : shape(of), arena(8 * of.size() * 4 + (int64_t{1} << 20)) {
    x = arena.take(normal_values(of.size(), 1, 1));
    z = arena.take(normal_values(of.size(), 1, 2));
    y = arena.take<float>(of.size());
    gain = arena.take(normal_values(of.width(), 0.1f, 3));
    bias = arena.take(normal_values(of.width(), 0.1f, 4));
  }
  RowShape shape;
  Arena arena;
  float *x, *y, *z, *gain, *bias;

  int64_t width() const { return shape.width(); }
  cpu::Range all() const { return {0, shape.rows}; }
  cpu::Range flat() const { return {0, shape.size()}; }
};

using Body = void (*)(const cpu::Kernels& kernels, RowData& data);

struct RowCase {
  const char* name;
  double floats_per_item;  // float32 that are read and written for each element
  Body body;
};

using cpu::Activation;
const RowCase kRowCases[] = {
    {"rms_norm", 2,
     [](const auto& k, auto& d) { k.rms_norm(d.y, d.x, d.gain, d.width(), 1, d.width(), 1e-5f, d.all()); }},
    {"rms_norm_heads", 2,
     [](const auto& k, auto& d) {
       const auto [rows, heads, head_dim] = d.shape;
       k.rms_norm(d.y, d.x, d.gain, head_dim, heads, d.width(), 1e-5f, {0, rows * heads});
     }},
    {"layer_norm", 2,
     [](const auto& k, auto& d) { k.layer_norm(d.y, d.x, d.gain, d.bias, d.width(), 1e-5f, d.all()); }},
    {"activate/silu_gated", 3,
     [](const auto& k, auto& d) { k.activate(d.y, d.x, d.z, Activation::silu, d.flat()); }},
    {"activate/silu", 2,
     [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, Activation::silu, d.flat()); }},
    {"activate/gelu", 2,
     [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, Activation::gelu, d.flat()); }},
    {"activate/gelu_tanh_gated", 3,
     [](const auto& k, auto& d) { k.activate(d.y, d.x, d.z, Activation::gelu_tanh, d.flat()); }},
    {"activate/relu", 2,
     [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, Activation::relu, d.flat()); }},
    {"add", 3, [](const auto& k, auto& d) { k.add(d.y, d.x, d.z, d.flat()); }},
    {"softcap", 2, [](const auto& k, auto& d) { k.softcap(d.z, 30, d.flat()); }},
    {"exp_shifted", 2, [](const auto& k, auto& d) { k.exp_shifted(d.y, d.x, 3, d.flat()); }},
    {"mean_rows", 1, [](const auto& k, auto& d) { k.mean_rows(d.y, d.x, d.shape.rows, d.width()); }},
    {"l2_normalize", 2, [](const auto& k, auto& d) { k.l2_normalize(d.y, d.x, d.width(), d.all()); }},
};

Work row_work(const cpu::Kernels& kernels, RowShape shape, const RowCase& one) {
  const auto data = std::make_shared<RowData>(shape);
  const double items = static_cast<double>(shape.size());
  return {.run = [data, body = one.body, table = &kernels] { body(*table, *data); },
          .items = items,
          .bytes = 4 * one.floats_per_item * items,
          .outputs = {bytes_of(data->y, shape.size()), bytes_of(data->z, shape.size())}};
}

// All but the outliers, whose unused room holds anything.
Work quantize_work(const cpu::Kernels& kernels, RowShape shape) {
  const auto data = std::make_shared<RowData>(shape);
  const int64_t m = shape.rows, width = shape.width();
  const QuantizedRows out = ops::quantized_rows(data->arena.carver, m, width);
  const double items = static_cast<double>(shape.size());
  const auto run = [=, table = &kernels] {
    table->quantize_rows(out, data->x, width, width, {0, m}, {0, out.n_groups});
  };
  return {.run = run,
          .items = items,
          .bytes = items * 5.5,
          .outputs = {bytes_of(out.low, m * out.n_groups * kGroup), bytes_of(out.scale, m * out.n_groups),
                      bytes_of(out.half_sum, m * out.n_groups * 2), bytes_of(out.n_outliers, m)}};
}

Work rope_work(const cpu::Kernels& kernels, RowShape shape, bool interleaved) {
  const auto data = std::make_shared<RowData>(shape);
  const int64_t half = shape.head_dim / 2;
  for (int64_t i = 0; i < shape.rows * half; ++i) {  // z holds the cosines, y the sines
    data->z[i] = std::cos(static_cast<float>(i));
    data->y[i] = std::sin(static_cast<float>(i));
  }
  const double items = static_cast<double>(shape.size());
  const auto run = [=, table = &kernels] {
    table->rope(data->x, shape.width(), data->z, data->y, shape.heads, shape.head_dim, half, interleaved,
                data->all());
  };
  return {.run = run, .items = items, .bytes = items * 8, .outputs = {bytes_of(data->x, shape.size())}};
}

Work kv_write_work(const cpu::Kernels& kernels, RowShape shape, DType type) {
  constexpr int64_t kBlock = 32;
  const int64_t kv_heads = (shape.heads + 7) / 8, row = kv_heads * shape.head_dim;
  const auto data = std::make_shared<RowData>(shape);
  float* keys = data->arena.take<float>(kBlock * row);
  float* values = data->arena.take<float>(kBlock * row);
  float* key_scales = data->arena.take<float>(kBlock * kv_heads);
  float* value_scales = data->arena.take<float>(kBlock * kv_heads);
  const KvPages pages{keys,           values,       type,       kBlock,       kv_heads,
                      shape.head_dim, kBlock * row, key_scales, value_scales, kBlock * kv_heads};
  int32_t* slots = data->arena.take<int32_t>(shape.rows);
  for (int32_t i = 0; i < shape.rows; ++i) slots[i] = i + 3;
  const double items = static_cast<double>(2 * shape.rows * row);
  const auto element = static_cast<double>(size_of(type));
  const auto run = [=, table = &kernels] {
    table->kv_write(pages, data->x, data->z, row, slots, data->all());
  };
  return {.run = run,
          .items = items,
          .bytes = items * (4 + element),
          .outputs = {bytes_of(keys, kBlock * row), bytes_of(values, kBlock * row),
                      bytes_of(key_scales, kBlock * kv_heads), bytes_of(value_scales, kBlock * kv_heads)}};
}

// One row of logits.
Work softmax_work(const cpu::Kernels& kernels, int64_t n) {
  const auto logits = std::make_shared<std::vector<float>>(normal_values(n, 3));
  const auto stats = std::make_shared<std::vector<float>>(2);
  const auto run = [=, table = &kernels] {
    table->softmax_stats(logits->data(), n, stats->data(), stats->data() + 1);
  };
  const double items = static_cast<double>(n);
  return {.run = run, .items = items, .bytes = items * 4, .outputs = {bytes_of(stats->data(), 2)}};
}

void add_cases(std::vector<Case>& cases, RowShape shape, const char* suffix, Use use) {
  const auto add = [&](const char* name, auto work, auto... options) {
    cases.push_back({join(name, suffix),
                     [=](const cpu::Kernels& kernels) { return work(kernels, shape, options...); }, use});
  };
  for (const RowCase& one : kRowCases) add(one.name, row_work, one);
  add("quantize_rows", quantize_work);
  add("rope/halves", rope_work, false);
  add("rope/interleaved", rope_work, true);
  add("kv_write/f32", kv_write_work, DType::f32);
  add("kv_write/f16", kv_write_work, DType::f16);
  add("kv_write/bf16", kv_write_work, DType::bf16);
  add("kv_write/i8", kv_write_work, DType::i8);
}

}  // namespace

std::vector<Case> elementwise_cases() {
  std::vector<Case> cases;
  add_cases(cases, kModel, "", Use::counted);
  add_cases(cases, kOdd, "/odd", Use::odd);
  for (const int64_t n : {kVocabulary, int64_t{77}})
    cases.push_back({join("softmax_stats/n:", n),
                     [=](const cpu::Kernels& kernels) { return softmax_work(kernels, n); },
                     n == kVocabulary ? Use::counted : Use::odd});
  return cases;
}

}  // namespace tuili::bench
