#include "runtime/prompt_lookup.h"

#include <algorithm>

namespace tuili {
namespace {

// One token alone stands in too many places to tell what follows.
constexpr int64_t kShortestMatch = 2, kLongestMatch = 3;
constexpr int64_t kLongestPause = 32;  // steps: a draft that fails costs a fifth of a step, hence under 1 %

// One past the latest of the longest matches of the text's end; 0: none.
int64_t place_after_match(const Vector<int32_t>& tokens) {
  const int64_t n = std::ssize(tokens);
  int64_t best = 0, best_length = kShortestMatch - 1;
  for (int64_t i = n - 2; i >= 0 && best_length < kLongestMatch; --i) {
    int64_t length = 0;
    while (length < kLongestMatch && length <= i && tokens[i - length] == tokens[n - 1 - length]) ++length;
    if (length <= best_length) continue;
    best = i + 1;
    best_length = length;
  }
  return best;
}

}  // namespace

int64_t PromptLookup::draft(Vector<int32_t>& tokens, int64_t n_room) {
  const int64_t n = std::min({length_, n_most_, n_room});
  if (n <= 0 || (pause_ > 0 && pause_-- > 0)) return 0;
  const int64_t from = place_after_match(tokens);
  if (from == 0) return 0;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(tokens[from + i]);  // may read what it wrote: a short loop
  return n;
}

void PromptLookup::learn(int64_t n_drafted, int64_t n_kept) {
  if (n_drafted == 0) return;
  const int64_t more = std::min(2 * length_ + 1, n_most_),
                less = std::max<int64_t>((length_ + n_kept) / 2, 1);
  length_ = n_kept == n_drafted ? more : less;
  n_failures_ = n_kept ? 0 : n_failures_ + 1;
  pause_ = n_kept ? 0 : std::min(int64_t{1} << std::min<int64_t>(n_failures_, 10), kLongestPause);
}

}  // namespace tuili
