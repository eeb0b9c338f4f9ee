// Runs steps: owns the workspace, lays out the batch, calls the model, samples. Not for several threads at
// once.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/device_memory.h"
#include "model/transformer.h"
#include "runtime/kv_cache.h"
#include "runtime/sampler.h"
#include "runtime/sequence.h"
#include "runtime/staging.h"
#include "runtime/step_graphs.h"

namespace tuili {

struct RunnerOptions {
  int64_t max_batch_tokens = 512;
  int64_t max_seqs = 64;
  int64_t max_source_tokens = 0;  // encoder-decoders: of the sources that a step encodes
  int num_threads = 0;            // 0: the default
  const char* isa = nullptr;      // null: this CPU's best
};

// One sequence's part of a step. A sequence with a source begins with it: the first step encodes it whole.
struct StepRequest {
  Sequence* sequence = nullptr;
  int64_t n_new = 0;    // computes tokens [n_computed, n_computed + n_new)
  bool sample = false;  // and chooses the next one; then n_new must reach the last token
};

struct StepResult {
  // The last of each sampled sequence: an id, kNotANumber, kNothingAllowed or kDeferred.
  Vector<int32_t> token_ids;
};

struct RunCounts {
  int64_t n_steps = 0;
  int64_t n_drafted = 0;  // guesses computed, kept or not
};

// How the rows of a text become one vector; of the means one is divided by √n_tokens, and one weighs row i
// with i + 1.
enum class Pooling : uint8_t { mean, cls, last, max, mean_sqrt_len, weighted_mean };

class Runner {
 public:
  // Decoders, also those of encoder-decoders, need a cache whose pages fit the model; encoders take none,
  // unless their layers read a source. Model and cache outlive the runner.
  Runner(const Model& model, KvCache* cache, const RunnerOptions& options);
  Runner(const Runner&) = delete;  // the state points into the workspace

  // One ragged batch of sequences that the caller holds (HeldSequences). Everything is checked before
  // anything is computed; an error leaves all sequences as they were. Chosen tokens are appended, their
  // log-probabilities are in the sequences. The result is valid until the next step.
  const StepResult& step(std::span<const StepRequest> requests);

  // Decodes on: steps of one token per sequence, until one of the sequences chose a stop id or no token,
  // has max_tokens, filled its blocks or reached the model's length; or max_steps are done, max_s seconds
  // have passed or interrupt() was called, which end it after a step. At least one step. A sequence with a
  // lookup may gain more than one token in a step: those that one token at a time would have given. The
  // tokens and their log-probabilities are in the sequences, and result() is that of the last step. Every
  // request has n_new 1 and samples, and no sequence asks for logits or hidden states. Checked as in step;
  // tokens of finished steps stay when a later one fails. Nothing is allocated but, at the beginning, room
  // for tokens, and log-probabilities.
  RunCounts run(std::span<const StepRequest> requests, int64_t max_steps, double max_s);
  const StepResult& result() const { return result_; }

  // Chooses the next token of a deferred sequence, or ranks a beam's, whose last token the step before has
  // computed, from `logits` [n_vocab] in place of next_logits, under which its log-probabilities still are.
  // The same bits as a step that finds such logits. The caller holds the sequence; the result is valid until
  // the next step.
  const StepResult& sample(Sequence& sequence, std::span<const float> logits);

  // Ends a run after the step it is in; for any thread. Forgotten when a run or step returns: who interrupts
  // has said why before, so that whoever runs the next steps looks for it in between.
  void interrupt() { interrupted_ = true; }

  // Copies what a sequence's block holds to another's, between steps: one copy per area.
  void copy_block(std::span<const BlockCopy> copies);

  // Encoders: one vector per sequence into out f32 [n_seqs, d_model], of all tokens but the first n_skipped;
  // the last one counts always.
  void encode(std::span<Sequence* const> sequences, Pooling pooling, bool normalize, int64_t n_skipped,
              float* out);

  // Encoders with a task head: its answers, row by row, into out f32 [n_answers, n_out]. positions: of each
  // sequence, those whose rows to compute, if the head reads all rows; empty: everything.
  void answer(std::span<Sequence* const> sequences, std::span<const std::vector<int64_t>> positions,
              float* out);
  // How many rows that gives. Throws invalid_parameter for positions outside their sequence.
  int64_t n_answers(std::span<Sequence* const> sequences,
                    std::span<const std::vector<int64_t>> positions) const;

  int64_t workspace_bytes() const { return workspace_.bytes(); }
  int n_threads() const { return context_.n_threads; }
  const char* isa() const { return context_.kernels->isa; }
  int64_t n_allocations() const { return n_allocations_; }
  // Rows given to the MLP of the last layer so far: those that somebody asked for. Replayed graphs do not
  // count.
  int64_t n_last_rows() const { return state_.n_last_rows; }
  // Tokens chosen so far without computing all logits: see ops::HeadScreen.
  int64_t n_screened() const { return n_screened_; }
  const ModelSpec& spec() const { return model_.spec; }

 private:
  Runner(const Model& model, KvCache* cache, const RunnerOptions& options, const device::Chosen&);

  struct Guard;  // chooses the device, counts allocations, sets the float environment, forgets interruptions
  struct LogitRow {
    int64_t row;      // of the batch
    int64_t request;  // index of the request
    int64_t sample;   // index into drawn_, or -1
  };

  void carve(Carver carver);
  void reserve_lists();
  void take_partials(Carver& carver, int64_t n_keys, int64_t n_heads, int64_t head_dim);
  void take_draws(Carver& carver, int64_t n_rows);
  void check_device_sizes() const;
  void prepare_device();
  void begin_batch();
  void check_requests(std::span<const StepRequest> requests) const;
  void compute(std::span<const StepRequest> requests);
  int64_t room_of(const Sequence& sequence) const;
  int64_t draft(std::span<const StepRequest> requests);
  int64_t keep_drawn(Sequence& sequence, int64_t first_sample);
  bool may_decode_on(std::span<const StepRequest> requests) const;
  void check_request(const StepRequest& request, int64_t n_before) const;
  void check_choice(const Sequence& sequence) const;
  void check_token(const Sequence& sequence, int64_t i) const;
  void check_tokens(const Sequence& sequence, int64_t begin, int64_t end) const;
  void check_blocks(const Sequence& sequence, int64_t area) const;
  void add_rows(const Sequence& sequence, int64_t begin, int64_t n_rows);
  void add_places(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks, int64_t block_size);
  void clear_fresh_blocks(const Sequence& sequence, int64_t n_new);
  void check_source(const Sequence& sequence) const;
  void check_source_blocks(const Sequence& sequence) const;
  void add_text(const ModelSpec& spec, std::span<const int32_t> tokens, std::span<const int32_t> types);
  void clear_shared_pages();
  void carve_encoder(Carver& carver, const ModelSpec& spec, int64_t max_tokens);
  void encode_sources(std::span<const StepRequest> requests);
  void add_source_text(const Sequence& sequence, const int32_t* blocks);
  void keep_sources();
  void add_rereading(std::span<Sequence* const> sequences);
  void add_source(const Sequence& sequence, const ops::SequenceRows& rows);
  void pool(Pooling pooling, const TensorView& pooled, const TensorView& hidden);
  void pool_texts(Pooling pooling, bool normalize, int64_t n_skipped, float* out);
  void add_texts(std::span<Sequence* const> sequences);
  void forward_encoder();
  void carve_task_head(Carver& carver);
  void run_task_head(std::span<const std::vector<int64_t>> positions, float* out);
  void ask_for(int64_t row, int64_t n = 1);
  void ask_for_vectors(Pooling pooling, int64_t n_skipped);
  template <class Visit>
  void for_each_answer(std::span<const std::vector<int64_t>> positions, const Visit& visit) const;
  void ask_for_answers(std::span<const std::vector<int64_t>> positions);
  AskedRows place_asked();
  int64_t place_of(int64_t row) const;
  StepBatch batch();
  StepBatch placed(const StepBatch& batch, std::optional<Staging>& staging, const Transformer& transformer,
                   State& state);
  void forward(const StepBatch& batch, const Taps* taps);
  bool draw_on_device(std::span<const StepRequest> requests, std::span<const LogitRow> rows);
  TensorView on_host(const TensorView& x, uint8_t* room) const;
  void wait() const;
  Taps* taps_for(std::span<Sequence* const> sequences);
  void collect_hidden(Sequence& sequence, const ops::SequenceRows& rows);
  void plan_logits(std::span<const StepRequest> requests);
  void run_logits(std::span<const StepRequest> requests);
  bool choose_likeliest(std::span<const StepRequest> requests, std::span<const LogitRow> rows,
                        const TensorView& hidden);
  void collect_row(Sequence& sequence, int64_t position, const float* logits);
  void sample_rows(std::span<const StepRequest> requests, std::span<const LogitRow> rows,
                   const float* logits);
  static Past past_of(const Sequence& sequence, int64_t n_known);
  void choose(Sampler& sampler, Sequence& sequence, const Past& past, const float* logits,
              const float* own_logits, int64_t sample);
  void defer(const Sampler& sampler, Sequence& sequence, const float* logits, int64_t sample);

  const Model& model_;
  KvCache* cache_;
  RunnerOptions options_;
  Transformer transformer_;
  ops::Context context_;
  OwnStream stream_;
  std::optional<SideStreams> sides_;  // of a device
  PlacedBuffer workspace_;
  State state_;
  std::optional<Transformer> encoder_;  // of an encoder-decoder
  State encoder_state_;
  TensorView source_key_, source_value_;   // [max_source_tokens, largest kv_size]
  TensorView logits_;                      // [logit_rows, n_vocab]
  TensorView task_input_, task_inner_;     // [answer rows, d_model], [answer rows, d_inner]
  TensorView task_output_;                 // [answer rows, n_out], of a device
  TensorView pooled_;                      // [max_seqs, d_model], of a device
  std::optional<Staging> staging_;         // of a device
  std::optional<Staging> source_staging_;  // and of the encoder of an encoder-decoder
  PinnedBuffer arrived_;                   // logits from the device
  PinnedBuffer draws_, chosen_;            // Draw and i32 [logit_rows]: what the device draws, and drew
  TensorView device_draws_, device_chosen_;
  StepGraphs graphs_;
  std::vector<LayerKv> shared_pages_;       // encoders: per layer, all over the same memory
  TensorView shared_keys_, shared_values_;  // u8: that memory
  Vector<int32_t> shared_blocks_;           // 0, 1, 2, …
  int64_t n_shared_blocks_ = 0;             // that the running step uses
  Vector<int32_t> cache_blocks_;            // of encoders whose layers read sources: 0, 1, 2, …
  std::vector<Sampler> samplers_;           // one per thread

  // The batch of the running step.
  struct Places {
    Vector<int32_t> slots;
    Vector<ops::SequenceRows> rows;
  };
  Vector<int32_t> token_ids_, token_types_, positions_, position_rows_;
  std::vector<Places> places_;         // one per area of the cache
  Vector<AreaRows> areas_;             // views of them
  Vector<ops::SequenceRows> sources_;  // of the decoder's rows, as StepBatch has them
  Vector<int32_t> source_slots_;       // where the keys of the sources go that the step encodes
  Vector<Sequence*> sequences_;
  Vector<int32_t> asked_;  // rows of the batch whose final hidden states somebody wants, ascending
  Vector<ops::SequenceRows> asked_rows_, asked_sources_;  // as AskedRows has them
  Vector<LogitRow> logit_rows_;
  Vector<int32_t> drawn_;  // per row that samples; kept as far as the guesses before it were right
  Vector<TokenLogprobs> drawn_logprobs_;
  StepResult result_;
  Buffer tapped_;  // hidden states of a step, when a sequence collects them
  Taps taps_;

  int64_t n_allocations_ = 0;
  int64_t n_screened_ = 0;
  std::atomic<bool> interrupted_{false};
};

}  // namespace tuili
