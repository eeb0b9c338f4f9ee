#include "model/transformer.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace tuili {

State State::take(Carver& carver, const ModelSpec& spec, int64_t max_tokens) {
  int64_t q_size = 0, kv_size = 0, d_ff = 0;
  for (const LayerSpec& layer : spec.layers) {
    q_size = std::max(q_size, layer.q_size());
    kv_size = std::max(kv_size, layer.kv_size());
    d_ff = std::max(d_ff, layer.d_ff);
  }
  const auto rows = [&](int64_t n) {
    return TensorView(carver.take<float>(max_tokens * n), DType::f32, {max_tokens, n});
  };
  State state;
  state.hidden = rows(spec.d_model);
  state.normed = rows(spec.d_model);
  state.mixed = rows(spec.d_model);
  state.query = rows(q_size);
  state.attended = rows(q_size);
  state.key = rows(kv_size);
  state.value = rows(kv_size);
  state.gate = rows(d_ff);
  state.up = rows(d_ff);
  state.quantized = ops::quantized_rows(carver, max_tokens, std::max({spec.d_model, q_size, d_ff}));
  for (const RopeSpec& rope : spec.ropes) {
    state.cos.push_back(rows(static_cast<int64_t>(rope.inv_freq.size())));
    state.sin.push_back(rows(static_cast<int64_t>(rope.inv_freq.size())));
  }
  if (spec.n_positions_learned) state.position_ids.resize(max_tokens);
  if (spec.n_token_types) state.type_ids.resize(max_tokens);
  return state;
}

struct Transformer::Step {
  const ops::Context& context;
  const StepBatch& batch;
  KvView kv;
  State& state;

  // The batch's rows of a buffer, as dense rows of n elements.
  TensorView rows(const TensorView& buffer, int64_t n) const {
    return TensorView(buffer.data, DType::f32, {batch.n_tokens(), n});
  }
  ops::Activations input(const TensorView& x) const { return {x, state.quantized}; }
};

namespace {

TensorView vector_of(const float* data, int64_t n) {
  return TensorView(const_cast<float*>(data), DType::f32, {n});
}

ops::LinearMap map_of(const TensorView& y, const Linear& linear) { return {y, &linear.w, linear.bias}; }

// y += (x · downᵀ) · upᵀ, once per adapter; after the maps of the same input, whose quantized rows it reuses.
void add_low_rank(const ops::Context& context, const TensorView& y, ops::Activations& x,
                  const LowRank* adapter, ops::Compute compute) {
  if (adapter == nullptr) return;
  const TensorView inner = adapter->inner.slice(0, y.rows()), delta = adapter->delta.slice(0, y.rows());
  const ops::LinearMap down{inner, &adapter->down}, up{delta, &adapter->up};
  ops::gemm(context, x, {&down, 1}, compute);
  ops::Activations middle{inner, adapter->inner_quantized};
  ops::gemm(context, middle, {&up, 1}, compute);
  ops::add(context, y, y, delta);
}

}  // namespace

void Transformer::norm(const Step& step, const TensorView& y, const TensorView& x,
                       const NormWeights& weights) const {
  const TensorView gain = vector_of(weights.gain, spec_.d_model);
  if (spec_.norm == Norm::rms) return ops::rms_norm(step.context, y, x, gain, spec_.norm_eps);
  ops::layer_norm(step.context, y, x, gain, vector_of(weights.bias, spec_.d_model), spec_.norm_eps);
}

void Transformer::embed(const Step& step) const {
  const StepBatch& batch = step.batch;
  const int64_t d = spec_.d_model;
  const TensorView h = step.rows(step.state.hidden, d);
  ops::embed(step.context, h, weights_.token_embedding, batch.token_ids.data(), spec_.embedding_scale);
  if (spec_.n_token_types) {
    auto& ids = step.state.type_ids;
    for (int64_t t = 0; t < batch.n_tokens(); ++t)
      ids[t] = batch.token_types.empty() ? 0 : batch.token_types[t];
    const TensorView table(const_cast<float*>(weights_.token_type_embedding), DType::f32,
                           {spec_.n_token_types, d});
    ops::add_rows(step.context, h, table, ids.data());
  }
  if (spec_.n_positions_learned) {
    auto& ids = step.state.position_ids;
    for (int64_t t = 0; t < batch.n_tokens(); ++t)
      ids[t] = batch.positions[t] + static_cast<int32_t>(spec_.position_offset);
    const TensorView table(const_cast<float*>(weights_.position_embedding), DType::f32,
                           {spec_.n_positions_learned, d});
    ops::add_rows(step.context, h, table, ids.data());
  }
  if (spec_.embedding_norm) norm(step, h, h, weights_.embedding_norm);
}

// mixed = output(attention(query(x), key(x), value(x)))
void Transformer::attention_block(const Step& step, int64_t i, const TensorView& x) const {
  const LayerSpec& spec = spec_.layers[i];
  const LayerWeights& w = weights_.layers[i];
  const ops::Context& context = step.context;
  State& s = step.state;
  const TensorView q = step.rows(s.query, spec.q_size()), out = step.rows(s.attended, spec.q_size());
  const TensorView k = step.rows(s.key, spec.kv_size()), v = step.rows(s.value, spec.kv_size());

  ops::Activations input = step.input(x);
  const ops::LinearMap maps[] = {map_of(q, w.query), map_of(k, w.key), map_of(v, w.value)};
  ops::gemm(context, input, maps, compute_);
  add_low_rank(context, q, input, w.query.low_rank, compute_);
  add_low_rank(context, k, input, w.key.low_rank, compute_);
  add_low_rank(context, v, input, w.value.low_rank, compute_);

  if (spec.qk_norm) {
    ops::rms_norm_heads(context, q, vector_of(w.query_norm, spec.head_dim), spec_.norm_eps);
    ops::rms_norm_heads(context, k, vector_of(w.key_norm, spec.head_dim), spec_.norm_eps);
  }
  if (spec.rope >= 0) {
    const RopeSpec& rope = spec_.ropes[spec.rope];
    const auto half = static_cast<int64_t>(rope.inv_freq.size());
    const TensorView cos = step.rows(s.cos[spec.rope], half), sin = step.rows(s.sin[spec.rope], half);
    ops::rope(context, q, cos, sin, spec.n_heads, rope.interleaved);
    ops::rope(context, k, cos, sin, spec.n_kv_heads, rope.interleaved);
  }

  const ops::KvPages& pages = step.kv[i].pages;
  const AreaRows& rows = step.batch.areas[step.kv[i].area];
  ops::kv_write(context, pages, k, v, rows.slots.data());
  const ops::AttentionSpec attention{spec.n_heads,        spec.n_kv_heads, spec.head_dim,
                                     spec.sliding_window, spec.causal,     spec.attention_scale,
                                     spec.score_softcap};
  ops::attention(context, attention, out, q, pages, rows.sequences, s.attention_partials);

  ops::Activations attended = step.input(out);
  const TensorView mixed = step.rows(s.mixed, spec_.d_model);
  const ops::LinearMap output = map_of(mixed, w.output);
  ops::gemm(context, attended, {&output, 1}, compute_);
  add_low_rank(context, mixed, attended, w.output.low_rank, compute_);
}

// mixed = down(activation(gate(x)) · up(x)), or down(activation(up(x)))
void Transformer::mlp_block(const Step& step, int64_t i, const TensorView& x) const {
  const LayerSpec& spec = spec_.layers[i];
  const LayerWeights& w = weights_.layers[i];
  const ops::Context& context = step.context;
  const TensorView up = step.rows(step.state.up, spec.d_ff), gate = step.rows(step.state.gate, spec.d_ff);

  ops::Activations input = step.input(x);
  const ops::LinearMap maps[] = {map_of(up, w.up), map_of(gate, w.gate)};
  ops::gemm(context, input, {maps, spec.gated ? size_t{2} : size_t{1}}, compute_);
  add_low_rank(context, up, input, w.up.low_rank, compute_);
  if (spec.gated) add_low_rank(context, gate, input, w.gate.low_rank, compute_);
  const TensorView inner = spec.gated ? gate : up;
  ops::activate(context, inner, inner, spec.gated ? up : TensorView(), spec.activation);

  ops::Activations activated = step.input(inner);
  const TensorView mixed = step.rows(step.state.mixed, spec_.d_model);
  const ops::LinearMap down = map_of(mixed, w.down);
  ops::gemm(context, activated, {&down, 1}, compute_);
  add_low_rank(context, mixed, activated, w.down.low_rank, compute_);
}

void Transformer::layer(const Step& step, int64_t i) const {
  const LayerWeights& w = weights_.layers[i];
  const NormPlacement placement = spec_.layers[i].norm_placement;
  const ops::Context& context = step.context;
  const TensorView h = step.rows(step.state.hidden, spec_.d_model);
  const TensorView normed = step.rows(step.state.normed, spec_.d_model);
  const TensorView mixed = step.rows(step.state.mixed, spec_.d_model);

  if (placement == NormPlacement::post) {
    attention_block(step, i, h);
    ops::add(context, h, h, mixed);
    norm(step, h, h, w.attention_norm);
    mlp_block(step, i, h);
    ops::add(context, h, h, mixed);
    norm(step, h, h, w.mlp_norm);
    return;
  }
  const bool sandwich = placement == NormPlacement::sandwich;
  norm(step, normed, h, w.attention_norm);
  attention_block(step, i, normed);
  if (sandwich) norm(step, normed, mixed, w.post_attention_norm);
  ops::add(context, h, h, sandwich ? normed : mixed);
  norm(step, normed, h, w.mlp_norm);
  mlp_block(step, i, normed);
  if (sandwich) norm(step, normed, mixed, w.post_mlp_norm);
  ops::add(context, h, h, sandwich ? normed : mixed);
}

void Transformer::forward(const ops::Context& context, const StepBatch& batch, KvView kv, State& state,
                          const Taps* taps) const {
  const Step step{context, batch, kv, state};
  const TensorView h = step.rows(state.hidden, spec_.d_model);
  const auto tap = [&](int64_t i) {
    if (taps) std::memcpy(taps->hidden.f32_row(i), h.data, static_cast<size_t>(h.count()) * sizeof(float));
  };
  for (size_t i = 0; i < spec_.ropes.size(); ++i) {
    const RopeSpec& rope = spec_.ropes[i];
    const auto half = static_cast<int64_t>(rope.inv_freq.size());
    ops::rope_table(context, step.rows(state.cos[i], half), step.rows(state.sin[i], half),
                    batch.positions.data(), rope.inv_freq.data(), rope.scale);
  }
  embed(step);
  for (int64_t i = 0; i < spec_.n_layers(); ++i) {
    tap(i);
    layer(step, i);
  }
  if (spec_.final_norm) norm(step, h, h, weights_.final_norm);
  tap(spec_.n_layers());
}

void Transformer::head(const ops::Context& context, const TensorView& logits, const TensorView& x,
                       State& state) const {
  TUILI_CHECK(spec_.has_head, "this model has no head: it gives hidden states, not logits");
  ops::Activations input{x, state.quantized};
  const ops::LinearMap map = map_of(logits, weights_.head);
  ops::gemm(context, input, {&map, 1}, compute_);
  if (spec_.logit_scale != 1) ops::scale(context, logits, spec_.logit_scale);
  if (spec_.logit_softcap > 0) ops::softcap(context, logits, spec_.logit_softcap);
}

}  // namespace tuili
