// The lists of a step: what its rows are, where their keys and values go, whose final hidden states somebody
// wants. Of whole texts, and of parts of sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "model/batch.h"
#include "model/spec.h"

namespace tuili {

class BatchLists {
 public:
  // Nothing is allocated afterwards.
  BatchLists(int64_t n_areas, int64_t max_rows, int64_t max_seqs);

  void clear();

  // Appends rows [begin, begin + n_rows) of a text. Padding has no row of learned positions; among the first
  // n_padded tokens those behind it take the rows that it left. types: empty, or as the tokens.
  void add_rows(const ModelSpec& spec, std::span<const int32_t> tokens, std::span<const int32_t> types,
                int64_t begin, int64_t n_rows, int64_t n_padded);
  // Where the keys of these rows go in an area, and that they form a sequence there.
  void add_places(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks, int64_t block_size);
  void add_slots(int64_t area, int64_t begin, int64_t n_rows, const int32_t* blocks, int64_t block_size);
  // What the last sequence's rows see of a source. Siblings and beams beside each other go through the keys
  // and values that they share as one.
  void add_source(int64_t n_source, const int32_t* blocks);

  // Rows [row, row + n) of the batch; in any order, and more than once.
  void ask_for(int64_t row, int64_t n = 1);
  // Where among the final hidden states that of a row is, which was asked for.
  int64_t place_of(int64_t row) const;

  int64_t n_rows() const { return std::ssize(token_ids_); }
  std::span<const ops::SequenceRows> sequences() const { return places_[0].rows; }
  std::span<const int32_t> positions() const { return positions_; }
  // Views of the lists. last_area: of the last layer, which computes the rows asked for alone.
  StepBatch all();
  StepBatch asked(int64_t last_area);

 private:
  struct Places {
    Vector<int32_t> slots;
    Vector<ops::SequenceRows> rows;
  };
  AskedRows place_asked(int64_t area);

  Vector<int32_t> token_ids_, token_types_, positions_, position_rows_;
  std::vector<Places> places_;  // one per area
  Vector<AreaRows> areas_;      // views of them
  Vector<ops::SequenceRows> sources_;
  Vector<int32_t> asked_;  // ascending
  Vector<ops::SequenceRows> asked_rows_, asked_sources_;
};

}  // namespace tuili
