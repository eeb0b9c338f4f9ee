// What the blocks of a transformer share: private to model/*.cc.
#pragma once

#include "model/transformer.h"

namespace tuili {

// What of a layer a step makes: keys and values are wanted of all rows, and the last layer's rest of those
// alone that are asked for.
enum class Part : uint8_t { whole, keys, rest };

struct Transformer::Step {
  const ops::Context& context;
  const StepBatch& batch;
  KvView kv;
  State& state;
  Part part = Part::whole;

  bool makes_queries() const { return part != Part::keys; }
  bool makes_keys() const { return part != Part::rest; }
  int64_t n_rows() const { return part == Part::rest ? std::ssize(batch.asked->rows) : batch.n_tokens(); }

  // The step's rows of a buffer, as dense rows of n elements.
  TensorView rows(const TensorView& buffer, int64_t n) const {
    return TensorView(buffer.data, buffer.dtype, {n_rows(), n}, buffer.device);
  }
  // Where they stand in the area of layer i, and over the sources.
  const ops::BatchRows& in_area(int64_t i) const {
    return part == Part::rest ? batch.asked->in_area : batch.areas[kv[i].area].rows;
  }
  const ops::BatchRows& sources() const { return part == Part::rest ? batch.asked->sources : batch.sources; }
  // What they turn by. Of the rows asked for it lies where keys and values were made, which are kept by then.
  TensorView cos(int64_t rope) const {
    return rows(part == Part::rest ? state.key : state.cos[rope], state.cos[rope].size(1));
  }
  TensorView sin(int64_t rope) const {
    return rows(part == Part::rest ? state.value : state.sin[rope], state.sin[rope].size(1));
  }
  // What a linear map reads. There is one room: who makes another input ends this one.
  ops::Activations input(const TensorView& x) const { return {x, state.room}; }
};

// A weight that is applied to x.
inline TensorView vector_of(const float* data, int64_t n, const TensorView& x) {
  return TensorView(const_cast<float*>(data), DType::f32, {n}, x.device);
}

inline ops::LinearMap map_of(const TensorView& y, const Linear& linear) {
  return {y, &linear.w, linear.bias};
}

}  // namespace tuili
