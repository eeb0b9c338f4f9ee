// Attention from small vectors: queries, keys and values made from them, with the rotated part beside.
#include <algorithm>

#include "model/step.h"

namespace tuili {

LatentState LatentState::take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device) {
  int64_t query_rank = 0, kv_rank = 0, nope = 0, rope = 0, key_rope = 0, value = 0;
  for (const LayerSpec& layer : spec.layers) {
    const LatentSpec& latent = layer.latent;
    if (latent.kv_rank == 0) continue;
    query_rank = std::max(query_rank, latent.query_rank);
    kv_rank = std::max(kv_rank, latent.kv_rank);
    nope = std::max(nope, layer.n_heads * latent.nope_dim);
    rope = std::max(rope, layer.n_heads * latent.rope_dim);
    key_rope = std::max(key_rope, latent.rope_dim);
    value = std::max(value, layer.n_heads * latent.value_dim);
  }
  const auto rows = [&](int64_t n, DType type = DType::f32) {
    return take_rows(carver, max_tokens, n, device, type);
  };
  const DType input = ops::input_type(device);
  LatentState state;
  state.query_in = rows(query_rank);
  state.in = rows(kv_rank);
  state.query_nope = rows(nope);
  state.key_nope = rows(nope);
  state.query_rope = rows(rope);
  state.key_rope = rows(key_rope);
  state.value = rows(value);
  state.attended = input == DType::f32 ? state.value : rows(value, input);
  return state;
}

int64_t LatentState::largest() const { return std::max({query_in.size(1), in.size(1), value.size(1)}); }

void Transformer::project_latent(const Step& step, int64_t i, ops::Activations x) const {
  const LatentSpec& latent = spec_.layers[i].latent;
  const LatentWeights& w = weights_.layers[i].latent;
  const LatentState& s = step.state.latent;
  if (step.makes_keys()) {
    const ops::LinearMap small[] = {map_of(step.rows(s.in, latent.kv_rank), w.in),
                                    map_of(step.rows(s.key_rope, latent.rope_dim), w.key_rope)};
    ops::gemm(step.context, x, small, compute_);
  }
  if (step.makes_queries()) latent_queries(step, i, x);
  if (step.makes_keys()) latent_keys(step, i);
}

// Queries of x, in the room of whose input other inputs may be then.
void Transformer::latent_queries(const Step& step, int64_t i, ops::Activations& input) const {
  const LayerSpec& spec = spec_.layers[i];
  const LatentSpec& latent = spec.latent;
  const LatentWeights& w = weights_.layers[i].latent;
  const ops::Context& context = step.context;
  LatentState& s = step.state.latent;
  const int64_t n = spec.n_heads;
  const TensorView query_nope = step.rows(s.query_nope, n * latent.nope_dim);
  const TensorView query_rope = step.rows(s.query_rope, n * latent.rope_dim);
  const ops::LinearMap queries[] = {map_of(query_nope, w.query_nope), map_of(query_rope, w.query_rope)};
  if (latent.query_rank) {
    const TensorView query_in = step.rows(s.query_in, latent.query_rank);
    const ops::LinearMap map = map_of(query_in, w.query_in);
    ops::gemm(context, input, {&map, 1}, compute_);
    ops::rms_norm(context, query_in, query_in, vector_of(w.query_norm, latent.query_rank, query_in),
                  latent.norm_eps);
    ops::Activations from = step.input(query_in);
    ops::gemm(context, from, queries, compute_);
  } else {
    ops::gemm(context, input, queries, compute_);
  }
  apply_rope(step, spec.rope, query_rope, n);
  const TensorView q = step.rows(step.state.query, spec.q_size());
  ops::clear(context, q);
  ops::copy_heads(context, q, 0, query_rope, n, n);
  ops::copy_heads(context, q, latent.rope_dim, query_nope, n, n);
}

// Keys and values of the small vectors that project_latent has made.
void Transformer::latent_keys(const Step& step, int64_t i) const {
  const LayerSpec& spec = spec_.layers[i];
  const LatentSpec& latent = spec.latent;
  const LatentWeights& w = weights_.layers[i].latent;
  const ops::Context& context = step.context;
  LatentState& s = step.state.latent;
  const int64_t n = spec.n_heads;
  const TensorView in = step.rows(s.in, latent.kv_rank), key_rope = step.rows(s.key_rope, latent.rope_dim);
  const TensorView key_nope = step.rows(s.key_nope, n * latent.nope_dim);
  const TensorView value = step.rows(s.value, n * latent.value_dim);
  ops::rms_norm(context, in, in, vector_of(w.norm, latent.kv_rank, in), latent.norm_eps);
  ops::Activations from = step.input(in);
  const ops::LinearMap keys[] = {map_of(key_nope, w.key_nope), map_of(value, w.value)};
  ops::gemm(context, from, keys, compute_);
  apply_rope(step, spec.rope, key_rope, 1);
  const TensorView k = step.rows(step.state.key, spec.kv_size());
  const TensorView v = step.rows(step.state.value, spec.kv_size());
  for (const TensorView& heads : {k, v}) ops::clear(context, heads);
  ops::copy_heads(context, k, 0, key_rope, n, 1);
  ops::copy_heads(context, k, latent.rope_dim, key_nope, n, n);
  ops::copy_heads(context, v, 0, value, n, n);
  ops::kv_write(context, step.kv[i].pages, k, v, step.batch.areas[step.kv[i].area].slots.data());
}

}  // namespace tuili
