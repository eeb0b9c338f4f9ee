// The logits of a step's rows, what sequences collect of them, and the tokens, or a beam's candidates, that
// are chosen from them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/device_memory.h"
#include "model/transformer.h"
#include "runtime/sampler.h"
#include "runtime/sequence.h"

namespace tuili {

class Choices {
 public:
  // Nothing is allocated in a step of up to max_rows rows. The context outlives it.
  Choices(const ops::Context& context, const ModelSpec& spec, int64_t max_rows);

  // Cuts its views from the carver over the device's memory.
  void carve(Carver& carver, DeviceKind device);
  void prepare_device();  // where the model is on one; after carve

  void clear();

  // Appends the row at `position` of a sequence, from which it collects, or a token is chosen.
  void add(Sequence& sequence, int64_t position, bool sample);

  // Computes the logits of the rows added, whose final hidden states state.hidden holds in this order, and
  // chooses.
  void run(const Transformer& transformer, State& state);

  // The same for a deferred sequence whose last row has been run, from `logits` [n_vocab].
  void run(Sequence& sequence, std::span<const float> logits);

  // Appends what was chosen for the next of the sequences that chose: the guesses that were right, then one
  // token more, or nothing if that is none. Returns the last. Never fails.
  int32_t keep(Sequence& sequence);

  // Tokens chosen so far without computing all logits: see ops::HeadScreen.
  int64_t n_screened() const { return n_screened_; }
  // Beams ranked so far from what a device listed of their logits.
  int64_t n_listed() const { return n_listed_; }

 private:
  struct Row {
    Sequence* sequence;
    int64_t position;
    int64_t sample;  // index into drawn_, or -1
  };

  bool choose_likeliest(const Transformer& transformer, State& state, std::span<const Row> rows,
                        const TensorView& hidden);
  bool draw_on_device(std::span<const Row> rows);
  bool rank_on_device(std::span<const Row> rows);
  void choose_left(std::span<const Row> rows);
  TensorView on_host(const TensorView& x, uint8_t* room) const;
  void collect(const Row& row, const float* logits);
  void sample(std::span<const Row> rows, const float* logits);
  void choose(Sampler& sampler, const Row& row, const float* logits, const float* own_logits);
  void defer(const Sampler& sampler, const Row& row, const float* logits);
  int64_t add_draw();

  const ops::Context& context_;
  int64_t n_vocab_, max_rows_;
  std::vector<Sampler> samplers_;  // one per thread
  TensorView logits_;              // of so many rows at once
  TensorView device_draws_, device_chosen_, device_best_;
  PinnedBuffer arrived_;         // logits from the device
  PinnedBuffer draws_, chosen_;  // Draw and i32 [logits_.rows()]: what the device draws, and drew
  PinnedBuffer best_;            // as ops::best_logits makes it
  Vector<int64_t> left_;         // of a chunk: rows of which the host sees the logits
  Vector<Row> rows_;
  Vector<int32_t> drawn_;  // per row that samples; kept as far as the guesses before it were right
  Vector<TokenLogprobs> logprobs_;
  int64_t n_kept_ = 0;  // of drawn_, kept or not
  int64_t n_screened_ = 0, n_listed_ = 0;
};

}  // namespace tuili
