// The memory behind the block ids.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "model/batch.h"
#include "model/spec.h"
#include "runtime/sequence.h"

namespace tuili {

// Saved prefixes carry it (generation/prefix.py). Count up with any change of what a block's bytes mean.
inline constexpr int kKvLayoutVersion = 1;

class KvCache {
 public:
  // block_size 16, 32 or 64. Throws out_of_memory when the system refuses; pages are committed as they are
  // written.
  KvCache(const ModelSpec& spec, int64_t n_blocks, int64_t block_size, ops::KvType type);

  int64_t n_blocks() const { return n_blocks_; }
  int64_t block_size() const { return block_size_; }
  int64_t bytes() const { return memory_.bytes(); }
  KvView view() const { return pages_; }

  // Zeroes a block in all layers. Keys past a sequence's end get probability 0, and 0 · stale must be 0.
  void clear_block(int64_t id);

  // All layers of a block.
  void copy_block(int64_t from, int64_t to);

  // Writes NaN everywhere, for tests: no step may notice.
  void poison();

  // The bytes of the sequence's blocks [first, first + to.size() / block_bytes), whose tokens are computed.
  void read(const Sequence& sequence, int64_t first, std::span<uint8_t> to) const;

  // Bytes of whole blocks become the sequence's next ones, from n_computed on, and their tokens computed.
  void write(Sequence& sequence, std::span<const uint8_t> from);

  // Whether bytes of whole blocks hold finite keys and values only.
  bool is_finite(std::span<const uint8_t> blocks) const;

  // Whether the pages fit the layers of `spec`.
  bool fits(const ModelSpec& spec) const;

  // Bytes of one block over all layers.
  static int64_t block_bytes(const ModelSpec& spec, int64_t block_size, ops::KvType type);

 private:
  int64_t count_blocks(const Sequence& sequence, int64_t first, size_t bytes) const;

  int64_t n_blocks_, block_size_;
  int64_t block_bytes_ = 0;
  Buffer memory_;  // block by block, all layers of a block together: what a sequence commits is one piece
  std::vector<ops::KvPages> pages_;  // one per layer
};

}  // namespace tuili
