#include "runtime/source_encoder.h"

namespace tuili {

SourceEncoder::SourceEncoder(const ops::Context& context, const Model& model, const Transformer& reader,
                             KvCache& cache, const RunnerOptions& options)
    : context_(context),
      model_(model),
      reader_(reader),
      cache_(cache),
      options_(options),
      transformer_(model.spec.encoder[0], model.weights.encoder[0], model.compute),
      lists_(2, options.max_source_tokens, options.max_seqs) {}

SourceEncoder::Room SourceEncoder::Room::take(Carver& carver, const Model& model,
                                              const RunnerOptions& options) {
  const int64_t n = options.max_source_tokens, kept_size = model.spec.largest_kv_size();
  const ModelSpec& spec = model.spec.encoder[0];
  const DeviceKind device = model.device.kind;
  Room room;
  room.state = State::take(carver, spec, n, device);
  room.pages = TextPages(carver, spec, n, options.max_seqs, device);
  room.key = take_rows(carver, n, kept_size, device);
  room.value = take_rows(carver, n, kept_size, device);
  return room;
}

void SourceEncoder::carve(Carver& carver, std::span<float> attention_partials) {
  room_ = Room::take(carver, model_, options_);
  room_.state.attention_partials = attention_partials;
}

void SourceEncoder::prepare_device() {
  staging_.emplace(model_.spec.encoder[0], StagingSizes{.max_tokens = options_.max_source_tokens,
                                                        .max_seqs = options_.max_seqs,
                                                        .n_areas = 2,
                                                        .max_blocks = room_.pages.n_blocks(),
                                                        .block_size = TextPages::kBlockSize});
}

void SourceEncoder::add(const Sequence& sequence, const int32_t* blocks) {
  const int64_t n = sequence.n_source(), size = cache_.block_size();
  lists_.add_rows(model_.spec.encoder[0], sequence.source, {}, 0, n, n);
  lists_.add_places(0, 0, n, room_.pages.take(n), TextPages::kBlockSize);
  lists_.add_slots(1, 0, n, blocks, size);
  for (int64_t i = 0; i * size < n; ++i) cache_.clear_block(context_, 0, blocks[i]);
}

void SourceEncoder::run() {
  if (lists_.n_rows() == 0) return;
  room_.pages.clear(context_);
  const StepBatch texts =
      place(staging_, context_, transformer_, lists_.all(), lists_.positions(), room_.state);
  transformer_.forward(context_, texts, room_.pages.view(), room_.state, nullptr);
  const ops::Activations hidden{room_.state.hidden.slice(0, texts.n_tokens()), room_.state.room};
  reader_.keep_source(context_, hidden, room_.key, room_.value, texts.areas[1].slots.data(), cache_.view());
  clear();
}

void SourceEncoder::clear() {
  lists_.clear();
  room_.pages.release();
}

}  // namespace tuili
