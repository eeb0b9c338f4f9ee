#include "runtime/block_ledger.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tuili {

BlockLedger::BlockLedger(int64_t n_blocks) {
  blocks_.resize(n_blocks);
  free_.resize(n_blocks);
  for (int64_t i = 0; i < n_blocks; ++i) free_[i] = static_cast<int32_t>(n_blocks - 1 - i);
}

void BlockLedger::link(Ages& ages, Links Block::* links, int32_t id) {
  blocks_[id].*links = {ages.newest, kNone};
  (ages.newest == kNone ? ages.oldest : (blocks_[ages.newest].*links).newer) = id;
  ages.newest = id;
  ++ages.n;
}

void BlockLedger::unlink(Ages& ages, Links Block::* links, int32_t id) {
  const Links own = blocks_[id].*links;
  (own.older == kNone ? ages.oldest : (blocks_[own.older].*links).newer) = own.newer;
  (own.newer == kNone ? ages.newest : (blocks_[own.newer].*links).older) = own.older;
  --ages.n;
}

void BlockLedger::link_cached(int32_t id) {
  link(cached_, &Block::of_all, id);
  link(blocks_[id].share->cached, &Block::of_salt, id);
}

void BlockLedger::unlink_cached(int32_t id) {
  unlink(cached_, &Block::of_all, id);
  unlink(blocks_[id].share->cached, &Block::of_salt, id);
}

// The cached block that is given away next. There must be one.
int32_t BlockLedger::victim() const {
  const bool own = largest_ != nullptr && largest_->cached.n > 0;
  return own ? largest_->cached.oldest : cached_.oldest;
}

// Frees a block that nobody holds or finds any more.
void BlockLedger::free_one(int32_t id) {
  Share& share = *std::exchange(blocks_[id].share, nullptr);
  free_.push_back(id);
  --share.n_blocks;
  if (largest_ == &share && 2 * share.n_blocks <= n_blocks()) largest_ = nullptr;
  if (share.n_blocks == 0) shares_.erase(share.salt);
}

BlockLedger::Taken BlockLedger::take(uint64_t salt) {
  Share& share = shares_[salt];
  share.salt = salt;
  ++share.n_blocks;  // before another is given away, which may be the last of this salt's
  const auto note_largest = [&] {
    if (largest_ == nullptr && 2 * share.n_blocks > n_blocks()) largest_ = &share;
  };
  note_largest();
  const bool evicts = free_.empty();
  if (evicts) {
    const int32_t id = victim();
    ++n_evictions_;
    n_spared_ += id != cached_.oldest;
    set_unfindable(id);
    note_largest();
  }
  const int32_t id = free_.back();
  free_.pop_back();
  blocks_[id].n_owners = 1;
  blocks_[id].share = &share;
  return {id, evicts};
}

void BlockLedger::share(int32_t id) {
  if (blocks_[id].n_owners++ == 0) unlink_cached(id);
}

void BlockLedger::drop(int32_t id) {
  if (--blocks_[id].n_owners > 0) return;
  if (blocks_[id].findable)
    link_cached(id);
  else
    free_one(id);
}

void BlockLedger::set_unfindable(int32_t id) {
  blocks_[id].findable = false;
  if (blocks_[id].n_owners > 0) return;
  unlink_cached(id);
  free_one(id);
}

// ---- invariants

namespace {

void expect(bool condition, const char* what) { TUILI_EXPECT(condition, "block ledger: ", what); }

}  // namespace

void BlockLedger::check_ages(const Ages& ages, Links Block::* links) const {
  int64_t n = 0;
  int32_t before = kNone;
  for (int32_t id = ages.oldest; id != kNone; before = id, id = (blocks_[id].*links).newer, ++n) {
    expect(n < n_blocks() && (blocks_[id].*links).older == before, "a cached block is listed twice");
    expect(blocks_[id].n_owners == 0 && blocks_[id].findable, "a cached block is held or not findable");
    expect(&ages == &cached_ || &ages == &blocks_[id].share->cached, "a cached block is in another's list");
  }
  expect(n == ages.n && ages.newest == before, "the number of cached blocks is wrong");
}

void BlockLedger::check_shares() const {
  check_ages(cached_, &Block::of_all);
  int64_t n = 0, n_cached = 0;
  for (const auto& [salt, share] : shares_) {
    check_ages(share.cached, &Block::of_salt);
    expect(share.salt == salt && share.n_blocks > 0, "a salt without blocks is listed");
    expect(share.n_blocks == std::ranges::count(blocks_, &share, &Block::share),
           "the number of a salt's blocks is wrong");
    expect((largest_ == &share) == (2 * share.n_blocks > n_blocks()), "the largest salt is another");
    n += share.n_blocks;
    n_cached += share.cached.n;
  }
  expect(n + std::ssize(free_) == n_blocks(), "a block is neither free nor any salt's");
  expect(n_cached == cached_.n, "a cached block is in no salt's list");
}

void BlockLedger::check_invariants() const {
  Vector<uint8_t> seen(n_blocks(), 0);
  for (const int32_t id : free_) {
    expect(id >= 0 && id < n_blocks() && !seen[id], "a free block is listed twice");
    expect(blocks_[id].n_owners == 0 && !blocks_[id].findable, "a free block is held or findable");
    expect(blocks_[id].share == nullptr, "a free block is some salt's");
    seen[id] = 1;
  }
  check_shares();
  for (int64_t id = 0; id < n_blocks(); ++id) {
    const bool cached = blocks_[id].n_owners == 0 && blocks_[id].findable;
    expect(seen[id] + cached == (blocks_[id].n_owners == 0), "a block is neither free, cached nor held");
  }
  expect(std::ranges::count_if(blocks_, [](const Block& b) { return b.n_owners == 0 && b.findable; }) ==
             cached_.n,
         "a cached block is not listed");
}

}  // namespace tuili
