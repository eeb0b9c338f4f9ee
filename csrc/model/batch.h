// Everything one step reads.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ops/ops.h"

namespace tuili {

// Where the batch finds keys and values in one area of the cache.
struct AreaRows {
  std::span<const int32_t> slots;  // [n_tokens]: where each row's key and value go
  ops::BatchRows rows;             // the same rows in every area
};

// The rows of a batch whose final hidden states somebody wants.
struct AskedRows {
  std::span<const int32_t> rows;  // ascending
  int64_t area = 0;               // of the last layer
  // Where these rows alone stand, numbered as in `rows`: in that area, and over the sources.
  ops::BatchRows in_area, sources;
};

// Rows of all sequences, packed one after another; there is no padding. The lists lie where the model does.
struct StepBatch {
  std::span<const int32_t> token_ids;      // [n_tokens]
  std::span<const int32_t> token_types;    // [n_tokens]
  std::span<const int32_t> position_rows;  // [n_tokens]: of the table of learned positions
  std::span<const AreaRows> areas;
  ops::BatchRows sources;          // the same rows, over what keep_source has left for cross-attention
  std::optional<AskedRows> asked;  // none: all rows

  int64_t n_tokens() const { return std::ssize(token_ids); }
};

// The pages that a layer's attention reads and writes.
struct LayerKv {
  KvPages pages;
  int64_t area = 0;  // that their blocks belong to
};

// One per layer. An encoder's layers may share their memory: each writes before it reads, and nothing is
// kept.
using KvView = std::span<const LayerKv>;

}  // namespace tuili
