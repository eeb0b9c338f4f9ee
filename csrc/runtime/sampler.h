// Logits -> a token id. Random numbers are counters, ties go to the lower id.
#pragma once

#include <cstdint>
#include <span>

#include "base/memory.h"
#include "ops/ops.h"
#include "runtime/sampling_params.h"
#include "runtime/selection.h"

namespace tuili {

// In place of a token, as those of ops/ops.h.
using ops::kNotANumber;
using ops::kNothingAllowed;
using ops::kUndecided;
inline constexpr int32_t kDeferred = -4;  // the caller chooses: see Runner::sample, Candidates
static_assert(kDeferred != kUndecided && kDeferred != kNotANumber && kDeferred != kNothingAllowed);

// Throws token_id unless every id that the parameters name is in [0, n_vocab), and invalid_parameter unless
// some token may always be drawn: temperature finite and >= 0, top_p and typical_p in (0, 1], min_p in [0,
// 1].
void check_sampling(const SamplingParams& params, int64_t n_vocab);

// Whether the choice looks up the tokens of the history, so that each must be in [0, n_vocab).
bool reads_history(const SamplingParams& params);

// Whether the token is drawn from the logits as they are, with a temperature, top_k up to ops::kMostTopK,
// top_p and min_p at most, and nothing else is asked.
bool draws_plainly(const SamplingParams& params, int64_t n_vocab);

// Whether the choice is the likeliest token, if that is not forbidden: Sampler::permits.
bool takes_likeliest(const SamplingParams& params, int64_t n_generated);

// What a choice may look at.
struct Past {
  std::span<const int32_t> tokens;  // prompt, then generated
  int64_t n_prompt;
  std::span<const int32_t> source;    // that the encoder read; the prompt where there is none
  std::span<const uint32_t> allowed;  // as in Sequence

  int64_t n_generated() const { return std::ssize(tokens) - n_prompt; }
};

// Whether a beam's candidates are the likeliest tokens as the model has them, less those that are forbidden.
bool ranks_likeliest(const SamplingParams& params, const Past& past);

// A row's likeliest tokens, as ops::best_logits lists them.
struct Listed {
  ops::BestLogits row;
  std::span<const ops::BestLogit> logits;  // row.count of them
};

// Chooses for one row at a time; one sampler per thread. Allocates only in its constructor.
class Sampler {
 public:
  explicit Sampler(int64_t n_vocab);

  // The next token, or kNotANumber or kNothingAllowed. Applies, in this order: allowed, logit_bias,
  // allowed_token_ids, penalties, bans, the growth of endings and forced tokens; temperature; top_k; top_p;
  // min_p; typical_p. The draw is number tokens.size() of the sequence's seed. +Inf is certainty: the first
  // one is chosen.
  int32_t sample(const ops::Context& context, const float* logits, const SamplingParams& params,
                 const Past& past);

  // Whether nothing forbids the token.
  bool permits(int32_t token, const SamplingParams& params, const Past& past);

  // What a beam goes on with, as transformers ranks it: log-probabilities are changed as `sample` changes
  // logits up to the forced tokens, and normalized again only if asked for. A forced token's is 0. own,
  // changed: as logprobs_of makes them, and what a caller made of them. Returns kDeferred.
  int32_t rank(const ops::Context& context, Candidates* out, const float* own, const float* changed,
               const SamplingParams& params, const Past& past);

  // The same for the model's own logits; kNotANumber if they are not finite.
  int32_t rank(const ops::Context& context, Candidates* out, const float* logits,
               const SamplingParams& params, const Past& past);

  // The same where ranks_likeliest, from what is listed; kUndecided if that is not enough to tell.
  int32_t rank(Candidates* out, const Listed& listed, const SamplingParams& params, const Past& past);

  // Log-probabilities of all tokens into out [n_vocab]; false if the logits are not finite.
  bool logprobs_of(const ops::Context& context, float* out, const float* logits) const;

  // Log-probability of `token` and the n_best likeliest, all if there are fewer; NaN when the logits are not
  // finite.
  TokenLogprobs logprobs(const ops::Context& context, const float* logits, int64_t token, int64_t n_best);

 private:
  std::span<const Rank> first_of(const float* values, int64_t n);
  template <class Logprob>
  bool rank_few(Candidates* out, const float* logits, const Logprob& logprob, const SamplingParams& params,
                const Past& past);
  void take_first(Candidates* out, std::span<const Rank> ranks, const SamplingParams& params) const;
  double log_total(const ops::Context& context) const;
  void change(const SamplingParams& params, const Past& past);
  void apply_mask(std::span<const uint32_t> allowed);
  void apply_bias(const SamplingParams& params, const Past& past);
  void penalize(std::span<const int32_t> tokens, float penalty);
  void apply_penalties(const SamplingParams& params, const Past& past);
  void ban_repeats(std::span<const int32_t> of, int64_t n, std::span<const int32_t> history);
  void ban(int32_t id);
  void collect_bans(const SamplingParams& params, const Past& past);
  void apply_bans(const SamplingParams& params, const Past& past);
  void apply_growth(const SamplingParams& params, int64_t n_generated);
  void apply_force(const SamplingParams& params, int64_t n_generated);
  int32_t draw(const ops::Context& context, const float* logits, const SamplingParams& params, float best,
               uint64_t counter);
  void keep_top_k(int64_t k);
  void weigh(const ops::Context& context);
  void keep_top_p(double top_p);
  void keep_min_p(double min_p);
  void keep_typical(double mass);
  void keep(Rank last);
  void move_candidate(int64_t from, int64_t to, bool every_id);
  double total_weight() const;
  std::span<float> weights() const { return {weights_, static_cast<size_t>(n_)}; }
  bool mark(int32_t token);
  void forget_marks();

  int64_t n_vocab_;
  Buffer memory_;  // of all below; pages are touched on use
  Selection selection_;
  // The candidates that are left, by id ascending.
  int64_t n_ = 0;
  int32_t* ids_ = nullptr;      // [n_vocab]; not written while every id is one
  float* logits_ = nullptr;     // [n_vocab], processed; then less the best, over the temperature
  float* weights_ = nullptr;    // [n_vocab], exp(logits): 1 for the best
  uint32_t* marked_ = nullptr;  // [n_vocab]: equal to mark_ if the token was met in this pass
  int32_t* counts_ = nullptr;   // [n_vocab], valid where marked
  uint32_t mark_ = 0;
  int32_t* banned_ = nullptr;  // [n_vocab]: marked, where collect_bans came last
  int64_t n_banned_ = 0;
};

}  // namespace tuili
