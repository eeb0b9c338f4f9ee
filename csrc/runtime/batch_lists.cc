#include "runtime/batch_lists.h"

#include <algorithm>

namespace tuili {

BatchLists::BatchLists(int64_t n_areas, int64_t max_rows, int64_t max_seqs) : places_(n_areas) {
  for (Vector<int32_t>* list : {&token_ids_, &token_types_, &positions_, &position_rows_, &asked_})
    list->reserve(max_rows);
  areas_.reserve(n_areas);
  for (Places& places : places_) {
    places.slots.reserve(max_rows);
    places.rows.reserve(max_seqs);
  }
  sources_.reserve(max_seqs);
  asked_rows_.reserve(max_rows);
  asked_sources_.reserve(max_seqs);
}

void BatchLists::clear() {
  for (Vector<int32_t>* list : {&token_ids_, &token_types_, &positions_, &position_rows_, &asked_})
    list->clear();
  for (Places& places : places_) {
    places.slots.clear();
    places.rows.clear();
  }
  sources_.clear();
  asked_rows_.clear();
  asked_sources_.clear();
}

void BatchLists::add_rows(const ModelSpec& spec, std::span<const int32_t> tokens,
                          std::span<const int32_t> types, int64_t begin, int64_t n_rows, int64_t n_padded) {
  if (spec.padding_id < 0) n_padded = 0;
  int64_t n_padding = std::ranges::count(tokens.first(std::min(begin, n_padded)), spec.padding_id);
  for (int64_t i = begin; i < begin + n_rows; ++i) {
    token_ids_.push_back(tokens[i]);
    token_types_.push_back(types.empty() ? 0 : types[i]);
    positions_.push_back(static_cast<int32_t>(i));
    const bool is_padding = tokens[i] == spec.padding_id;
    n_padding = i < n_padded ? n_padding + is_padding : 0;
    const int64_t position = is_padding ? -1 : i - n_padding;
    position_rows_.push_back(static_cast<int32_t>(position + spec.position_offset));
  }
}

void BatchLists::add_places(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks,
                            int64_t block_size) {
  places_[area].rows.push_back({std::ssize(places_[area].slots), n_rows, begin, begin + n_rows, blocks});
  add_slots(area, begin, n_rows, blocks, block_size);
}

void BatchLists::add_slots(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks,
                           int64_t block_size) {
  for (int64_t i = begin; i < begin + n_rows; ++i)
    places_[area].slots.push_back(static_cast<int32_t>(blocks[i / block_size] * block_size + i % block_size));
}

void BatchLists::add_source(int64_t n_source, const int32_t* blocks) {
  const ops::SequenceRows& rows = places_[0].rows.back();
  if (!sources_.empty() && sources_.back().blocks[0] == blocks[0])
    sources_.back().n_rows += rows.n_rows;
  else
    sources_.push_back({rows.first_row, rows.n_rows, rows.position, n_source, blocks});
}

void BatchLists::ask_for(int64_t row, int64_t n) {
  for (auto one = static_cast<int32_t>(row); one < row + n; ++one) {
    const bool is_next = asked_.empty() || asked_.back() < one;
    const auto place = is_next ? asked_.end() : std::ranges::lower_bound(asked_, one);
    if (is_next || *place != one) asked_.insert(place, one);
  }
}

int64_t BatchLists::place_of(int64_t row) const {
  return std::ranges::lower_bound(asked_, static_cast<int32_t>(row)) - asked_.begin();
}

StepBatch BatchLists::all() {
  areas_.clear();
  for (const Places& places : places_) areas_.push_back({places.slots, {places.rows, {}}});
  return {token_ids_, token_types_, position_rows_, areas_, {sources_, {}}, {}};
}

StepBatch BatchLists::asked(int64_t last_area) {
  StepBatch batch = all();
  if (asked_.size() < token_ids_.size()) batch.asked = place_asked(last_area);
  return batch;
}

// The rows asked for as attention takes them. Neighbours go through the keys of their sequence
// together, and so do all rows of a source through its.
AskedRows BatchLists::place_asked(int64_t area) {
  const int64_t n_asked = std::ssize(asked_);
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
