#include "runtime/block_pool.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/siphash.h"
#include "ops/ops.h"

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

constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();

void check_block_size(int64_t block_size) {
  TUILI_CHECK(block_size >= 1 && block_size <= 1024, "block_size must be in [1, 1024], not ", block_size);
}

void check_step_tokens(int64_t step_tokens) {
  TUILI_CHECK(step_tokens >= 1 && step_tokens <= kMostTokens, "step_tokens must be in [1, ", kMostTokens,
              "], not ", step_tokens);
}

int64_t checked_blocks(const BlockPoolOptions& options, int64_t n_blocks) {
  check_block_size(options.block_size);
  const int64_t most = kMostTokens / options.block_size;
  TUILI_CHECK(n_blocks >= 1 && n_blocks <= most, "n_blocks must be in [1, ", most, "], not ", n_blocks);
  return n_blocks;
}

}  // namespace

BlockPool::BlockPool(const BlockPoolOptions& options)
    : id_(next_pool_id()), options_(options), ledger_(checked_blocks(options, options.n_blocks)) {
  check_step_tokens(options.step_tokens);
  if (options_.key == 0) options_.key = draw_key();
  for (const auto& [window, n_blocks] : options.windows) {
    windows_.push_back({window,
                        window_span(window, options.block_size, options.step_tokens),
                        BlockLedger(checked_blocks(options, n_blocks)),
                        {},
                        {}});
  }
  if (!options.prefix_cache) return;
  for (Window& window : windows_) {
    window.twin.assign(n_blocks(), kNone);
    window.twin_of.assign(window.ledger.n_blocks(), kNone);
  }
  index_.resize(options.n_blocks);
  tokens_.resize(options.n_blocks * options.block_size);
  buckets_.assign(std::bit_ceil(static_cast<uint64_t>(2 * options.n_blocks)), kNone);
}

int64_t BlockPool::window_span(int64_t window, int64_t block_size, int64_t step_tokens) {
  TUILI_CHECK(window >= 1 && window <= kMostTokens, "a window of ", window, " tokens; it must have 1 to ",
              kMostTokens);
  check_block_size(block_size);
  check_step_tokens(step_tokens);
  // Before a row's position first_key_read leaves that many at most; its block may begin before the tile.
  const int64_t n_before = window - 1 + ops::kKeyTile - 1;
  const int64_t n_beside = ops::kKeyTile % block_size == 0 ? 0 : block_size - 1;
  return ceil_div(n_before + n_beside + step_tokens, block_size);
}

void BlockPool::check_id(int64_t id) const {
  TUILI_CHECK(id >= 0 && id < n_blocks(), "block ", id, " is not in [0, ", n_blocks(), ")");
}

void BlockPool::check_sequence(const Sequence& sequence) const {
  TUILI_CHECK(!sequence.in_step, "the sequence is in a step that is still running");
  TUILI_CHECK((sequence.blocks.empty() && sequence.source_blocks.empty()) || sequence.pool_id == id_,
              "the sequence holds blocks of another pool");
}

int64_t BlockPool::n_owners(int64_t id) const {
  check_id(id);
  return ledger_.n_owners(static_cast<int32_t>(id));
}

int64_t BlockPool::least_free() const {
  int64_t n = ledger_.n_free();
  for (const Window& window : windows_) n = std::min(n, window.ledger.n_free());
  return n;
}

// ---- blocks

int32_t BlockPool::take_one(uint64_t salt) {
  const auto [id, evicted] = ledger_.take(salt);
  if (evicted) forget(id);
  return id;
}

int32_t BlockPool::take_one(Window& window, uint64_t salt) {
  const auto [id, evicted] = window.ledger.take(salt);
  if (evicted) window.twin[std::exchange(window.twin_of[id], kNone)] = kNone;
  return id;
}

std::optional<Vector<int32_t>> BlockPool::take(int64_t n) {
  TUILI_CHECK(n >= 0, "take: n is ", n);
  if (n > ledger_.n_free()) return std::nullopt;
  Vector<int32_t> ids(n);
  for (int32_t& id : ids) id = take_one(0);
  return ids;
}

void BlockPool::share(int64_t id) {
  TUILI_CHECK(n_owners(id) > 0, "share: nobody holds block ", id);
  ledger_.share(static_cast<int32_t>(id));
}

void BlockPool::drop(int64_t id) {
  TUILI_CHECK(n_owners(id) > 0, "drop: nobody holds block ", id);
  ledger_.drop(static_cast<int32_t>(id));
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
  int32_t id = buckets_[bucket_of(hash)];
  for (; id != kNone; id = index_[id].next_in_bucket) {
    if (index_[id].hash == hash && ledger_.salt(id) == salt && index_[id].parent == parent &&
        std::ranges::equal(tokens_of(id), tokens))
      return id;
  }
  return kNone;
}

void BlockPool::make_findable(int32_t id, uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) {
  ledger_.set_findable(id);
  std::ranges::copy(tokens, tokens_.begin() + id * options_.block_size);
  index_[id] = {parent, next_content_++, hash, std::exchange(buckets_[bucket_of(hash)], id)};
}

// Takes a block that is not findable any more out of the index, and with it its twins.
void BlockPool::forget(int32_t id) {
  int32_t* link = &buckets_[bucket_of(index_[id].hash)];
  while (*link != id) link = &index_[*link].next_in_bucket;
  *link = std::exchange(index_[id].next_in_bucket, kNone);
  for (Window& window : windows_) {
    const int32_t twin = std::exchange(window.twin[id], kNone);
    if (twin == kNone) continue;
    window.twin_of[twin] = kNone;
    window.ledger.set_unfindable(twin);
  }
}

void BlockPool::clear_cache() {
  for (int32_t id = 0; id < n_blocks(); ++id) {
    if (!ledger_.findable(id)) continue;
    ledger_.set_unfindable(id);
    forget(id);
  }
}

std::span<const int32_t> BlockPool::tokens_at(const Sequence& sequence, int64_t block) const {
  return {sequence.tokens.data() + block * block_size(), static_cast<size_t>(block_size())};
}

// Findable blocks with the sequence's first tokens, n_tokens at most, as many as leave a token to compute.
Vector<int32_t> BlockPool::find_chain(const Sequence& sequence, int64_t n_tokens) const {
  Vector<int32_t> chain;
  if (!options_.prefix_cache || sequence.collect.anything()) return chain;
  if (!sequence.token_types.empty() || !sequence.source.empty()) return chain;
  const int64_t n_most = std::min(sequence.n_tokens() - 1, n_tokens) / block_size();
  chain.reserve(n_most);
  uint64_t parent = 0;
  for (int64_t i = 0; i < n_most; ++i) {
    const std::span<const int32_t> tokens = tokens_at(sequence, i);
    const int32_t id = find(hash_of(sequence.salt, parent, tokens), sequence.salt, parent, tokens);
    if (id == kNone) break;
    parent = index_[id].content;
    chain.push_back(id);
  }
  return chain;
}

// How many blocks of the chain a sequence can go on after: every window has what it still sees.
int64_t BlockPool::n_usable(std::span<const int32_t> chain) const {
  int64_t n = std::ssize(chain);
  const auto last_missing = [&](const Window& window) {
    const int64_t first = first_block(window, n * block_size());
    int64_t i = n - 1;
    while (i >= first && window.twin[chain[i]] != kNone) --i;
    return i >= first ? i : kNone;
  };
  for (size_t i = 0; i < windows_.size();) {
    const int64_t missing = last_missing(windows_[i]);
    if (missing != kNone) n = missing;  // a shorter prefix that holds this block sees it, too
    i = missing == kNone ? i + 1 : 0;
  }
  return n;
}

int64_t BlockPool::share_chain(Sequence& sequence, std::span<const int32_t> chain) {
  if (chain.empty()) return 0;
  adopt(sequence);
  sequence.content.clear();
  sequence.content.reserve(chain.size());  // what the sequence lists it holds: nothing fails in between
  sequence.blocks.assign(chain.begin(), chain.end());
  for (const int32_t id : chain) {
    ledger_.share(id);
    sequence.content.push_back(index_[id].content);
  }
  for (WindowBlocks& own : sequence.windows) {
    own.ids.assign(chain.size(), kNone);
    own.n_gone = std::ssize(chain);
  }
  n_hits_ += std::ssize(chain);
  return sequence.n_computed = std::ssize(chain) * block_size();
}

int64_t BlockPool::attach_chain(Sequence& sequence, int64_t n_tokens) {
  check_sequence(sequence);
  TUILI_CHECK(sequence.blocks.empty() && sequence.n_computed == 0, "attach: the sequence holds blocks");
  TUILI_CHECK(n_tokens >= 0, "attach_chain: n_tokens is ", n_tokens);
  return share_chain(sequence, find_chain(sequence, n_tokens));
}

int64_t BlockPool::attach_prefix(Sequence& sequence) {
  check_sequence(sequence);
  TUILI_CHECK(sequence.blocks.empty() && sequence.n_computed == 0, "attach: the sequence holds blocks");
  Vector<int32_t> chain = find_chain(sequence, sequence.n_tokens());
  chain.resize(n_usable(chain));
  share_chain(sequence, chain);
  for (size_t w = 0; w < windows_.size() && !chain.empty(); ++w) {
    WindowBlocks& own = sequence.windows[w];
    own.n_gone = first_block(windows_[w], sequence.n_computed);
    for (auto i = static_cast<size_t>(own.n_gone); i < chain.size(); ++i) {
      own.ids[i] = windows_[w].twin[chain[i]];
      windows_[w].ledger.share(own.ids[i]);
    }
  }
  return sequence.n_computed;
}

// The findable block with the tokens of the sequence's block i, which becomes it if there is none. Called
// for ascending i. kNone: that one is not known any more.
int32_t BlockPool::indexed(Sequence& sequence, int64_t i) {
  if (i < std::ssize(sequence.content)) {
    const int32_t own = sequence.blocks[i];
    return ledger_.findable(own) && index_[own].content == sequence.content[i] ? own : kNone;
  }
  const uint64_t parent = i == 0 ? 0 : sequence.content[i - 1];
  const std::span<const int32_t> tokens = tokens_at(sequence, i);
  const uint64_t hash = hash_of(sequence.salt, parent, tokens);
  int32_t id = find(hash, sequence.salt, parent, tokens);
  if (id == kNone) {  // else another sequence computed the same: this copy stays private
    id = sequence.blocks[i];
    TUILI_EXPECT(ledger_.salt(id) == sequence.salt, "publish: a block that was taken for another salt");
    // A sequence that shares it may have published it behind another copy of the blocks before it.
    if (!ledger_.findable(id)) make_findable(id, hash, parent, tokens);
  }
  sequence.content.push_back(index_[id].content);
  return id;
}

// Makes a window's block findable through `id`, unless either has a twin already.
void BlockPool::pair(Window& window, int32_t id, int32_t twin) {
  if (window.twin[id] != kNone || window.ledger.findable(twin)) return;
  window.ledger.set_findable(twin);
  window.twin[id] = twin;
  window.twin_of[twin] = id;
}

void BlockPool::publish(Sequence& sequence) {
  check_sequence(sequence);
  if (!options_.prefix_cache || !sequence.token_types.empty() || !sequence.source.empty()) return;
  const int64_t n_whole = std::min(sequence.n_computed / block_size(), std::ssize(sequence.blocks));
  sequence.content.reserve(n_whole);
  int64_t first = std::ssize(sequence.content);
  for (const WindowBlocks& own : sequence.windows) first = std::min(first, own.n_gone);
  for (int64_t i = first; i < n_whole; ++i) {
    const int32_t id = indexed(sequence, i);
    for (size_t w = 0; w < windows_.size() && id != kNone; ++w)
      if (const int32_t twin = sequence.windows[w].ids[i]; twin != kNone) pair(windows_[w], id, twin);
  }
}

// ---- sequences

// Before a sequence gets its first blocks.
void BlockPool::adopt(Sequence& sequence) const {
  sequence.pool_id = id_;
  sequence.block_size = block_size();
  sequence.windows.resize(windows_.size());
}

int64_t BlockPool::first_block(const Window& window, int64_t position) const {
  return ops::first_key_read(position, window.window) / block_size();
}

int64_t BlockPool::end_block(const Window& window, int64_t n_tokens, int64_t position) const {
  return std::min(blocks_for(n_tokens), first_block(window, position) + window.span);
}

// Takes back window blocks that no token from `position` on sees.
void BlockPool::release_before(Sequence& sequence, int64_t position) {
  for (size_t w = 0; w < sequence.windows.size(); ++w) {
    WindowBlocks& own = sequence.windows[w];
    const int64_t end = std::min(first_block(windows_[w], position), std::ssize(own.ids));
    for (; own.n_gone < end; ++own.n_gone) windows_[w].ledger.drop(std::exchange(own.ids[own.n_gone], kNone));
  }
}

void BlockPool::release_unseen(Sequence& sequence) {
  check_sequence(sequence);
  release_before(sequence, sequence.n_computed);
}

// Whether the sequence has the window blocks that a token after n_tokens sees.
bool BlockPool::holds_window(const Sequence& sequence, int64_t n_tokens) const {
  for (size_t w = 0; w < sequence.windows.size(); ++w)
    if (sequence.windows[w].n_gone > first_block(windows_[w], n_tokens)) return false;
  return true;
}

bool BlockPool::grow(Sequence& sequence, int64_t n_tokens, std::optional<int64_t> position) {
  check_sequence(sequence);
  const int64_t n_held = std::ssize(sequence.blocks);
  TUILI_CHECK(n_held > 0 || sequence.n_computed == 0, "grow: the sequence was encoded; decode a new one");
  TUILI_CHECK(n_tokens >= 0 && n_tokens <= kMostTokens, "grow: n_tokens is ", n_tokens);
  const int64_t from = position.value_or(sequence.n_computed);
  TUILI_CHECK(from >= sequence.n_computed, "grow: from position ", from, " on, of ", sequence.n_computed,
              " computed tokens");
  release_before(sequence, from);
  const int64_t n_wanted = blocks_for(n_tokens) - n_held;
  const int64_t n_source = sequence.source_blocks.empty() ? blocks_for(sequence.n_source()) : 0;
  if (std::max<int64_t>(n_wanted, 0) + n_source > ledger_.n_free()) return false;
  const auto missing = [&](size_t w) {
    const int64_t n_there = w < sequence.windows.size() ? std::ssize(sequence.windows[w].ids) : 0;
    return end_block(windows_[w], n_tokens, from) - std::max(n_there, first_block(windows_[w], from));
  };
  for (size_t w = 0; w < windows_.size(); ++w)
    if (missing(w) > windows_[w].ledger.n_free()) return false;
  if (n_held == 0 && n_wanted <= 0) return true;
  adopt(sequence);
  sequence.source_blocks.reserve(n_source);
  for (int64_t i = 0; i < n_source; ++i) sequence.source_blocks.push_back(take_one(sequence.salt));
  if (n_wanted > 0) {
    // Room for every token of these blocks and the one sampled after them: a step appends without allocating.
    sequence.tokens.reserve((n_held + n_wanted) * block_size() + 1);
    sequence.blocks.reserve(n_held + n_wanted);
    for (int64_t i = 0; i < n_wanted; ++i) sequence.blocks.push_back(take_one(sequence.salt));
  }
  for (size_t w = 0; w < windows_.size(); ++w) {
    int64_t n_missing = missing(w);
    WindowBlocks& own = sequence.windows[w];
    const int64_t first = std::min(first_block(windows_[w], from), blocks_for(n_tokens));
    own.ids.reserve(std::max(first, std::ssize(own.ids)) + std::max<int64_t>(n_missing, 0));
    if (first > std::ssize(own.ids)) own.ids.resize(own.n_gone = first, kNone);
    for (; n_missing > 0; --n_missing) own.ids.push_back(take_one(windows_[w], sequence.salt));
  }
  return true;
}

std::optional<Vector<int64_t>> BlockPool::grow_decoding(std::span<Sequence* const> sequences) {
  Vector<int64_t> places;
  places.reserve(std::ssize(sequences));
  for (int64_t i = 0; i < std::ssize(sequences); ++i) {
    Sequence& s = *sequences[i];
    if (s.n_tokens() - s.n_computed != 1 || s.n_generated() == 0) continue;
    if (!grow(s, s.n_tokens())) return std::nullopt;
    places.push_back(i);
  }
  return places;
}

bool BlockPool::grow_ahead(std::span<Sequence* const> sequences, int64_t n_steps, int64_t n_spare) {
  const auto n_missing = [&](int64_t n_held, int64_t end) { return std::max<int64_t>(0, end - n_held); };
  int64_t n = 0;
  for (const Sequence* s : sequences)
    n += n_missing(std::ssize(s->blocks), blocks_for(s->n_computed + n_steps));
  if (n > ledger_.n_free() - n_spare) return false;
  for (size_t w = 0; w < windows_.size(); ++w) {
    n = 0;
    for (const Sequence* s : sequences)
      n += n_missing(std::ssize(s->windows.at(w).ids),
                     end_block(windows_[w], s->n_computed + n_steps, s->n_computed));
    if (n > windows_[w].ledger.n_free() - n_spare) return false;
  }
  for (Sequence* s : sequences) grow(*s, s->n_computed + n_steps);
  return true;
}

int64_t BlockPool::room(std::span<const Sequence* const> sequences) {
  int64_t least = kMostTokens;
  for (const Sequence* s : sequences) least = std::min(least, s->n_places() - s->n_computed);
  return least;
}

void BlockPool::release(Sequence& sequence) {
  check_sequence(sequence);
  // The last block first: a prefix is given away from its end.
  for (size_t i = sequence.blocks.size(); i-- > 0;) ledger_.drop(sequence.blocks[i]);
  for (size_t w = 0; w < sequence.windows.size(); ++w) {
    WindowBlocks& own = sequence.windows[w];
    for (int64_t i = std::ssize(own.ids); i-- > own.n_gone;) windows_[w].ledger.drop(own.ids[i]);
  }
  for (const int32_t id : sequence.source_blocks) ledger_.drop(id);
  sequence.blocks.clear();
  sequence.source_blocks.clear();
  sequence.source_kept = false;
  sequence.windows.clear();
  sequence.content.clear();
  sequence.pool_id = 0;
  sequence.n_computed = 0;
  sequence.forget_collected();
}

// ---- invariants

namespace {

void expect(bool condition, const char* what) { TUILI_EXPECT(condition, "block pool: ", what); }

}  // namespace

void BlockPool::check_index() const {
  int64_t n_indexed = 0, n_findable = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    for (int32_t id = buckets_[bucket]; id != kNone; id = index_[id].next_in_bucket, ++n_indexed) {
      const Indexed& entry = index_[id];
      expect(n_indexed < n_blocks() && ledger_.findable(id), "the index holds a block that is not findable");
      expect(entry.hash == hash_of(ledger_.salt(id), entry.parent, tokens_of(id)),
             "a findable block's hash is wrong");
      expect(bucket_of(entry.hash) == bucket, "a block is in another's bucket");
      expect(find(entry.hash, ledger_.salt(id), entry.parent, tokens_of(id)) == id,
             "two findable blocks are equal");
    }
  }
  for (int32_t id = 0; id < n_blocks(); ++id) n_findable += ledger_.findable(id);
  expect(n_indexed == n_findable, "a findable block is not in the index");
}

void BlockPool::check_twins() const {
  for (const Window& window : windows_) {
    int64_t n_pairs = 0;
    for (int32_t id = 0; id < std::ssize(window.twin); ++id) {
      const int32_t twin = window.twin[id];
      if (twin == kNone) continue;
      ++n_pairs;
      expect(ledger_.findable(id) && window.ledger.findable(twin), "a twin is not findable");
      expect(window.twin_of[twin] == id, "a block is the twin of two");
      expect(window.ledger.salt(twin) == ledger_.salt(id), "twins have different salts");
    }
    int64_t n_findable = 0;
    for (int32_t id = 0; id < window.ledger.n_blocks(); ++id) n_findable += window.ledger.findable(id);
    expect(n_pairs == n_findable, "a window's block is findable through none");
  }
}

void BlockPool::check_invariants() const {
  ledger_.check_invariants();
  for (const Window& window : windows_) window.ledger.check_invariants();
  check_index();
  check_twins();
}

}  // namespace tuili
