// What a runner is asked for, and whether it may be: a step reads and writes nothing that was not checked.
#pragma once

#include <cstdint>
#include <span>

#include "model/weights.h"
#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace tuili {

inline constexpr int64_t kMostBatchTokens = 1 << 20;

struct RunnerOptions {
  int64_t max_batch_tokens = 512;
  int64_t max_seqs = 64;
  int64_t max_source_tokens = 0;  // encoder-decoders: of the sources that a step encodes
  int num_threads = 0;            // 0: the default
  const char* isa = nullptr;      // null: this CPU's best; read by the constructor alone
};

// One sequence's part of a step. A sequence with a source begins with it: the first step encodes it whole.
struct StepRequest {
  Sequence* sequence = nullptr;
  int64_t n_new = 0;    // computes tokens [n_computed, n_computed + n_new)
  bool sample = false;  // and chooses the next one; then n_new must reach the last token
};

// Throws invalid_parameter, or token_id, for what does not fit the model, its cache and the options.
class RequestChecks {
 public:
  // Checks these, too: they outlive it.
  RequestChecks(const Model& model, const KvCache* cache, const RunnerOptions& options);

  // Each checks what Runner's method of its name asks of the caller.
  void step(std::span<const StepRequest> requests) const;
  void run(std::span<const StepRequest> requests) const;
  void sample(const Sequence& sequence, std::span<const float> logits) const;
  void copy_block(std::span<const BlockCopy> copies) const;
  void texts(std::span<Sequence* const> sequences) const;  // encode, answer

 private:
  void check_request(const StepRequest& request, int64_t n_before) const;
  void check_choice(const Sequence& sequence) const;
  void check_token(const Sequence& sequence, int64_t i) const;
  void check_tokens(const Sequence& sequence, int64_t begin, int64_t end) const;
  void check_source(const Sequence& sequence) const;
  void check_rereading(std::span<Sequence* const> sequences) const;

  const ModelSpec& spec_;
  const KvCache* cache_;
  const RunnerOptions& options_;
};

}  // namespace tuili
