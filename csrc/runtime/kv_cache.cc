#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/rounding.h"

namespace tuili {
namespace {

void check_block_size(int64_t block_size) {
  TUILI_CHECK(block_size == 16 || block_size == 32 || block_size == 64,
              "block_size must be 16, 32 or 64, not ", block_size);
}

// Bytes of the scales of a block's keys, and as many of its values, in one layer.
int64_t scale_bytes(const LayerSpec& layer, int64_t block_size, DType type) {
  return type == DType::i8 ? layer.n_kv_heads * block_size * 4 : 0;
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

int64_t KvCache::block_bytes(const ModelSpec& spec, int64_t block_size, DType type,
                             std::optional<int64_t> window) {
  check_block_size(block_size);
  TUILI_EXPECT(may_hold_keys(type), "a cache of ", name_of(type));
  int64_t bytes = 0;
  for (const LayerSpec& layer : spec.layers)
    if (!window || layer.sliding_window == *window)
      bytes += 2 * align_up(layer.kv_size() * block_size * size_of(type)) +
               2 * align_up(scale_bytes(layer, block_size, type));
  return bytes;
}

KvCache::KvCache(const ModelSpec& spec, int64_t n_blocks, int64_t block_size, DType type,
                 std::span<const WindowArea> windows, Device device)
    : block_size_(block_size), device_(device), type_(type) {
  const device::Chosen chosen(device);
  areas_.push_back({0, n_blocks, block_bytes(spec, block_size, type), {}});
  for (const auto& [window, n] : windows) {
    const int64_t bytes = block_bytes(spec, block_size, type, window);
    TUILI_CHECK(window > areas_.back().window && bytes > 0, "a window of ", window,
                " tokens; windows must be layers' sliding windows, the shortest first");
    areas_.push_back({window, n, bytes, {}});
    areas_[0].block_bytes -= bytes;
  }
  const int64_t most = std::numeric_limits<int32_t>::max() / 64;  // slots are 32-bit
  std::vector<Carver> carvers;
  for (Area& area : areas_) {
    TUILI_CHECK(area.n_blocks >= 1 && area.n_blocks <= most, "n_blocks must be in [1, ", most, "], not ",
                area.n_blocks);
    TUILI_CHECK_KIND(ErrorKind::out_of_memory,
                     area.block_bytes <= std::numeric_limits<int64_t>::max() / 2 / area.n_blocks,
                     "a cache of ", area.n_blocks, " blocks of ", area.block_bytes, " bytes");
    area.is_written.resize(area.n_blocks);
    if (area.block_bytes > 0) area.memory = PlacedBuffer(area.n_blocks * area.block_bytes, device.kind);
    carvers.emplace_back(area.memory.data());
  }
  for (const LayerSpec& layer : spec.layers) {
    const auto same = std::ranges::find(areas_, layer.sliding_window, &Area::window);
    const int64_t area = same == areas_.end() ? 0 : same - areas_.begin();
    const int64_t bytes = layer.kv_size() * block_size * size_of(type), stride = areas_[area].block_bytes;
    void* const k = carvers[area].take<uint8_t>(bytes);
    void* const v = carvers[area].take<uint8_t>(bytes);
    KvPages pages{k, v, type, block_size, layer.n_kv_heads, layer.head_dim, stride / size_of(type)};
    if (type == DType::i8) {
      pages.k_scale = carvers[area].take<float>(layer.n_kv_heads * block_size);
      pages.v_scale = carvers[area].take<float>(layer.n_kv_heads * block_size);
      pages.scale_stride = stride / 4;
    }
    layers_.push_back({pages, area});
  }
}

int64_t KvCache::bytes() const {
  int64_t bytes = 0;
  for (const Area& area : areas_) bytes += area.memory.bytes();
  return bytes;
}

void KvCache::check_block(int64_t area, int64_t id) const {
  TUILI_CHECK(id >= 0 && id < n_blocks(area), "block ", id, " is not in the cache, which has ",
              n_blocks(area));
}

void KvCache::clear_block(const ops::Context& context, int64_t area, int64_t id) {
  const bool is_stale = areas_[area].is_written[id];
  const TensorView bytes = written(area, id);  // none where no layer sees all keys
  if (is_stale) ops::clear(context, bytes);
}

void KvCache::copy_block(const ops::Context& context, int64_t area, const BlockCopy& copy) {
  const bool in_part = device_.kind == DeviceKind::cpu && copy.end - copy.begin < block_size_;
  if (in_part && areas_[area].is_written[copy.to]) return copy_tokens(area, copy);
  ops::copy(context, written(area, copy.to), block(area, copy.from));
}

// A few tokens: of the keys, which lie side by side, 16 at a time.
void KvCache::copy_tokens(int64_t area, const BlockCopy& copy) {
  const auto copy_rows = [&](void* pages, int64_t stride, int64_t n, int64_t row, int64_t first,
                             int64_t end) {
    uint8_t* const to = static_cast<uint8_t*>(pages) + copy.to * stride;
    const uint8_t* const from = static_cast<const uint8_t*>(pages) + copy.from * stride;
    for (int64_t at = 0; at < n * row; at += row)
      for (int64_t i = at + first; i < at + end; i += 16) std::memcpy(to + i, from + i, 16);
  };
  const int64_t first = copy.begin / 16 * 16, end = round_up(copy.end, 16), size = size_of(type_);
  for (const LayerKv& layer : layers_) {
    if (layer.area != area) continue;
    const KvPages& p = layer.pages;
    const int64_t stride = p.block_stride * size, token = p.head_dim * size;
    copy_rows(p.k, stride, p.n_kv_heads * p.head_dim, block_size_ * size, first * size, end * size);
    copy_rows(p.v, stride, p.n_kv_heads, block_size_ * token, copy.begin * token / 16 * 16, copy.end * token);
    for (float* scales : {p.k_scale, p.v_scale})
      if (scales) copy_rows(scales, p.scale_stride * 4, p.n_kv_heads, block_size_ * 4, first * 4, end * 4);
  }
}

void KvCache::poison() {
  const device::Chosen chosen(device_);
  for (Area& area : areas_) {
    if (area.block_bytes == 0) continue;
    area.is_written.assign(area.n_blocks, true);
    if (device_.kind == DeviceKind::cpu) {
      std::memset(area.memory.data(), 0xFF, static_cast<size_t>(area.memory.bytes()));
    } else {
      device::fill(area.memory.data(), 0xFF, area.memory.bytes(), nullptr);
      device::synchronize(nullptr);
    }
  }
}

// ---- prefixes as bytes

// The first block of an area that the tokens after a prefix see.
int64_t KvCache::first_block(int64_t area, int64_t n_tokens) const {
  return ops::first_key_read(n_tokens, window(area)) / block_size_;
}

int64_t KvCache::prefix_bytes(int64_t n_tokens, int64_t n_blocks) const {
  TUILI_CHECK(n_tokens >= 0 && n_tokens <= std::numeric_limits<int32_t>::max() &&
                  n_tokens % block_size_ == 0 && n_blocks >= 0 && n_blocks <= n_tokens / block_size_,
              "the first ", n_blocks, " blocks of a prefix of ", n_tokens, " tokens in blocks of ",
              block_size_);
  int64_t bytes = 0;
  for (int64_t area = 0; area < n_areas(); ++area)
    bytes += std::max<int64_t>(0, n_blocks - first_block(area, n_tokens)) * block_bytes(area);
  return bytes;
}

// visit(area, block, offset of its bytes) for blocks [first, first + n) of a prefix, in the order of the
// bytes.
template <class Visit>
void KvCache::for_each_piece(int64_t n_tokens, int64_t first, int64_t n, Visit visit) const {
  int64_t at = 0;
  for (int64_t i = first; i < first + n; ++i) {
    for (int64_t area = 0; area < n_areas(); ++area) {
      if (i < first_block(area, n_tokens) || block_bytes(area) == 0) continue;
      visit(area, i, at);
      at += block_bytes(area);
    }
  }
}

// Whether the sequence has these blocks of the prefix in this cache.
void KvCache::check_prefix(const Sequence& sequence, int64_t n_tokens, int64_t first, int64_t n) const {
  const int64_t n_places = sequence.n_places();
  TUILI_CHECK(first >= 0 && n >= 0 && n_tokens % block_size_ == 0 && sequence.block_size == block_size_ &&
                  (first + n) * block_size_ <= std::min(n_tokens, n_places) &&
                  std::ssize(sequence.windows) + 1 == n_areas(),
              "blocks [", first, ", ", first + n, ") of a prefix of ", n_tokens, " tokens in blocks of ",
              block_size_, ", of a sequence that has ", n_places, " in blocks of ", sequence.block_size);
  for_each_piece(n_tokens, first, n,
                 [&](int64_t area, int64_t i, int64_t) { check_block(area, blocks_of(sequence, area)[i]); });
}

void KvCache::read(const Sequence& sequence, int64_t n_tokens, int64_t first, int64_t n, uint8_t* to) const {
  check_prefix(sequence, n_tokens, first, n);
  TUILI_CHECK((first + n) * block_size_ <= sequence.n_computed, "blocks [", first, ", ", first + n,
              ") of a sequence with ", sequence.n_computed, " computed tokens");
  const device::Chosen chosen(device_);
  for_each_piece(n_tokens, first, n, [&](int64_t area, int64_t i, int64_t at) {
    ops::copy({}, TensorView(to + at, DType::u8, {block_bytes(area)}),
              block(area, blocks_of(sequence, area)[i]));
  });
  if (device_.kind != DeviceKind::cpu) device::synchronize(nullptr);
}

void KvCache::write(Sequence& sequence, int64_t n_tokens, int64_t n, const uint8_t* from) {
  const int64_t first = sequence.n_computed / block_size_;
  check_prefix(sequence, n_tokens, first, n);
  TUILI_CHECK(!sequence.collect.anything(), "write: a sequence that collects rows must compute them");
  TUILI_CHECK(sequence.n_computed % block_size_ == 0 && (first + n) * block_size_ <= sequence.n_tokens(), n,
              " blocks after ", sequence.n_computed, " of ", sequence.n_tokens(), " tokens");
  const device::Chosen chosen(device_);
  for_each_piece(n_tokens, first, n, [&](int64_t area, int64_t i, int64_t at) {
    const TensorView bytes(const_cast<uint8_t*>(from) + at, DType::u8, {block_bytes(area)});
    ops::copy({}, written(area, blocks_of(sequence, area)[i]), bytes);
  });
  if (device_.kind != DeviceKind::cpu) device::synchronize(nullptr);
  sequence.n_computed += n * block_size_;
}

bool KvCache::is_finite(int64_t n_tokens, int64_t first, int64_t n, const uint8_t* blocks) const {
  bool finite = true;
  for_each_piece(n_tokens, first, n, [&](int64_t area, int64_t, int64_t at) {
    finite &= is_finite_block(area, {blocks + at, static_cast<size_t>(block_bytes(area))});
  });
  return finite;
}

bool KvCache::is_finite_block(int64_t area, std::span<const uint8_t> bytes) const {
  switch (type_) {
    case DType::f32: return no_word_has<uint32_t>(0x7f800000, bytes);
    case DType::f16: return no_word_has<uint16_t>(0x7c00, bytes);
    case DType::bf16: return no_word_has<uint16_t>(0x7f80, bytes);
    default: break;  // i8
  }
  for (const LayerKv& layer : layers_) {
    if (layer.area != area) continue;
    for (const float* scales : {layer.pages.k_scale, layer.pages.v_scale}) {
      const int64_t at = reinterpret_cast<const uint8_t*>(scales) - areas_[area].memory.data();
      if (!no_word_has<uint32_t>(0x7f800000, bytes.subspan(at, layer.pages.n_kv_heads * block_size_ * 4)))
        return false;
    }
  }
  return true;
}

bool KvCache::fits(const ModelSpec& spec) const {
  if (spec.layers.size() != layers_.size()) return false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const auto& [pages, area] = layers_[i];
    if (pages.n_kv_heads != layer.n_kv_heads || pages.head_dim != layer.head_dim) return false;
    if (area != 0 && window(area) != layer.sliding_window) return false;
  }
  return true;
}

}  // namespace tuili
