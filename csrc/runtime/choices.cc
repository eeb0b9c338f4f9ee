#include "runtime/choices.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tuili {
namespace {

// Rows of logits are made in chunks of about this size, but of at least so many rows: the head's weights are
// read once per chunk.
constexpr int64_t kLogitBytes = 16 << 20, kFewestLogitRows = 8;
constexpr int64_t kDeviceLogitBytes = 64 << 20;  // where a chunk is waited for

// Of what is listed of a row: n_best, those that reach the same bound by chance, and ties, if there are more.
constexpr int64_t capacity_for(int64_t n_best, int64_t n_vocab) {
  return std::min(n_best + n_best / 4 + 24, n_vocab);
}

// How many of a row's likeliest tokens a beam is ranked from, as a rule: some are forbidden.
int64_t n_best_for(const SamplingParams& params) {
  constexpr int64_t kRepeats = 8;  // tokens that would repeat an n-gram
  const auto n_banned =
      std::ssize(params.bad_words) + std::ssize(params.not_first) + std::ssize(params.ending);
  return std::max(params.n_candidates + n_banned + kRepeats, params.n_logprobs);
}

// What the choice of a token after the first n_known may look at.
Past past_of(const Sequence& s, int64_t n_known) {
  const std::span<const int32_t> history(s.tokens.data(), static_cast<size_t>(n_known));
  const auto source = s.source.empty() ? history.first(s.n_prompt) : std::span<const int32_t>(s.source);
  return {history, s.n_prompt, source, s.allowed};
}

// The first float that is no less.
float least_float(double x) {
  const auto near = static_cast<float>(x);
  return near < x ? std::nextafter(near, std::numeric_limits<float>::infinity()) : near;
}

// What a row asks of the device, whose sums are integers.
ops::Draw draw_of(const SamplingParams& params, uint64_t n_known, int64_t n_vocab) {
  ops::Draw draw{params.seed, n_known, params.temperature, least_float(params.min_p)};
  if (params.top_k == 1) draw.temperature = 0;
  if (draw.temperature == 0) return draw;
  if (params.top_k < n_vocab) draw.top_k = std::max<int64_t>(params.top_k, 0);
  if (params.top_p < 1) draw.top_p = std::max<uint64_t>(static_cast<uint64_t>(params.top_p * 0x1p64), 1);
  return draw;
}

}  // namespace

Choices::Choices(const ops::Context& context, const ModelSpec& spec, int64_t max_rows)
    : context_(context), n_vocab_(spec.n_vocab), max_rows_(max_rows) {
  if (!spec.has_head) return;
  samplers_.reserve(context.n_threads);
  for (int i = 0; i < context.n_threads; ++i) samplers_.emplace_back(n_vocab_);
  rows_.reserve(max_rows);
  drawn_.reserve(max_rows);
  logprobs_.reserve(max_rows);
  left_.reserve(max_rows);
}

void Choices::carve(Carver& carver, DeviceKind device) {
  if (samplers_.empty()) return;
  const int64_t chunk_bytes = device == DeviceKind::cpu ? kLogitBytes : kDeviceLogitBytes;
  const int64_t n = std::min(std::max(chunk_bytes / (n_vocab_ * 4), kFewestLogitRows), max_rows_);
  logits_ = take_rows(carver, n, n_vocab_, device);
  if (device == DeviceKind::cpu) return;
  const int64_t bytes = n * int64_t{sizeof(ops::Draw)};
  device_draws_ = TensorView(carver.take<uint8_t>(bytes), DType::u8, {bytes}, device);
  device_chosen_ = TensorView(carver.take<int32_t>(n), DType::i32, {n}, device);
  const int64_t best_bytes = ops::best_logits_bytes(n, capacity_for(ops::kMostBest, n_vocab_));
  device_best_ = TensorView(carver.take<uint8_t>(best_bytes), DType::u8, {best_bytes}, device);
}

void Choices::prepare_device() {
  arrived_ = PinnedBuffer(logits_.count() * int64_t{sizeof(float)});
  draws_ = PinnedBuffer(device_draws_.count());
  chosen_ = PinnedBuffer(device_chosen_.count() * int64_t{sizeof(int32_t)});
  best_ = PinnedBuffer(device_best_.count());
}

void Choices::clear() {
  rows_.clear();
  drawn_.clear();
  logprobs_.clear();
  n_kept_ = 0;
}

void Choices::add(Sequence& sequence, int64_t position, bool sample) {
  rows_.push_back({&sequence, position, sample ? add_draw() : -1});
  if (!sample) return;
  make_room(sequence.tokens, 1);  // keep() allocates nothing: all sequences of a step go on, or none
  if (sequence.sampling.n_logprobs >= 0) make_room(sequence.logprobs, sequence.n_drafted + 1);
  if (sequence.deferred) sequence.next_logits.resize(n_vocab_);
}

int64_t Choices::add_draw() {
  drawn_.push_back(kNotANumber);
  logprobs_.emplace_back();
  return std::ssize(drawn_) - 1;
}

void Choices::run(const Transformer& transformer, State& state) {
  const std::span<const Row> all = rows_;
  for (size_t begin = 0; begin < all.size(); begin += logits_.rows()) {
    const auto rows = all.subspan(begin, std::min(all.size() - begin, static_cast<size_t>(logits_.rows())));
    const int64_t n_rows = std::ssize(rows);
    const TensorView hidden = state.hidden.slice(static_cast<int64_t>(begin), n_rows);
    if (choose_likeliest(transformer, state, rows, hidden)) continue;
    transformer.head(context_, logits_.slice(0, n_rows), hidden, state);
    left_.clear();
    if (logits_.device == DeviceKind::cpu || !(draw_on_device(rows) || rank_on_device(rows)))
      for (int64_t i = 0; i < n_rows; ++i) left_.push_back(i);
    choose_left(rows);
  }
}

void Choices::run(Sequence& s, std::span<const float> logits) {
  add(s, s.n_tokens() - 1, true);
  choose(samplers_[0], rows_.back(), logits.data(), s.next_logits.data());
  s.next_logits.clear();
}

int32_t Choices::keep(Sequence& s) {
  const int32_t* const drawn = drawn_.data() + n_kept_;
  const int64_t n_drafted = std::exchange(s.n_drafted, 0), n_known = s.n_tokens() - n_drafted;
  int64_t n_right = 0;
  while (n_right < n_drafted && drawn[n_right] == s.tokens[n_known + n_right] && !s.stops_at(drawn[n_right]))
    ++n_right;
  s.tokens.resize(n_known + n_right);
  s.n_computed += n_right;
  s.lookup.learn(n_drafted, n_right);
  if (drawn[n_right] >= 0) s.tokens.push_back(drawn[n_right]);
  if (s.sampling.n_logprobs >= 0)
    for (int64_t i = 0; i < s.n_tokens() - n_known; ++i)
      s.logprobs.push_back(std::move(logprobs_[n_kept_ + i]));
  n_kept_ += n_drafted + 1;
  return drawn[n_right];
}

// Chooses for all of the rows at once if each takes the likeliest token, and nothing forbids that.
bool Choices::choose_likeliest(const Transformer& transformer, State& state, std::span<const Row> rows,
                               const TensorView& hidden) {
  const auto wants_likeliest = [](const Row& row) {
    const Sequence& s = *row.sequence;
    return row.sample >= 0 && !s.deferred && !s.collect.anything() &&
           takes_likeliest(s.sampling, row.position + 1 - s.n_prompt);
  };
  if (!std::ranges::all_of(rows, wants_likeliest)) return false;
  const std::span<int32_t> tokens(drawn_.data() + rows[0].sample, rows.size());
  if (!transformer.likeliest(context_, tokens, logits_.slice(0, hidden.rows()), hidden, state)) return false;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sequence& s = *rows[i].sequence;
    if (!samplers_[0].permits(tokens[i], s.sampling, past_of(s, rows[i].position + 1))) return false;
  }
  n_screened_ += hidden.rows();
  return true;
}

// Draws the tokens of these rows from logits_ where they are, if draws_plainly says so of all; false if not.
bool Choices::draw_on_device(std::span<const Row> rows) {
  const int64_t n_rows = std::ssize(rows);
  if (n_vocab_ >= ops::kMostDrawn) return false;
  auto* const draws = reinterpret_cast<ops::Draw*>(draws_.data());
  for (int64_t i = 0; i < n_rows; ++i) {
    const Sequence& s = *rows[i].sequence;
    const bool plain = rows[i].sample >= 0 && !s.collect.anything() && !s.deferred && s.allowed.empty();
    if (!plain || !draws_plainly(s.sampling, n_vocab_)) return false;
    draws[i] = draw_of(s.sampling, static_cast<uint64_t>(rows[i].position) + 1, n_vocab_);
  }
  TensorView sent = device_draws_.slice(0, n_rows * int64_t{sizeof(ops::Draw)}), from_host = sent;
  from_host.data = draws;
  from_host.device = DeviceKind::cpu;
  ops::copy(context_, sent, from_host);
  const TensorView tokens = device_chosen_.slice(0, n_rows), logits = logits_.slice(0, n_rows);
  const auto n_cut = std::count_if(draws, draws + n_rows,
                                   [](const ops::Draw& draw) { return draw.top_k > 0 || draw.top_p > 0; });
  const auto* const there = static_cast<const ops::Draw*>(sent.data);
  if (n_cut < n_rows) ops::draw(context_, tokens, logits, there);
  if (n_cut > 0) ops::draw_likeliest(context_, tokens, logits, there);
  const auto* const chosen = static_cast<const int32_t*>(on_host(tokens, chosen_.data()).data);
  for (int64_t i = 0; i < n_rows; ++i) {
    drawn_[rows[i].sample] = chosen[i];
    if (chosen[i] == ops::kUndecided) left_.push_back(i);
  }
  return true;
}

// Ranks those of the rows that are beams' and ask for the likeliest tokens only, from a list of these that
// the device makes; false if there are none.
bool Choices::rank_on_device(std::span<const Row> rows) {
  const int64_t n_rows = std::ssize(rows);
  const auto is_listed = [&](const Row& row) {
    const Sequence& s = *row.sequence;
    return row.sample >= 0 && !s.collect.anything() && !s.deferred &&
           ranks_likeliest(s.sampling, past_of(s, row.position + 1)) &&
           n_best_for(s.sampling) <= std::min(ops::kMostBest, n_vocab_);
  };
  int64_t n_best = 0;
  for (const Row& row : rows)
    if (is_listed(row)) n_best = std::max(n_best, n_best_for(row.sequence->sampling));
  if (n_best == 0 || n_vocab_ >= ops::kMostDrawn) return false;
  const int64_t capacity = capacity_for(n_best, n_vocab_);
  const TensorView there = device_best_.slice(0, ops::best_logits_bytes(n_rows, capacity));
  ops::best_logits(context_, there, logits_.slice(0, n_rows), n_best, capacity);
  const auto* const best = reinterpret_cast<const ops::BestLogits*>(on_host(there, best_.data()).data);
  const auto* const listed = reinterpret_cast<const ops::BestLogit*>(best + n_rows);
  context_.pool->parallel_for(n_rows, context_.n_threads, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      if (!is_listed(rows[i])) continue;
      int32_t& drawn = drawn_[rows[i].sample] = ops::kUndecided;
      if (best[i].count > capacity) continue;
      Sequence& s = *rows[i].sequence;
      const Listed own{best[i], {listed + i * capacity, static_cast<size_t>(best[i].count)}};
      drawn = samplers_[part].rank(&s.candidates, own, s.sampling, past_of(s, rows[i].position + 1));
    }
  });
  for (int64_t i = 0; i < n_rows; ++i)
    if (!is_listed(rows[i]) || drawn_[rows[i].sample] == ops::kUndecided) left_.push_back(i);
  n_listed_ += n_rows - std::ssize(left_);
  return true;
}

// Brings the logits of the rows that are left to the host, and chooses there.
void Choices::choose_left(std::span<const Row> rows) {
  if (left_.empty()) return;
  TensorView logits = logits_;
  if (logits.device == DeviceKind::cuda) {
    logits.data = arrived_.data();
    logits.device = DeviceKind::cpu;
    for (size_t begin = 0, end; begin < left_.size(); begin = end) {  // neighbours at once
      for (end = begin + 1; end < left_.size() && left_[end] == left_[end - 1] + 1;) ++end;
      const auto n = static_cast<int64_t>(end - begin);
      ops::copy(context_, logits.slice(left_[begin], n), logits_.slice(left_[begin], n));
    }
    device::synchronize(context_.stream);
  }
  for (const int64_t i : left_) collect(rows[i], logits.f32_row(i));
  sample(rows, logits.f32());
}

// x where the host can read it: itself, or its copy in `room`.
TensorView Choices::on_host(const TensorView& x, uint8_t* room) const {
  if (x.device == DeviceKind::cpu) return x;
  TensorView copy = x;
  copy.data = room;
  copy.device = DeviceKind::cpu;
  ops::copy(context_, copy, x);
  device::synchronize(context_.stream);
  return copy;
}

void Choices::collect(const Row& row, const float* logits) {
  Sequence& s = *row.sequence;
  const int64_t n_best = s.collect.prompt_logprobs;
  if (s.collect.logits) s.logits.insert(s.logits.end(), logits, logits + n_vocab_);
  if (n_best >= 0 && row.position < s.n_prompt - 1)
    s.prompt_logprobs.push_back(samplers_[0].logprobs(context_, logits, s.tokens[row.position + 1], n_best));
}

// Chooses tokens for those of the rows left that are sampled. logits: f32 [rows.size(), n_vocab].
void Choices::sample(std::span<const Row> rows, const float* logits) {
  auto sample_some = [&](int64_t begin, int64_t end, int part) {
    for (int64_t at = begin; at < end; ++at) {
      const Row& row = rows[left_[at]];
      if (row.sample < 0) continue;
      const float* const own = logits + left_[at] * n_vocab_;
      if (row.sequence->deferred)
        defer(samplers_[part], row, own);
      else
        choose(samplers_[part], row, own, own);
    }
  };
  context_.pool->parallel_for(std::ssize(left_), context_.n_threads, sample_some);
}

// Draws what goes on after the row, as one token at a time would see it: the tokens up to there. With its
// log-probabilities under own_logits; a beam gets candidates.
void Choices::choose(Sampler& sampler, const Row& row, const float* logits, const float* own_logits) {
  Sequence& s = *row.sequence;
  const Past past = past_of(s, row.position + 1);
  if (s.sampling.n_candidates > 0) {
    drawn_[row.sample] = s.deferred
                             ? sampler.rank(context_, &s.candidates, own_logits, logits, s.sampling, past)
                             : sampler.rank(context_, &s.candidates, logits, s.sampling, past);
    return;
  }
  const int32_t token = sampler.sample(context_, logits, s.sampling, past);
  drawn_[row.sample] = token;
  if (s.sampling.n_logprobs < 0 || token < 0) return;
  logprobs_[row.sample] = sampler.logprobs(context_, own_logits, token, s.sampling.n_logprobs);
}

void Choices::defer(const Sampler& sampler, const Row& row, const float* logits) {
  Sequence& s = *row.sequence;
  if (s.sampling.n_candidates > 0) {
    if (!sampler.logprobs_of(context_, s.next_logits.data(), logits)) return;
  } else {
    if (ops::argmax(logits, n_vocab_) == kNotANumber) return;  // the entry says so already
    std::copy_n(logits, n_vocab_, s.next_logits.data());
  }
  drawn_[row.sample] = kDeferred;
}

}  // namespace tuili
