// The runner's encoder: whole texts at once, for their vectors and heads, or as the sources of a decoder.
//
// No layer of an encoder needs what another has left, so all write their keys and values to the same pages.
#include <algorithm>

#include "base/check.h"
#include "base/rounding.h"
#include "runtime/runner.h"

namespace tuili {
namespace {

constexpr int64_t kSharedBlockSize = 32;

int64_t largest_kv_size(const ModelSpec& spec) {
  int64_t largest = 0;
  for (const LayerSpec& layer : spec.layers) largest = std::max(largest, layer.kv_size());
  return largest;
}

}  // namespace

// For batches of max_tokens: pages, and the room that keys and values of sources are made in.
void Runner::carve_encoder(Carver& carver, const ModelSpec& spec, int64_t max_tokens) {
  const DeviceKind device = model_.device;
  const ops::KvType type = device == DeviceKind::cuda ? ops::KvType::f16 : ops::KvType::f32;
  const int64_t n_blocks = max_tokens / kSharedBlockSize + options_.max_seqs;
  const int64_t bytes = n_blocks * kSharedBlockSize * largest_kv_size(spec) * size_of(type);
  for (TensorView* part : {&shared_keys_, &shared_values_})
    *part = TensorView(carver.take<uint8_t>(bytes), DType::u8, {bytes}, device);
  shared_blocks_.resize(n_blocks);
  shared_pages_.clear();
  for (const LayerSpec& layer : spec.layers)
    shared_pages_.push_back({{shared_keys_.data, shared_values_.data, type, kSharedBlockSize,
                              layer.n_kv_heads, layer.head_dim, layer.kv_size() * kSharedBlockSize}});
  if (!encoder_) return;
  const int64_t width = largest_kv_size(model_.spec);
  for (TensorView* part : {&source_key_, &source_value_})
    *part = take_rows(carver, max_tokens, width, device);
}

// Appends a whole text to an encoder's batch. It begins a block of its own.
void Runner::add_text(const ModelSpec& spec, std::span<const int32_t> tokens,
                      std::span<const int32_t> types) {
  const auto n = static_cast<int64_t>(tokens.size());
  int64_t row = spec.position_offset;
  for (int64_t i = 0; i < n; ++i) {
    token_ids_.push_back(tokens[i]);
    token_types_.push_back(types.empty() ? 0 : types[i]);
    positions_.push_back(static_cast<int32_t>(i));
    position_rows_.push_back(
        static_cast<int32_t>(tokens[i] == spec.padding_id ? spec.position_offset - 1 : row++));
  }
  add_places(0, 0, n, shared_blocks_.data() + n_shared_blocks_, kSharedBlockSize);
  n_shared_blocks_ += ceil_div(n, kSharedBlockSize);
}

// All layers write the same places, so what is zero past a text's end stays so.
void Runner::clear_shared_pages() {
  const int64_t bytes = n_shared_blocks_ * shared_keys_.count() / std::ssize(shared_blocks_);
  for (const TensorView& part : {shared_keys_, shared_values_})
    ops::clear(context_, TensorView(part.data, DType::u8, {bytes}, part.device));
}

// Makes whole sequences the batch, after begin_batch().
void Runner::add_texts(std::span<Sequence* const> sequences) {
  TUILI_CHECK(model_.spec.kind == ModelKind::encoder, "this model is a decoder: use step");
  TUILI_CHECK(!sequences.empty() && static_cast<int64_t>(sequences.size()) <= options_.max_seqs,
              "a batch of ", sequences.size(), " sequences; max_seqs is ", options_.max_seqs);
  int64_t n_tokens = 0;
  for (Sequence* s : sequences) {
    TUILI_CHECK(s->blocks.empty(), "encode: a sequence holds blocks, which an encoder does not fill");
    n_tokens += s->n_tokens();
    TUILI_CHECK(n_tokens <= options_.max_batch_tokens,
                "the batch has more than max_batch_tokens = ", options_.max_batch_tokens, " tokens");
    check_tokens(*s, 0, s->n_tokens());
    check_source(*s);
  }
  if (encoder_) return add_rereading(sequences);
  for (Sequence* s : sequences) {
    sequences_.push_back(s);
    add_text(model_.spec, s->tokens, s->token_types);
  }
}

// The final hidden states of the rows of those texts that are asked for.
void Runner::forward_encoder() {
  if (!encoder_) clear_shared_pages();
  const KvView pages = encoder_ ? cache_->view() : KvView(shared_pages_);
  transformer_.forward(context_, batch(), pages, state_, taps_for(sequences_));
  wait();
  for (size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = *sequences_[i];
    const ops::SequenceRows& rows = places_[0].rows[i];
    s.n_computed = 0;
    collect_hidden(s, rows);
    s.n_computed = rows.n_rows;
  }
}

// ---- sources

// Whether the sequence has one if the model needs it, in a decoder's case with blocks, and the encoder can
// read it.
void Runner::check_source(const Sequence& sequence) const {
  if (!encoder_) {
    TUILI_CHECK(sequence.source.empty(), "a sequence has a source, which only an encoder-decoder reads");
    return;
  }
  const ModelSpec& spec = model_.spec.encoder[0];
  const int64_t n = sequence.n_source();
  const int64_t most = std::min(spec.max_positions, options_.max_source_tokens);
  TUILI_CHECK(n >= 1 && n <= most, "a source of ", n, " tokens; the encoder takes 1 to ", most);
  if (model_.spec.kind == ModelKind::encoder_decoder) check_source_blocks(sequence);
  if (sequence.source_kept) return;
  for (int64_t i = 0; i < n; ++i)
    TUILI_CHECK_KIND(ErrorKind::token_id, sequence.source[i] >= 0 && sequence.source[i] < spec.n_vocab,
                     "token id ", sequence.source[i], " at position ", i, " of the source is not in [0, ",
                     spec.n_vocab, ")");
}

void Runner::check_source_blocks(const Sequence& sequence) const {
  const int64_t n = sequence.n_source(), size = cache_->block_size();
  TUILI_CHECK(std::ssize(sequence.source_blocks) == ceil_div(n, size), "a source of ", n, " tokens has ",
              sequence.source_blocks.size(), " blocks of ", size);
  for (const int32_t id : sequence.source_blocks)
    TUILI_CHECK(id >= 0 && id < cache_->n_blocks(), "block ", id, " is not in the cache, which has ",
                cache_->n_blocks());
}

// Runs the encoder over the sources that have not been yet. Leaves an empty batch.
void Runner::encode_sources(std::span<const StepRequest> requests) {
  for (const StepRequest& request : requests)
    if (const Sequence& s = *request.sequence; !s.source_kept) add_source_text(s, s.source_blocks.data());
  if (token_ids_.empty()) return;
  keep_sources();
  for (const StepRequest& request : requests) request.sequence->source_kept = true;
}

// Appends a sequence's source to the encoder's batch, with the blocks for what is kept of it.
void Runner::add_source_text(const Sequence& sequence, const int32_t* blocks) {
  const int64_t size = cache_->block_size(), n = sequence.n_source();
  add_text(model_.spec.encoder[0], sequence.source, {});
  for (int64_t i = 0; i < n; ++i)
    source_slots_.push_back(static_cast<int32_t>(blocks[i / size] * size + i % size));
  for (int64_t i = 0; i * size < n; ++i) cache_->clear_block(context_, 0, blocks[i]);
}

// Runs the encoder over its batch, and keeps what cross-attention reads of it. Leaves an empty batch.
void Runner::keep_sources() {
  clear_shared_pages();
  areas_.clear();
  areas_.push_back({places_[0].slots, {places_[0].rows, {}}});
  areas_.push_back({source_slots_, {}});
  const StepBatch texts = placed({token_ids_, token_types_, position_rows_, areas_, {}, {}}, source_staging_,
                                 *encoder_, encoder_state_);
  encoder_->forward(context_, texts, shared_pages_, encoder_state_, nullptr);
  const ops::Activations hidden{encoder_state_.hidden.slice(0, texts.n_tokens()), encoder_state_.room};
  transformer_.keep_source(context_, hidden, source_key_, source_value_, texts.areas[1].slots.data(),
                           cache_->view());
  begin_batch();
}

// What the decoder's rows of a sequence see of its source. Siblings and beams beside each other go through
// the keys and values that they share as one.
void Runner::add_source(const Sequence& sequence, const ops::SequenceRows& rows) {
  if (!sources_.empty() && sources_.back().blocks[0] == sequence.source_blocks[0]) {
    sources_.back().n_rows += rows.n_rows;
    return;
  }
  sources_.push_back(
      {rows.first_row, rows.n_rows, rows.position, sequence.n_source(), sequence.source_blocks.data()});
}

}  // namespace tuili
