// Prompt lookup: where a text's last tokens stood before, what followed them is a guess at what comes next.
// Source: Saxena 2023, "Prompt lookup decoding". A guess is computed together with the last token and kept
// only if it is what is drawn there, so it can change the speed of a text, never the text.
#pragma once

#include <cstdint>

#include "base/memory.h"

namespace tuili {

class PromptLookup {
 public:
  explicit PromptLookup(int64_t n_most = 0) : n_most_(n_most) {}

  // Guesses of one step at most; 0: none ever.
  int64_t n_most() const { return n_most_; }

  // Appends up to n_room guesses to the text and returns how many. Allocates nothing when there is capacity.
  int64_t draft(Vector<int32_t>& tokens, int64_t n_room);

  // Tells how many of the guesses of a step were right: the next are more, or fewer, or none for some steps.
  void learn(int64_t n_drafted, int64_t n_kept);

 private:
  int64_t n_most_;
  int64_t length_ = 1;  // guesses of the next draft
  int64_t n_failures_ = 0, pause_ = 0;
};

}  // namespace tuili
