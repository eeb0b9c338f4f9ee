// Every other kernel of the table: rows of a model's width, in cache, one thread.
#include <cmath>

#include "cases.h"

namespace tuili::bench {
namespace {

constexpr int64_t kRows = 8, kWidth = 2048, kVocabulary = 32000, kHeadDim = 64;
constexpr int64_t kHeads = kWidth / kHeadDim;
constexpr cpu::Range kAll{0, kRows}, kFlat{0, kRows * kWidth};

// What most of them take: x, y, z [kRows, kWidth], gain and bias [kWidth].
struct RowData {
  Arena arena{4 * kRows * kWidth * 4 + 2 * kWidth * 4 + (int64_t{1} << 20)};
  float *x, *y, *z, *gain, *bias;
  RowData() {
    x = arena.take(normal_values(kRows * kWidth, 1, 1));
    z = arena.take(normal_values(kRows * kWidth, 1, 2));
    y = arena.take<float>(kRows * kWidth);
    gain = arena.take(normal_values(kWidth, 0.1f, 3));
    bias = arena.take(normal_values(kWidth, 0.1f, 4));
  }
};

using Body = void (*)(const cpu::Kernels& kernels, RowData& data);

// A case over all rows, whose kernel touches `floats_per_item` float32 for each element.
Case row_case(const char* name, double floats_per_item, Body body) {
  const auto make = [=](const cpu::Kernels& kernels) -> Work {
    const auto data = std::make_shared<RowData>();
    const double items = kRows * kWidth;
    return {.run = [data, body, table = &kernels] { body(*table, *data); },
            .items = items,
            .bytes = 4 * floats_per_item * items};
  };
  return {name, make, true};
}

std::vector<Case> row_cases() {
  return {
      row_case("rms_norm", 2,
               [](const auto& k, auto& d) { k.rms_norm(d.y, d.x, d.gain, kWidth, 1, kWidth, 1e-5f, kAll); }),
      row_case("rms_norm_heads", 2,
               [](const auto& k, auto& d) {
                 k.rms_norm(d.y, d.x, d.gain, kHeadDim, kHeads, kWidth, 1e-5f, {0, kRows * kHeads});
               }),
      row_case("layer_norm", 2,
               [](const auto& k, auto& d) { k.layer_norm(d.y, d.x, d.gain, d.bias, kWidth, 1e-5f, kAll); }),
      row_case("activate/silu_gated", 3,
               [](const auto& k, auto& d) { k.activate(d.y, d.x, d.z, cpu::Activation::silu, kFlat); }),
      row_case("activate/silu", 2,
               [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, cpu::Activation::silu, kFlat); }),
      row_case("activate/gelu", 2,
               [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, cpu::Activation::gelu, kFlat); }),
      row_case("activate/gelu_tanh_gated", 3,
               [](const auto& k, auto& d) { k.activate(d.y, d.x, d.z, cpu::Activation::gelu_tanh, kFlat); }),
      row_case("activate/relu", 2,
               [](const auto& k, auto& d) { k.activate(d.y, d.x, nullptr, cpu::Activation::relu, kFlat); }),
      row_case("add", 3, [](const auto& k, auto& d) { k.add(d.y, d.x, d.z, kFlat); }),
      row_case("softcap", 2, [](const auto& k, auto& d) { k.softcap(d.z, 30, kFlat); }),
      row_case("exp_shifted", 2, [](const auto& k, auto& d) { k.exp_shifted(d.y, d.x, 3, kFlat); }),
      row_case("mean_rows", 1, [](const auto& k, auto& d) { k.mean_rows(d.y, d.x, kRows, kWidth); }),
      row_case("l2_normalize", 2, [](const auto& k, auto& d) { k.l2_normalize(d.y, d.x, kWidth, kAll); }),
  };
}

Work quantize_work(const cpu::Kernels& kernels, int64_t n_rows) {
  const auto data = std::make_shared<RowData>();
  const QuantizedRows out = ops::quantized_rows(data->arena.carver, n_rows, kWidth);
  const double items = static_cast<double>(n_rows * kWidth);
  return {.run = [=, table = &kernels] { table->quantize_rows(out, data->x, kWidth, kWidth, {0, n_rows}); },
          .items = items,
          .bytes = items * 6.5};
}

Work rope_work(const cpu::Kernels& kernels, bool interleaved) {
  const auto data = std::make_shared<RowData>();
  const int64_t half = kHeadDim / 2;
  for (int64_t i = 0; i < kRows * half; ++i) {  // z holds the cosines, y the sines
    data->z[i] = std::cos(static_cast<float>(i));
    data->y[i] = std::sin(static_cast<float>(i));
  }
  const double items = kRows * kWidth;
  const auto run = [=, table = &kernels] {
    table->rope(data->x, kWidth, data->z, data->y, kHeads, kHeadDim, half, interleaved, {0, kRows});
  };
  return {.run = run, .items = items, .bytes = items * 8};
}

Work kv_write_work(const cpu::Kernels& kernels, cpu::KvType type) {
  constexpr int64_t kBlock = 32, kKvHeads = 4, kRow = kKvHeads * kHeadDim;
  const auto data = std::make_shared<RowData>();
  void* keys = data->arena.take<float>(kBlock * kRow);
  void* values = data->arena.take<float>(kBlock * kRow);
  const cpu::KvPages pages{keys, values, type, kBlock, kKvHeads, kHeadDim};
  int32_t* slots = data->arena.take<int32_t>(kRows);
  for (int32_t i = 0; i < kRows; ++i) slots[i] = i + 3;
  const double items = 2 * kRows * kRow, element = type == cpu::KvType::f32 ? 4 : 2;
  const auto run = [=, table = &kernels] {
    table->kv_write(pages, data->x, data->z, kRow, slots, {0, kRows});
  };
  return {.run = run, .items = items, .bytes = items * (4 + element)};
}

// One row of logits.
Work softmax_work(const cpu::Kernels& kernels) {
  const auto logits = std::make_shared<std::vector<float>>(normal_values(kVocabulary, 3));
  const auto run = [=, table = &kernels] {
    float max, sum;
    table->softmax_stats(logits->data(), kVocabulary, &max, &sum);
    asm volatile("" : : "m"(max), "m"(sum));
  };
  return {.run = run, .items = kVocabulary, .bytes = kVocabulary * 4.0};
}

}  // namespace

std::vector<Case> elementwise_cases() {
  std::vector<Case> cases = row_cases();
  const auto add = [&](const char* name, auto work, auto option) {
    cases.push_back({name, [=](const cpu::Kernels& kernels) { return work(kernels, option); }, true});
  };
  add("quantize_rows/m:1", quantize_work, int64_t{1});
  add("quantize_rows/m:8", quantize_work, kRows);
  add("rope/halves", rope_work, false);
  add("rope/interleaved", rope_work, true);
  add("kv_write/f32", kv_write_work, cpu::KvType::f32);
  add("kv_write/f16", kv_write_work, cpu::KvType::f16);
  add("kv_write/bf16", kv_write_work, cpu::KvType::bf16);
  cases.push_back({"softmax_stats", softmax_work, true});
  return cases;
}

}  // namespace tuili::bench
