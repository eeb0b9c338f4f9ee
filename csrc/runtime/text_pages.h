// Pages of an encoder's texts. None of its layers needs what another has left, so all write their keys and
// values to the same pages, and the next batch begins them again.
#pragma once

#include <cstdint>
#include <vector>

#include "model/transformer.h"

namespace tuili {

class TextPages {
 public:
  static constexpr int64_t kBlockSize = 32;

  TextPages() = default;
  // Cuts them from the carver over the device's memory.
  TextPages(Carver& carver, const ModelSpec& spec, int64_t max_tokens, int64_t max_seqs, DeviceKind device);

  // Blocks for a text, none of which another has.
  const int32_t* take(int64_t n_tokens);
  // Zeroes those taken: no layer writes behind a text's end.
  void clear(const ops::Context& context) const;
  void release() { n_taken_ = 0; }

  KvView view() const { return layers_; }
  int64_t n_blocks() const { return std::ssize(blocks_); }

 private:
  TensorView keys_, values_;  // u8: the memory of all layers
  std::vector<LayerKv> layers_;
  Vector<int32_t> blocks_;  // 0, 1, 2, …
  int64_t n_taken_ = 0;
};

}  // namespace tuili
