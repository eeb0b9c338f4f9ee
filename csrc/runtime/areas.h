// The cache has areas of blocks, whose ids are their own: one for the layers that see all keys before them,
// and one for each sliding window.
#pragma once

#include <cstdint>

namespace tuili {

// The area of the layers whose keys are seen for `window` tokens.
struct WindowArea {
  int64_t window = 0;
  int64_t n_blocks = 0;
};

struct BlockCopy {
  int32_t from = 0, to = 0;    // ids in one area; the same: nothing to copy
  int64_t begin = 0, end = 0;  // tokens of the block that differ; others may be copied, too
};

}  // namespace tuili
