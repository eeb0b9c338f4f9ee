#include "runtime/block_pool.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <random>
#include <utility>

#include "base/check.h"

namespace tuili {
namespace {

uint64_t next_pool_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

uint64_t draw_key() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// SipHash-2-4 of 64-bit words under a secret key: nobody outside can make prompts collide.
// Source: Aumasson & Bernstein 2012, "SipHash: a fast short-input PRF".
class SipHash {
 public:
  explicit SipHash(uint64_t key) {
    const uint64_t k0 = key, k1 = key * 0x9E3779B97F4A7C15u + 1;
    v_[0] = k0 ^ 0x736F6D6570736575u;
    v_[1] = k1 ^ 0x646F72616E646F6Du;
    v_[2] = k0 ^ 0x6C7967656E657261u;
    v_[3] = k1 ^ 0x7465646279746573u;
  }
  void add(uint64_t word) {
    v_[3] ^= word;
    rounds(2);
    v_[0] ^= word;
    length_ += 8;
  }
  uint64_t finish() {
    add(length_ << 56);
    v_[2] ^= 0xFF;
    rounds(4);
    return v_[0] ^ v_[1] ^ v_[2] ^ v_[3];
  }

 private:
  void rounds(int n) {
    for (; n > 0; --n) {
      v_[0] += v_[1];
      v_[2] += v_[3];
      v_[1] = std::rotl(v_[1], 13) ^ v_[0];
      v_[3] = std::rotl(v_[3], 16) ^ v_[2];
      v_[0] = std::rotl(v_[0], 32) + v_[3];
      v_[2] += v_[1];
      v_[3] = std::rotl(v_[3], 21) ^ v_[0];
      v_[1] = std::rotl(v_[1], 17) ^ v_[2];
      v_[2] = std::rotl(v_[2], 32);
    }
  }
  uint64_t v_[4];
  uint64_t length_ = 0;
};

}  // namespace

BlockPool::BlockPool(const BlockPoolOptions& options) : id_(next_pool_id()), options_(options) {
  TUILI_CHECK(options.block_size >= 1 && options.block_size <= 1024, "block_size is ", options.block_size,
              "; it must be in [1, 1024]");
  const int64_t most = std::numeric_limits<int32_t>::max() / options.block_size;
  TUILI_CHECK(options.n_blocks >= 1 && options.n_blocks <= most, "n_blocks is ", options.n_blocks,
              "; it must be in [1, ", most, "]");
  if (options_.key == 0) options_.key = draw_key();
  blocks_.resize(options.n_blocks);
  free_.resize(options.n_blocks);
  for (int64_t i = 0; i < options.n_blocks; ++i) free_[i] = static_cast<int32_t>(options.n_blocks - 1 - i);
  if (!options.prefix_cache) return;
  tokens_.resize(options.n_blocks * options.block_size);
  buckets_.assign(std::bit_ceil(static_cast<uint64_t>(2 * options.n_blocks)), kNone);
}

void BlockPool::check_id(int64_t id) const {
  TUILI_CHECK(id >= 0 && id < n_blocks(), "block ", id, " is not in [0, ", n_blocks(), ")");
}

void BlockPool::check_sequence(const Sequence& sequence) const {
  TUILI_CHECK(!sequence.in_step, "the sequence is in a step that is still running");
  TUILI_CHECK(sequence.blocks.empty() || sequence.pool_id == id_,
              "the sequence holds blocks of another pool");
}

int64_t BlockPool::n_owners(int64_t id) const {
  check_id(id);
  return blocks_[id].n_owners;
}

// ---- blocks

void BlockPool::link(Ages& ages, Links Block::* links, int32_t id) {
  blocks_[id].*links = {ages.newest, kNone};
  (ages.newest == kNone ? ages.oldest : (blocks_[ages.newest].*links).newer) = id;
  ages.newest = id;
  ++ages.n;
}

void BlockPool::unlink(Ages& ages, Links Block::* links, int32_t id) {
  const Links own = blocks_[id].*links;
  (own.older == kNone ? ages.oldest : (blocks_[own.older].*links).newer) = own.newer;
  (own.newer == kNone ? ages.newest : (blocks_[own.newer].*links).older) = own.older;
  --ages.n;
}

void BlockPool::link_cached(int32_t id) {
  link(cached_, &Block::of_all, id);
  link(blocks_[id].share->cached, &Block::of_salt, id);
}

void BlockPool::unlink_cached(int32_t id) {
  unlink(cached_, &Block::of_all, id);
  unlink(blocks_[id].share->cached, &Block::of_salt, id);
}

BlockPool::Share& BlockPool::share_of(uint64_t salt) {
  Share& share = shares_[salt];
  share.salt = salt;
  return share;
}

// The cached block that is given away next. There must be one.
int32_t BlockPool::victim() const {
  const bool own = largest_ != nullptr && largest_->cached.n > 0;
  return own ? largest_->cached.oldest : cached_.oldest;
}

// A free block, or else a cached one. There must be one of either.
int32_t BlockPool::take_one(Share& share) {
  ++share.n_blocks;  // before another is given away, which may be the last of this salt's
  const auto note_largest = [&] {
    if (largest_ == nullptr && 2 * share.n_blocks > n_blocks()) largest_ = &share;
  };
  note_largest();
  if (free_.empty()) {
    const int32_t id = victim();
    ++n_evictions_;
    n_spared_ += id != cached_.oldest;
    unlink_cached(id);
    make_unfindable(id);
    free_one(id);
    note_largest();
  }
  const int32_t id = free_.back();
  free_.pop_back();
  blocks_[id].n_owners = 1;
  blocks_[id].share = &share;
  return id;
}

// Of a block that nobody holds or finds any more.
void BlockPool::free_one(int32_t id) {
  Share& share = *std::exchange(blocks_[id].share, nullptr);
  free_.push_back(id);
  --share.n_blocks;
  if (largest_ == &share && 2 * share.n_blocks <= n_blocks()) largest_ = nullptr;
  if (share.n_blocks == 0) shares_.erase(share.salt);
}

std::optional<Vector<int32_t>> BlockPool::take(int64_t n) {
  TUILI_CHECK(n >= 0, "take: n is ", n);
  if (n > n_free()) return std::nullopt;
  Vector<int32_t> ids(n);
  if (n == 0) return ids;
  Share& share = share_of(0);
  for (int32_t& id : ids) id = take_one(share);
  return ids;
}

void BlockPool::share(int64_t id) {
  check_id(id);
  Block& block = blocks_[id];
  TUILI_CHECK(block.n_owners > 0, "share: nobody holds block ", id);
  ++block.n_owners;
}

void BlockPool::drop(int64_t id) {
  check_id(id);
  Block& block = blocks_[id];
  TUILI_CHECK(block.n_owners > 0, "drop: nobody holds block ", id);
  if (--block.n_owners > 0) return;
  if (block.findable)
    link_cached(static_cast<int32_t>(id));
  else
    free_one(static_cast<int32_t>(id));
}

// ---- finding blocks by what they hold

uint64_t BlockPool::hash_of(uint64_t salt, uint64_t parent, std::span<const int32_t> tokens) const {
  SipHash hash(options_.key);
  hash.add(salt);
  hash.add(parent);
  for (const int32_t token : tokens) hash.add(static_cast<uint32_t>(token));
  return hash.finish() & options_.hash_mask;
}

int32_t BlockPool::find(uint64_t hash, uint64_t salt, uint64_t parent,
                        std::span<const int32_t> tokens) const {
  int32_t id = buckets_[hash & (buckets_.size() - 1)];
  for (; id != kNone; id = blocks_[id].next_in_bucket) {
    const Block& block = blocks_[id];
    if (block.hash == hash && block.share->salt == salt && block.parent == parent &&
        std::ranges::equal(tokens_of(id), tokens))
      return id;
  }
  return kNone;
}

void BlockPool::make_findable(int32_t id, uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) {
  Block& block = blocks_[id];
  block.findable = true;
  block.hash = hash;
  block.parent = parent;
  block.content = next_content_++;
  std::ranges::copy(tokens, tokens_.begin() + id * options_.block_size);
  block.next_in_bucket = std::exchange(bucket_of(hash), id);
}

void BlockPool::make_unfindable(int32_t id) {
  Block& block = blocks_[id];
  int32_t* link = &bucket_of(block.hash);
  while (*link != id) link = &blocks_[*link].next_in_bucket;
  *link = block.next_in_bucket;
  block.next_in_bucket = kNone;
  block.findable = false;
}

void BlockPool::clear_cache() {
  while (cached_.n > 0) {
    const int32_t id = cached_.oldest;
    unlink_cached(id);
    make_unfindable(id);
    free_one(id);
  }
  for (int64_t id = 0; id < n_blocks(); ++id)
    if (blocks_[id].findable) make_unfindable(static_cast<int32_t>(id));
}

// ---- sequences

int64_t BlockPool::attach_prefix(Sequence& sequence) {
  check_sequence(sequence);
  TUILI_CHECK(sequence.blocks.empty() && sequence.n_computed == 0,
              "attach_prefix: the sequence holds blocks");
  if (!options_.prefix_cache || sequence.collect.anything() || !sequence.token_types.empty()) return 0;
  const int64_t size = options_.block_size, n_usable = (sequence.n_tokens() - 1) / size;
  sequence.blocks.reserve(n_usable);
  sequence.content.reserve(n_usable);
  sequence.pool_id = id_;
  sequence.block_size = size;
  uint64_t parent = 0;
  for (int64_t i = 0; i < n_usable; ++i) {
    const std::span<const int32_t> tokens{sequence.tokens.data() + i * size, static_cast<size_t>(size)};
    const int32_t id = find(hash_of(sequence.salt, parent, tokens), sequence.salt, parent, tokens);
    if (id == kNone) break;
    if (blocks_[id].n_owners++ == 0) unlink_cached(id);
    parent = blocks_[id].content;
    sequence.blocks.push_back(id);
    sequence.content.push_back(parent);
    ++n_hits_;
  }
  sequence.n_computed = static_cast<int64_t>(sequence.blocks.size()) * size;
  return sequence.n_computed;
}

std::optional<BlockCopy> BlockPool::fork(Sequence& child, const Sequence& parent, int64_t n_tokens) {
  check_sequence(child);
  check_sequence(parent);
  TUILI_CHECK(child.blocks.empty() && child.n_computed == 0, "fork: the child holds blocks");
  TUILI_CHECK(!child.collect.anything() && child.token_types.empty() && parent.token_types.empty(),
              "fork: a sequence that collects rows or has token types shares none");
  TUILI_CHECK(n_tokens >= 0 && n_tokens <= parent.n_computed && n_tokens < child.n_tokens(),
              "fork: ", n_tokens, " tokens of ", parent.n_computed, " computed, for a child of ",
              child.n_tokens());
  TUILI_CHECK(child.salt == parent.salt &&
                  std::equal(parent.tokens.begin(), parent.tokens.begin() + n_tokens, child.tokens.begin()),
              "fork: the sequences differ in their first tokens, or in their salt");
  const int64_t size = options_.block_size, n_whole = n_tokens / size,
                n_blocks = (n_tokens + size - 1) / size;
  if (n_blocks > n_whole && n_free() == 0) return std::nullopt;
  child.blocks.reserve(n_blocks);
  child.content.assign(
      parent.content.begin(),
      parent.content.begin() + std::min(static_cast<int64_t>(parent.content.size()), n_whole));
  child.pool_id = id_;
  child.block_size = size;
  child.n_computed = n_tokens;
  for (int64_t i = 0; i < n_whole; ++i) {
    ++blocks_[parent.blocks[i]].n_owners;
    child.blocks.push_back(parent.blocks[i]);
  }
  if (n_blocks == n_whole) return BlockCopy{};
  child.blocks.push_back(take_one(share_of(child.salt)));
  return BlockCopy{parent.blocks[n_whole], child.blocks.back()};
}

bool BlockPool::grow(Sequence& sequence, int64_t n_tokens) {
  check_sequence(sequence);
  const auto n_held = static_cast<int64_t>(sequence.blocks.size());
  TUILI_CHECK(n_held > 0 || sequence.n_computed == 0, "grow: the sequence was encoded; decode a new one");
  TUILI_CHECK(n_tokens >= 0 && n_tokens <= std::numeric_limits<int32_t>::max(), "grow: n_tokens is ",
              n_tokens);
  const int64_t n_wanted = (n_tokens + options_.block_size - 1) / options_.block_size - n_held;
  if (n_wanted > n_free()) return false;
  if (n_wanted <= 0) return true;
  // Room for every token of these blocks and the one sampled after them: a step appends without allocating.
  sequence.tokens.reserve((n_held + n_wanted) * options_.block_size + 1);
  sequence.blocks.reserve(n_held + n_wanted);
  sequence.pool_id = id_;
  sequence.block_size = options_.block_size;
  Share& share = share_of(sequence.salt);
  for (int64_t i = 0; i < n_wanted; ++i) sequence.blocks.push_back(take_one(share));
  return true;
}

void BlockPool::publish(Sequence& sequence) {
  check_sequence(sequence);
  if (!options_.prefix_cache || !sequence.token_types.empty()) return;
  const int64_t size = options_.block_size;
  const int64_t n_whole = std::min(sequence.n_computed / size, static_cast<int64_t>(sequence.blocks.size()));
  sequence.content.reserve(n_whole);
  for (auto i = static_cast<int64_t>(sequence.content.size()); i < n_whole; ++i) {
    const uint64_t parent = i == 0 ? 0 : sequence.content[i - 1];
    const std::span<const int32_t> tokens{sequence.tokens.data() + i * size, static_cast<size_t>(size)};
    const uint64_t hash = hash_of(sequence.salt, parent, tokens);
    int32_t id = find(hash, sequence.salt, parent, tokens);
    if (id == kNone) {  // else another sequence computed the same: this copy stays private
      id = sequence.blocks[i];
      TUILI_CHECK_KIND(ErrorKind::internal, blocks_[id].share->salt == sequence.salt,
                       "publish: a block that was taken for another salt");
      // A sequence that shares it may have published it behind another copy of the blocks before it.
      if (!blocks_[id].findable) make_findable(id, hash, parent, tokens);
    }
    sequence.content.push_back(blocks_[id].content);
  }
}

void BlockPool::release(Sequence& sequence) {
  check_sequence(sequence);
  // The last block first: a prefix is given away from its end.
  for (size_t i = sequence.blocks.size(); i-- > 0;) drop(sequence.blocks[i]);
  sequence.blocks.clear();
  sequence.content.clear();
  sequence.pool_id = 0;
  sequence.n_computed = 0;
  sequence.forget_collected();
}

// ---- the ledger

namespace {

void expect(bool condition, const char* what) {
  TUILI_CHECK_KIND(ErrorKind::internal, condition, "block pool: ", what);
}

}  // namespace

void BlockPool::check_ages(const Ages& ages, Links Block::* links) const {
  int64_t n = 0;
  int32_t before = kNone;
  for (int32_t id = ages.oldest; id != kNone; before = id, id = (blocks_[id].*links).newer, ++n) {
    expect(n < n_blocks() && (blocks_[id].*links).older == before, "a cached block is listed twice");
    expect(blocks_[id].n_owners == 0 && blocks_[id].findable, "a cached block is held or not findable");
    expect(&ages == &cached_ || &ages == &blocks_[id].share->cached, "a cached block is in another's list");
  }
  expect(n == ages.n && ages.newest == before, "the number of cached blocks is wrong");
}

void BlockPool::check_shares() const {
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
  expect(n + static_cast<int64_t>(free_.size()) == n_blocks(), "a block is neither free nor any salt's");
  expect(n_cached == cached_.n, "a cached block is in no salt's list");
}

void BlockPool::check_index() const {
  int64_t n_indexed = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    for (int32_t id = buckets_[bucket]; id != kNone; id = blocks_[id].next_in_bucket, ++n_indexed) {
      const Block& block = blocks_[id];
      expect(n_indexed < n_blocks() && block.findable, "the index holds a block that is not findable");
      expect(block.hash == hash_of(block.share->salt, block.parent, tokens_of(id)),
             "a findable block's hash is wrong");
      expect((block.hash & (buckets_.size() - 1)) == bucket, "a block is in another's bucket");
      expect(find(block.hash, block.share->salt, block.parent, tokens_of(id)) == id,
             "two findable blocks are equal");
    }
  }
  expect(n_indexed == std::ranges::count(blocks_, true, &Block::findable),
         "a findable block is not in the index");
}

void BlockPool::check_invariants() const {
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
  check_index();
}

}  // namespace tuili
