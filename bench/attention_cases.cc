// Attention over pages: all query heads of one KV head, one thread.
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "cases.h"

namespace tuili::bench {
namespace {

constexpr int64_t kBlockSize = 32;

struct AttentionShape {
  int64_t n_rows, n_keys, n_heads, head_dim;  // one KV head; the last rows of n_keys
};

struct AttentionData {
  Arena arena;
  cpu::AttentionArgs args{};
  std::vector<int32_t> blocks;
};

void write_keys(const cpu::Kernels& kernels, AttentionData& data, int64_t n_keys, int64_t head_dim) {
  const std::vector<float> k = normal_values(n_keys * head_dim, 1, 2),
                           v = normal_values(n_keys * head_dim, 1, 3);
  std::vector<int32_t> slots(static_cast<size_t>(n_keys));
  for (int64_t t = 0; t < n_keys; ++t)
    slots[static_cast<size_t>(t)] =
        static_cast<int32_t>(data.blocks[static_cast<size_t>(t / kBlockSize)] * kBlockSize + t % kBlockSize);
  kernels.kv_write(data.args.pages, k.data(), v.data(), head_dim, slots.data(), {0, n_keys});
}

std::shared_ptr<AttentionData> attention_data(const cpu::Kernels& kernels, DType type, AttentionShape shape) {
  const auto [n_rows, n_keys, n_heads, head_dim] = shape;
  const int64_t n_blocks = ceil_div(n_keys, kBlockSize), page = n_blocks * kBlockSize * head_dim;
  const int64_t element = size_of(type), row = n_heads * head_dim;
  auto data = std::make_shared<AttentionData>(Arena(2 * page * 4 + n_rows * row * 8 + (int64_t{1} << 20)));
  data->blocks.resize(static_cast<size_t>(n_blocks));
  std::iota(data->blocks.begin(), data->blocks.end(), 0);
  std::shuffle(data->blocks.begin(), data->blocks.end(), std::mt19937(5));
  cpu::AttentionArgs& args = data->args;
  args.pages = {data->arena.take<uint8_t>(page * element),
                data->arena.take<uint8_t>(page * element),
                type,
                kBlockSize,
                1,
                head_dim,
                kBlockSize * head_dim,
                data->arena.take<float>(n_blocks * kBlockSize),
                data->arena.take<float>(n_blocks * kBlockSize),
                kBlockSize};
  args.q = data->arena.take(normal_values(n_rows * row));
  args.out = data->arena.take<float>(n_rows * row);
  args.scratch = data->arena.take<float>(cpu::attention_scratch(head_dim));
  args.ld_q = args.ld_out = row;
  args.blocks = data->blocks.data();
  args.n_heads = n_heads;
  args.position = n_keys - n_rows;
  args.n_keys = n_keys;
  args.causal = true;
  args.scale = 0.125f;
  write_keys(kernels, *data, n_keys, head_dim);
  return data;
}

Work attention_work(const cpu::Kernels& kernels, DType type, AttentionShape shape) {
  const auto data = attention_data(kernels, type, shape);
  const auto [n_rows, n_keys, n_heads, head_dim] = shape;
  const double keys_seen = static_cast<double>(n_rows * n_keys - n_rows * (n_rows - 1) / 2);
  const int64_t element = size_of(type);
  return {.run = [data, kernel = kernels.attention, n_rows = n_rows] { kernel(data->args, 0, {0, n_rows}); },
          .macs = 2 * keys_seen * static_cast<double>(n_heads * head_dim),
          .bytes = static_cast<double>(2 * n_keys * head_dim * element + 2 * n_rows * n_heads * head_dim * 4),
          .unit = Unit::float_fma,
          .outputs = {bytes_of(data->args.out, n_rows * n_heads * head_dim)}};
}

// A row's splits one by one, then their merge: what several threads share.
Work split_work(const cpu::Kernels& kernels, DType type, AttentionShape shape) {
  const auto data = attention_data(kernels, type, shape);
  const int64_t n_splits = ceil_div(shape.n_keys, cpu::kKeySplit);
  const int64_t stride = shape.n_heads * cpu::attention_partial_size(shape.head_dim);
  const auto partials = std::make_shared<std::vector<float>>(static_cast<size_t>(n_splits * stride));
  const auto run = [data, partials, n_splits, stride, table = &kernels] {
    for (int64_t split = 0; split < n_splits; ++split)
      table->attention_split(data->args, 0, 0, split, partials->data() + split * stride);
    table->attention_merge(data->args, 0, 0, n_splits, partials->data());
  };
  Work work = attention_work(kernels, type, shape);
  work.run = run;
  work.outputs = {bytes_of(data->args.out, shape.n_heads * shape.head_dim)};
  return work;
}

}  // namespace

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  const std::pair<DType, const char*> types[] = {
      {DType::f32, "f32"}, {DType::f16, "f16"}, {DType::bf16, "bf16"}, {DType::i8, "i8"}};
  for (const auto& [type, type_name] : types) {
    const auto add = [&](const char* name, auto work, AttentionShape shape, Use use) {
      cases.push_back({join(name, '/', type_name, "/rows:", shape.n_rows, "/keys:", shape.n_keys,
                            "/heads:", shape.n_heads, "/dim:", shape.head_dim),
                       [=, type = type](const cpu::Kernels& k) { return work(k, type, shape); }, use});
    };
    for (const int64_t head_dim : {64, 128}) {
      for (const int64_t n_keys : {128, 1024, 8192})
        add("attention", attention_work, {1, n_keys, 4, head_dim}, Use::speed);
      for (const int64_t n_keys : {128, 1024})
        add("attention", attention_work, {64, n_keys, 4, head_dim}, Use::speed);
    }
    add("attention", attention_work, {1, 160, 3, 64}, Use::counted);
    add("attention", attention_work, {16, 160, 3, 64}, Use::counted);
    add("attention_split", split_work, {1, 1056, 3, 64}, Use::counted);
    add("attention", attention_work, {5, 83, 3, 20}, Use::odd);
    add("attention", attention_work, {13, 600, 1, 48}, Use::odd);
    add("attention_split", split_work, {1, 515, 5, 36}, Use::odd);
  }
  return cases;
}

}  // namespace tuili::bench
