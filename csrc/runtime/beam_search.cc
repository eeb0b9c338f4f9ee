#include "runtime/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace tuili {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kMostBeams = 1 << 16;  // so that no product of sizes overflows

}  // namespace

bool BeamSearch::Beam::alive() const { return total > -kInfinity; }

BeamSearch::BeamSearch(BeamRules rules) : rules_(std::move(rules)) {
  TUILI_CHECK(rules_.width >= 1 && rules_.width <= kMostBeams, "a search of ", rules_.width, " beams");
  TUILI_CHECK(rules_.max_tokens >= 1, "a search of ", rules_.max_tokens, " tokens");
  TUILI_CHECK(std::isfinite(rules_.length_penalty), "length_penalty is not finite");
  std::ranges::sort(rules_.ending);
  rules_.ending.erase(std::ranges::unique(rules_.ending).begin(), rules_.ending.end());
}

// Of all beams' candidates.
int64_t BeamSearch::n_seen() const {
  return std::max<int64_t>(2, 1 + std::ssize(rules_.ending)) * rules_.width;
}

int64_t BeamSearch::n_candidates() const {
  return rules_.may_end ? n_seen() : rules_.width + std::ssize(rules_.ending);
}

std::vector<int64_t> BeamSearch::advance(std::span<const Candidates* const> candidates,
                                         const EndsBeam& ends) {
  check(candidates);
  const std::vector<Found> found = likeliest(candidates);
  forget_lost();
  const std::vector<Beam> before = std::exchange(running_, {});  // `ends` may call whatever it likes
  std::vector<Beam> running;
  std::vector<int64_t> parents;
  for (int64_t place = 0; place < std::ssize(found); ++place) {
    if (place >= rules_.width && std::ssize(running) == rules_.width) break;
    const auto& [total, parent, token] = found[place];
    Beam beam{kNone, before[parent].n_tokens + 1, total};
    beam.ended = beam.alive() && ends && ends(parent, token.id);
    const bool goes_on = !beam.ended && !finishes(token.id, beam.n_tokens);
    if (!goes_on && (place >= rules_.width || !beam.alive())) continue;
    beam.last = std::ssize(tokens_);
    tokens_.push_back({token.id, before[parent].last, {token.logprob, candidates[parent]->best}});
    if (!goes_on) {
      insert_by_score(finished_, beam);
      continue;
    }
    running.push_back(beam);
    parents.push_back(parent);
  }
  if (std::ssize(finished_) > rules_.width) finished_.resize(rules_.width);
  while (!running.empty() && std::ssize(running) < rules_.width) {  // every row goes on, for its blocks' sake
    running.push_back({running[0].last, running[0].n_tokens, -kInfinity});
    parents.push_back(parents[0]);
  }
  running_ = std::move(running);
  begun_ = !running_.empty() || !finished_.empty();
  const bool is_full = std::ssize(finished_) == rules_.width;
  done_ = running_.empty() || !running_[0].alive() || (is_full && !may_improve());
  return parents;
}

std::vector<BeamSearch::Text> BeamSearch::best(int64_t n) const {
  std::vector<Beam> running;
  for (const Beam& beam : running_)
    if (begun_ && beam.alive()) insert_by_score(running, beam);
  std::vector<Text> texts;
  for (const auto* beams : {&finished_, &std::as_const(running)})
    for (const Beam& beam : *beams)
      if (std::ssize(texts) < n) texts.push_back(text_of(beam));
  return texts;
}

void BeamSearch::check(std::span<const Candidates* const> candidates) const {
  TUILI_CHECK(!done_ && !running_.empty(), "the search has ended");
  TUILI_CHECK(std::ssize(candidates) == n_running(), "candidates of ", candidates.size(), " beams, where ",
              n_running(), " run");
  for (const Candidates* const one : candidates)
    for (const Candidate& candidate : one->likeliest)
      TUILI_CHECK_KIND(ErrorKind::token_id, candidate.id >= 0, candidate.id, " is no token id");
}

// Drops tokens of no beam that runs or has finished, whenever there are twice as many as were left.
void BeamSearch::forget_lost() {
  if (std::ssize(tokens_) < most_tokens_) return;
  std::vector<int64_t> places(tokens_.size(), kNone);
  for (const auto* beams : {&running_, &finished_})
    for (const Beam& beam : *beams)
      for (int64_t at = beam.last; at != kNone && places[at] == kNone; at = tokens_[at].before)
        places[at] = 0;
  int64_t n = 0;
  for (int64_t at = 0; at < std::ssize(tokens_); ++at) {
    if (places[at] == kNone) continue;
    Token token = std::move(tokens_[at]);
    if (token.before != kNone) token.before = places[token.before];
    tokens_[n] = std::move(token);
    places[at] = n++;
  }
  tokens_.erase(tokens_.begin() + n, tokens_.end());
  for (auto* beams : {&running_, &finished_})
    for (Beam& beam : *beams)
      if (beam.last != kNone) beam.last = places[beam.last];
  most_tokens_ = std::max(most_tokens_, 2 * n);
}

// The n_seen likeliest; of equals those of the first beam, and of these the first.
std::vector<BeamSearch::Found> BeamSearch::likeliest(std::span<const Candidates* const> candidates) const {
  std::vector<Found> found;
  for (int64_t parent = 0; parent < std::ssize(candidates); ++parent)
    for (const Candidate& candidate : candidates[parent]->likeliest) {
      const float total = running_[parent].total + candidate.score;
      TUILI_CHECK(total < kInfinity, "a candidate's log-probability is ", candidate.score);
      found.push_back({total, parent, candidate});
    }
  const auto n = static_cast<size_t>(std::min(n_seen(), std::ssize(found)));
  const auto rank = [](const Found& one) { return std::tuple(-one.total, one.parent, one.candidate.id); };
  std::ranges::partial_sort(found, found.begin() + n, {}, rank);
  found.resize(n);
  return found;
}

bool BeamSearch::finishes(int32_t token_id, int64_t n_tokens) const {
  return n_tokens >= rules_.max_tokens || std::ranges::binary_search(rules_.ending, token_id);
}

// If it is n_tokens long.
float BeamSearch::score(const Beam& beam, int64_t n_tokens) const {
  return beam.total / static_cast<float>(std::pow(static_cast<double>(n_tokens), rules_.length_penalty));
}

// After those that score as much.
void BeamSearch::insert_by_score(std::vector<Beam>& beams, const Beam& beam) const {
  const float own = score(beam);
  auto place = beams.end();
  while (place != beams.begin() && score(place[-1]) < own) --place;
  beams.insert(place, beam);
}

// Whether the best that runs may become better than the worst of the finished ones.
bool BeamSearch::may_improve() const {
  if (rules_.early_stopping == EarlyStopping::yes) return false;
  const bool longest = rules_.early_stopping == EarlyStopping::never && rules_.length_penalty > 0;
  const Beam& beam = running_[0];
  return score(beam, longest ? rules_.max_tokens : beam.n_tokens) > score(finished_.back());
}

BeamSearch::Text BeamSearch::text_of(const Beam& beam) const {
  Text text{{}, {}, score(beam), beam.ended};
  for (int64_t at = beam.last; at != kNone; at = tokens_[at].before) {
    text.token_ids.push_back(tokens_[at].id);
    text.logprobs.push_back(tokens_[at].logprobs);
  }
  std::ranges::reverse(text.token_ids);
  std::ranges::reverse(text.logprobs);
  return text;
}

}  // namespace tuili
