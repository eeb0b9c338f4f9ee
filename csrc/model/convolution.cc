// A convolution along the tokens of each text, as one linear map of the rows around each.
#include "model/step.h"

namespace tuili {

void Transformer::gather_taps(const Step& step) const {
  const int64_t n_taps = spec_.convolution.n_taps, d = spec_.d_model;
  ops::gather_taps(step.context, step.rows(step.state.taps, d * n_taps), step.rows(step.state.hidden, d),
                   step.batch.areas[0].rows, n_taps);
}

// hidden = norm(hidden + activation(convolution(taps)))
void Transformer::convolve(const Step& step) const {
  const ConvolutionSpec& spec = spec_.convolution;
  const int64_t d = spec_.d_model;
  const TensorView h = step.rows(step.state.hidden, d), mixed = step.rows(step.state.mixed, d);
  const TensorView taps = step.rows(step.state.taps, d * spec.n_taps);
  linear(step.context, mixed, step.input(taps), weights_.convolution);
  ops::activate(step.context, mixed, mixed, TensorView(), spec.activation);
  ops::add(step.context, h, h, mixed);
  norm(step, h, h, weights_.convolution_norm);
}

}  // namespace tuili
