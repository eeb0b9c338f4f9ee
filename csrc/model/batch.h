// Everything one step reads.
#pragma once

#include <cstdint>
#include <span>

#include "ops/ops.h"

namespace tuili {

// Rows of all sequences, packed one after another; there is no padding.
struct StepBatch {
  std::span<const int32_t> token_ids;    // [n_tokens]
  std::span<const int32_t> token_types;  // [n_tokens], or empty: all 0
  std::span<const int32_t> positions;    // [n_tokens]
  std::span<const int32_t> slots;        // [n_tokens]: where each row's key and value go
  std::span<const ops::SequenceRows> sequences;

  int64_t n_tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

// The pages that attention reads and writes: one per layer, or one that all layers share (an encoder keeps nothing).
struct KvView {
  std::span<const ops::KvPages> pages;

  const ops::KvPages& layer(int64_t i) const { return pages.size() == 1 ? pages[0] : pages[i]; }
};

}  // namespace tuili
