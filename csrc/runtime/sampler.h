// Logits -> a token id. Random numbers are counters, ties go to the lower id.
#pragma once

#include <cstdint>
#include <span>

#include "base/memory.h"
#include "ops/ops.h"
#include "runtime/sequence.h"

namespace tuili {

inline constexpr int32_t kNotANumber = -1;      // the logits hold a NaN
inline constexpr int32_t kNothingAllowed = -2;  // every token has logit -inf

// Throws token_id unless every id that the parameters name is in [0, n_vocab), and invalid_parameter unless
// some token may always be drawn: temperature finite and >= 0, top_p and typical_p in (0, 1], min_p in [0,
// 1].
void check_sampling(const SamplingParams& params, int64_t n_vocab);

// Whether the choice looks up the tokens of the history, so that each must be in [0, n_vocab).
bool reads_history(const SamplingParams& params);

// Chooses for one row at a time; one sampler per thread. Allocates only in its constructor.
class Sampler {
 public:
  explicit Sampler(int64_t n_vocab);
  static int64_t bytes(int64_t n_vocab) { return 5 * n_vocab * 4; }

  // The token after `history` (prompt, then generated), or kNotANumber or kNothingAllowed. Applies, in this
  // order: logit_bias, allowed_token_ids, penalties and bans; temperature; top_k; top_p; min_p; typical_p.
  // The draw is number history.size() of the sequence's seed. +Inf is certainty: the first one is chosen.
  int32_t sample(const ops::Context& context, const float* logits, const SamplingParams& params,
                 std::span<const int32_t> history, int64_t n_prompt);

  // Log-probability of `token` and the n_best likeliest; NaN when the logits are not finite.
  TokenLogprobs logprobs(const ops::Context& context, const float* logits, int64_t token, int64_t n_best);

 private:
  void apply_bias(const SamplingParams& params);
  void apply_penalties(const SamplingParams& params, std::span<const int32_t> history, int64_t n_prompt);
  void apply_bans(const SamplingParams& params, std::span<const int32_t> history, int64_t n_prompt);
  int32_t draw(const ops::Context& context, const SamplingParams& params, float best, uint64_t counter);
  std::span<int32_t> candidates(const SamplingParams& params);
  std::span<int32_t> keep_top_p(std::span<int32_t> ids, double top_p);
  std::span<int32_t> keep_typical(std::span<int32_t> ids, double mass);
  std::span<int32_t> best(const float* values, int64_t n);
  bool mark(int32_t token);
  void forget_marks();

  int64_t n_vocab_;
  Vector<float> logits_;     // [n_vocab], processed
  Vector<float> weights_;    // [n_vocab], probabilities times a constant
  Vector<int32_t> ids_;      // [n_vocab], candidates
  Vector<uint32_t> marked_;  // [n_vocab]: equal to mark_ if the token was met in this pass
  Vector<int32_t> counts_;   // [n_vocab], valid where marked
  uint32_t mark_ = 0;
};

}  // namespace tuili
