// Runs steps: owns the workspace, lays out the batch, calls the model, samples. Not for several threads at
// once.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "base/device_memory.h"
#include "model/transformer.h"
#include "runtime/batch_lists.h"
#include "runtime/choices.h"
#include "runtime/kv_cache.h"
#include "runtime/requests.h"
#include "runtime/sequence.h"
#include "runtime/source_encoder.h"
#include "runtime/staging.h"
#include "runtime/step_graphs.h"
#include "runtime/text_head.h"
#include "runtime/text_pages.h"

namespace tuili {

struct RunCounts {
  int64_t n_steps = 0;
  int64_t n_drafted = 0;  // guesses computed, kept or not
};

class Runner {
 public:
  // Decoders, also those of encoder-decoders, need a cache whose pages fit the model; encoders take none,
  // unless their layers read a source. Model and cache outlive the runner.
  Runner(const Model& model, KvCache* cache, const RunnerOptions& options);
  Runner(const Runner&) = delete;  // the state points into the workspace

  // One ragged batch of sequences that the caller holds (HeldSequences). Everything is checked before
  // anything is computed; an error leaves all sequences as they were. Chosen tokens are appended, their
  // log-probabilities are in the sequences. Returns drawn().
  std::span<const int32_t> step(std::span<const StepRequest> requests);

  // Decodes on: steps of one token per sequence, until one of the sequences chose a stop id or no token,
  // has max_tokens, filled its blocks or reached the model's length; or max_steps are done, max_s seconds
  // have passed or interrupt() was called, which end it after a step. At least one step. A sequence with a
  // lookup may gain more than one token in a step: those that one token at a time would have given. The
  // tokens and their log-probabilities are in the sequences, and drawn() is that of the last step. Every
  // request has n_new 1 and samples, and no sequence asks for logits or hidden states. Checked as in step;
  // tokens of finished steps stay when a later one fails. Nothing is allocated but, at the beginning, room
  // for tokens, and log-probabilities.
  RunCounts run(std::span<const StepRequest> requests, int64_t max_steps, double max_s);

  // The last token that each of the step's sequences that sample drew, or kNotANumber, kNothingAllowed or
  // kDeferred; valid until the next step.
  std::span<const int32_t> drawn() const { return drawn_; }

  // Chooses the next token of a deferred sequence, or ranks a beam's, whose last token the step before has
  // computed, from `logits` [n_vocab] in place of next_logits, under which its log-probabilities still are.
  // The same bits as a step that finds such logits. The caller holds the sequence. Returns drawn().
  std::span<const int32_t> sample(Sequence& sequence, std::span<const float> logits);

  // Ends a run after the step it is in; for any thread. Forgotten when a run or step returns: who interrupts
  // has said why before, so that whoever runs the next steps looks for it in between.
  void interrupt() { interrupted_ = true; }

  // Copies what a sequence's block holds to another's, between steps: one copy per area.
  void copy_block(std::span<const BlockCopy> copies);

  // Encoders: one vector per sequence into out f32 [n_seqs, d_model], of all tokens but the first n_skipped;
  // the last one counts always.
  void encode(std::span<Sequence* const> sequences, Pooling pooling, bool normalize, int64_t n_skipped,
              float* out);

  // Encoders with a task head: its answers, row by row, into out f32 [n_answers, n_out].
  void answer(std::span<Sequence* const> sequences, AnswerPositions positions, float* out);
  // How many rows that gives. Throws invalid_parameter for positions outside their sequence.
  int64_t n_answers(std::span<Sequence* const> sequences, AnswerPositions positions) const {
    return text_head_.n_answers(sequences, positions);
  }

  int64_t workspace_bytes() const { return workspace_.bytes(); }
  // A decoder's, or an encoder-decoder's, with the largest cache; less with one that holds no full text.
  static int64_t most_workspace_bytes(const Model& model, const RunnerOptions& options);
  int n_threads() const { return context_.n_threads; }
  // See ThreadPool: for who will call a step in less than a millisecond. At any time, from any thread.
  void expect_work() const {
    if (context_.n_threads > 1) context_.pool->expect_work();
  }
  const char* isa() const { return context_.kernels->isa; }
  int64_t n_allocations() const { return n_allocations_; }
  // Rows given to the MLP of the last layer so far: those that somebody asked for. Replayed graphs do not
  // count.
  int64_t n_last_rows() const { return state_.n_last_rows; }
  // Tokens chosen so far without computing all logits: see ops::HeadScreen.
  int64_t n_screened() const { return choices_.n_screened(); }
  // Beams ranked so far from what a device listed of their logits.
  int64_t n_listed() const { return choices_.n_listed(); }
  const ModelSpec& spec() const { return model_.spec; }

 private:
  Runner(const Model& model, KvCache* cache, const RunnerOptions& options, const device::Chosen&);

  struct Guard;  // chooses the device, counts allocations, sets the float environment, forgets interruptions

  void carve(Carver carver);
  std::span<float> take_partials(Carver& carver) const;
  void check_device_sizes() const;
  void prepare_device();
  void begin_batch();
  void compute(std::span<const StepRequest> requests);
  int64_t room_of(const Sequence& sequence) const;
  int64_t draft(std::span<const StepRequest> requests);
  bool may_decode_on(std::span<const StepRequest> requests) const;
  void add(const StepRequest& request);
  void add_choices(const StepRequest& request);
  void clear_fresh_blocks(const Sequence& sequence, int64_t n_rows);
  void encode_sources(std::span<const StepRequest> requests);
  void add_texts(std::span<Sequence* const> sequences);
  void add_rereading(std::span<Sequence* const> sequences);
  StepBatch batch();
  void forward(const StepBatch& batch, const Taps* taps);
  void forward_texts();
  Taps* taps_for(std::span<Sequence* const> sequences);
  void collect_hidden(Sequence& sequence, const ops::SequenceRows& rows);
  void wait() const;

  const Model& model_;
  KvCache* cache_;
  const RunnerOptions options_;
  const RequestChecks checks_;
  const Transformer transformer_;
  const OwnStream stream_;
  std::optional<SideStreams> sides_;  // of a device
  ops::Context context_;
  PlacedBuffer workspace_;  // of what carve lays out
  State state_;
  std::optional<SourceEncoder> sources_;  // of a model whose layers read a source
  TextPages pages_;                       // of an encoder without
  Vector<int32_t> cache_blocks_;          // 0, 1, 2, …: of an encoder with
  Choices choices_;
  TextHead text_head_;
  std::optional<Staging> staging_;  // of a device
  StepGraphs graphs_;

  // The running step.
  BatchLists lists_;
  Vector<Sequence*> sequences_;
  Vector<int32_t> drawn_;
  Buffer tapped_;  // hidden states of a step, when a sequence collects them
  Taps taps_;

  int64_t n_allocations_ = 0;
  std::atomic<bool> interrupted_{false};
};

}  // namespace tuili
