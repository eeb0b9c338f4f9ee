// Beam search: of the continuations of a prompt that are side by side, which go on, and which are the best.
// Knows tokens and log-probabilities only.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "runtime/sampling_params.h"

namespace tuili {

enum class EarlyStopping { no, yes, never };

struct BeamRules {
  int64_t width = 0;            // beams that go on
  std::vector<int32_t> ending;  // token ids that finish a continuation, as max_tokens does
  int64_t max_tokens = 0;
  double length_penalty = 1;  // scores are log-probability / length ** length_penalty
  // yes: `width` finished continuations end the search. no: it ends when the best beam, as long as it is now,
  // scores no more than the worst of them; never: or as long as it may become, where that is better.
  EarlyStopping early_stopping = EarlyStopping::no;
  bool may_end = false;  // whether anything else finishes continuations: see EndsBeam
};

// Whether a token finishes the continuation of a beam, by its number, for another reason. May throw.
using EndsBeam = std::function<bool(int64_t parent, int32_t token_id)>;

// The search, step by step, as transformers 5 does it, with float32 scores: which of two is the larger
// depends on how they were rounded.
class BeamSearch {
 public:
  struct Text {
    Vector<int32_t> token_ids;
    Vector<TokenLogprobs> logprobs;  // as the model has them
    float score = 0;
    bool ended = false;  // by EndsBeam
  };

  explicit BeamSearch(BeamRules rules);

  const BeamRules& rules() const { return rules_; }
  // Of each beam: enough that `width` go on even if the others end, where it is known how many may.
  int64_t n_candidates() const;
  int64_t n_running() const { return std::ssize(running_); }
  bool begun() const { return begun_; }
  bool done() const { return done_; }

  // The last token of a running beam; whether it is one, or only holds the place of one, for want of tokens
  // that may follow.
  int32_t last_token(int64_t beam) const { return tokens_[running_[beam].last].id; }
  bool is_alive(int64_t beam) const { return running_[beam].alive(); }

  // Takes a step; returns which of the beams before it each of the running ones continues.
  //   candidates  per running beam the likeliest next tokens, n_candidates() of them
  // Throws invalid_parameter for log-probabilities that are none. After an error of `ends` nothing runs.
  std::vector<int64_t> advance(std::span<const Candidates* const> candidates, const EndsBeam& ends);

  // The n best so far: finished ones, then those that still run; fewer if there are.
  std::vector<Text> best(int64_t n) const;

 private:
  // The beams are a tree: a token knows the one before it.
  struct Token {
    int32_t id;
    int64_t before;  // its place; kNone: it is the first
    TokenLogprobs logprobs;
  };
  struct Beam {
    int64_t last;  // place of its last token, or kNone
    int64_t n_tokens;
    float total;  // the sum of its tokens' log-probabilities, in nats, as the parameters changed them,
                  // rounded with each; -inf if it only holds a place
    bool ended = false;

    bool alive() const;
  };
  struct Found {  // a beam that may go on
    float total;
    int64_t parent;
    Candidate candidate;
  };
  static constexpr int64_t kNone = -1;

  int64_t n_seen() const;
  void check(std::span<const Candidates* const> candidates) const;
  void forget_lost();
  std::vector<Found> likeliest(std::span<const Candidates* const> candidates) const;
  bool finishes(int32_t token_id, int64_t n_tokens) const;
  float score(const Beam& beam, int64_t n_tokens) const;
  float score(const Beam& beam) const { return score(beam, beam.n_tokens); }
  void insert_by_score(std::vector<Beam>& beams, const Beam& beam) const;
  bool may_improve() const;
  Text text_of(const Beam& beam) const;

  BeamRules rules_;             // ending: ascending
  std::vector<Token> tokens_;   // a token after the one before it
  int64_t most_tokens_ = 1024;  // before those of lost beams are dropped
  std::vector<Beam> running_{Beam{kNone, 0, 0}};
  std::vector<Beam> finished_;  // best first
  bool begun_ = false, done_ = false;
};

}  // namespace tuili
