// Who holds the blocks of one area of the cache, and which are given away next. Knows neither tokens nor
// tensors.
//
// A block is in exactly one state: free; held by n_owners > 0; or cached, that is findable and held by
// nobody. Held blocks may be findable too. Cached blocks are given away when no free one is left, least
// recently released first; but a salt that has more than half of all blocks, held or cached, gives its own
// away before those of others, so that no tenant can empty the cache of all. Not for several threads at once.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "base/memory.h"

namespace tuili {

class BlockLedger {
 public:
  static constexpr int32_t kNone = -1;

  explicit BlockLedger(int64_t n_blocks);

  int64_t n_blocks() const { return std::ssize(blocks_); }
  int64_t n_free() const { return std::ssize(free_) + cached_.n; }  // with the cached
  int64_t n_cached() const { return cached_.n; }
  int64_t n_evictions() const { return n_evictions_; }
  int64_t n_spared() const { return n_spared_; }  // evictions that older blocks of other salts escaped
  int64_t n_salts() const { return std::ssize(shares_); }  // that have blocks
  int32_t n_owners(int32_t id) const { return blocks_[id].n_owners; }
  bool findable(int32_t id) const { return blocks_[id].findable; }
  uint64_t salt(int32_t id) const { return blocks_[id].share->salt; }  // of one that is not free

  struct Taken {
    int32_t id;
    bool evicted;  // it was cached: whoever can find it must forget it
  };
  // Gives a block to its first owner. One must be free.
  Taken take(uint64_t salt);

  // Adds an owner to a block that is held or cached.
  void share(int32_t id);

  // Takes an owner away; after the last one the block is cached if it is findable, else free.
  void drop(int32_t id);

  // A held block becomes findable; one that is held or cached stops being so, and is free if nobody holds it.
  void set_findable(int32_t id) { blocks_[id].findable = true; }
  void set_unfindable(int32_t id);

  // Throws internal when the states do not add up.
  void check_invariants() const;

 private:
  struct Links {
    int32_t older = kNone, newer = kNone;
  };
  struct Ages {  // cached blocks by their time of release
    int32_t oldest = kNone, newest = kNone;
    int64_t n = 0;
  };
  struct Share {
    uint64_t salt = 0;
    int64_t n_blocks = 0;  // held or cached
    Ages cached;
  };
  struct Block {
    int32_t n_owners = 0;
    bool findable = false;
    Share* share = nullptr;  // of the salt that has the block; null: free
    Links of_all, of_salt;   // neighbours among the cached
  };

  void free_one(int32_t id);
  int32_t victim() const;
  void link(Ages& ages, Links Block::* links, int32_t id);
  void unlink(Ages& ages, Links Block::* links, int32_t id);
  void link_cached(int32_t id);
  void unlink_cached(int32_t id);
  void check_ages(const Ages& ages, Links Block::* links) const;
  void check_shares() const;

  Vector<Block> blocks_;
  Vector<int32_t> free_;  // a stack
  Ages cached_;
  std::unordered_map<uint64_t, Share> shares_;  // by salt; those that have blocks
  Share* largest_ = nullptr;                    // the one with more than half of all blocks, if there is one
  int64_t n_evictions_ = 0, n_spared_ = 0;
};

}  // namespace tuili
