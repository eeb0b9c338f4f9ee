// The runner's part of steps on a device: what comes and goes between its memory and the host's.
#include <algorithm>
#include <functional>
#include <limits>

#include "base/check.h"
#include "base/rounding.h"
#include "runtime/runner.h"

namespace tuili {
namespace {

// The work on a token's queries, keys and values where one kernel turns the first two and writes the others:
// a pair of a query, or of a key, counts once.
int64_t numbers_turned(const LayerSpec& layer, int64_t half) {
  return layer.n_heads * half + layer.n_kv_heads * (2 * layer.head_dim - half);
}

}  // namespace

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
  if (!sources_) return;
  check_part("max_source_tokens", model_.spec.encoder[0], sources_->state());
  check("max_source_tokens", options_.max_source_tokens, sources_->kept_size());
}

void Runner::prepare_device() {
  const int64_t size = cache_ ? cache_->block_size() : TextPages::kBlockSize;
  staging_.emplace(
      model_.spec,
      StagingSizes{.max_tokens = options_.max_batch_tokens,
                   .max_seqs = options_.max_seqs,
                   .n_areas = cache_ ? cache_->n_areas() : 1,
                   .max_blocks = cache_ ? ceil_div(model_.spec.max_positions, size) : pages_.n_blocks(),
                   .block_size = size,
                   .max_source_blocks = sources_ ? ceil_div(options_.max_source_tokens, size) : 0});
  if (sources_) sources_->prepare_device();
  choices_.prepare_device();
  sides_.emplace();
  context_.sides = &*sides_;
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

// Waits for the device's work on this step.
void Runner::wait() const {
  if (model_.device.kind != DeviceKind::cpu) device::synchronize(context_.stream);
}

}  // namespace tuili
