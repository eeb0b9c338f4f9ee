#include "model/transformer.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "model/step.h"

namespace tuili {

State State::take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device) {
  int64_t n_heads = 0, q_size = 0, d_ff = 0;
  bool two_norms = false, gates = false;
  for (const LayerSpec& layer : spec.layers) {
    n_heads = std::max(n_heads, layer.n_heads);
    q_size = std::max(q_size, layer.q_size());
    two_norms = two_norms || layer.norm_placement == NormPlacement::parallel_two;
    gates = gates || layer.attention_gate;
    d_ff = std::max({d_ff, layer.d_ff, layer.moe.d_ff_shared, layer.attention_gate ? layer.q_size() : 0});
  }
  const auto rows = [&](int64_t n, DType type = DType::f32) {
    return take_rows(carver, max_tokens, n, device, type);
  };
  const DType input = ops::input_type(device);
  State state;
  state.hidden = rows(spec.d_model);
  state.normed = rows(spec.d_model, input);
  state.normed_too = rows(two_norms ? spec.d_model : 0, input);
  state.mixed = rows(spec.d_model);
  state.query = rows(q_size);
  state.attended = rows(q_size, gates ? DType::f32 : input);
  state.key = rows(spec.largest_kv_size());
  state.value = rows(spec.largest_kv_size());
  state.gate = rows(d_ff);
  state.up = rows(d_ff);
  if (input != DType::f32) state.activated = rows(d_ff, input);
  state.embedded = rows(std::max(spec.d_embedding, spec.has_inner_head() ? spec.task_head.d_inner : 0));
  state.routed = RoutedState::take(carver, spec, max_tokens, device);
  state.latent = LatentState::take(carver, spec, max_tokens, device);
  state.distances = ops::distance_room(carver, max_tokens, std::min(spec.max_positions, max_tokens), n_heads,
                                       spec.distances.n_rows, device);
  state.taps = rows(spec.d_model * spec.convolution.n_taps, input);
  const int64_t d_expert = std::max(state.routed.gate.size(1), state.latent.largest());
  state.room = ops::input_room(carver, max_tokens,
                               std::max({spec.d_model, q_size, d_ff, d_expert, spec.d_embedding,
                                         spec.task_head.d_inner, state.taps.size(1)}),
                               device);
  for (const RopeSpec& rope : spec.ropes) {
    state.cos.push_back(rows(std::ssize(rope.inv_freq)));
    state.sin.push_back(rows(std::ssize(rope.inv_freq)));
  }
  return state;
}

namespace {

// A layer norm of each head of x [n_tokens, n_heads · head_dim], in place.
void layer_norm_heads(const ops::Context& context, const TensorView& x, const std::vector<NormWeights>& norms,
                      float eps) {
  const int64_t n_heads = std::ssize(norms);
  const int64_t head_dim = x.size(1) / n_heads;
  for (int64_t h = 0; h < n_heads; ++h) {
    TensorView head(x.f32() + h * head_dim, DType::f32, {x.rows(), head_dim}, x.device);
    head.row_stride = x.row_stride;
    ops::layer_norm_strided(context, head, vector_of(norms[h].gain, head_dim, x),
                            vector_of(norms[h].bias, head_dim, x), eps);
  }
}

}  // namespace

// y = w(x)
void Transformer::linear(const ops::Context& context, const TensorView& y, ops::Activations x,
                         const Linear& w) const {
  const ops::LinearMap map = map_of(y, w);
  ops::gemm(context, x, {&map, 1}, compute_);
}

void Transformer::norm(const Step& step, const TensorView& y, const TensorView& x,
                       const NormWeights& weights) const {
  const int64_t width = x.size(1);
  const TensorView gain = vector_of(weights.gain, width, x);
  if (spec_.norm == Norm::rms) return ops::rms_norm(step.context, y, x, gain, spec_.norm_eps);
  ops::layer_norm(step.context, y, x, gain, vector_of(weights.bias, width, x), spec_.norm_eps);
}

void Transformer::embed(const Step& step) const {
  const StepBatch& batch = step.batch;
  const TensorView hidden = step.rows(step.state.hidden, spec_.d_model);
  const TensorView embedded = spec_.d_embedding ? step.rows(step.state.embedded, spec_.d_embedding) : hidden;
  const auto project = [&] { linear(step.context, hidden, step.input(embedded), weights_.embedding_in); };
  ops::embed(step.context, embedded, weights_.token_embedding, batch.token_ids.data(), spec_.embedding_scale);
  if (spec_.d_embedding && !spec_.project_last) project();
  const TensorView h = spec_.project_last ? embedded : hidden;
  const int64_t d = spec_.position_width();
  if (spec_.n_token_types) {
    const TensorView table(const_cast<float*>(weights_.token_type_embedding), DType::f32,
                           {spec_.n_token_types, d}, h.device);
    ops::add_rows(step.context, h, table, batch.token_types.data());
  }
  const bool early = spec_.norm_before_positions, late = spec_.norm_projected;
  if (early) norm(step, h, h, weights_.embedding_norm);
  if (spec_.n_positions_learned) {
    const TensorView table(const_cast<float*>(weights_.position_embedding), DType::f32,
                           {spec_.n_positions_learned, d}, h.device);
    ops::add_rows(step.context, h, table, batch.position_rows.data());
  }
  if (spec_.embedding_norm && !early && !late) norm(step, h, h, weights_.embedding_norm);
  if (spec_.project_last) project();
  if (spec_.embedding_norm && late) norm(step, hidden, hidden, weights_.embedding_norm);
}

ops::AttentionSpec Transformer::attention_of(int64_t i) const {
  const LayerSpec& spec = spec_.layers[i];
  ops::AttentionSpec attention{.n_heads = spec.n_heads,
                               .n_kv_heads = spec.n_kv_heads,
                               .head_dim = spec.head_dim,
                               .window = spec.sliding_window,
                               .causal = spec.causal,
                               .scale = spec.attention_scale,
                               .softcap = spec.score_softcap,
                               .sinks = weights_.layers[i].sinks};
  if (spec.position_bias < 0) return attention;
  const PositionBias& bias = spec_.position_biases[spec.position_bias];
  attention.bias = weights_.bias_values[spec.position_bias];
  attention.bias_stride = bias.size;
  attention.bias_origin = bias.origin;
  attention.bias_relative = bias.relative;
  return attention;
}

// The norm of queries or keys x.
void Transformer::qk_norm(const Step& step, const LayerSpec& spec, const TensorView& x, const float* gain,
                          const std::vector<NormWeights>& heads) const {
  const float eps = spec_.norm_eps;
  switch (spec.qk_norm) {
    case QkNorm::none: return;
    case QkNorm::heads:
    case QkNorm::rotated: return ops::rms_norm_heads(step.context, x, vector_of(gain, spec.head_dim, x), eps);
    case QkNorm::whole: return ops::rms_norm(step.context, x, x, vector_of(gain, x.size(1), x), eps);
    case QkNorm::layer: return layer_norm_heads(step.context, x, heads, eps);
  }
}

// Query, key and value of x, those of them that the step makes, into the state's buffers; key and value are
// kept.
void Transformer::project(const Step& step, int64_t i, ops::Activations x) const {
  const LayerSpec& spec = spec_.layers[i];
  if (spec.latent.kv_rank) return project_latent(step, i, x);
  const LayerWeights& w = weights_.layers[i];
  const ops::Context& context = step.context;
  const TensorView q = step.rows(step.state.query, spec.q_size());
  const TensorView k = step.rows(step.state.key, spec.kv_size());
  const TensorView v = step.rows(step.state.value, spec.kv_size());

  const TensorView gate = step.rows(step.state.gate, spec.q_size());
  const ops::LinearMap maps[] = {map_of(gate, w.attention_gate), map_of(q, w.query), map_of(k, w.key),
                                 map_of(v, w.value)};
  const size_t begin = step.makes_queries() ? 1 : 2, end = step.makes_keys() ? 4 : 2;
  const size_t first = begin == 1 && spec.attention_gate ? 0 : begin;
  ops::gemm(context, x, std::span(maps).subspan(first, end - first), compute_);
  const bool is_rotated = spec.qk_norm == QkNorm::rotated;
  if (step.makes_queries()) {
    if (is_rotated) apply_rope(step, spec.rope, q, spec.n_heads);
    qk_norm(step, spec, q, w.query_norm, w.query_norms);
  }
  if (step.makes_keys()) {
    if (is_rotated) apply_rope(step, spec.rope, k, spec.n_kv_heads);
    qk_norm(step, spec, k, w.key_norm, w.key_norms);
  }
  if (spec.qkv_clip > 0)
    for (size_t part = begin; part < end; ++part)
      ops::clamp(context, maps[part].y, -spec.qkv_clip, spec.qkv_clip, 0);
  rope_and_kv_write(step, i, q, k, v);
}

// RoPE of x [n_rows, n_heads · head_dim], in place.
void Transformer::apply_rope(const Step& step, int64_t rope, const TensorView& x, int64_t n_heads) const {
  ops::rope(step.context, x, step.cos(rope), step.sin(rope), n_heads, spec_.ropes[rope].interleaved);
}

// RoPE of q and k where they have not turned yet, of v where it turns, too; k and v go to the layer's pages.
void Transformer::rope_and_kv_write(const Step& step, int64_t i, const TensorView& q, const TensorView& k,
                                    const TensorView& v) const {
  const LayerSpec& spec = spec_.layers[i];
  const ops::Context& context = step.context;
  const int32_t* const slots = step.batch.areas[step.kv[i].area].slots.data();
  if (spec.rope_values && step.makes_keys()) apply_rope(step, spec.rope, v, spec.n_kv_heads);
  if (spec.rope >= 0 && spec.qk_norm != QkNorm::rotated) {
    if (step.part == Part::whole) {
      const bool interleaved = spec_.ropes[spec.rope].interleaved;
      const ops::RopeKv x{q, k, v, step.cos(spec.rope), step.sin(spec.rope), spec.n_heads, interleaved};
      return ops::rope_kv_write(context, x, step.kv[i].pages, slots);
    }
    if (step.makes_queries()) return apply_rope(step, spec.rope, q, spec.n_heads);
    apply_rope(step, spec.rope, k, spec.n_kv_heads);
  }
  if (step.makes_keys()) ops::kv_write(context, step.kv[i].pages, k, v, slots);
}

// What each row sees of the keys and values up to this step's, which are kept: the input of `output`.
TensorView Transformer::attend(const Step& step, int64_t i, ops::Activations x) const {
  const LayerSpec& spec = spec_.layers[i];
  State& s = step.state;
  project(step, i, x);
  const TensorView q = step.rows(s.query, spec.q_size()), out = step.rows(s.attended, spec.q_size());
  if (spec_.distances.places.empty())
    ops::attention(step.context, attention_of(i), out, q, step.kv[i].pages, step.in_area(i),
                   s.attention_partials);
  else
    attend_distances(step, i, out, q);
  if (spec.latent.kv_rank == 0) return out;
  const TensorView narrow = step.rows(s.latent.attended, spec.n_heads * spec.latent.value_dim);
  ops::copy_heads(step.context, narrow, 0, out, spec.n_heads, spec.n_heads);
  return narrow;
}

// What the attention of layer i reads, of what the layer before left for it.
ops::Activations Transformer::attention_input(const Step& step, int64_t i,
                                              const ops::Activations& before) const {
  const LayerSpec& spec = spec_.layers[i];
  const TensorView h = step.rows(step.state.hidden, spec_.d_model);
  const TensorView normed = step.rows(step.state.normed, spec_.d_model);
  if (spec.norm_placement == NormPlacement::post || spec.norm_placement == NormPlacement::branch ||
      !spec.attention_norm)
    return before;
  if (spec.norm_placement == NormPlacement::normed_residual) {
    if (step.makes_keys()) norm(step, h, h, weights_.layers[i].attention_norm);  // of all rows, otherwise
    return step.input(h);
  }
  if (is_normed_ahead(i) && step.makes_keys()) return before;  // of all rows, otherwise
  norm(step, normed, h, weights_.layers[i].attention_norm);
  return step.input(normed);
}

// mixed = output(attention(query(x), key(x), value(x)))
void Transformer::attention_block(const Step& step, int64_t i, const ops::Activations& before) const {
  const TensorView attended = attend(step, i, attention_input(step, i, before));
  const Linear& output = weights_.layers[i].output;
  ops::Activations made = step.input(attended);
  if (spec_.layers[i].attention_gate) {
    const TensorView& room = step.state.activated;
    if (room.data) made = step.input(step.rows(room, attended.size(1)));
    ops::plan(made, {&output.w}, compute_);
    ops::activate(step.context, made, step.rows(step.state.gate, attended.size(1)), attended,
                  ops::Activation::sigmoid);
  }
  linear(step.context, step.rows(step.state.mixed, spec_.d_model), made, output);
}

// y = activation(gate) · up, or activation(up)
void Transformer::activate(const Step& step, const LayerSpec& layer, ops::Activations& y,
                           const TensorView& gate, const TensorView& up) const {
  const ops::Context& context = step.context;
  if (layer.gated && layer.moe.clamp > 0) {
    ops::clamp(context, gate, -std::numeric_limits<float>::infinity(), layer.moe.clamp, 0);
    ops::clamp(context, up, -layer.moe.clamp, layer.moe.clamp, 1);
    if (layer.moe.steepness != 1) {
      ops::scale(context, gate, layer.moe.steepness);
      ops::scale(context, up, 1 / layer.moe.steepness);
    }
  }
  const TensorView& inner = layer.gated ? gate : up;
  if (layer.xielu != ops::Xielu{}) ops::xielu(context, inner, layer.xielu);
  ops::activate(context, y, inner, layer.gated ? up : TensorView(), layer.activation);
}

// y = down(activation(gate(x)) · up(x)), or down(activation(up(x)))
void Transformer::mlp(const Step& step, const LayerSpec& layer, const MlpWeights& w, const TensorView& y,
                      ops::Activations x, const TensorView& gate, const TensorView& up) const {
  const ops::Context& context = step.context;
  const ops::LinearMap maps[] = {map_of(up, w.up), map_of(gate, w.gate)};
  ops::gemm(context, x, {maps, layer.gated ? size_t{2} : size_t{1}}, compute_);
  const TensorView inner = layer.gated ? gate : up;
  const TensorView& room = step.state.activated;
  ops::Activations result = step.input(
      room.data ? TensorView(room.data, room.dtype, {inner.rows(), inner.size(1)}, room.device) : inner);
  ops::plan(result, {&w.down.w}, compute_);
  activate(step, layer, result, gate, up);
  linear(context, y, result, w.down);
}

// mixed = mlp(x), or what the experts make of it
void Transformer::mlp_block(const Step& step, int64_t i, const ops::Activations& x) const {
  const LayerSpec& spec = spec_.layers[i];
  if (i + 1 == spec_.n_layers()) step.state.n_last_rows += x.x.rows();
  if (spec.moe.n_experts) return moe_block(step, i, x);
  mlp(step, spec, weights_.layers[i].mlp, step.rows(step.state.mixed, spec_.d_model), x,
      step.rows(step.state.gate, spec.d_ff), step.rows(step.state.up, spec.d_ff));
}

// hidden += mixed, which layer i has made
void Transformer::add(const Step& step, int64_t i) const {
  const TensorView h = step.rows(step.state.hidden, spec_.d_model);
  const TensorView mixed = step.rows(step.state.mixed, spec_.d_model);
  if (spec_.layers[i].residual_scale != 1) ops::scale(step.context, mixed, spec_.layers[i].residual_scale);
  ops::add(step.context, h, h, mixed);
}

// hidden += mixed, then y = norm(hidden), which meets the weights `next`; y may be hidden.
ops::Activations Transformer::add_and_norm(const Step& step, int64_t i, const TensorView& y,
                                           const NormWeights& weights, Next next) const {
  const int64_t d = spec_.d_model;
  const TensorView h = step.rows(step.state.hidden, d), mixed = step.rows(step.state.mixed, d);
  const TensorView gain = vector_of(weights.gain, d, h);
  if (spec_.layers[i].residual_scale != 1) ops::scale(step.context, mixed, spec_.layers[i].residual_scale);
  ops::Activations made = step.input(y);
  ops::plan(made, next, compute_);
  if (spec_.norm == Norm::rms)
    ops::add_rms_norm(step.context, made, h, mixed, gain, spec_.norm_eps);
  else
    ops::add_layer_norm(step.context, made, h, mixed, gain, vector_of(weights.bias, d, h), spec_.norm_eps);
  return made;
}

// add_and_norm for the attention of the next layer.
ops::Activations Transformer::norm_after_mlp(const Step& step, int64_t i, const TensorView& y,
                                             const NormWeights& weights) const {
  if (i + 1 == spec_.n_layers() || spec_.layers[i + 1].latent.kv_rank)
    return add_and_norm(step, i, y, weights, {});
  const LayerWeights& w = weights_.layers[i + 1];
  return add_and_norm(step, i, y, weights,
                      {&w.query.w, &w.key.w, &w.value.w,
                       spec_.layers[i + 1].attention_gate ? &w.attention_gate.w : &w.query.w});
}

// add_and_norm for what follows in layer i: cross-attention, experts or the MLP.
ops::Activations Transformer::norm_after_attention(const Step& step, int64_t i, const TensorView& y,
                                                   const NormWeights& weights) const {
  const LayerSpec& spec = spec_.layers[i];
  if (spec.cross_attention) return add_and_norm(step, i, y, weights, {&weights_.layers[i].cross_query.w});
  if (spec.moe.n_experts) return add_and_norm(step, i, y, weights, {});
  const MlpWeights& w = weights_.layers[i].mlp;
  return add_and_norm(step, i, y, weights, {&w.up.w, spec.gated ? &w.gate.w : &w.up.w});
}

// The end of layer i, with the norm that the next one begins with.
ops::Activations Transformer::add_and_go_on(const Step& step, int64_t i) const {
  if (is_normed_ahead(i + 1))
    return norm_after_mlp(step, i, step.rows(step.state.normed, spec_.d_model),
                          weights_.layers[i + 1].attention_norm);
  add(step, i);
  return step.input(step.rows(step.state.hidden, spec_.d_model));
}

// Whether the layer before has left the norm that layer i begins with.
bool Transformer::is_normed_ahead(int64_t i) const {
  const auto norms_first = [&](const LayerSpec& layer) {
    return (layer.norm_placement == NormPlacement::pre && layer.attention_norm) ||
           layer.norm_placement == NormPlacement::sandwich;
  };
  return i > 0 && i < spec_.n_layers() && norms_first(spec_.layers[i]) && norms_first(spec_.layers[i - 1]);
}

// What the next layer's attention reads: hidden, or the norm of it that is_normed_ahead().
ops::Activations Transformer::layer(const Step& step, int64_t i, const ops::Activations& before) const {
  const LayerSpec& spec = spec_.layers[i];
  const LayerWeights& w = weights_.layers[i];
  const TensorView h = step.rows(step.state.hidden, spec_.d_model);
  const TensorView normed = step.rows(step.state.normed, spec_.d_model);
  const TensorView mixed = step.rows(step.state.mixed, spec_.d_model);
  const bool two = spec.norm_placement == NormPlacement::parallel_two;
  const TensorView other = two ? step.rows(step.state.normed_too, spec_.d_model) : normed;
  if (two) norm(step, other, h, w.mlp_norm);
  attention_block(step, i, before);

  switch (spec.norm_placement) {
    case NormPlacement::pre:
      if (spec.cross_attention) {
        add(step, i);
        norm(step, normed, h, w.cross_norm);
        cross_attention_block(step, i, step.input(normed));
        add(step, i);
        norm(step, normed, h, w.mlp_norm);
        mlp_block(step, i, step.input(normed));
      } else {
        mlp_block(step, i, norm_after_attention(step, i, normed, w.mlp_norm));
      }
      return add_and_go_on(step, i);
    case NormPlacement::post: {
      ops::Activations made = norm_after_attention(step, i, h, w.attention_norm);
      if (spec.cross_attention) {
        cross_attention_block(step, i, made);
        add(step, i);
        norm(step, h, h, w.cross_norm);
        made = step.input(h);
      }
      mlp_block(step, i, made);
      return norm_after_mlp(step, i, h, w.mlp_norm);
    }
    case NormPlacement::sandwich:
      norm(step, mixed, mixed, w.post_attention_norm);
      mlp_block(step, i, norm_after_attention(step, i, normed, w.mlp_norm));
      norm(step, mixed, mixed, w.post_mlp_norm);
      return add_and_go_on(step, i);
    case NormPlacement::branch:
      norm(step, mixed, mixed, w.attention_norm);
      add(step, i);
      mlp_block(step, i, step.input(h));
      norm(step, mixed, mixed, w.mlp_norm);
      break;
    case NormPlacement::normed_residual:
      mlp_block(step, i, norm_after_attention(step, i, h, w.mlp_norm));
      break;
    case NormPlacement::parallel:
    case NormPlacement::parallel_two:
      add(step, i);
      mlp_block(step, i, step.input(other));
      break;
  }
  add(step, i);
  return step.input(h);
}

void Transformer::rope_tables(const ops::Context& context, std::span<const int32_t> positions,
                              std::span<const TensorView> cos, std::span<const TensorView> sin) const {
  const int64_t n = std::ssize(positions);
  for (size_t i = 0; i < spec_.ropes.size(); ++i)
    ops::rope_table(context, cos[i].slice(0, n), sin[i].slice(0, n), positions.data(),
                    spec_.ropes[i].inv_freq.data(), spec_.ropes[i].scale);
}

// The step of the rows that are asked for, whose hidden states move to the front of those of `step`, and what
// the last layer's queries turn by to where its keys and values were made.
Transformer::Step Transformer::narrow(const Step& step) const {
  const Step asked{step.context, step.batch, step.kv, step.state, Part::rest};
  const auto gather = [&](const TensorView& y, const TensorView& x) {
    ops::gather_rows(step.context, y, x, step.batch.asked->rows.data());
  };
  const TensorView room = asked.rows(step.state.mixed, spec_.d_model);
  gather(room, step.rows(step.state.hidden, spec_.d_model));
  ops::copy(step.context, asked.rows(step.state.hidden, spec_.d_model), room);
  if (const int64_t rope = spec_.layers.empty() ? -1 : spec_.layers.back().rope; rope >= 0) {
    gather(asked.cos(rope), step.cos(rope));
    gather(asked.sin(rope), step.sin(rope));
  }
  return asked;
}

void Transformer::forward(const ops::Context& context, const StepBatch& batch, KvView kv, State& state,
                          const Taps* taps) const {
  const Step step{context, batch, kv, state};
  const TensorView h = step.rows(state.hidden, spec_.d_model);
  const auto tap = [&](int64_t i) {
    if (taps) ops::copy(context, TensorView(taps->hidden.f32_row(i), DType::f32, {h.rows(), h.size(1)}), h);
  };
  // A convolution, beside the first layer, looks at all rows.
  const bool narrows = batch.asked && !taps,
             spares = narrows && spec_.n_layers() > (spec_.convolution.n_taps > 0 ? 1 : 0);
  const int64_t n_whole = spec_.n_layers() - (spares ? 1 : 0);
  embed(step);
  ops::Activations next = step.input(h);
  for (int64_t i = 0; i < n_whole; ++i) {
    tap(i);
    const bool convolves = i == 0 && spec_.convolution.n_taps > 0;
    if (convolves) gather_taps(step);
    next = layer(step, i, next);
    if (!convolves) continue;
    convolve(step);
    next = step.input(h);
  }
  if (spares) project({context, batch, kv, state, Part::keys}, n_whole, attention_input(step, n_whole, next));
  if (narrows && batch.asked->rows.empty()) return;
  const Step last = narrows ? narrow(step) : step;
  const TensorView final = last.rows(state.hidden, spec_.d_model);
  if (spares) layer(last, n_whole, last.input(final));
  if (spec_.final_norm) norm(last, final, final, weights_.final_norm);
  tap(spec_.n_layers());
  if (batch.asked && taps) narrow(step);
}

ops::Activations Transformer::head_input(const ops::Context& context, const TensorView& x,
                                         State& state) const {
  if (!spec_.d_embedding && !spec_.has_inner_head()) return {x, state.room};
  const TensorView embedded(state.embedded.data, DType::f32, {x.rows(), spec_.embedding_width()}, x.device);
  if (spec_.has_inner_head())
    inner_of_head(context, embedded, x, state);
  else
    linear(context, embedded, {x, state.room}, weights_.embedding_out);
  return {embedded, state.room};
}

bool Transformer::likeliest(const ops::Context& context, std::span<int32_t> tokens, const TensorView& logits,
                            const TensorView& x, State& state) const {
  const ops::HeadScreen& screen = weights_.head_screen;
  if (!screen.w.codes) return false;
  ops::Activations input = head_input(context, x, state);
  return ops::screened_argmax(context, tokens, input, map_of(logits, weights_.head), screen,
                              spec_.logit_scale);
}

void Transformer::head(const ops::Context& context, const TensorView& logits, const TensorView& x,
                       State& state) const {
  TUILI_CHECK(spec_.has_head, "this model has no head: it gives hidden states, not logits");
  linear(context, logits, head_input(context, x, state), weights_.head);
  if (spec_.logit_scale != 1) ops::scale(context, logits, spec_.logit_scale);
  if (spec_.logit_softcap > 0) ops::softcap(context, logits, spec_.logit_softcap);
}

// inner = norm(activation(dense(x))), as far as the task head has them
void Transformer::inner_of_head(const ops::Context& context, const TensorView& inner, const TensorView& x,
                                State& state) const {
  const TaskHead& spec = spec_.task_head;
  const TaskHeadWeights& w = weights_.task_head;
  linear(context, inner, {x, state.room}, w.dense);
  if (spec.activation) ops::activate(context, inner, inner, TensorView(), *spec.activation);
  if (!spec.norm) return;
  const TensorView gain = vector_of(w.norm.gain, spec.d_inner, inner),
                   bias = vector_of(w.norm.bias, spec.d_inner, inner);
  ops::layer_norm(context, inner, inner, gain, bias, spec_.norm_eps);
}

void Transformer::task_head(const ops::Context& context, const TensorView& out, const TensorView& x,
                            const TensorView& inner, State& state) const {
  const bool has_inner = spec_.task_head.d_inner > 0;
  TUILI_CHECK(spec_.task_head.n_out > 0, "this model has no task head");
  if (has_inner) inner_of_head(context, inner, x, state);
  linear(context, out, {has_inner ? inner : x, state.room}, weights_.task_head.out);
}

}  // namespace tuili
