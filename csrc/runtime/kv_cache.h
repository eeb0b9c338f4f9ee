// The memory behind the block ids.
#pragma once

#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "model/batch.h"
#include "model/spec.h"

namespace tuili {

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

  // Writes NaN everywhere, for tests: no step may notice.
  void poison();

  // Whether the pages fit the layers of `spec`.
  bool fits(const ModelSpec& spec) const;

  // Bytes of one block over all layers.
  static int64_t block_bytes(const ModelSpec& spec, int64_t block_size, ops::KvType type);

 private:
  int64_t n_blocks_, block_size_;
  int64_t block_bytes_ = 0;
  Buffer memory_;  // block by block, all layers of a block together: what a sequence commits is one piece
  std::vector<ops::KvPages> pages_;  // one per layer
};

// Bytes of one element.
constexpr int64_t size_of(ops::KvType type) {
  return type == ops::KvType::f32 ? 4 : type == ops::KvType::i8 ? 1 : 2;
}

}  // namespace tuili
