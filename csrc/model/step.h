// What the blocks of a transformer share: private to model/*.cc.
#pragma once

#include "model/transformer.h"

namespace tuili {

struct Transformer::Step {
  const ops::Context& context;
  const StepBatch& batch;
  KvView kv;
  State& state;

  // The batch's rows of a buffer, as dense rows of n elements.
  TensorView rows(const TensorView& buffer, int64_t n) const {
    return TensorView(buffer.data, buffer.dtype, {batch.n_tokens(), n}, buffer.device);
  }
  ops::Activations input(const TensorView& x) const { return {x, state.room}; }
};

// A weight that is applied to x.
inline TensorView vector_of(const float* data, int64_t n, const TensorView& x) {
  return TensorView(const_cast<float*>(data), DType::f32, {n}, x.device);
}

inline ops::LinearMap map_of(const TensorView& y, const Linear& linear) {
  return {y, &linear.w, linear.bias};
}

// y += (x · downᵀ) · upᵀ, once per adapter; after the maps of the same input, whose quantized rows it reuses.
void add_low_rank(const ops::Context& context, const TensorView& y, ops::Activations& x,
                  const LowRank* adapter, ops::Compute compute);

}  // namespace tuili
