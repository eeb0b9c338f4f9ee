// Scores from distances: what each layer makes of the table, once, and the attention that reads it.
#include <cstring>

#include "model/step.h"

namespace tuili {

void ModelBuilder::expect_distances() {
  const ModelSpec& spec = *spec_;
  const DistanceSpec& distances = spec.distances;
  ModelWeights& weights = *weights_;
  if (distances.places.empty()) return;
  expect_floats("distance_table", distances.n_rows, spec.d_model, false, weights.distance_table);
  if (distances.norm) expect_norm("distance_norm", spec.d_model, weights.distance_norm);
  if (distances.shared) return;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const int64_t q_size = spec.layers[i].q_size();
    if (spec.layers[i].weights_of >= 0) continue;
    LayerWeights& w = weights.layers[i];
    if (distances.keys)
      expect_linear(join("layers.", i, ".distance_key"), q_size, spec.d_model, true, w.distance_key);
    if (distances.queries)
      expect_linear(join("layers.", i, ".distance_query"), q_size, spec.d_model, true, w.distance_query);
  }
}

// Each head's columns of map(table), packed as a matrix of its own.
void ModelBuilder::fold_heads(const ops::Context& context, const Linear& map, const TensorView& table,
                              const LayerSpec& layer, std::vector<PackedMatrix>& heads) {
  const int64_t n_rows = table.rows(), d = layer.head_dim;
  const Buffer made(n_rows * layer.q_size() * 4), head_rows(n_rows * d * 4);
  const TensorView mapped(reinterpret_cast<float*>(made.data()), DType::f32, {n_rows, layer.q_size()});
  ops::Activations input{table, {}};
  const ops::LinearMap linear = map_of(mapped, map);
  ops::gemm(context, input, {&linear, 1}, ops::Compute::float32);
  const int64_t bytes = ops::packed_bytes(Format::f32, n_rows, d);
  for (int64_t h = 0; h < layer.n_heads; ++h) {
    for (int64_t row = 0; row < n_rows; ++row)
      std::memcpy(head_rows.data() + row * d * 4, mapped.f32_row(row) + h * d, static_cast<size_t>(d) * 4);
    heads.push_back(ops::pack(context, Format::f32, n_rows, d, head_rows.data(), take(bytes)));
    model_.weight_bytes += bytes;
  }
}

void ModelBuilder::fold_distances() {
  const DistanceSpec& distances = model_.spec.distances;
  if (distances.places.empty()) return;
  ModelWeights& weights = model_.weights;
  const int64_t d = model_.spec.d_model;
  const int64_t scratch_floats = ops::scratch_floats_for(1);
  const Buffer scratch(num_threads_ * scratch_floats * 4), normed(distances.n_rows * d * 4);
  const ops::Context context{.kernels = &ops::find_kernels(nullptr),
                             .pool = &ThreadPool::shared(),
                             .n_threads = num_threads_,
                             .scratch = reinterpret_cast<float*>(scratch.data()),
                             .scratch_floats = scratch_floats};
  TensorView table(const_cast<float*>(weights.distance_table), DType::f32, {distances.n_rows, d});
  if (distances.norm) {
    const TensorView to(reinterpret_cast<float*>(normed.data()), DType::f32, {distances.n_rows, d});
    ops::layer_norm(context, to, table, vector_of(weights.distance_norm.gain, d, to),
                    vector_of(weights.distance_norm.bias, d, to), model_.spec.norm_eps);
    table = to;
  }
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerSpec& layer = model_.spec.layers[i];
    LayerWeights& w = weights.layers[i];
    if (layer.weights_of >= 0) continue;
    if (distances.keys)
      fold_heads(context, distances.shared ? w.key : w.distance_key, table, layer, w.distance_keys);
    if (distances.queries)
      fold_heads(context, distances.shared ? w.query : w.distance_query, table, layer, w.distance_queries);
  }
}

void Transformer::attend_distances(const Step& step, int64_t i, const TensorView& out,
                                   const TensorView& q) const {
  const LayerWeights& w = weights_.layers[i];
  const DistanceSpec& spec = spec_.distances;
  const ops::Distances distances{.keys = w.distance_keys,
                                 .queries = w.distance_queries,
                                 .places = weights_.distance_places,
                                 .origin = spec.origin,
                                 .n_rows = spec.n_rows,
                                 .room = step.state.distances};
  const TensorView& made = step.state.key;  // of all rows, whatever rows the step has
  const TensorView k(made.data, made.dtype, {step.batch.n_tokens(), spec_.layers[i].kv_size()}, made.device);
  ops::distance_attention(step.context, attention_of(i), out, q, k, step.kv[i].pages, step.in_area(i),
                          step.batch.areas[step.kv[i].area].rows, distances, step.state.attention_partials);
}

}  // namespace tuili
