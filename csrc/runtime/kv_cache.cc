#include "runtime/kv_cache.h"

#include <cstring>
#include <limits>

#include "base/check.h"

namespace tuili {
namespace {

void check_block_size(int64_t block_size) {
  TUILI_CHECK(block_size == 16 || block_size == 32 || block_size == 64, "block_size is ", block_size,
              "; it must be 16, 32 or 64");
}

}  // namespace

int64_t KvCache::block_bytes(const ModelSpec& spec, int64_t block_size, ops::KvType type) {
  check_block_size(block_size);
  int64_t elements = 0;
  for (const LayerSpec& layer : spec.layers) elements += 2 * layer.kv_size() * block_size;
  return elements * size_of(type);
}

KvCache::KvCache(const ModelSpec& spec, int64_t n_blocks, int64_t block_size, ops::KvType type)
    : n_blocks_(n_blocks), block_size_(block_size) {
  const int64_t most = std::numeric_limits<int32_t>::max() / 64;  // slots are 32-bit
  TUILI_CHECK(n_blocks >= 1 && n_blocks <= most, "n_blocks is ", n_blocks, "; it must be in [1, ", most, "]");
  const int64_t one_block = block_bytes(spec, block_size, type);
  TUILI_CHECK_KIND(ErrorKind::out_of_memory, one_block <= std::numeric_limits<int64_t>::max() / 2 / n_blocks,
                   "a cache of ", n_blocks, " blocks of ", one_block, " bytes");
  for (const LayerSpec& layer : spec.layers)
    pages_.push_back({nullptr, nullptr, type, block_size, layer.n_kv_heads, layer.head_dim});
  const auto carve = [&](Carver carver) {
    for (ops::KvPages& pages : pages_) {
      const int64_t bytes = n_blocks * page_elements(pages) * size_of(type);
      pages.k = carver.take<uint8_t>(bytes);
      pages.v = carver.take<uint8_t>(bytes);
    }
    return carver.used();
  };
  memory_ = Buffer(carve(Carver()));
  carve(Carver(memory_.data()));
}

void KvCache::clear_block(int64_t id) {
  for (const ops::KvPages& pages : pages_) {
    const int64_t bytes = page_elements(pages) * size_of(pages.type);
    std::memset(static_cast<uint8_t*>(pages.k) + id * bytes, 0, static_cast<size_t>(bytes));
    std::memset(static_cast<uint8_t*>(pages.v) + id * bytes, 0, static_cast<size_t>(bytes));
  }
}

void KvCache::poison() { std::memset(memory_.data(), 0xFF, static_cast<size_t>(memory_.bytes())); }

bool KvCache::fits(const ModelSpec& spec) const {
  if (spec.layers.size() != pages_.size()) return false;
  for (size_t i = 0; i < pages_.size(); ++i)
    if (pages_[i].n_kv_heads != spec.layers[i].n_kv_heads || pages_[i].head_dim != spec.layers[i].head_dim)
      return false;
  return true;
}

}  // namespace tuili
