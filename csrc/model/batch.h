// Everything one step reads.
#pragma once

#include <cstdint>
#include <span>

#include "ops/ops.h"

namespace tuili {

// Where the batch finds keys and values in one area of the cache.
struct AreaRows {
  std::span<const int32_t> slots;                // [n_tokens]: where each row's key and value go
  std::span<const ops::SequenceRows> sequences;  // the same rows in every area
};

// Rows of all sequences, packed one after another; there is no padding.
struct StepBatch {
  std::span<const int32_t> token_ids;    // [n_tokens]
  std::span<const int32_t> token_types;  // [n_tokens], or empty: all 0
  std::span<const int32_t> positions;    // [n_tokens]
  std::span<const AreaRows> areas;
  std::span<const ops::SequenceRows> sources;  // encoder-decoders: the same sequences, over the keys and
                                               // values that keep_source has left

  int64_t n_tokens() const { return static_cast<int64_t>(token_ids.size()); }
};

// The pages that a layer's attention reads and writes.
struct LayerKv {
  ops::KvPages pages;
  int64_t area = 0;  // that their blocks belong to
};

// One per layer. An encoder's layers may share their memory: each writes before it reads, and nothing is
// kept.
using KvView = std::span<const LayerKv>;

}  // namespace tuili
