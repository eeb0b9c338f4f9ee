// Experts: route, sort the rows by expert, run each expert over its rows, sum per token.
#include <algorithm>

#include "model/step.h"

namespace tuili {

RoutedState RoutedState::take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device) {
  int64_t n_experts = 0, n_used = 0, d_ff = 0;
  for (const LayerSpec& layer : spec.layers) {
    if (layer.moe.n_experts == 0) continue;
    n_experts = std::max(n_experts, layer.moe.n_experts);
    n_used = std::max(n_used, layer.moe.n_used);
    d_ff = std::max(d_ff, layer.moe.d_ff);
  }
  const auto rows = [&](int64_t n, int64_t size, DType type = DType::f32) {
    return take_rows(carver, n, size, device, type);
  };
  const DType input = ops::input_type(device);
  RoutedState state;
  const int64_t n_rows = max_tokens * n_used;
  state.scores = rows(n_used ? max_tokens : 0, n_experts);
  state.rows = rows(n_rows, spec.d_model);
  state.gate = rows(n_rows, d_ff);
  state.up = rows(n_rows, d_ff);
  state.in = input == DType::f32 ? state.rows : rows(n_rows, spec.d_model, input);
  state.activated = input == DType::f32 ? state.gate : rows(n_rows, d_ff, input);
  state.shared_gate = rows(n_used ? max_tokens : 0, 1);
  state.routes = {.experts = carver.take<int32_t>(n_rows),
                  .weights = carver.take<float>(n_rows),
                  .places = carver.take<int32_t>(n_rows),
                  .first = carver.take<int32_t>(n_used ? n_experts + 1 : 0)};
  return state;
}

// All experts at once, where lists hold their maps and nobody here knows which rows are whose.
void Transformer::run_experts_together(const Step& step, const LayerSpec& layer, const MoeWeights& w) const {
  const ops::Context& context = step.context;
  const RoutedState& routed = step.state.routed;
  const int64_t n_tokens = step.n_rows(), n_rows = n_tokens * layer.moe.n_used;
  const auto part = [&](const TensorView& buffer, int64_t size) {
    return TensorView(buffer.data, buffer.dtype, {n_rows, size}, buffer.device);
  };
  const int64_t d = spec_.d_model, d_ff = layer.moe.d_ff;
  const TensorView in = part(routed.in, d), gate = part(routed.gate, d_ff), up = part(routed.up, d_ff);
  ops::Activations activated = step.input(part(routed.activated, d_ff));
  const int32_t* const first = routed.routes.first;
  ops::Beside beside(context, n_tokens);
  if (layer.gated) ops::gemm_experts(beside.context(), gate, in, w.gates, first);
  ops::gemm_experts(context, up, in, w.ups, first);
  beside.join();
  activate(step, layer, activated, gate, up);
  ops::gemm_experts(context, part(routed.rows, d), activated.x, w.downs, first);
}

// Each expert over its rows of state.routed, outputs in the place of inputs. An expert's rows are a GEMM of
// their own, whose bits do not depend on how many there are.
void Transformer::run_experts(const Step& step, const LayerSpec& layer, const MoeWeights& w) const {
  if (w.ups.list) return run_experts_together(step, layer, w);
  RoutedState& routed = step.state.routed;
  const int64_t d = spec_.d_model, d_ff = layer.moe.d_ff;
  const auto part = [](const TensorView& buffer, int64_t begin, int64_t n, int64_t size) {
    return TensorView(buffer.f32() + begin * size, DType::f32, {n, size});
  };
  for (int64_t e = 0; e < layer.moe.n_experts; ++e) {
    const int64_t begin = routed.routes.first[e], n = routed.routes.first[e + 1] - begin;
    if (n == 0) continue;
    const TensorView rows = part(routed.rows, begin, n, d);
    mlp(step, layer, w.experts[e], rows, step.input(rows), part(routed.gate, begin, n, d_ff),
        part(routed.up, begin, n, d_ff));
  }
}

// mixed += shared(x) · sigmoid(shared_gate(x))
void Transformer::add_shared(const Step& step, const LayerSpec& layer, const MoeWeights& w,
                             const TensorView& x) const {
  const ops::Context& context = step.context;
  State& s = step.state;
  const int64_t d_ff = layer.moe.d_ff_shared;
  const TensorView mixed = step.rows(s.mixed, spec_.d_model);
  const TensorView out = step.rows(s.routed.rows, spec_.d_model);  // the experts are done with it
  mlp(step, layer, w.shared, out, step.input(x), step.rows(s.gate, d_ff), step.rows(s.up, d_ff));
  if (!layer.moe.shared_gate) return ops::add(context, mixed, mixed, out);
  const TensorView gate = step.rows(s.routed.shared_gate, 1);
  linear(context, gate, step.input(x), w.shared_gate);
  ops::add_gated(context, mixed, out, gate);
}

// mixed = Σ score · expert(x) over the experts used, ascending, (+ the shared one)
void Transformer::moe_block(const Step& step, int64_t i, ops::Activations x) const {
  const LayerSpec& layer = spec_.layers[i];
  const MoeSpec& moe = layer.moe;
  const MoeWeights& w = weights_.layers[i].moe;
  const ops::Context& context = step.context;
  RoutedState& routed = step.state.routed;

  const TensorView scores = step.rows(routed.scores, moe.n_experts);
  const ops::LinearMap router = map_of(scores, w.router);
  ops::gemm(context, x, {&router, 1}, compute_);
  const ops::Routing routing{.n_used = moe.n_used,
                             .scoring = moe.scoring,
                             .near = moe.near,
                             .normalize = moe.normalize,
                             .scale = moe.scale,
                             .n_groups = moe.n_groups,
                             .n_groups_used = moe.n_groups_used,
                             .group_top = moe.group_top,
                             .selection_bias = w.selection_bias};
  const ops::Routes& routes = routed.routes;
  ops::route(context, routing, scores, routes);

  const auto rows = [&](const TensorView& buffer) {
    return TensorView(buffer.data, buffer.dtype, {x.x.rows() * moe.n_used, spec_.d_model}, buffer.device);
  };
  ops::scatter_rows(context, rows(routed.in), x, routes.places, moe.n_used);
  run_experts(step, layer, w);
  const TensorView mixed = step.rows(step.state.mixed, spec_.d_model);
  ops::weighted_sum_rows(context, mixed, rows(routed.rows), routes.places, routes.weights, moe.n_used);
  if (moe.d_ff_shared) add_shared(step, layer, w, x.x);
}

}  // namespace tuili
