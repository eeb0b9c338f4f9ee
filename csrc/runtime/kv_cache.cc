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

// Of the scales of a block's keys, and of its values, in one layer.
int64_t scale_bytes(const LayerSpec& layer, int64_t block_size, ops::KvType type) {
  return type == ops::KvType::i8 ? layer.n_kv_heads * block_size * 4 : 0;
}

// Whether no word has all bits of an exponent set, as infinities and NaN have.
template <class Word>
bool no_word_has(Word exponent, std::span<const uint8_t> bytes) {
  bool found = false;
  for (size_t i = 0; i + sizeof(Word) <= bytes.size(); i += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + i, sizeof(Word));
    found |= (word & exponent) == exponent;
  }
  return !found;
}

}  // namespace

int64_t KvCache::block_bytes(const ModelSpec& spec, int64_t block_size, ops::KvType type) {
  check_block_size(block_size);
  int64_t bytes = 0;
  for (const LayerSpec& layer : spec.layers)
    bytes += 2 * align_up(layer.kv_size() * block_size * size_of(type)) +
             2 * align_up(scale_bytes(layer, block_size, type));
  return bytes;
}

KvCache::KvCache(const ModelSpec& spec, int64_t n_blocks, int64_t block_size, ops::KvType type)
    : n_blocks_(n_blocks), block_size_(block_size), block_bytes_(block_bytes(spec, block_size, type)) {
  const int64_t most = std::numeric_limits<int32_t>::max() / 64;  // slots are 32-bit
  TUILI_CHECK(n_blocks >= 1 && n_blocks <= most, "n_blocks is ", n_blocks, "; it must be in [1, ", most, "]");
  TUILI_CHECK_KIND(ErrorKind::out_of_memory,
                   block_bytes_ <= std::numeric_limits<int64_t>::max() / 2 / n_blocks, "a cache of ",
                   n_blocks, " blocks of ", block_bytes_, " bytes");
  memory_ = Buffer(n_blocks * block_bytes_);
  Carver carver(memory_.data());
  for (const LayerSpec& layer : spec.layers) {
    const int64_t bytes = layer.kv_size() * block_size * size_of(type);
    void* const k = carver.take<uint8_t>(bytes);
    void* const v = carver.take<uint8_t>(bytes);
    pages_.push_back(
        {k, v, type, block_size, layer.n_kv_heads, layer.head_dim, block_bytes_ / size_of(type)});
    if (type != ops::KvType::i8) continue;
    pages_.back().k_scale = carver.take<float>(layer.n_kv_heads * block_size);
    pages_.back().v_scale = carver.take<float>(layer.n_kv_heads * block_size);
    pages_.back().scale_stride = block_bytes_ / 4;
  }
}

void KvCache::clear_block(int64_t id) {
  std::memset(memory_.data() + id * block_bytes_, 0, static_cast<size_t>(block_bytes_));
}

void KvCache::copy_block(int64_t from, int64_t to) {
  std::memcpy(memory_.data() + to * block_bytes_, memory_.data() + from * block_bytes_,
              static_cast<size_t>(block_bytes_));
}

void KvCache::poison() { std::memset(memory_.data(), 0xFF, static_cast<size_t>(memory_.bytes())); }

// ---- blocks as bytes

// How many blocks so many bytes are; the sequence has them in this cache, from its `first` on.
int64_t KvCache::count_blocks(const Sequence& sequence, int64_t first, size_t bytes) const {
  const auto n = static_cast<int64_t>(bytes) / block_bytes_;
  TUILI_CHECK(static_cast<int64_t>(bytes) % block_bytes_ == 0, bytes, " bytes are no whole blocks of ",
              block_bytes_);
  const auto n_held = static_cast<int64_t>(sequence.blocks.size());
  TUILI_CHECK(sequence.block_size == block_size_ && first >= 0 && first + n <= n_held, "blocks [", first,
              ", ", first + n, ") of ", block_size_, " tokens of a sequence that holds ", n_held, " of ",
              sequence.block_size);
  for (int64_t i = first; i < first + n; ++i)
    TUILI_CHECK(sequence.blocks[i] >= 0 && sequence.blocks[i] < n_blocks_, "block ", sequence.blocks[i],
                " is not in the cache, which has ", n_blocks_);
  return n;
}

void KvCache::read(const Sequence& sequence, int64_t first, std::span<uint8_t> to) const {
  const int64_t n = count_blocks(sequence, first, to.size());
  TUILI_CHECK((first + n) * block_size_ <= sequence.n_computed, "blocks [", first, ", ", first + n,
              ") of a sequence with ", sequence.n_computed, " computed tokens");
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(to.data() + i * block_bytes_, memory_.data() + sequence.blocks[first + i] * block_bytes_,
                static_cast<size_t>(block_bytes_));
}

void KvCache::write(Sequence& sequence, std::span<const uint8_t> from) {
  const int64_t first = sequence.n_computed / block_size_;
  const int64_t n = count_blocks(sequence, first, from.size());
  TUILI_CHECK(sequence.n_computed % block_size_ == 0 && (first + n) * block_size_ <= sequence.n_tokens(), n,
              " blocks after ", sequence.n_computed, " of ", sequence.n_tokens(), " tokens");
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(memory_.data() + sequence.blocks[first + i] * block_bytes_, from.data() + i * block_bytes_,
                static_cast<size_t>(block_bytes_));
  sequence.n_computed += n * block_size_;
}

bool KvCache::is_finite(std::span<const uint8_t> blocks) const {
  switch (pages_.empty() ? ops::KvType::f32 : pages_[0].type) {
    case ops::KvType::f32: return no_word_has<uint32_t>(0x7f800000, blocks);
    case ops::KvType::f16: return no_word_has<uint16_t>(0x7c00, blocks);
    case ops::KvType::bf16: return no_word_has<uint16_t>(0x7f80, blocks);
    case ops::KvType::i8: break;
  }
  const auto n_bytes = static_cast<int64_t>(blocks.size());
  for (int64_t block = 0; block + block_bytes_ <= n_bytes; block += block_bytes_) {
    for (const ops::KvPages& pages : pages_) {
      for (const float* scales : {pages.k_scale, pages.v_scale}) {
        const int64_t at = reinterpret_cast<const uint8_t*>(scales) - memory_.data();
        if (!no_word_has<uint32_t>(0x7f800000,
                                   blocks.subspan(block + at, pages.n_kv_heads * block_size_ * 4)))
          return false;
      }
    }
  }
  return true;
}

bool KvCache::fits(const ModelSpec& spec) const {
  if (spec.layers.size() != pages_.size()) return false;
  for (size_t i = 0; i < pages_.size(); ++i)
    if (pages_[i].n_kv_heads != spec.layers[i].n_kv_heads || pages_[i].head_dim != spec.layers[i].head_dim)
      return false;
  return true;
}

}  // namespace tuili
