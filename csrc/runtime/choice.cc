// Which token goes on after a row, or which candidates a beam gets.
#include <algorithm>

#include "runtime/runner.h"

namespace tuili {

// What the choice of a token after the first n_known may look at.
Past Runner::past_of(const Sequence& s, int64_t n_known) {
  const std::span<const int32_t> history(s.tokens.data(), static_cast<size_t>(n_known));
  const auto source = s.source.empty() ? history.first(s.n_prompt) : std::span<const int32_t>(s.source);
  return {history, s.n_prompt, source, s.allowed};
}

// Chooses for all of the rows at once if each takes the likeliest token, and nothing forbids that.
bool Runner::choose_likeliest(std::span<const StepRequest> requests, std::span<const LogitRow> rows,
                              const TensorView& hidden) {
  const auto takes_likeliest = [&](const LogitRow& row) {
    const Sequence& s = *requests[row.request].sequence;
    return row.sample >= 0 && !s.deferred && !s.collect.anything() &&
           tuili::takes_likeliest(s.sampling, positions_[row.row] + 1 - s.n_prompt);
  };
  if (!std::ranges::all_of(rows, takes_likeliest)) return false;
  const std::span<int32_t> tokens(drawn_.data() + rows[0].sample, rows.size());
  if (!transformer_.likeliest(context_, tokens, logits_.slice(0, hidden.rows()), hidden, state_))
    return false;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sequence& s = *requests[rows[i].request].sequence;
    if (!samplers_[0].permits(tokens[i], s.sampling, past_of(s, positions_[rows[i].row] + 1))) return false;
  }
  n_screened_ += hidden.rows();
  return true;
}

// Chooses tokens for those of the rows that are sampled. logits: f32 [rows.size(), n_vocab].
void Runner::sample_rows(std::span<const StepRequest> requests, std::span<const LogitRow> rows,
                         const float* logits) {
  const int64_t n_vocab = model_.spec.n_vocab;
  const auto n_rows = static_cast<int64_t>(rows.size());
  context_.pool->parallel_for(n_rows, context_.n_threads, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      if (rows[i].sample < 0) continue;
      Sequence& s = *requests[rows[i].request].sequence;
      const float* row = logits + i * n_vocab;
      if (s.deferred)
        defer(samplers_[part], s, row, rows[i].sample);
      else  // as one token at a time would see it: the tokens up to this row
        choose(samplers_[part], s, past_of(s, positions_[rows[i].row] + 1), row, row, rows[i].sample);
    }
  });
}

// Draws what goes on after `past`, with its log-probabilities under own_logits, as entry `sample`; a beam
// gets candidates.
void Runner::choose(Sampler& sampler, Sequence& s, const Past& past, const float* logits,
                    const float* own_logits, int64_t sample) {
  if (s.sampling.n_candidates > 0) {
    drawn_[sample] = s.deferred ? sampler.rank(context_, &s.candidates, own_logits, logits, s.sampling, past)
                                : sampler.rank(context_, &s.candidates, logits, s.sampling, past);
    return;
  }
  const int32_t token = sampler.sample(context_, logits, s.sampling, past);
  drawn_[sample] = token;
  if (s.sampling.n_logprobs < 0 || token < 0) return;
  const int64_t n_best = std::min(s.sampling.n_logprobs, model_.spec.n_vocab);
  drawn_logprobs_[sample] = sampler.logprobs(context_, own_logits, token, n_best);
}

void Runner::defer(const Sampler& sampler, Sequence& s, const float* logits, int64_t sample) {
  const int64_t n_vocab = model_.spec.n_vocab;
  if (s.sampling.n_candidates > 0) {
    if (!sampler.logprobs_of(context_, s.next_logits.data(), logits)) return;
  } else {
    if (ops::argmax(logits, n_vocab) == kNotANumber) return;  // the entry says so already
    std::copy_n(logits, n_vocab, s.next_logits.data());
  }
  drawn_[sample] = kDeferred;
}

}  // namespace tuili
