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

// The pages that attention reads and writes, one per layer. An encoder's layers may share their memory: each
// writes before it reads, and nothing is kept.
using KvView = std::span<const ops::KvPages>;

}  // namespace tuili
