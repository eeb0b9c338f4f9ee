#include "runtime/text_pages.h"

#include <algorithm>
#include <numeric>

#include "base/rounding.h"

namespace tuili {

TextPages::TextPages(Carver& carver, const ModelSpec& spec, int64_t max_tokens, int64_t max_seqs,
                     DeviceKind device)
    : blocks_(max_tokens / kBlockSize + max_seqs) {
  const DType type = device == DeviceKind::cuda ? DType::f16 : DType::f32;
  const int64_t bytes = n_blocks() * kBlockSize * spec.largest_kv_size() * size_of(type);
  for (TensorView* part : {&keys_, &values_})
    *part = TensorView(carver.take<uint8_t>(bytes), DType::u8, {bytes}, device);
  for (const LayerSpec& layer : spec.layers)
    layers_.push_back({{keys_.data, values_.data, type, kBlockSize, layer.n_kv_heads, layer.head_dim,
                        layer.kv_size() * kBlockSize}});
  std::iota(blocks_.begin(), blocks_.end(), 0);
}

const int32_t* TextPages::take(int64_t n_tokens) {
  const int32_t* const first = blocks_.data() + n_taken_;
  n_taken_ += ceil_div(n_tokens, kBlockSize);
  return first;
}

void TextPages::clear(const ops::Context& context) const {
  const int64_t bytes = n_taken_ * keys_.count() / n_blocks();
  for (const TensorView& part : {keys_, values_})
    ops::clear(context, TensorView(part.data, DType::u8, {bytes}, part.device));
}

}  // namespace tuili
