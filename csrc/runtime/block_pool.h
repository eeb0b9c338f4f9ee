// Ids of KV blocks: who holds them, and which can be found by the tokens they hold. Knows no tensors.
//
// A block is in exactly one state: free; held by n_owners > 0; or cached, that is findable and held by
// nobody. Held blocks may be findable too. Cached blocks are given away when no free one is left, least
// recently released first; but a salt that has more than half of all blocks, held or cached, gives its own
// away before those of others, so that no tenant can empty the cache of all. Not for several threads at once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>

#include "base/memory.h"
#include "runtime/sequence.h"

namespace tuili {

struct BlockPoolOptions {
  int64_t n_blocks = 0;
  int64_t block_size = 32;  // tokens of one block
  bool prefix_cache = true;
  uint64_t key = 0;                   // secret of the hash; 0 draws one
  uint64_t hash_mask = ~uint64_t{0};  // tests set 0, so that every block collides
};

struct BlockCopy {
  int32_t from = 0, to = 0;  // the same: nothing to copy
};

class BlockPool {
 public:
  explicit BlockPool(const BlockPoolOptions& options);
  BlockPool(const BlockPool&) = delete;  // sequences know it by its id

  int64_t n_blocks() const { return options_.n_blocks; }
  int64_t block_size() const { return options_.block_size; }
  int64_t n_free() const { return static_cast<int64_t>(free_.size()) + cached_.n; }
  int64_t n_cached() const { return cached_.n; }
  int64_t n_hits() const { return n_hits_; }
  int64_t n_evictions() const { return n_evictions_; }
  int64_t n_spared() const { return n_spared_; }  // evictions that older blocks of other salts escaped
  int64_t n_salts() const { return static_cast<int64_t>(shares_.size()); }  // that have blocks
  int64_t n_owners(int64_t id) const;

  // Shares the longest findable prefix of whole blocks that leaves a token to compute, and returns its
  // tokens. A sequence that collects rows shares nothing: its rows must be computed.
  int64_t attach_prefix(Sequence& sequence);

  // Lets `child`, which holds no blocks, begin with n_tokens that `parent` has computed: whole blocks are
  // shared, and for a part of one the child gets a block of its own, into which the parent's is to be copied
  // before anything is computed (Runner::copy_block). No value: no block is free, and nothing has changed.
  std::optional<BlockCopy> fork(Sequence& child, const Sequence& parent, int64_t n_tokens);

  // Gives the sequence blocks for n_tokens in all, or nothing at all and false.
  bool grow(Sequence& sequence, int64_t n_tokens);

  // Makes the sequence's computed whole blocks findable.
  void publish(Sequence& sequence);

  // Takes all blocks back; n_computed becomes 0, the tokens stay.
  void release(Sequence& sequence);

  std::optional<Vector<int32_t>> take(int64_t n);
  void share(int64_t id);
  void drop(int64_t id);
  void clear_cache();

  // Throws internal when the ledger does not add up: free + cached + held = total, index and blocks in
  // bijection.
  void check_invariants() const;

 private:
  static constexpr int32_t kNone = -1;

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
    Share* share = nullptr;            // of the salt that has the block; null: free
    uint64_t parent = 0, content = 0;  // content ids; 0 is "before the first block"
    uint64_t hash = 0;
    int32_t next_in_bucket = kNone;
    Links of_all, of_salt;  // neighbours among the cached
  };

  void check_id(int64_t id) const;
  void check_sequence(const Sequence& sequence) const;
  Share& share_of(uint64_t salt);
  int32_t take_one(Share& share);
  void free_one(int32_t id);
  int32_t victim() const;
  uint64_t hash_of(uint64_t salt, uint64_t parent, std::span<const int32_t> tokens) const;
  int32_t find(uint64_t hash, uint64_t salt, uint64_t parent, std::span<const int32_t> tokens) const;
  void make_findable(int32_t id, uint64_t hash, uint64_t parent, std::span<const int32_t> tokens);
  void make_unfindable(int32_t id);
  void link(Ages& ages, Links Block::* links, int32_t id);
  void unlink(Ages& ages, Links Block::* links, int32_t id);
  void link_cached(int32_t id);
  void unlink_cached(int32_t id);
  void check_ages(const Ages& ages, Links Block::* links) const;
  void check_shares() const;
  void check_index() const;
  std::span<const int32_t> tokens_of(int64_t id) const {
    return {tokens_.data() + id * options_.block_size, static_cast<size_t>(options_.block_size)};
  }
  int32_t& bucket_of(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }

  const uint64_t id_;  // no other pool of the process has it, unlike an address
  BlockPoolOptions options_;
  Vector<Block> blocks_;
  Vector<int32_t> tokens_;   // [n_blocks, block_size], of findable blocks
  Vector<int32_t> free_;     // a stack
  Vector<int32_t> buckets_;  // first block of each chain; a power of two of them
  Ages cached_;
  std::unordered_map<uint64_t, Share> shares_;  // by salt; those that have blocks
  Share* largest_ = nullptr;                    // the one with more than half of all blocks, if there is one
  uint64_t next_content_ = 1;
  int64_t n_hits_ = 0, n_evictions_ = 0, n_spared_ = 0;
};

}  // namespace tuili
