// The runner's part of steps on a device: what comes and goes between its memory and the host's.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"
#include "base/rounding.h"
#include "runtime/runner.h"

namespace tuili {
namespace {

// The first float that is no less.
float least_float(double x) {
  const auto near = static_cast<float>(x);
  return near < x ? std::nextafter(near, std::numeric_limits<float>::infinity()) : near;
}

// Of a token's queries, keys and values where one kernel turns the first two and writes the others: a pair of
// a query, or of a key, counts once.
int64_t numbers_turned(const LayerSpec& layer, int64_t half) {
  return layer.n_heads * half + layer.n_kv_heads * (2 * layer.head_dim - half);
}

// What a row asks of the device, whose sums are integers.
ops::Draw draw_of(const SamplingParams& params, uint64_t n_known, int64_t n_vocab) {
  ops::Draw draw{params.seed, n_known, params.temperature, least_float(params.min_p)};
  if (params.top_k == 1) draw.temperature = 0;
  if (draw.temperature == 0) return draw;
  if (params.top_k < n_vocab) draw.top_k = std::max<int64_t>(params.top_k, 0);
  if (params.top_p < 1) draw.top_p = std::max<uint64_t>(static_cast<uint64_t>(params.top_p * 0x1p64), 1);
  return draw;
}

}  // namespace

// Scratch of attention in device memory, or on the CPU.
void Runner::take_partials(Carver& carver, int64_t n_keys, int64_t n_heads, int64_t head_dim) {
  const int64_t max_rows = std::max(options_.max_batch_tokens, options_.max_source_tokens);
  const int64_t floats = model_.device == DeviceKind::cuda
                             ? ops::device_partial_floats(max_rows, n_keys, n_heads, head_dim)
                             : ops::attention_partial_floats(n_keys, n_heads, head_dim);
  state_.attention_partials = {carver.take<float>(floats), static_cast<size_t>(floats)};
}

void Runner::take_draws(Carver& carver, int64_t n_rows) {
  const int64_t bytes = n_rows * int64_t{sizeof(ops::Draw)};
  device_draws_ = TensorView(carver.take<uint8_t>(bytes), DType::u8, {bytes}, DeviceKind::cuda);
  device_chosen_ = TensorView(carver.take<int32_t>(n_rows), DType::i32, {n_rows}, DeviceKind::cuda);
}

// Kernels count elements in 32 bits.
void Runner::check_device_sizes() const {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const auto check = [](const char* option, int64_t n_tokens, int64_t n_each) {
    TUILI_CHECK(n_tokens * n_each <= kMost, option, " is ", n_tokens, "; of ", n_each,
                " numbers per token a step on cuda has at most ", kMost / n_each);
  };
  const auto check_part = [&](const char* option, const ModelSpec& spec, const State& state) {
    const int64_t n = state.hidden.size(0);
    for (const TensorView& x :
         {state.hidden, state.query, state.key, state.gate, state.embedded, state.routed.rows,
          state.routed.gate, state.latent.query_in, state.latent.in, state.taps})
      check(option, n, x.count() / n);
    for (const LayerSpec& layer : spec.layers)
      if (layer.rope >= 0 && layer.latent.kv_rank == 0)
        check(option, n, numbers_turned(layer, std::ssize(spec.ropes[layer.rope].inv_freq)));
  };
  check_part("max_batch_tokens", model_.spec, state_);
  constexpr int64_t kMostSequences = 65535;  // of a launch; with scores from distances every row is one
  const TensorView& scores = state_.distances.scores;
  TUILI_CHECK(scores.count() == 0 || (scores.size(1) <= kMost && options_.max_batch_tokens <= kMostSequences),
              "max_batch_tokens is ", options_.max_batch_tokens,
              "; with scores from distances a step on cuda has at most ",
              std::min(kMostSequences, kMost / (scores.size(1) / options_.max_batch_tokens)));
  TUILI_CHECK(state_.taps.count() == 0 || options_.max_seqs <= kMostSequences, "max_seqs is ",
              options_.max_seqs, "; with a convolution a step on cuda has at most ", kMostSequences);
  if (!encoder_) return;
  check_part("max_source_tokens", model_.spec.encoder[0], encoder_state_);
  check("max_source_tokens", options_.max_source_tokens, source_key_.size(1));
}

void Runner::prepare_device() {
  const ModelSpec& spec = model_.spec;
  StagingSizes sizes{.max_tokens = options_.max_batch_tokens,
                     .max_seqs = options_.max_seqs,
                     .n_areas = std::ssize(places_),
                     .max_blocks = std::ssize(shared_blocks_),
                     .block_size = shared_pages_.empty() ? 0 : shared_pages_[0].pages.block_size};
  if (cache_) {
    sizes.block_size = cache_->block_size();
    sizes.max_blocks = ceil_div(spec.max_positions, sizes.block_size);
  }
  if (encoder_) {
    const int64_t n_sources = options_.max_source_tokens;
    sizes.max_source_blocks = ceil_div(n_sources, sizes.block_size);
    source_staging_.emplace(spec.encoder[0], StagingSizes{.max_tokens = n_sources,
                                                          .max_seqs = options_.max_seqs,
                                                          .n_areas = 2,  // the second has their slots
                                                          .max_blocks = std::ssize(shared_blocks_),
                                                          .block_size = shared_pages_[0].pages.block_size});
  }
  staging_.emplace(spec, sizes);
  sides_.emplace();
  context_.sides = &*sides_;
  if (!spec.has_head) return;
  arrived_ = PinnedBuffer(logits_.count() * int64_t{sizeof(float)});
  draws_ = PinnedBuffer(device_draws_.count());
  chosen_ = PinnedBuffer(device_chosen_.count() * int64_t{sizeof(int32_t)});
}

// The batch where the model reads it; the state has the cos and sin of its positions.
StepBatch Runner::placed(const StepBatch& batch, std::optional<Staging>& staging,
                         const Transformer& transformer, State& state) {
  if (staging) return staging->send(context_, transformer, batch, positions_, state);
  transformer.rope_tables(context_, positions_, state.cos, state.sin);
  return batch;
}

// A decoder's step; on a device one of a token per sequence as a graph.
void Runner::forward(const StepBatch& batch, const Taps* taps) {
  const auto compute = [&] { transformer_.forward(context_, batch, cache_->view(), state_, taps); };
  if (!staging_ || taps || batch.asked || batch.n_tokens() != std::ssize(sequences_)) return compute();
  const ops::DeviceSequences& sources = batch.sources.on_device;
  graphs_.run({batch.n_tokens(), batch.areas[0].rows.on_device.max_keys, sources.count, sources.max_rows,
               sources.max_keys},
              context_.stream, std::ref(compute));
}

// Draws the tokens of these rows from logits_ where they are, if draws_plainly says so of all; false if not.
bool Runner::draw_on_device(std::span<const StepRequest> requests, std::span<const LogitRow> rows) {
  const int64_t n_vocab = model_.spec.n_vocab;
  const auto n_rows = static_cast<int64_t>(rows.size());
  if (n_vocab >= ops::kMostDrawn) return false;
  auto* const draws = reinterpret_cast<ops::Draw*>(draws_.data());
  for (int64_t i = 0; i < n_rows; ++i) {
    const Sequence& s = *requests[rows[i].request].sequence;
    const bool plain = rows[i].sample >= 0 && !s.collect.anything() && !s.deferred && s.allowed.empty();
    if (!plain || !draws_plainly(s.sampling, n_vocab)) return false;
    draws[i] = draw_of(s.sampling, static_cast<uint64_t>(positions_[rows[i].row]) + 1, n_vocab);
  }
  TensorView sent = device_draws_.slice(0, n_rows * int64_t{sizeof(ops::Draw)}), from_host = sent;
  from_host.data = draws;
  from_host.device = DeviceKind::cpu;
  ops::copy(context_, sent, from_host);
  const TensorView tokens = device_chosen_.slice(0, n_rows), logits = logits_.slice(0, n_rows);
  const auto n_cut = std::count_if(draws, draws + n_rows,
                                   [](const ops::Draw& draw) { return draw.top_k > 0 || draw.top_p > 0; });
  const auto* const there = static_cast<const ops::Draw*>(sent.data);
  if (n_cut < n_rows) ops::draw(context_, tokens, logits, there);
  if (n_cut > 0) ops::draw_likeliest(context_, tokens, logits, there);
  const auto* const chosen = static_cast<const int32_t*>(on_host(tokens, chosen_.data()).data);
  for (int64_t i = 0; i < n_rows; ++i) {
    drawn_[rows[i].sample] = chosen[i];
    if (chosen[i] != ops::kUndecided) continue;
    const float* const row = on_host(logits.slice(i, 1), arrived_.data()).f32();
    sample_rows(requests, rows.subspan(i, 1), row);
  }
  return true;
}

// x where the host can read it: itself, or its copy in `room`.
TensorView Runner::on_host(const TensorView& x, uint8_t* room) const {
  if (x.device == DeviceKind::cpu) return x;
  TensorView copy = x;
  copy.data = room;
  copy.device = DeviceKind::cpu;
  ops::copy(context_, copy, x);
  wait();
  return copy;
}

// For the device's work on this step.
void Runner::wait() const {
  if (model_.device != DeviceKind::cpu) device::synchronize(context_.stream);
}

}  // namespace tuili
