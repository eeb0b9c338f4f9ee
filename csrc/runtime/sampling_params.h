// How a sequence's tokens are chosen, and what is told of the choice.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/memory.h"

namespace tuili {

// Resolved by generation/params.py, which also checks every range; only what memory safety needs is checked
// again.
struct SamplingParams {
  float temperature = 1;  // 0: the first maximum
  int64_t top_k = 0;      // 0: off
  double top_p = 1;
  double min_p = 0;
  double typical_p = 1;
  float repetition_penalty = 1;
  float source_penalty = 1;  // the same, of the tokens that stand in the source
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int64_t no_repeat_ngram_size = 0;
  int64_t source_ngram_size = 0;  // so many tokens that stand in the source are not repeated; 0: they may be
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::pair<std::vector<int32_t>, float>> sequence_bias;  // of a sequence's last token, where the
                                                                      // others stand before it; those of one
                                                                      // last token beside each other
  std::vector<int32_t> allowed_token_ids;                             // empty: all
  std::vector<std::vector<int32_t>> bad_words;
  std::vector<int32_t> not_first;  // not chosen as the first token that is not forced
  std::vector<int32_t> ending;     // what ends a text, for the next three
  int64_t min_tokens = 0;          // before so many are generated, none of ending is chosen
  double ending_growth = 1;        // after more than ending_from, their logits grow by |logit| times this to
  int64_t ending_from = 0;         // the power of the number beyond it, less 1
  int32_t forced_first = -1;       // the only one allowed as the first token generated; -1: all are
  std::vector<int32_t> forced_last;  // the only ones, all alike, after n_before_last; empty: all are
  int64_t n_before_last = -1;
  int64_t n_logprobs = -1;   // -1: none; k: the chosen token's log-probability and the k best
  int64_t n_candidates = 0;  // > 0: a beam. Steps choose no token, they leave so many candidates
  bool renormalize = false;  // of a beam: their changed log-probabilities are made to sum to 1 again
};

// Log-probabilities under the model's own logits, in nats.
struct TokenLogprobs {
  float logprob = 0;
  Vector<std::pair<int32_t, float>> best;  // (id, log-probability), likeliest first
};

// A token that a beam may go on with.
struct Candidate {
  int32_t id;
  float score;    // its log-probability as the parameters changed it; -inf if they forbid it
  float logprob;  // under the model's own logits
};

struct Candidates {
  Vector<Candidate> likeliest;             // by score descending, then by id
  Vector<std::pair<int32_t, float>> best;  // the n_logprobs best under the model's own logits
};

}  // namespace tuili
