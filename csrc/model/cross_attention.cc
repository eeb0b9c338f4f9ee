// Cross-attention: a decoder's rows look at the hidden states of a source, whose keys and values are made
// once.
#include "model/step.h"

namespace tuili {

void Transformer::keep_source(const ops::Context& context, ops::Activations x, const TensorView& key,
                              const TensorView& value, const int32_t* slots, KvView kv) const {
  for (int64_t i = 0; i < spec_.n_layers(); ++i) {
    const LayerWeights& w = weights_.layers[i];
    const int64_t width = spec_.layers[i].kv_size();
    const TensorView k(key.data, key.dtype, {x.x.rows(), width}, key.device),
        v(value.data, value.dtype, {x.x.rows(), width}, value.device);
    const ops::LinearMap maps[] = {map_of(k, w.cross_key), map_of(v, w.cross_value)};
    ops::gemm(context, x, maps, compute_);
    ops::kv_write(context, kv[i].pages, k, v, slots);
  }
}

// mixed = cross_output(attention(cross_query(x), the source's keys, the source's values))
void Transformer::cross_attention_block(const Step& step, int64_t i, const ops::Activations& x) const {
  const LayerSpec& spec = spec_.layers[i];
  const LayerWeights& w = weights_.layers[i];
  const TensorView q = step.rows(step.state.query, spec.q_size());
  const TensorView out = step.rows(step.state.attended, spec.q_size());
  linear(step.context, q, x, w.cross_query);
  const ops::AttentionSpec attention{.n_heads = spec.n_heads,
                                     .n_kv_heads = spec.n_kv_heads,
                                     .head_dim = spec.head_dim,
                                     .causal = false,
                                     .scale = spec.attention_scale};
  ops::attention(step.context, attention, out, q, step.kv[i].pages, step.sources(),
                 step.state.attention_partials);
  linear(step.context, step.rows(step.state.mixed, spec_.d_model), step.input(out), w.cross_output);
}

}  // namespace tuili
