// The block pool's part of sequences that go on from what another has computed.
#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "runtime/block_pool.h"

namespace tuili {
namespace {

void check_may_share(const Sequence& child, const Sequence& parent) {
  TUILI_CHECK(!child.collect.anything() && child.token_types.empty() && parent.token_types.empty(),
              "fork: a sequence that collects rows or has token types shares none");
  TUILI_CHECK(child.salt == parent.salt, "fork: the sequences differ in their salt");
}

}  // namespace

void BlockPool::share_source(Sequence& child, const Sequence& parent) {
  check_sequence(child);
  check_sequence(parent);
  TUILI_CHECK(child.source == parent.source, "share_source: the sequences differ in their sources");
  if (!parent.source_kept || !child.source_blocks.empty()) return;
  adopt(child);
  child.source_blocks = parent.source_blocks;
  for (const int32_t id : child.source_blocks) ledger_.share(id);
  child.source_kept = true;
}

std::optional<std::vector<BlockCopy>> BlockPool::fork(Sequence& child, const Sequence& parent,
                                                      int64_t n_tokens) {
  check_sequence(child);
  check_sequence(parent);
  TUILI_CHECK(child.blocks.empty() && child.n_computed == 0, "fork: the child holds blocks");
  check_may_share(child, parent);
  const int64_t n_there = std::min(parent.n_computed, parent.n_places());  // an encoded one has no places
  TUILI_CHECK(n_tokens >= 0 && n_tokens <= n_there && n_tokens < child.n_tokens(), "fork: ", n_tokens,
              " tokens of ", n_there, " computed, for a child of ", child.n_tokens());
  TUILI_CHECK(std::equal(parent.tokens.begin(), parent.tokens.begin() + n_tokens, child.tokens.begin()),
              "fork: the sequences differ in their first tokens");
  const int64_t n_whole = n_tokens / block_size(), n_blocks = blocks_for(n_tokens);
  if ((n_blocks > n_whole && least_free() == 0) || !holds_window(parent, n_tokens)) return std::nullopt;
  share_source(child, parent);
  std::vector<BlockCopy> copies(1 + windows_.size());
  if (n_blocks == 0) return copies;
  adopt(child);
  child.blocks.reserve(n_blocks);
  child.content.assign(parent.content.begin(),
                       parent.content.begin() + std::min(std::ssize(parent.content), n_whole));
  child.n_computed = n_tokens;
  child.blocks.assign(parent.blocks.begin(), parent.blocks.begin() + n_whole);
  for (const int32_t id : child.blocks) ledger_.share(id);
  if (n_blocks > n_whole) {
    child.blocks.push_back(take_one(child.salt));
    copies[0] = {parent.blocks[n_whole], child.blocks.back(), 0, block_size()};
  }
  for (size_t w = 0; w < windows_.size(); ++w) {
    WindowBlocks& own = child.windows[w];
    const WindowBlocks& theirs = parent.windows[w];
    own.ids.reserve(n_blocks);
    own.n_gone = first_block(windows_[w], n_tokens);
    own.ids.assign(n_whole, kNone);
    for (int64_t i = own.n_gone; i < n_whole; ++i) windows_[w].ledger.share(own.ids[i] = theirs.ids[i]);
    if (n_blocks == n_whole) continue;
    own.ids.push_back(take_one(windows_[w], child.salt));
    copies[w + 1] = {theirs.ids[n_whole], own.ids.back(), 0, block_size()};
  }
  return copies;
}

std::optional<std::vector<BlockCopy>> BlockPool::follow(Sequence& child, const Sequence& parent,
                                                        int32_t token_id) {
  check_sequence(child);
  check_sequence(parent);
  check_may_share(child, parent);
  const int64_t n = parent.n_computed, n_whole = n / block_size(), first = n_whole * block_size();
  TUILI_CHECK(&child != &parent && child.source == parent.source && child.n_prompt <= n,
              "follow: no computed sequence of the same prompt and source");
  TUILI_CHECK(n <= parent.n_places(), "follow: the sequence was encoded, and holds no blocks");
  TUILI_CHECK_KIND(ErrorKind::token_id, token_id >= 0, token_id, " is no token id");
  const std::span<const int32_t> tokens = std::span(parent.tokens).first(n);
  const int64_t n_same = std::ranges::mismatch(child.tokens, tokens).in2 - tokens.begin();
  const bool is_there = child.n_computed == n && n_same == n;
  const bool keeps = child.n_computed == n && n_same >= first && windows_.empty() &&
                     std::ssize(child.blocks) == n_whole + 1 && ledger_.n_owners(child.blocks[n_whole]) == 1;
  if (!is_there && !keeps) release(child);
  child.tokens.assign(tokens.begin(), tokens.end());
  child.tokens.push_back(token_id);
  if (is_there) return std::vector<BlockCopy>(1 + windows_.size());
  if (!keeps) return fork(child, parent, n);
  for (int64_t i = 0; i < n_whole; ++i) {
    ledger_.share(parent.blocks[i]);
    ledger_.drop(std::exchange(child.blocks[i], parent.blocks[i]));
  }
  return std::vector<BlockCopy>{{parent.blocks[n_whole], child.blocks[n_whole], n_same - first, n - first}};
}

}  // namespace tuili
