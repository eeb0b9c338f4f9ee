// The runner's part of which rows of a batch somebody wants the final hidden states of.
#include <algorithm>

#include "runtime/runner.h"

namespace tuili {

// Rows [row, row + n) of the batch; in any order, and more than once.
void Runner::ask_for(int64_t row, int64_t n) {
  for (auto one = static_cast<int32_t>(row); one < row + n; ++one) {
    const bool is_next = asked_.empty() || asked_.back() < one;
    const auto place = is_next ? asked_.end() : std::ranges::lower_bound(asked_, one);
    if (is_next || *place != one) asked_.insert(place, one);
  }
}

// Where among the final hidden states that of a row is, which was asked for.
int64_t Runner::place_of(int64_t row) const {
  return std::ranges::lower_bound(asked_, static_cast<int32_t>(row)) - asked_.begin();
}

// The rows asked for as attention takes them. Neighbours go through the keys of their sequence
// together, and so do all rows of a source through its.
AskedRows Runner::place_asked() {
  const int64_t n_asked = std::ssize(asked_), area = cache_ ? cache_->view().back().area : 0;
  int64_t next = 0;
  for (const ops::SequenceRows& s : places_[area].rows) {
    const int64_t end = s.first_row + s.n_rows;
    while (next < n_asked && asked_[next] < end) {
      const int64_t first = next, row = asked_[first];
      while (next < n_asked && asked_[next] < end && asked_[next] - row == next - first) ++next;
      asked_rows_.push_back({first, next - first, s.position + row - s.first_row, s.n_keys, s.blocks});
    }
  }
  next = 0;
  for (const ops::SequenceRows& s : sources_) {
    const int64_t first = next;
    while (next < n_asked && asked_[next] < s.first_row + s.n_rows) ++next;
    if (next > first) asked_sources_.push_back({first, next - first, s.position, s.n_keys, s.blocks});
  }
  return {asked_, area, {asked_rows_, {}}, {asked_sources_, {}}};
}

}  // namespace tuili
