// A beam search carried out on sequences: one per beam, which share the blocks of what they have in common
// and all compute the same number of tokens. Whoever is done with a step waits for the others.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/beam_search.h"
#include "runtime/block_pool.h"
#include "runtime/sequence.h"

namespace tuili {

class BeamRows {
 public:
  struct Move {           // of a running beam, in the search's order
    int64_t parent, row;  // the beam before the step that it continues; the sequence that it is in now
    int32_t token_id;
    bool alive;  // see BeamSearch::is_alive
  };

  // As many sequences as the search has beams. The first computes the prompt; the others follow it in the
  // first step.
  BeamRows(std::shared_ptr<BeamSearch> search, std::vector<std::shared_ptr<Sequence>> rows);

  const BeamSearch& search() const { return *search_; }
  // Whether every sequence is computed to its end, so that none waits for another.
  bool ready() const;
  void hold(HeldSequences& held) const;

  // Takes a step of the search, after which, if it is not done, every running beam has a sequence with its
  // last token to compute. A beam stays in its parent's if it is the first to; the others get those whose
  // beams have ended. Such a sequence gives up a block of its own where it takes one, so that there always is
  // one. Adds to `copies` what is to be copied before anything is computed (Runner::copy_block), when all
  // searches have taken their steps: no copy goes where another comes from. The caller has the sequences and
  // the pool to itself; `ends` is kept from the sequences. After an error the search cannot go on.
  void advance(BlockPool& pool, const EndsBeam& ends, std::vector<std::vector<BlockCopy>>* copies);

  const std::vector<Move>& moves() const { return moves_; }  // of the last step; none: it ended the search

 private:
  std::vector<int64_t> choose(const EndsBeam& ends);
  void place(std::span<const int64_t> parents);

  const std::shared_ptr<BeamSearch> search_;
  const std::vector<std::shared_ptr<Sequence>> rows_;
  std::vector<int64_t> holders_{0};  // of the running beams: their rows
  std::vector<Move> moves_;
};

}  // namespace tuili
