#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace tuili {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Value descending, then id ascending.
auto descending(const float* values) {
  return
      [values](int32_t a, int32_t b) { return values[a] > values[b] || (values[a] == values[b] && a < b); };
}

bool changes_logits(const SamplingParams& p, int64_t n_generated) {
  return !p.logit_bias.empty() || !p.allowed_token_ids.empty() || reads_history(p) || !p.bad_words.empty() ||
         (n_generated < p.min_tokens && !p.min_tokens_banned.empty());
}

}  // namespace

void check_sampling(const SamplingParams& params, int64_t n_vocab) {
  TUILI_CHECK(params.temperature >= 0 && params.temperature < kInfinity, "temperature is ",
              params.temperature, "; it must be finite and >= 0");
  TUILI_CHECK(params.top_p > 0 && params.top_p <= 1, "top_p is ", params.top_p, "; it must be in (0, 1]");
  TUILI_CHECK(params.min_p >= 0 && params.min_p <= 1, "min_p is ", params.min_p, "; it must be in [0, 1]");
  TUILI_CHECK(params.typical_p > 0 && params.typical_p <= 1, "typical_p is ", params.typical_p,
              "; it must be in (0, 1]");
  const auto check = [&](int32_t id, const char* where) {
    TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0 && id < n_vocab, where, ": token id ", id,
                     " is not in [0, ", n_vocab, ")");
  };
  for (const auto& [id, bias] : params.logit_bias) check(id, "logit_bias");
  for (const int32_t id : params.allowed_token_ids) check(id, "allowed_token_ids");
  for (const int32_t id : params.min_tokens_banned) check(id, "min_tokens");
  for (const auto& word : params.bad_words) {
    TUILI_CHECK(!word.empty(), "bad_words holds an empty word");
    for (const int32_t id : word) check(id, "bad_words");
  }
}

bool reads_history(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         params.no_repeat_ngram_size > 0;
}

Sampler::Sampler(int64_t n_vocab)
    : n_vocab_(n_vocab),
      logits_(n_vocab),
      weights_(n_vocab),
      ids_(n_vocab),
      marked_(n_vocab),
      counts_(n_vocab) {}

// Whether this is the first time the token is met since forget_marks().
bool Sampler::mark(int32_t token) { return std::exchange(marked_[token], mark_) != mark_; }

void Sampler::forget_marks() {
  if (++mark_ != 0) return;
  std::ranges::fill(marked_, 0);
  mark_ = 1;
}

void Sampler::apply_bias(const SamplingParams& params) {
  for (const auto& [id, bias] : params.logit_bias) logits_[id] += bias;
  if (params.allowed_token_ids.empty()) return;
  forget_marks();
  for (const int32_t id : params.allowed_token_ids) mark(id);
  for (int64_t i = 0; i < n_vocab_; ++i)
    if (marked_[i] != mark_) logits_[i] = -kInfinity;
}

// Repetition (Keskar et al. 2019, over prompt and output), then frequency and presence (OpenAI, over the
// output).
void Sampler::apply_penalties(const SamplingParams& params, std::span<const int32_t> history,
                              int64_t n_prompt) {
  if (params.repetition_penalty != 1) {
    forget_marks();
    for (const int32_t token : history) {
      if (!mark(token)) continue;
      float& logit = logits_[token];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
  }
  if (params.presence_penalty == 0 && params.frequency_penalty == 0) return;
  const auto generated = history.subspan(n_prompt);
  forget_marks();
  for (const int32_t token : generated) counts_[token] = mark(token) ? 1 : counts_[token] + 1;
  for (const int32_t token : generated) {
    const int32_t count = std::exchange(counts_[token], 0);
    if (count == 0) continue;  // met before in this loop
    logits_[token] -= params.frequency_penalty * static_cast<float>(count);
    logits_[token] -= params.presence_penalty;
  }
}

void Sampler::apply_bans(const SamplingParams& params, std::span<const int32_t> history, int64_t n_prompt) {
  const auto n_history = static_cast<int64_t>(history.size());
  const int64_t n = params.no_repeat_ngram_size;
  if (n > 0 && n <= n_history) {  // ban what followed the last n - 1 tokens before
    const auto tail = history.last(n - 1);
    for (int64_t i = 0; i + n <= n_history; ++i)
      if (std::ranges::equal(history.subspan(i, n - 1), tail)) logits_[history[i + n - 1]] = -kInfinity;
  }
  for (const auto& word : params.bad_words) {  // ban a word's last token where the rest of it stands
    const size_t n_before = word.size() - 1;
    if (n_before > history.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, history.end() - static_cast<int64_t>(n_before)))
      logits_[word.back()] = -kInfinity;
  }
  if (n_history - n_prompt < params.min_tokens)
    for (const int32_t id : params.min_tokens_banned) logits_[id] = -kInfinity;
}

int32_t Sampler::sample(const ops::Context& context, const float* logits, const SamplingParams& params,
                        std::span<const int32_t> history, int64_t n_prompt) {
  int64_t first = ops::argmax(logits, n_vocab_);
  if (first == kNotANumber) return kNotANumber;
  const bool changed = changes_logits(params, static_cast<int64_t>(history.size()) - n_prompt);
  if (changed || params.temperature != 0) std::copy_n(logits, n_vocab_, logits_.data());
  if (changed) {
    apply_bias(params);
    apply_penalties(params, history, n_prompt);
    apply_bans(params, history, n_prompt);
    first = ops::argmax(logits_.data(), n_vocab_);
  }
  if (first < 0) return static_cast<int32_t>(first);
  const float best = changed ? logits_[first] : logits[first];
  if (params.temperature == 0 || params.top_k == 1 || best == kInfinity) return static_cast<int32_t>(first);
  return draw(context, params, best, history.size());
}

// The n best ids by `values`, best first, at the front of ids_. A heap of n holds the best so far, the worst
// on top.
std::span<int32_t> Sampler::best(const float* values, int64_t n) {
  n = std::min(n, n_vocab_);
  const auto better = descending(values);
  std::iota(ids_.begin(), ids_.begin() + n, 0);
  const std::span<int32_t> heap{ids_.data(), static_cast<size_t>(n)};
  if (n == 0) return heap;
  std::ranges::make_heap(heap, better);
  for (int64_t i = n; i < n_vocab_; ++i) {
    if (values[i] <= values[heap[0]]) continue;  // an equal value with a higher id is no better
    std::ranges::pop_heap(heap, better);
    heap.back() = static_cast<int32_t>(i);
    std::ranges::push_heap(heap, better);
  }
  std::ranges::sort_heap(heap, better);
  return heap;
}

// The likeliest ids whose probabilities reach top_p, summed from the likeliest on; at least one.
std::span<int32_t> Sampler::keep_top_p(std::span<int32_t> ids, double top_p) {
  // Sorting a whole vocabulary is slow. Bins of about an eighth of an octave say which few ids can matter.
  constexpr int kBins = 1024;
  const auto bin_of = [&](int32_t id) {
    return std::bit_cast<uint32_t>(weights_[id]) >> 20;
  };  // weights <= 1
  double bins[kBins] = {}, total = 0;
  for (const int32_t id : ids) {
    bins[bin_of(id)] += weights_[id];
    total += weights_[id];
  }
  const double mass = top_p * total;
  uint32_t lowest = kBins - 1;
  for (double sum = bins[lowest]; sum < mass && lowest > 0;) sum += bins[--lowest];
  if (lowest > 0) --lowest;  // in another order the sum may round to less
  const auto end = std::partition(ids.begin(), ids.end(), [&](int32_t id) { return bin_of(id) >= lowest; });
  const std::span<int32_t> likely(ids.begin(), end);
  std::ranges::sort(likely, descending(weights_.data()));
  double sum = 0;
  for (size_t i = 0; i < likely.size(); ++i) {
    sum += weights_[likely[i]];
    if (sum >= mass) return likely.first(i + 1);
  }
  return likely;
}

// The ids whose surprise is closest to the entropy, until they reach `mass`. Source: Meister et al. 2022.
std::span<int32_t> Sampler::keep_typical(std::span<int32_t> ids, double mass) {
  double total = 0, entropy = 0;
  for (const int32_t id : ids) total += weights_[id];
  const auto surprise = [&](int32_t id) { return -ops::natural_log(weights_[id] / total); };
  const auto end = std::partition(ids.begin(), ids.end(), [&](int32_t id) { return weights_[id] > 0; });
  const std::span<int32_t> possible(ids.begin(), end);
  std::ranges::sort(possible, descending(weights_.data()));
  for (const int32_t id : possible) entropy += weights_[id] / total * surprise(id);
  for (const int32_t id : possible) logits_[id] = static_cast<float>(std::fabs(surprise(id) - entropy));
  std::ranges::sort(possible, [&](int32_t a, int32_t b) {
    return logits_[a] < logits_[b] || (logits_[a] == logits_[b] && a < b);
  });
  double sum = 0;
  for (size_t i = 0; i < possible.size(); ++i) {
    sum += weights_[possible[i]];
    if (sum >= mass * total) return possible.first(i + 1);
  }
  return possible;
}

// The ids that may be drawn, by top_k, top_p, min_p and typical_p in this order.
std::span<int32_t> Sampler::candidates(const SamplingParams& params) {
  std::span<int32_t> ids = ids_;
  if (params.top_k > 0 && params.top_k < n_vocab_)
    ids = best(logits_.data(), params.top_k);
  else
    std::iota(ids_.begin(), ids_.end(), 0);
  if (params.top_p < 1) ids = keep_top_p(ids, params.top_p);
  if (params.min_p > 0) {  // relative to the likeliest token, whose weight is 1
    const auto end =
        std::partition(ids.begin(), ids.end(), [&](int32_t id) { return weights_[id] >= params.min_p; });
    ids = ids.first(end - ids.begin());
  }
  if (params.typical_p < 1) ids = keep_typical(ids, params.typical_p);
  std::ranges::sort(ids);
  return ids;
}

int32_t Sampler::draw(const ops::Context& context, const SamplingParams& params, float best,
                      uint64_t counter) {
  for (float& logit : logits_) logit = (logit - best) / params.temperature;
  ops::exp_shifted(context, weights_.data(), logits_.data(), 0, n_vocab_);
  const bool all = params.top_k <= 0 && params.top_p >= 1 && params.min_p <= 0 && params.typical_p >= 1;
  if (all) std::iota(ids_.begin(), ids_.end(), 0);
  const std::span<const int32_t> ids = all ? std::span<int32_t>(ids_) : candidates(params);
  double total = 0;
  for (const int32_t id : ids) total += weights_[id];
  const double target = ops::uniform(params.seed, counter) * total;
  double sum = 0;
  int32_t last = ids[0];
  for (const int32_t id : ids) {
    if (weights_[id] <= 0) continue;
    last = id;
    sum += weights_[id];
    if (sum > target) break;
  }
  return last;
}

TokenLogprobs Sampler::logprobs(const ops::Context& context, const float* logits, int64_t token,
                                int64_t n_best) {
  const ops::SoftmaxStats stats = ops::softmax_stats(context, logits, n_vocab_);
  const bool defined = stats.sum == stats.sum;
  const double log_sum = defined ? ops::natural_log(stats.sum) : 0;
  const auto value = [&](int64_t id) {
    return defined ? static_cast<float>(double{logits[id]} - stats.max - log_sum)
                   : std::numeric_limits<float>::quiet_NaN();
  };
  TokenLogprobs result{value(token), {}};
  if (!defined) return result;
  result.best.reserve(n_best);
  for (const int32_t id : best(logits, n_best)) result.best.emplace_back(id, value(id));
  return result;
}

}  // namespace tuili
