// The memory behind the block ids.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/device_memory.h"
#include "model/batch.h"
#include "model/spec.h"
#include "runtime/areas.h"
#include "runtime/sequence.h"

namespace tuili {

// Saved prefixes carry it (generation/prefix.py). Count up with any change of what a block's bytes mean.
inline constexpr int kKvLayoutVersion = 2;

// Areas of blocks with ids of their own. Area 0 has the layers that see all keys before them, area i those of
// the i-th window. Threads may read and write different blocks at once.
class KvCache {
 public:
  // block_size 16, 32 or 64. windows: shortest first, each some layer's sliding window; layers of other
  // windows lie in area 0. Throws out_of_memory when the system refuses; the CPU's pages are committed as
  // they are written.
  KvCache(const ModelSpec& spec, int64_t n_blocks, int64_t block_size, DType type,
          std::span<const WindowArea> windows = {}, Device device = {});

  int64_t n_areas() const { return std::ssize(areas_); }
  int64_t n_blocks(int64_t area = 0) const { return areas_[area].n_blocks; }
  int64_t window(int64_t area) const { return areas_[area].window; }  // 0: area 0
  int64_t block_bytes(int64_t area) const { return areas_[area].block_bytes; }
  int64_t block_size() const { return block_size_; }
  Device device() const { return device_; }
  int64_t bytes() const;
  KvView view() const { return layers_; }
  void check_block(int64_t area, int64_t id) const;  // throws invalid_parameter for one that is not here

  // Zeroes a block in its layers, unless nobody has written it: the system makes its pages, as zeros, when
  // the threads that write them first do. Keys past a sequence's end get probability 0, and 0 · stale must be
  // 0.
  void clear_block(const ops::Context& context, int64_t area, int64_t id);

  // Copies what one block holds to another: the tokens that differ, and maybe others (BlockCopy).
  void copy_block(const ops::Context& context, int64_t area, const BlockCopy& copy);

  // Writes NaN everywhere, for tests: no step may notice.
  void poison();

  // A prefix of n_tokens in whole blocks, as bytes: block by block, of each those areas that the tokens after
  // the prefix see. So many bytes are its first n_blocks:
  int64_t prefix_bytes(int64_t n_tokens, int64_t n_blocks) const;

  // The bytes of blocks [first, first + n) of the prefix, which the sequence has computed.
  void read(const Sequence& sequence, int64_t n_tokens, int64_t first, int64_t n, uint8_t* to) const;

  // Bytes of the prefix become the sequence's next n blocks, from n_computed on, and their tokens computed.
  void write(Sequence& sequence, int64_t n_tokens, int64_t n, const uint8_t* from);

  // Whether the bytes of blocks [first, first + n) of the prefix hold finite keys and values only.
  bool is_finite(int64_t n_tokens, int64_t first, int64_t n, const uint8_t* blocks) const;

  // Whether the pages fit the layers of `spec`.
  bool fits(const ModelSpec& spec) const;

  // Bytes of one block over the layers with this sliding window (0: none), or over all layers.
  static int64_t block_bytes(const ModelSpec& spec, int64_t block_size, DType type,
                             std::optional<int64_t> window = {});

 private:
  struct Area {
    int64_t window, n_blocks, block_bytes = 0;
    // Block by block, all layers of a block together: what a sequence commits is one piece.
    PlacedBuffer memory;
    std::vector<uint8_t> is_written = {};  // [n_blocks]; no bits, which threads would write together
  };
  // The bytes of a block that is to be written.
  TensorView written(int64_t area, int64_t id) {
    areas_[area].is_written[id] = true;
    return block(area, id);
  }
  void copy_tokens(int64_t area, const BlockCopy& copy);
  int64_t first_block(int64_t area, int64_t n_tokens) const;
  void check_prefix(const Sequence& sequence, int64_t n_tokens, int64_t first, int64_t n) const;
  bool is_finite_block(int64_t area, std::span<const uint8_t> bytes) const;
  template <class Visit>
  void for_each_piece(int64_t n_tokens, int64_t first, int64_t n, Visit visit) const;
  // The bytes of a block, where the cache is.
  TensorView block(int64_t area, int64_t id) const {
    const int64_t bytes = areas_[area].block_bytes;
    return TensorView(areas_[area].memory.data() + id * bytes, DType::u8, {bytes}, device_.kind);
  }

  int64_t block_size_;
  Device device_;
  DType type_;
  std::vector<Area> areas_;
  std::vector<LayerKv> layers_;
};

// A sequence's blocks in an area of its cache.
inline std::span<const int32_t> blocks_of(const Sequence& sequence, int64_t area) {
  return area == 0 ? sequence.blocks : sequence.windows[area - 1].ids;
}

}  // namespace tuili
