// Ids of KV blocks: which sequence holds them, and which can be found by the tokens they hold. Knows no
// tensors.
//
// A sequence holds a block for every block_size tokens. In the area of a sliding window it holds only those
// that tokens to come may see, and gives them back as it goes on. Blocks are found by the tokens up to their
// end; a window's are found through the block, of those for all keys, that has the same tokens: when that one
// is given away, so are they. A sequence with a source holds blocks for all of that besides, from the first
// grow() on, and neither finds nor publishes any. Not for several threads at once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/rounding.h"
#include "runtime/areas.h"
#include "runtime/block_ledger.h"
#include "runtime/sequence.h"

namespace tuili {

struct BlockPoolOptions {
  int64_t n_blocks = 0;
  int64_t block_size = 32;  // tokens of one block
  bool prefix_cache = true;
  uint64_t key = 0;                   // secret of the hash, so that no prompt is made to collide; 0 draws one
  uint64_t hash_mask = ~uint64_t{0};  // tests set 0, so that every block collides
  std::vector<WindowArea> windows;    // shortest window first
  int64_t step_tokens = 512;          // that a step computes of one sequence at most
};

class BlockPool {
 public:
  explicit BlockPool(const BlockPoolOptions& options);
  BlockPool(const BlockPool&) = delete;  // sequences know it by its id

  int64_t n_blocks() const { return options_.n_blocks; }
  int64_t block_size() const { return options_.block_size; }
  int64_t n_windows() const { return std::ssize(windows_); }
  const BlockLedger& ledger() const { return ledger_; }
  const BlockLedger& ledger(int64_t window_id) const { return windows_[window_id].ledger; }
  int64_t window(int64_t window_id) const { return windows_[window_id].window; }
  int64_t span(int64_t window_id) const { return windows_[window_id].span; }
  int64_t least_free() const;                 // of all areas
  int64_t n_hits() const { return n_hits_; }  // blocks that sequences have found so far
  int64_t n_owners(int64_t id) const;

  // The most blocks that a sequence needs at once in the area of a window, to go on by step_tokens.
  static int64_t window_span(int64_t window, int64_t block_size, int64_t step_tokens);

  // Shares the longest findable prefix of whole blocks that leaves a token to compute, and returns its
  // tokens. A sequence that collects rows shares nothing: its rows must be computed.
  int64_t attach_prefix(Sequence& sequence);

  // The same, of n_tokens at most, without regard to windows: the sequence gets none of their blocks, and
  // cannot be computed on.
  int64_t attach_chain(Sequence& sequence, int64_t n_tokens);

  // Lets `child`, which holds no blocks, begin with n_tokens that `parent` has computed: whole blocks are
  // shared, and for a part of one the child gets a block of its own, into which the parent's is to be copied
  // before anything is computed (Runner::copy_block): one copy per area. No value: no block is free, or the
  // parent has given back what the child would see, and nothing has changed.
  std::optional<std::vector<BlockCopy>> fork(Sequence& child, const Sequence& parent, int64_t n_tokens);

  // Makes `child` what `parent` has computed, and one token more. What the two have in common stays where it
  // is: only the tokens after it are to be copied into the block that both fill. Otherwise as fork; but
  // without a value the child holds nothing.
  std::optional<std::vector<BlockCopy>> follow(Sequence& child, const Sequence& parent, int32_t token_id);

  // Lets `child` read the source's keys and values that `parent`, with the same source, has. Nothing happens
  // if it holds a source's blocks already, or the parent has none that are computed.
  void share_source(Sequence& child, const Sequence& parent);

  // Gives the sequence blocks for n_tokens in all, or nothing at all and false. In the area of a window only
  // those that a step at `position` (by default n_computed) reads or fills; what no token from there on sees
  // is taken back.
  bool grow(Sequence& sequence, int64_t n_tokens, std::optional<int64_t> position = {});

  // grow() for the token that each sequence drew last and has not computed, if that is its only one. Returns
  // the places of these sequences among all; no value if one found no block: those before it have theirs.
  std::optional<Vector<int64_t>> grow_decoding(std::span<Sequence* const> sequences);

  // grow() by n_steps for all of them, unless that would leave less than n_spare blocks free in an area.
  bool grow_ahead(std::span<Sequence* const> sequences, int64_t n_steps, int64_t n_spare);

  // Tokens after n_computed for which every one of the sequences has blocks.
  static int64_t room(std::span<const Sequence* const> sequences);

  // Makes the sequence's computed whole blocks findable.
  void publish(Sequence& sequence);

  // Takes back what no token to come sees.
  void release_unseen(Sequence& sequence);

  // Takes all blocks back; n_computed becomes 0, the tokens stay.
  void release(Sequence& sequence);

  // Blocks of no sequence, under salt 0: n of them, or no value and none. Another owner of one; one less.
  std::optional<Vector<int32_t>> take(int64_t n);
  void share(int64_t id);
  void drop(int64_t id);

  // Lets no block be found any more; those that nobody holds are free.
  void clear_cache();

  // Throws internal when the ledgers do not add up: free + cached + held = total, index and blocks in
  // bijection.
  void check_invariants() const;

 private:
  static constexpr int32_t kNone = BlockLedger::kNone;

  struct Indexed {                     // of a findable block
    uint64_t parent = 0, content = 0;  // content ids; 0 is "before the first block"
    uint64_t hash = 0;
    int32_t next_in_bucket = kNone;
  };
  struct Window {
    int64_t window, span;
    BlockLedger ledger;
    Vector<int32_t> twin;     // per block for all keys: the block here that has the same tokens, if findable
    Vector<int32_t> twin_of;  // the reverse
  };

  void check_id(int64_t id) const;
  void check_sequence(const Sequence& sequence) const;
  void adopt(Sequence& sequence) const;
  int64_t blocks_for(int64_t n_tokens) const { return ceil_div(n_tokens, block_size()); }
  int64_t first_block(const Window& window, int64_t position) const;
  int64_t end_block(const Window& window, int64_t n_tokens, int64_t position) const;
  int32_t take_one(uint64_t salt);
  static int32_t take_one(Window& window, uint64_t salt);
  void release_before(Sequence& sequence, int64_t position);
  std::span<const int32_t> tokens_at(const Sequence& sequence, int64_t block) const;
  uint64_t hash_of(uint64_t salt, uint64_t parent, std::span<const int32_t> tokens) const;
  int32_t find(uint64_t hash, uint64_t salt, uint64_t parent, std::span<const int32_t> tokens) const;
  Vector<int32_t> find_chain(const Sequence& sequence, int64_t n_tokens) const;
  int64_t n_usable(std::span<const int32_t> chain) const;
  int64_t share_chain(Sequence& sequence, std::span<const int32_t> chain);
  bool holds_window(const Sequence& sequence, int64_t n_tokens) const;
  int32_t indexed(Sequence& sequence, int64_t i);
  void make_findable(int32_t id, uint64_t hash, uint64_t parent, std::span<const int32_t> tokens);
  void forget(int32_t id);
  static void pair(Window& window, int32_t id, int32_t twin);
  void check_index() const;
  void check_twins() const;
  std::span<const int32_t> tokens_of(int64_t id) const {
    return {tokens_.data() + id * options_.block_size, static_cast<size_t>(options_.block_size)};
  }
  size_t bucket_of(uint64_t hash) const { return hash & (buckets_.size() - 1); }

  const uint64_t id_;  // no other pool of the process has it, unlike an address
  BlockPoolOptions options_;
  BlockLedger ledger_;
  std::vector<Window> windows_;
  Vector<Indexed> index_;    // [n_blocks]
  Vector<int32_t> tokens_;   // [n_blocks, block_size], of findable blocks
  Vector<int32_t> buckets_;  // first block of each chain; a power of two of them
  uint64_t next_content_ = 1;
  int64_t n_hits_ = 0;
};

}  // namespace tuili
