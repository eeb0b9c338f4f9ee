// What a convolution along the tokens of each text multiplies.
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {

void gather_taps(const Context& context, const TensorView& y, const TensorView& x, const BatchRows& texts,
                 int64_t n_taps) {
  TUILI_EXPECT(y.is_dense() && x.is_dense() && y.rows() == x.rows() && y.size(1) == n_taps * x.size(1),
               "gather_taps: x is ", x, ", y is ", y, " for ", n_taps, " taps");
  if (y.device == DeviceKind::cuda) return on_device::gather_taps(context, y, x, texts.on_device, n_taps);
  clear(context, y);
  const int64_t d = x.size(1);
  for (const SequenceRows& text : texts.on_cpu)
    for (int64_t t = 0; t < text.n_rows; ++t)
      for (int64_t j = 0; j < n_taps; ++j) {
        const int64_t from = t + j - n_taps / 2;
        if (from < 0 || from >= text.n_rows) continue;
        float* const to = y.f32_row(text.first_row + t) + j;
        const float* const row = x.f32_row(text.first_row + from);
        for (int64_t c = 0; c < d; ++c) to[c * n_taps] = row[c];
      }
}

}  // namespace tuili::ops
