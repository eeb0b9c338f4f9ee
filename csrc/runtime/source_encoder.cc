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

void SourceEncoder::carve(Carver& carver, std::span<float> attention_partials) {
  const int64_t n = options_.max_source_tokens;
  state_ = State::take(carver, model_.spec.encoder[0], n, model_.device.kind);
  state_.attention_partials = attention_partials;
  pages_ = TextPages(carver, model_.spec.encoder[0], n, options_.max_seqs, model_.device.kind);
  for (TensorView* part : {&key_, &value_})
    *part = take_rows(carver, n, model_.spec.largest_kv_size(), model_.device.kind);
}

void SourceEncoder::prepare_device() {
  staging_.emplace(model_.spec.encoder[0], StagingSizes{.max_tokens = options_.max_source_tokens,
                                                        .max_seqs = options_.max_seqs,
                                                        .n_areas = 2,
                                                        .max_blocks = pages_.n_blocks(),
                                                        .block_size = TextPages::kBlockSize});
}

void SourceEncoder::add(const Sequence& sequence, const int32_t* blocks) {
  const int64_t n = sequence.n_source(), size = cache_.block_size();
  lists_.add_rows(model_.spec.encoder[0], sequence.source, {}, 0, n, n);
  lists_.add_places(0, 0, n, pages_.take(n), TextPages::kBlockSize);
  lists_.add_slots(1, 0, n, blocks, size);
  for (int64_t i = 0; i * size < n; ++i) cache_.clear_block(context_, 0, blocks[i]);
}

void SourceEncoder::run() {
  if (lists_.n_rows() == 0) return;
  pages_.clear(context_);
  const StepBatch texts = place(staging_, context_, transformer_, lists_.all(), lists_.positions(), state_);
  transformer_.forward(context_, texts, pages_.view(), state_, nullptr);
  const ops::Activations hidden{state_.hidden.slice(0, texts.n_tokens()), state_.room};
  reader_.keep_source(context_, hidden, key_, value_, texts.areas[1].slots.data(), cache_.view());
  clear();
}

void SourceEncoder::clear() {
  lists_.clear();
  pages_.release();
}

}  // namespace tuili
