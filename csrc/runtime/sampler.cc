#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/check.h"

namespace tuili {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLargest = std::numeric_limits<float>::max();

// The tokens of which one must come after n_generated ones; none: any may.
std::span<const int32_t> forced(const SamplingParams& p, int64_t n_generated) {
  if (!p.forced_last.empty() && n_generated == p.n_before_last) return p.forced_last;
  if (p.forced_first >= 0 && n_generated == 0) return {&p.forced_first, 1};
  return {};
}

// The place of the first token that is not forced.
int64_t first_free(const SamplingParams& p) { return p.forced_first >= 0 ? 1 : 0; }

// Whether all of a word but its last token stands at the history's end.
bool is_near(std::span<const int32_t> word, std::span<const int32_t> history) {
  const size_t n_before = word.size() - 1;
  return n_before <= history.size() && std::ranges::equal(word.first(n_before), history.last(n_before));
}

bool ending_changes(const SamplingParams& p, int64_t n_generated) {
  return n_generated < p.min_tokens || (p.ending_growth != 1 && n_generated > p.ending_from);
}

bool changes_logits(const SamplingParams& p, int64_t n_generated) {
  return !p.logit_bias.empty() || !p.sequence_bias.empty() || !p.allowed_token_ids.empty() ||
         reads_history(p) || !p.bad_words.empty() || (n_generated == first_free(p) && !p.not_first.empty()) ||
         (!p.ending.empty() && ending_changes(p, n_generated)) || !forced(p, n_generated).empty();
}

// Whether more is changed than that tokens are forbidden.
bool reweighs(const SamplingParams& p, int64_t n_generated) {
  return !p.logit_bias.empty() || !p.sequence_bias.empty() || !p.allowed_token_ids.empty() ||
         p.repetition_penalty != 1 || p.source_penalty != 1 || p.presence_penalty != 0 ||
         p.frequency_penalty != 0 || !forced(p, n_generated).empty() ||
         (!p.ending.empty() && p.ending_growth != 1 && n_generated > p.ending_from);
}

// What a row's logits are as log-probabilities.
class LogSoftmax {
 public:
  LogSoftmax(const ops::Context& context, const float* logits, int64_t n)
      : LogSoftmax(ops::softmax_stats(context, logits, n)) {}
  explicit LogSoftmax(const ops::SoftmaxStats& stats)
      : max_(stats.max),
        defined_(stats.sum == stats.sum),
        log_sum_(defined_ ? ops::natural_log(stats.sum) : 0) {}

  bool defined() const { return defined_; }
  float operator()(float logit) const { return static_cast<float>(double{logit} - max_ - log_sum_); }

  // No logit below has a log-probability as large as this one's, which rounding may have made equal to it.
  float least_equal(float logit) const {
    const double rounding = std::fabs((*this)(logit)) * 0x1p-21;
    return std::nextafter(static_cast<float>(logit - rounding), -kInfinity);
  }

 private:
  double max_;
  bool defined_;
  double log_sum_;
};

}  // namespace

void check_sampling(const SamplingParams& params, int64_t n_vocab) {
  TUILI_CHECK(params.temperature >= 0 && params.temperature < kInfinity,
              "temperature must be finite and >= 0, not ", params.temperature);
  TUILI_CHECK(params.top_p > 0 && params.top_p <= 1, "top_p must be in (0, 1], not ", params.top_p);
  TUILI_CHECK(params.min_p >= 0 && params.min_p <= 1, "min_p must be in [0, 1], not ", params.min_p);
  TUILI_CHECK(params.typical_p > 0 && params.typical_p <= 1, "typical_p must be in (0, 1], not ",
              params.typical_p);
  const auto check = [&](int32_t id, const char* where) {
    TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0 && id < n_vocab, where, ": token id ", id,
                     " is not in [0, ", n_vocab, ")");
  };
  for (const auto& [id, bias] : params.logit_bias) check(id, "logit_bias");
  for (const int32_t id : params.allowed_token_ids) check(id, "allowed_token_ids");
  for (const int32_t id : params.not_first) check(id, "begin_suppress_tokens");
  for (const int32_t id : params.ending) check(id, "an end of text");
  TUILI_CHECK(params.ending_growth > 0 && params.ending_growth < kInfinity,
              "ending_growth must be finite and > 0, not ", params.ending_growth);
  if (params.forced_first >= 0) check(params.forced_first, "forced_bos_token_id");
  for (const int32_t id : params.forced_last) check(id, "forced_eos_token_id");
  TUILI_CHECK(params.n_candidates >= 0 && params.n_candidates <= n_vocab, "n_candidates must be in [0, ",
              n_vocab, "], not ", params.n_candidates);
  for (const auto& word : params.bad_words) {
    TUILI_CHECK(!word.empty(), "bad_words holds an empty word");
    for (const int32_t id : word) check(id, "bad_words");
  }
  for (const auto& [sequence, bias] : params.sequence_bias) {
    TUILI_CHECK(!sequence.empty(), "sequence_bias holds an empty sequence");
    for (const int32_t id : sequence) check(id, "sequence_bias");
  }
}

bool draws_plainly(const SamplingParams& params, int64_t n_vocab) {
  const bool few_or_all = params.top_k <= ops::kMostTopK || params.top_k >= n_vocab;
  const bool no_change = params.logit_bias.empty() && params.sequence_bias.empty() &&
                         params.allowed_token_ids.empty() && params.bad_words.empty() &&
                         params.not_first.empty() && params.ending.empty() && params.forced_first < 0 &&
                         params.forced_last.empty() && !reads_history(params);
  return few_or_all && params.typical_p == 1 && no_change && params.n_logprobs < 0 &&
         params.n_candidates == 0;
}

bool reads_history(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         params.source_penalty != 1 || params.no_repeat_ngram_size > 0 || params.source_ngram_size > 0;
}

bool takes_likeliest(const SamplingParams& params, int64_t n_generated) {
  return (params.temperature == 0 || params.top_k == 1) && params.n_logprobs < 0 &&
         params.n_candidates == 0 && !reweighs(params, n_generated);
}

bool ranks_likeliest(const SamplingParams& params, const Past& past) {
  return params.n_candidates > 0 && past.allowed.empty() && !params.renormalize &&
         !reweighs(params, past.n_generated());
}

Sampler::Sampler(int64_t n_vocab) : n_vocab_(n_vocab), selection_(n_vocab) {
  const auto carve = [&](Carver carver) {
    ids_ = carver.take<int32_t>(n_vocab);
    logits_ = carver.take<float>(n_vocab);
    weights_ = carver.take<float>(n_vocab);
    marked_ = carver.take<uint32_t>(n_vocab);
    counts_ = carver.take<int32_t>(n_vocab);
    banned_ = carver.take<int32_t>(n_vocab);
    return carver.used();
  };
  memory_ = Buffer(carve(Carver()));
  carve(Carver(memory_.data()));
}

// Whether this is the first time the token is met since forget_marks().
bool Sampler::mark(int32_t token) { return std::exchange(marked_[token], mark_) != mark_; }

void Sampler::forget_marks() {
  if (++mark_ != 0) return;
  std::fill_n(marked_, n_vocab_, 0u);
  mark_ = 1;
}

void Sampler::apply_mask(std::span<const uint32_t> allowed) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    const auto begin = static_cast<int64_t>(word) * 32, end = std::min(begin + 32, n_vocab_);
    for (int64_t i = begin; i < end; ++i)
      logits_[i] = allowed[word] >> (i - begin) & 1 ? logits_[i] : -kInfinity;
  }
}

void Sampler::apply_bias(const SamplingParams& params, const Past& past) {
  for (const auto& [id, bias] : params.logit_bias) logits_[id] += bias;
  for (auto next = params.sequence_bias.begin(); next != params.sequence_bias.end();) {
    const int32_t id = next->first.back();
    float sum = 0;  // first, because opposite ones may be large
    for (; next != params.sequence_bias.end() && next->first.back() == id; ++next)
      if (is_near(next->first, past.tokens)) sum += next->second;
    logits_[id] += sum;
  }
  if (params.allowed_token_ids.empty()) return;
  forget_marks();
  for (const int32_t id : params.allowed_token_ids) mark(id);
  for (int64_t i = 0; i < n_vocab_; ++i)
    if (marked_[i] != mark_) logits_[i] = -kInfinity;
}

// Of each of these tokens, once (Keskar et al. 2019). A source may be of a larger vocabulary.
void Sampler::penalize(std::span<const int32_t> tokens, float penalty) {
  if (penalty == 1) return;
  forget_marks();
  for (const int32_t token : tokens) {
    if (token >= n_vocab_ || !mark(token)) continue;
    float& logit = logits_[token];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// Repetition, of the source and over prompt and output, then frequency and presence (OpenAI, over the
// output).
void Sampler::apply_penalties(const SamplingParams& params, const Past& past) {
  penalize(past.source, params.source_penalty);
  penalize(past.tokens, params.repetition_penalty);
  if (params.presence_penalty == 0 && params.frequency_penalty == 0) return;
  const auto generated = past.tokens.subspan(past.n_prompt);
  forget_marks();
  for (const int32_t token : generated) counts_[token] = mark(token) ? 1 : counts_[token] + 1;
  for (const int32_t token : generated) {
    const int32_t count = std::exchange(counts_[token], 0);
    if (count == 0) continue;  // met before in this loop
    logits_[token] -= params.frequency_penalty * static_cast<float>(count);
    logits_[token] -= params.presence_penalty;
  }
}

void Sampler::ban(int32_t id) {
  if (mark(id)) banned_[n_banned_++] = id;
}

// Bans what follows the history's last n - 1 tokens in `of`. A source may be of a larger vocabulary.
void Sampler::ban_repeats(std::span<const int32_t> of, int64_t n, std::span<const int32_t> history) {
  if (n <= 0 || n - 1 > std::ssize(history)) return;
  const auto tail = history.last(n - 1);
  for (int64_t i = 0; i + n <= std::ssize(of); ++i) {
    const int32_t next = of[i + n - 1];
    if (next < n_vocab_ && std::ranges::equal(of.subspan(i, n - 1), tail)) ban(next);
  }
}

// Marks those that the parameters forbid here.
void Sampler::collect_bans(const SamplingParams& params, const Past& past) {
  forget_marks();
  n_banned_ = 0;
  const auto history = past.tokens;
  ban_repeats(history, params.no_repeat_ngram_size, history);
  ban_repeats(past.source, params.source_ngram_size, history);
  for (const auto& word : params.bad_words)
    if (is_near(word, history)) ban(word.back());
  if (past.n_generated() == first_free(params))
    for (const int32_t id : params.not_first) ban(id);
  if (past.n_generated() < params.min_tokens)
    for (const int32_t id : params.ending) ban(id);
}

void Sampler::apply_bans(const SamplingParams& params, const Past& past) {
  collect_bans(params, past);
  for (int64_t i = 0; i < n_banned_; ++i) logits_[banned_[i]] = -kInfinity;
}

bool Sampler::permits(int32_t token, const SamplingParams& params, const Past& past) {
  if (!past.allowed.empty() && !(past.allowed[token / 32] >> token % 32 & 1)) return false;
  collect_bans(params, past);
  return marked_[token] != mark_;
}

// By |logit|, so that those below 0 grow, too; as transformers does it.
void Sampler::apply_growth(const SamplingParams& params, int64_t n_generated) {
  if (params.ending_growth == 1) return;
  double power = 1;
  for (int64_t i = params.ending_from; i < n_generated && power < kLargest; ++i)
    power *= params.ending_growth;
  const auto more = static_cast<float>(std::min(power - 1, kLargest));
  for (const int32_t id : params.ending)
    if (std::isfinite(logits_[id]))
      logits_[id] = std::min(logits_[id] + std::fabs(logits_[id]) * more, static_cast<float>(kLargest));
}

void Sampler::apply_force(const SamplingParams& params, int64_t n_generated) {
  const std::span<const int32_t> ids = forced(params, n_generated);
  if (ids.empty()) return;
  std::fill_n(logits_, n_vocab_, -kInfinity);
  for (const int32_t id : ids) logits_[id] = 0;
}

// Everything that decides which tokens there are and how likely they are, on logits_.
void Sampler::change(const SamplingParams& params, const Past& past) {
  apply_mask(past.allowed);
  apply_bias(params, past);
  apply_penalties(params, past);
  apply_bans(params, past);
  apply_growth(params, past.n_generated());
  apply_force(params, past.n_generated());
}

int32_t Sampler::sample(const ops::Context& context, const float* logits, const SamplingParams& params,
                        const Past& past) {
  int64_t first = ops::argmax(logits, n_vocab_);
  if (first == kNotANumber) return kNotANumber;
  if (!past.allowed.empty() || changes_logits(params, past.n_generated())) {
    std::copy_n(logits, n_vocab_, logits_);
    change(params, past);
    logits = logits_;
    first = ops::argmax(logits, n_vocab_);
  }
  if (first < 0) return static_cast<int32_t>(first);
  const float best = logits[first];
  if (params.temperature == 0 || params.top_k == 1 || best == kInfinity) return static_cast<int32_t>(first);
  return draw(context, logits, params, best, past.tokens.size());
}

// ---- who may be drawn

void Sampler::move_candidate(int64_t from, int64_t to, bool every_id) {
  ids_[to] = every_id ? static_cast<int32_t>(from) : ids_[from];
  logits_[to] = logits_[from];
  weights_[to] = weights_[from];
}

// Drops the candidates after `last`; the keys are the selection's.
void Sampler::keep(Rank last) {
  const bool every_id = n_ == n_vocab_;
  int64_t n = 0;
  if (const auto numbers = selection_.list(last)) {
    for (const Rank number : *numbers) move_candidate(static_cast<int64_t>(number), n++, every_id);
  } else {
    const std::span<const uint32_t> keys = selection_.keys(n_);
    for (int64_t i = 0; i < n_; ++i) {  // without a branch: who stays is unpredictable
      move_candidate(i, n, every_id);
      n += rank_of(keys[i], i) <= last;
    }
  }
  n_ = n;
}

double Sampler::total_weight() const {
  double total = 0;
  for (const float weight : weights()) total += weight;
  return total;
}

void Sampler::keep_top_k(int64_t k) {
  if (Selection::few(n_, k)) {
    n_ = selection_.reaching(logits_, n_, selection_.bound(logits_, n_, k), ids_);
    for (int64_t i = 0; i < n_; ++i) logits_[i] = logits_[ids_[i]];
  }
  const std::span<uint32_t> keys = selection_.keys(n_);
  for (int64_t i = 0; i < n_; ++i) keys[i] = key_descending(logits_[i]);
  keep(selection_.nth(n_, k));
}

void Sampler::weigh(const ops::Context& context) { ops::exp_shifted(context, weights_, logits_, 0, n_); }

// The likeliest whose probabilities reach top_p, summed from the likeliest on; at least one.
void Sampler::keep_top_p(double top_p) {
  const std::span<uint32_t> keys = selection_.keys(n_);
  for (int64_t i = 0; i < n_; ++i) keys[i] = key_descending(weights_[i]);
  keep(selection_.until(weights(), top_p));
}

// Relative to the likeliest, whose weight is 1.
void Sampler::keep_min_p(double min_p) {
  int64_t n = 0;
  const bool every_id = n_ == n_vocab_;
  for (int64_t i = 0; i < n_; ++i) {
    const bool stays = weights_[i] >= min_p;
    move_candidate(i, n, every_id);  // without a branch: who stays is unpredictable
    n += stays;
  }
  n_ = n;
}

// Those whose surprise is closest to the entropy, until their probabilities reach `mass`. Source: Meister et
// al. 2022. With logits x and weights exp(x), surprise is log Σ exp(x) - x and entropy its mean; here both
// without the first term.
void Sampler::keep_typical(double mass) {
  double total = 0, mean = 0;
  for (int64_t i = 0; i < n_; ++i) {
    total += weights_[i];
    mean += weights_[i] > 0 ? double{weights_[i]} * logits_[i] : 0;  // -Inf · 0 is not a number
  }
  mean /= total;
  const std::span<uint32_t> keys = selection_.keys(n_);
  for (int64_t i = 0; i < n_; ++i) keys[i] = key_ascending(static_cast<float>(std::fabs(mean - logits_[i])));
  keep(selection_.until(weights(), mass));
}

int32_t Sampler::draw(const ops::Context& context, const float* logits, const SamplingParams& params,
                      float best, uint64_t counter) {
  n_ = n_vocab_;
  const float temperature = params.temperature;
  for (int64_t i = 0; i < n_; ++i) logits_[i] = (logits[i] - best) / temperature;
  if (params.top_k > 0 && params.top_k < n_vocab_) keep_top_k(params.top_k);
  weigh(context);
  if (params.top_p < 1) keep_top_p(params.top_p);
  if (params.min_p > 0) keep_min_p(params.min_p);
  if (params.typical_p < 1) keep_typical(params.typical_p);
  const double target = ops::uniform(params.seed, counter) * total_weight();
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n_ && sum <= target; ++i) {
    if (weights_[i] <= 0) continue;
    last = i;
    sum += weights_[i];
  }
  return n_ == n_vocab_ ? static_cast<int32_t>(last) : ids_[last];
}

TokenLogprobs Sampler::logprobs(const ops::Context& context, const float* logits, int64_t token,
                                int64_t n_best) {
  const LogSoftmax logprob(context, logits, n_vocab_);
  if (!logprob.defined()) return {std::numeric_limits<float>::quiet_NaN(), {}};
  TokenLogprobs result{logprob(logits[token]), {}};
  result.best.reserve(std::min(n_best, n_vocab_));
  for (const Rank rank : first_of(logits, n_best))
    result.best.emplace_back(id_of(rank), logprob(logits[id_of(rank)]));
  return result;
}

// The n greatest of [n_vocab] values, the greatest first.
std::span<const Rank> Sampler::first_of(const float* values, int64_t n) {
  n = std::min(n, n_vocab_);
  if (n > 0 && Selection::few(n_vocab_, n)) {
    const float least = selection_.bound(values, n_vocab_, n);
    const auto n_found = static_cast<size_t>(selection_.reaching(values, n_vocab_, least, ids_));
    return selection_.greatest(values, {ids_, n_found}, n);
  }
  const std::span<uint32_t> keys = selection_.keys(n_vocab_);
  for (int64_t i = 0; i < n_vocab_; ++i) keys[i] = key_descending(values[i]);
  return selection_.first(n_vocab_, n);
}

// ---- beams

bool Sampler::logprobs_of(const ops::Context& context, float* out, const float* logits) const {
  const LogSoftmax logprob(context, logits, n_vocab_);
  if (!logprob.defined()) return false;
  for (int64_t i = 0; i < n_vocab_; ++i) out[i] = logprob(logits[i]);
  return true;
}

// log Σ exp(logits_), by which they are normalized; 0 where that is not possible.
double Sampler::log_total(const ops::Context& context) const {
  const ops::SoftmaxStats stats = ops::softmax_stats(context, logits_, n_vocab_);
  const bool defined = std::isfinite(stats.max) && std::isfinite(stats.sum);
  return defined ? stats.max + ops::natural_log(stats.sum) : 0;
}

int32_t Sampler::rank(const ops::Context& context, Candidates* out, const float* own, const float* changed,
                      const SamplingParams& params, const Past& past) {
  std::copy_n(changed, n_vocab_, logits_);
  change(params, past);
  if (ops::argmax(logits_, n_vocab_) == kNotANumber) return kNotANumber;
  const double shift = params.renormalize ? log_total(context) : 0;
  out->likeliest.clear();
  out->best.clear();
  for (const Rank rank : first_of(logits_, params.n_candidates))
    out->likeliest.push_back(
        {id_of(rank), static_cast<float>(logits_[id_of(rank)] - shift), own[id_of(rank)]});
  if (params.n_logprobs > 0)
    for (const Rank rank : first_of(own, params.n_logprobs))
      out->best.emplace_back(id_of(rank), own[id_of(rank)]);
  return kDeferred;
}

// The same, if all that is changed is that a few tokens are forbidden: those behind them move up, and only
// their log-probabilities are made. False where the candidates are many, or hold impossible ones.
template <class Logprob>
bool Sampler::rank_few(Candidates* out, const float* logits, const Logprob& logprob,
                       const SamplingParams& params, const Past& past) {
  collect_bans(params, past);
  const int64_t n = std::max(params.n_candidates + n_banned_, params.n_logprobs);
  if (!Selection::few(n_vocab_, n)) return false;
  const float bound = selection_.bound(logits, n_vocab_, n);
  if (bound == -kInfinity) return false;
  const int64_t n_found = selection_.reaching(logits, n_vocab_, logprob.least_equal(bound), ids_);
  for (int64_t i = 0; i < n_found; ++i) weights_[ids_[i]] = logprob(logits[ids_[i]]);
  take_first(out, selection_.greatest(weights_, {ids_, static_cast<size_t>(n_found)}, n), params);
  return true;
}

// Of tokens that are ranked by log-probabilities, which are in weights_: those that are not marked, and the
// best of all.
void Sampler::take_first(Candidates* out, std::span<const Rank> ranks, const SamplingParams& params) const {
  out->likeliest.clear();
  out->best.clear();
  for (const Rank rank : ranks) {
    const int32_t id = id_of(rank);
    const float own = weights_[id];
    if (std::ssize(out->likeliest) < params.n_candidates && marked_[id] != mark_)
      out->likeliest.push_back({id, own, own});
    if (std::ssize(out->best) < params.n_logprobs) out->best.emplace_back(id, own);
  }
}

int32_t Sampler::rank(Candidates* out, const Listed& listed, const SamplingParams& params, const Past& past) {
  const LogSoftmax logprob({listed.row.max, listed.row.sum});
  if (!logprob.defined()) return kNotANumber;
  collect_bans(params, past);
  const int64_t n = std::max(params.n_candidates + n_banned_, params.n_logprobs);
  const int64_t n_listed = std::ssize(listed.logits);
  if (n > n_listed) return kUndecided;
  for (int64_t i = 0; i < n_listed; ++i) {
    const auto& [id, logit] = listed.logits[i];
    ids_[i] = id;
    weights_[id] = logprob(logit);
  }
  const auto ranks = selection_.greatest(weights_, {ids_, static_cast<size_t>(n_listed)}, n);
  // What is not listed is below the bound, and below those listed if rounding leaves it there.
  if (!(weights_[id_of(ranks.back())] > logprob(listed.row.bound))) return kUndecided;
  take_first(out, ranks, params);
  return kDeferred;
}

int32_t Sampler::rank(const ops::Context& context, Candidates* out, const float* logits,
                      const SamplingParams& params, const Past& past) {
  if (ranks_likeliest(params, past)) {
    const LogSoftmax logprob(context, logits, n_vocab_);
    if (!logprob.defined()) return kNotANumber;
    if (rank_few(out, logits, logprob, params, past)) return kDeferred;
  }
  if (!logprobs_of(context, weights_, logits)) return kNotANumber;
  return rank(context, out, weights_, weights_, params, past);
}

}  // namespace tuili
