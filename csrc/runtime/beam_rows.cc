#include "runtime/beam_rows.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/check.h"

namespace tuili {

BeamRows::BeamRows(std::shared_ptr<BeamSearch> search, std::vector<std::shared_ptr<Sequence>> rows)
    : search_(std::move(search)), rows_(std::move(rows)) {
  TUILI_CHECK(search_ != nullptr && !search_->begun(), "no search that is to begin");
  const int64_t width = search_->rules().width;
  TUILI_CHECK(std::ssize(rows_) == width, "a search of ", width, " beams on ", rows_.size(), " sequences");
  const std::set<std::shared_ptr<Sequence>> distinct(rows_.begin(), rows_.end());
  TUILI_CHECK(distinct.size() == rows_.size() && !distinct.contains(nullptr),
              "a sequence of a search is None, or there twice");
}

bool BeamRows::ready() const {
  return std::ranges::all_of(rows_, [](const auto& row) { return row->n_computed == row->n_tokens(); });
}

void BeamRows::hold(HeldSequences& held) const {
  for (const auto& row : rows_) held.hold(*row);
}

void BeamRows::advance(BlockPool& pool, const EndsBeam& ends, std::vector<std::vector<BlockCopy>>* copies) {
  moves_.clear();
  const std::vector<int64_t> parents = choose(ends), before = holders_;
  if (search_->done()) return;
  place(parents);
  for (const Move& move : moves_) {
    const int64_t from = before[move.parent];
    if (move.row == from) {
      rows_[from]->tokens.push_back(move.token_id);
      continue;
    }
    auto copy = pool.follow(*rows_[move.row], *rows_[from], move.token_id);
    TUILI_EXPECT(copy.has_value(), "a beam found no block");
    copies->push_back(std::move(*copy));
  }
}

// The search's step.
std::vector<int64_t> BeamRows::choose(const EndsBeam& ends) {
  HeldSequences held;  // `ends` may call whatever it likes
  hold(held);
  TUILI_CHECK(search_->n_running() == std::ssize(holders_), "the search has gone on without its sequences");
  std::vector<const Candidates*> candidates;
  for (const int64_t row : holders_) {
    const Sequence& s = *rows_[row];
    TUILI_CHECK(s.n_computed == s.n_tokens(), "a beam has a token to compute");
    candidates.push_back(&s.candidates);
  }
  return search_->advance(candidates, ends);
}

// Which sequence each of the running beams goes on in.
void BeamRows::place(std::span<const int64_t> parents) {
  const std::vector<int64_t> before = std::exchange(holders_, {});
  std::vector<uint8_t> is_held(rows_.size());
  for (const int64_t parent : parents) is_held[before[parent]] = 1;
  std::vector<uint8_t> has_child(before.size());
  int64_t free = 0;
  for (int64_t beam = 0; beam < std::ssize(parents); ++beam) {
    const int64_t parent = parents[beam];
    int64_t row = before[parent];
    if (std::exchange(has_child[parent], 1)) {
      while (is_held[free]) ++free;
      row = free++;
    }
    holders_.push_back(row);
    moves_.push_back({parent, row, search_->last_token(beam), search_->is_alive(beam)});
  }
}

}  // namespace tuili
