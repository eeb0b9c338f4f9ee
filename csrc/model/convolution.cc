// A convolution along the tokens of each text, as one linear map of the rows around each.
#include "model/step.h"

namespace tuili {

// taps[t][c · n_taps + j] = hidden[t + j - n_taps / 2][c], 0 beyond the text's ends
void Transformer::gather_taps(const Step& step) const {
  const int64_t n_taps = spec_.convolution.n_taps, d = spec_.d_model;
  const TensorView taps = step.rows(step.state.taps, d * n_taps), h = step.rows(step.state.hidden, d);
  ops::clear(step.context, taps);
  for (const ops::SequenceRows& s : step.batch.areas[0].rows.on_cpu)
    for (int64_t t = 0; t < s.n_rows; ++t)
      for (int64_t j = 0; j < n_taps; ++j) {
        const int64_t from = t + j - n_taps / 2;
        if (from < 0 || from >= s.n_rows) continue;
        float* const to = taps.f32_row(s.first_row + t) + j;
        const float* const x = h.f32_row(s.first_row + from);
        for (int64_t c = 0; c < d; ++c) to[c * n_taps] = x[c];
      }
}

// hidden = norm(hidden + activation(convolution(taps)))
void Transformer::convolve(const Step& step) const {
  const ConvolutionSpec& spec = spec_.convolution;
  const int64_t d = spec_.d_model;
  const TensorView h = step.rows(step.state.hidden, d), mixed = step.rows(step.state.mixed, d);
  ops::Activations input = step.input(step.rows(step.state.taps, d * spec.n_taps));
  const ops::LinearMap map = map_of(mixed, weights_.convolution);
  ops::gemm(step.context, input, {&map, 1}, compute_);
  if (spec.activation)
    ops::activate(step.context, mixed, mixed, TensorView(), *spec.activation);
  else
    ops::softcap(step.context, mixed, 1);  // 1 · tanh(y / 1)
  ops::add(step.context, h, h, mixed);
  norm(step, h, h, weights_.convolution_norm);
}

}  // namespace tuili
