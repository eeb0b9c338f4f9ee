#include "runtime/staging.h"

#include <algorithm>

namespace tuili {
namespace {

int64_t blocks_in(const ops::SequenceRows& rows, int64_t block_size) {
  return (rows.n_keys + block_size - 1) / block_size;
}

// Bytes of the lists of the largest step, in the order of `send`.
int64_t bytes_for(const ModelSpec& spec, const StagingSizes& sizes) {
  Carver carver;
  for (int64_t i = 0; i < 3 + sizes.n_areas; ++i) carver.take<int32_t>(sizes.max_tokens);
  for (const RopeSpec& rope : spec.ropes)
    for (int i = 0; i < 2; ++i) carver.take<float>(sizes.max_tokens * std::ssize(rope.inv_freq));
  for (int64_t i = 0; i < sizes.n_areas; ++i) carver.take<ops::DeviceSequence>(sizes.max_seqs);
  carver.take<int32_t>(sizes.n_areas * sizes.max_seqs * sizes.max_blocks);
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

// The sequences of every area, then all their tables: what is before these does not move from step to step of
// one size.
void Staging::put_sequences(Carver& carver, const StepBatch& batch) {
  Vector<AreaRows>& areas = areas_;
  int64_t n_blocks = 0;
  for (size_t area = 0; area < areas.size(); ++area) {
    const std::span<const ops::SequenceRows> rows = batch.areas[area].rows.on_cpu;
    auto* const list = carver.take<ops::DeviceSequence>(std::ssize(rows));
    ops::DeviceSequences& sent = areas[area].rows.on_device;
    sent = {.list = on_device(list), .count = std::ssize(rows)};
    for (size_t i = 0; i < rows.size(); ++i) {
      const ops::SequenceRows& s = rows[i];
      list[i] = {static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.n_rows),
                 static_cast<int32_t>(s.position), static_cast<int32_t>(s.n_keys),
                 static_cast<int32_t>(n_blocks)};
      n_blocks += blocks_in(s, sizes_.block_size);
      sent.max_rows = std::max(sent.max_rows, s.n_rows);
      sent.max_keys = std::max(sent.max_keys, s.n_keys);
    }
    sent.max_keys = ops::device_keys(sent.max_keys);
  }
  int32_t* const tables = carver.take<int32_t>(n_blocks);
  int32_t* next = tables;
  for (size_t area = 0; area < areas.size(); ++area) {
    areas[area].rows.on_device.blocks = on_device(tables);
    for (const ops::SequenceRows& s : batch.areas[area].rows.on_cpu)
      next = std::copy_n(s.blocks, blocks_in(s, sizes_.block_size), next);
  }
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
  sent.areas = areas_;
  device::copy_to_device(device_.data(), host_.data(), carver.used(), context.stream);
  return sent;
}

}  // namespace tuili
