#include "runtime/staging.h"

#include <algorithm>

#include "base/rounding.h"

namespace tuili {
namespace {

int64_t blocks_in(const ops::SequenceRows& rows, int64_t block_size) {
  return ceil_div(rows.n_keys, block_size);
}

// Bytes of the lists of the largest step, in the order of `send`.
int64_t bytes_for(const ModelSpec& spec, const StagingSizes& sizes) {
  Carver carver;
  for (int64_t i = 0; i < 3 + sizes.n_areas; ++i) carver.take<int32_t>(sizes.max_tokens);
  for (const RopeSpec& rope : spec.ropes)
    for (int i = 0; i < 2; ++i) carver.take<float>(sizes.max_tokens * std::ssize(rope.inv_freq));
  for (int64_t i = 0; i < sizes.n_areas; ++i) carver.take<ops::DeviceSequence>(sizes.max_seqs);
  carver.take<ops::DeviceSequence>(sizes.max_source_blocks ? sizes.max_seqs : 0);
  carver.take<int32_t>(sizes.max_seqs * (sizes.n_areas * sizes.max_blocks + sizes.max_source_blocks));
  carver.take<int32_t>(sizes.max_tokens);
  for (const int64_t n_parts : {sizes.max_tokens, sizes.max_source_blocks ? sizes.max_seqs : 0})
    carver.take<ops::DeviceSequence>(n_parts);
  return carver.used();
}

}  // namespace

Staging::Staging(const ModelSpec& spec, const StagingSizes& sizes)
    : sizes_(sizes), host_(bytes_for(spec, sizes)), device_(bytes_for(spec, sizes), DeviceKind::cuda) {
  for (const RopeSpec& rope : spec.ropes) {
    const TensorView rows(nullptr, DType::f32, {sizes.max_tokens, std::ssize(rope.inv_freq)});
    cos_.push_back(rows);
    sin_.push_back(rows);
  }
  areas_.resize(sizes.n_areas);
}

std::span<const int32_t> Staging::put(Carver& carver, std::span<const int32_t> list) const {
  int32_t* const to = carver.take<int32_t>(std::ssize(list));
  std::ranges::copy(list, to);
  return {on_device(to), list.size()};
}

void Staging::put_ropes(const ops::Context& context, const Transformer& transformer, Carver& carver,
                        std::span<const int32_t> positions, State& state) {
  const int64_t n = std::ssize(positions);
  for (size_t i = 0; i < cos_.size(); ++i) {
    const int64_t half = cos_[i].size(1);
    for (const auto& [on_host, sent] : {std::pair{&cos_[i], &state.cos[i]}, {&sin_[i], &state.sin[i]}}) {
      on_host->data = carver.take<float>(n * half);
      *sent = TensorView(on_device(on_host->f32()), DType::f32, {n, half}, DeviceKind::cuda);
    }
  }
  transformer.rope_tables(context, positions, cos_, sin_);
}

// The sequences of one area, or parts of them, which do not know yet where their tables begin.
std::span<ops::DeviceSequence> Staging::put_rows(Carver& carver, const ops::BatchRows& rows,
                                                 ops::BatchRows& sent) const {
  auto* const list = carver.take<ops::DeviceSequence>(std::ssize(rows.on_cpu));
  ops::DeviceSequences& there = sent.on_device;
  there = {.list = on_device(list), .count = std::ssize(rows.on_cpu)};
  for (size_t i = 0; i < rows.on_cpu.size(); ++i) {
    const ops::SequenceRows& s = rows.on_cpu[i];
    list[i] = {static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.n_rows),
               static_cast<int32_t>(s.position), static_cast<int32_t>(s.n_keys), 0};
    there.max_rows = std::max(there.max_rows, s.n_rows);
    there.max_keys = std::max(there.max_keys, s.n_keys);
  }
  there.max_keys = ops::device_keys(there.max_keys);
  return {list, rows.on_cpu.size()};
}

// The sequences of every area and of the sources, then all their tables: what is before these does not move
// from step to step of one size.
void Staging::put_sequences(Carver& carver, const StepBatch& batch) {
  int64_t n_blocks = 0;
  const auto put_all = [&](const ops::BatchRows& rows, ops::BatchRows& sent) {
    const std::span<ops::DeviceSequence> list = put_rows(carver, rows, sent);
    for (size_t i = 0; i < list.size(); ++i) {
      list[i].first_block = static_cast<int32_t>(n_blocks);
      n_blocks += blocks_in(rows.on_cpu[i], sizes_.block_size);
    }
  };
  for (size_t i = 0; i < areas_.size(); ++i) put_all(batch.areas[i].rows, areas_[i].rows);
  put_all(batch.sources, sources_);
  int32_t* const tables = carver.take<int32_t>(n_blocks);
  int32_t* next = tables;
  const auto put_tables = [&](const ops::BatchRows& rows, ops::BatchRows& sent) {
    sent.on_device.blocks = on_device(tables);
    for (const ops::SequenceRows& s : rows.on_cpu)
      next = std::copy_n(s.blocks, blocks_in(s, sizes_.block_size), next);
  };
  for (size_t i = 0; i < areas_.size(); ++i) put_tables(batch.areas[i].rows, areas_[i].rows);
  put_tables(batch.sources, sources_);
}

// Parts of sequences that were put: they have these tables.
void Staging::put_parts(Carver& carver, const ops::BatchRows& parts, const ops::BatchRows& all,
                        const ops::BatchRows& all_sent, ops::BatchRows& sent) const {
  const std::span<ops::DeviceSequence> list = put_rows(carver, parts, sent);
  sent.on_device.blocks = all_sent.on_device.blocks;
  size_t whole = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    while (all.on_cpu[whole].blocks != parts.on_cpu[i].blocks) ++whole;
    list[i].first_block = on_host(all_sent.on_device.list)[whole].first_block;
  }
}

AskedRows Staging::put_asked(Carver& carver, const StepBatch& batch) const {
  const AskedRows& asked = *batch.asked;
  AskedRows sent{.rows = put(carver, asked.rows), .area = asked.area, .in_area = {}, .sources = {}};
  put_parts(carver, asked.in_area, batch.areas[asked.area].rows, areas_[asked.area].rows, sent.in_area);
  put_parts(carver, asked.sources, batch.sources, sources_, sent.sources);
  return sent;
}

StepBatch Staging::send(const ops::Context& context, const Transformer& transformer, const StepBatch& batch,
                        std::span<const int32_t> positions, State& state) {
  device::synchronize(context.stream);
  Carver carver(host_.data());
  StepBatch sent;
  sent.token_ids = put(carver, batch.token_ids);
  sent.token_types = put(carver, batch.token_types);
  sent.position_rows = put(carver, batch.position_rows);
  for (size_t i = 0; i < areas_.size(); ++i) areas_[i].slots = put(carver, batch.areas[i].slots);
  put_ropes(context, transformer, carver, positions, state);
  put_sequences(carver, batch);
  if (batch.asked) sent.asked = put_asked(carver, batch);
  sent.areas = areas_;
  sent.sources = sources_;
  device::copy_to_device(device_.data(), host_.data(), carver.used(), context.stream);
  return sent;
}

StepBatch place(std::optional<Staging>& staging, const ops::Context& context, const Transformer& transformer,
                const StepBatch& batch, std::span<const int32_t> positions, State& state) {
  if (staging) return staging->send(context, transformer, batch, positions, state);
  transformer.rope_tables(context, positions, state.cos, state.sin);
  return batch;
}

}  // namespace tuili
