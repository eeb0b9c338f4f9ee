#include "model/spec.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tuili {
namespace {

#define TUILI_CHECK_SPEC(condition, ...) TUILI_CHECK_KIND(ErrorKind::model_format, condition, __VA_ARGS__)

void check_size(const std::string& name, int64_t value, int64_t low, int64_t high) {
  TUILI_CHECK_SPEC(value >= low && value <= high, name, " must be in [", low, ", ", high, "], not ", value);
}

// Finite and > 0.
void check_factor(const std::string& name, float value) {
  TUILI_CHECK_SPEC(std::isfinite(value) && value > 0, name, " must be finite and positive, not ", value);
}

// Finite and >= 0; 0 switches it off.
void check_cap(const std::string& name, float value) {
  TUILI_CHECK_SPEC(std::isfinite(value) && value >= 0, name, " must be finite and at least 0, not ", value);
}

void check_rope(const RopeSpec& rope, const std::string& name) {
  check_size(name + ".inv_freq's length", std::ssize(rope.inv_freq), 1, kMaxHeadDim / 2);
  for (const float frequency : rope.inv_freq)  // position · frequency stays where sine and cosine are exact
    TUILI_CHECK_SPEC(std::abs(frequency) <= 16, name, ".inv_freq must be in [-16, 16], not ", frequency);
  check_factor(name + ".scale", rope.scale);
}

void check_bias(const PositionBias& bias, int64_t max_positions, const std::string& name) {
  check_size(name + ".size", bias.size, 1, 4 * kMaxPositions);
  check_size(name + ".origin", bias.origin, 0, bias.size - 1);
  const int64_t n_values = std::ssize(bias.values);
  TUILI_CHECK_SPEC(n_values > 0 && n_values % bias.size == 0, name, " has ", n_values,
                   " values, no multiple of its size ", bias.size);
  for (const float value : bias.values)
    TUILI_CHECK_SPEC(std::isfinite(value), name, " must be finite, not ", value);
  if (!bias.buckets.empty()) {
    check_size(name + ".n_buckets", bias.n_buckets, 1, kMaxInner);
    TUILI_CHECK_SPEC(std::ssize(bias.buckets) == bias.size, name, " has ", bias.buckets.size(),
                     " buckets for ", bias.size, " places");
    for (const int32_t bucket : bias.buckets) check_size(name + ".buckets", bucket, 0, bias.n_buckets - 1);
  }
  // Keys are read in tiles of 64, whole.
  const int64_t before = bias.relative ? max_positions - 1 : 0, after = max_positions + 63;
  TUILI_CHECK_SPEC(bias.origin >= before && bias.size - bias.origin >= after, name, " has ", bias.origin,
                   " values before and ", bias.size - bias.origin, " from its origin on; ", max_positions,
                   " positions need ", before, " and ", after);
}

void check_moe(const MoeSpec& moe, const std::string& name) {
  check_size(name + ".n_experts", moe.n_experts, 1, ops::kMaxExperts);
  check_size(name + ".n_used", moe.n_used, 1, moe.n_experts);
  check_size(name + ".d_ff", moe.d_ff, 1, kMaxInner);
  check_size(name + ".d_ff_shared", moe.d_ff_shared, 0, kMaxInner);
  check_factor(name + ".scale", moe.scale);
  check_cap(name + ".near", moe.near);
  TUILI_CHECK_SPEC(moe.near == 0 || moe.scoring == ops::Scoring::near_best, name, ".near needs near_best");
  check_cap(name + ".clamp", moe.clamp);
  check_factor(name + ".steepness", moe.steepness);
  TUILI_CHECK_SPEC(moe.steepness == 1 || moe.clamp > 0, name, ".steepness needs clamp");
  check_size(name + ".n_groups", moe.n_groups, 1, moe.n_experts);
  TUILI_CHECK_SPEC(moe.n_experts % moe.n_groups == 0, name, ".n_groups is ", moe.n_groups,
                   ", no divisor of n_experts = ", moe.n_experts);
  const int64_t group = moe.n_experts / moe.n_groups;
  check_size(name + ".n_groups_used", moe.n_groups_used, 1, moe.n_groups);
  check_size(name + ".group_top", moe.group_top, 1, group);
  TUILI_CHECK_SPEC(moe.n_used <= moe.n_groups_used * group, name, ".n_used is ", moe.n_used, ", but only ",
                   moe.n_groups_used * group, " experts are in the groups used");
  TUILI_CHECK_SPEC(!moe.shared_gate || moe.d_ff_shared > 0, name, ".shared_gate needs d_ff_shared");
}

void check_latent(const ModelSpec& spec, const LayerSpec& layer, const std::string& name) {
  const LatentSpec& latent = layer.latent;
  check_size(name + ".kv_rank", latent.kv_rank, 1, kMaxModel);
  check_size(name + ".query_rank", latent.query_rank, 0, kMaxModel);
  check_size(name + ".nope_dim", latent.nope_dim, 1, kMaxHeadDim);
  check_size(name + ".rope_dim", latent.rope_dim, 2, kMaxHeadDim);
  check_size(name + ".value_dim", latent.value_dim, 1, layer.head_dim);
  check_factor(name + ".norm_eps", latent.norm_eps);
  TUILI_CHECK_SPEC(latent.nope_dim + latent.rope_dim <= layer.head_dim && layer.n_kv_heads == layer.n_heads,
                   name, ": heads of ", latent.nope_dim, " + ", latent.rope_dim, " do not fit ",
                   layer.n_kv_heads, " of ", layer.head_dim);
  TUILI_CHECK_SPEC(layer.rope >= 0 && 2 * std::ssize(spec.ropes[layer.rope].inv_freq) == latent.rope_dim,
                   name, ": rope_dim is ", latent.rope_dim, ", and its RoPE turns another number");
  TUILI_CHECK_SPEC(layer.qk_norm == QkNorm::none && layer.qkv_clip == 0, name,
                   ": no norm or clip of query and key");
}

void check_layer(const ModelSpec& spec, const LayerSpec& layer, const std::string& name) {
  check_size(name + ".n_heads", layer.n_heads, 1, kMaxHeads);
  check_size(name + ".n_kv_heads", layer.n_kv_heads, 1, layer.n_heads);
  TUILI_CHECK_SPEC(layer.n_heads % layer.n_kv_heads == 0, name, ".n_heads is ", layer.n_heads,
                   ", no multiple of n_kv_heads = ", layer.n_kv_heads);
  check_size(name + ".head_dim", layer.head_dim, 1, kMaxHeadDim);
  check_size(name + ".d_ff", layer.d_ff, 1, kMaxInner);
  check_size(name + ".rope", layer.rope, -1, std::ssize(spec.ropes) - 1);
  if (layer.rope >= 0) {
    const int64_t turned = 2 * std::ssize(spec.ropes[layer.rope].inv_freq);
    TUILI_CHECK_SPEC(turned <= layer.head_dim, name, ": its RoPE turns ", turned, " elements of heads of ",
                     layer.head_dim);
  }
  TUILI_CHECK_SPEC(!layer.rope_values || (layer.rope >= 0 && layer.latent.kv_rank == 0), name,
                   ".rope_values needs a rope, and no latent");
  TUILI_CHECK_SPEC(layer.qk_norm != QkNorm::rotated || (layer.rope >= 0 && !layer.rope_values), name,
                   ": a norm behind a rope needs one, and none of values");
  TUILI_CHECK_SPEC(layer.attention_norm || layer.norm_placement == NormPlacement::pre, name,
                   ": only norms before attention can be left out");
  TUILI_CHECK_SPEC(!layer.attention_gate || (layer.latent.kv_rank == 0 && spec.distances.places.empty()),
                   name, ".attention_gate goes with no latent and no distances");
  for (const float factor : {layer.xielu.alpha_p, layer.xielu.alpha_n, layer.xielu.beta})
    TUILI_CHECK_SPEC(std::isfinite(factor), name, ".xielu must be finite, not ", factor);
  check_size(name + ".sliding_window", layer.sliding_window, 0, kMaxPositions);
  TUILI_CHECK_SPEC(!layer.cross_attention || (layer.latent.kv_rank == 0 && layer.sliding_window == 0 &&
                                              (layer.norm_placement == NormPlacement::pre ||
                                               layer.norm_placement == NormPlacement::post)),
                   name, ": cross_attention goes with norms before or after, no window and no latent");
  TUILI_CHECK_SPEC(layer.causal || spec.kind == ModelKind::encoder, name,
                   ": a decoder's layers must be causal");
  check_factor(name + ".attention_scale", layer.attention_scale);
  check_cap(name + ".score_softcap", layer.score_softcap);
  check_cap(name + ".qkv_clip", layer.qkv_clip);
  check_factor(name + ".residual_scale", layer.residual_scale);
  check_size(name + ".position_bias", layer.position_bias, -1, std::ssize(spec.position_biases) - 1);
  if (layer.position_bias >= 0) {
    const PositionBias& bias = spec.position_biases[layer.position_bias];
    TUILI_CHECK_SPEC(std::ssize(bias.values) == layer.n_heads * bias.size, name,
                     ": its position bias is not one for ", layer.n_heads, " heads");
  }
  if (layer.latent.kv_rank != 0) check_latent(spec, layer, name + ".latent");
  if (layer.moe.n_experts != 0) check_moe(layer.moe, name + ".moe");
}

void check_shared(const ModelSpec& spec, size_t i) {
  const int64_t owner = spec.layers[i].weights_of;
  const std::string name = join("layers[", i, "].weights_of");
  check_size(name, owner, -1, static_cast<int64_t>(i) - 1);
  if (owner < 0) return;
  LayerSpec alike = spec.layers[i];
  alike.weights_of = -1;
  TUILI_CHECK_SPEC(alike == spec.layers[owner], name, " is ", owner,
                   ", a layer of another kind or without weights of its own");
}

void check_task_head(const ModelSpec& spec) {
  const TaskHead& head = spec.task_head;
  check_size("task_head.n_out", head.n_out, 0, kMaxVocab);
  check_size("task_head.d_inner", head.d_inner, 0, kMaxInner);
  if (head.n_out == 0 && head.d_inner == 0) return;
  TUILI_CHECK_SPEC(head.n_out > 0 || (spec.kind == ModelKind::decoder && spec.has_head &&
                                      head.d_inner == spec.embedding_width()),
                   "task_head.d_inner is ", head.d_inner,
                   " without n_out; only a decoder's head reads it, of ", spec.embedding_width(), " numbers");
  TUILI_CHECK_SPEC(head.n_out == 0 || spec.kind == ModelKind::encoder, "a decoder has no task head");
  TUILI_CHECK_SPEC(head.d_inner > 0 || !(head.activation || head.norm),
                   "task_head: an activation or norm without d_inner");
  const int64_t d_in = head.d_inner ? head.d_inner : spec.d_model;
  TUILI_CHECK_SPEC(!head.tied || (d_in == spec.embedding_width() && head.n_out == spec.n_vocab),
                   "task_head: tied to an embedding of ", spec.embedding_width(), " numbers, but it has ",
                   d_in);
}

void check_encoder(const ModelSpec& spec) {
  const bool is_both = spec.kind == ModelKind::encoder_decoder;
  const bool reads = is_both || (spec.kind == ModelKind::encoder && !spec.encoder.empty());
  for (size_t i = 0; i < spec.layers.size(); ++i)
    TUILI_CHECK_SPEC(spec.layers[i].cross_attention == reads, "layers[", i, "].cross_attention is ",
                     spec.layers[i].cross_attention,
                     "; all layers that have an encoder before them have it, others not");
  TUILI_CHECK_SPEC(spec.encoder.size() == (reads ? 1 : 0), spec.encoder.size(),
                   " encoders; an encoder-decoder has one, a decoder none");
  if (!reads) return;
  const ModelSpec& encoder = spec.encoder[0];
  encoder.validate();
  TUILI_CHECK_SPEC(
      encoder.kind == ModelKind::encoder && encoder.encoder.empty() && encoder.task_head.n_out == 0,
      "the encoder of an encoder-decoder must be one, alone and without a task head");
  TUILI_CHECK_SPEC(encoder.distances.places.empty() && encoder.convolution.n_taps == 0,
                   "the encoder of an encoder-decoder has neither scores from distances nor a convolution");
  TUILI_CHECK_SPEC(encoder.d_model == spec.d_model, "the encoder's d_model is ", encoder.d_model,
                   ", the decoder's ", spec.d_model);
  TUILI_CHECK_SPEC(!encoder.shares_embedding || (encoder.n_vocab == spec.n_vocab &&
                                                 encoder.embedding_width() == spec.embedding_width()),
                   "the encoder shares an embedding of ", spec.n_vocab, " tokens, but has ", encoder.n_vocab);
}

void check_distances(const ModelSpec& spec) {
  const DistanceSpec& distances = spec.distances;
  const int64_t size = std::ssize(distances.places);
  check_size("distances.n_rows", distances.n_rows, size ? 1 : 0, size ? kMaxInner : 0);
  if (size == 0) return;
  TUILI_CHECK_SPEC(distances.origin == spec.max_positions - 1 && size == 2 * spec.max_positions - 1,
                   "distances: ", size, " places from ", -distances.origin, " on; ", spec.max_positions,
                   " positions need ", 2 * spec.max_positions - 1);
  int32_t before = 0;
  for (const int32_t place : distances.places) {
    check_size("distances.places", place, before, distances.n_rows - 1);
    before = place;
  }
  TUILI_CHECK_SPEC(distances.keys || distances.queries, "distances: neither keys nor queries");
  TUILI_CHECK_SPEC(spec.kind == ModelKind::encoder && spec.norm == Norm::layer,
                   "distances: only in encoders with layer norms");
  for (const LayerSpec& layer : spec.layers)
    TUILI_CHECK_SPEC(!layer.causal && layer.n_kv_heads == layer.n_heads && layer.sliding_window == 0 &&
                         layer.rope < 0 && layer.position_bias < 0 && layer.score_softcap == 0 &&
                         !layer.sinks && layer.latent.kv_rank == 0,
                     "distances: only with plain heads that see every key, and do not turn");
}

void check_convolution(const ModelSpec& spec) {
  check_size("convolution.n_taps", spec.convolution.n_taps, 0, 255);
  if (spec.convolution.n_taps == 0) return;
  TUILI_CHECK_SPEC(spec.convolution.n_taps % 2 == 1, "convolution.n_taps must be odd, not ",
                   spec.convolution.n_taps);
  TUILI_CHECK_SPEC(spec.kind == ModelKind::encoder && spec.norm == Norm::layer,
                   "convolution: only in encoders with layer norms");
}

}  // namespace

int64_t ModelSpec::largest_kv_size() const {
  int64_t largest = 0;
  for (const LayerSpec& layer : layers) largest = std::max(largest, layer.kv_size());
  return largest;
}

void ModelSpec::validate() const {
  check_size("n_vocab", n_vocab, 1, kMaxVocab);
  check_size("d_model", d_model, 1, kMaxModel);
  check_size("d_embedding", d_embedding, 0, kMaxModel);
  check_size("max_positions", max_positions, 1, kMaxPositions);
  check_size("n_layers", n_layers(), kind == ModelKind::encoder && encoder.empty() ? 0 : 1, kMaxLayers);
  check_size("n_positions_learned", n_positions_learned, 0, kMaxPositions);
  check_size("position_offset", position_offset, 0, kMaxPositions);
  TUILI_CHECK_SPEC(n_positions_learned == 0 || max_positions + position_offset <= n_positions_learned,
                   "max_positions = ", max_positions, " from row ", position_offset,
                   " on needs more than the ", n_positions_learned, " learned positions");
  check_size("padding_id", padding_id, -1, n_vocab - 1);
  TUILI_CHECK_SPEC(padding_id < 0 || position_offset > 0, "padding_id = ", padding_id,
                   " has the row before that of position 0, which is the first");
  check_size("n_token_types", n_token_types, 0, 1024);
  check_factor("embedding_scale", embedding_scale);
  check_factor("norm_eps", norm_eps);
  check_cap("logit_softcap", logit_softcap);
  check_factor("logit_scale", logit_scale);
  check_size("the number of ropes", std::ssize(ropes), 0, kMaxLayers);
  for (size_t i = 0; i < ropes.size(); ++i) check_rope(ropes[i], join("ropes[", i, "]"));
  check_size("the number of position biases", std::ssize(position_biases), 0, kMaxLayers);
  for (size_t i = 0; i < position_biases.size(); ++i)
    check_bias(position_biases[i], max_positions, join("position_biases[", i, "]"));
  for (size_t i = 0; i < layers.size(); ++i) check_layer(*this, layers[i], join("layers[", i, "]"));
  for (size_t i = 0; i < layers.size(); ++i) check_shared(*this, i);
  check_task_head(*this);
  check_encoder(*this);
  check_distances(*this);
  check_convolution(*this);
  TUILI_CHECK_SPEC(d_embedding > 0 || !project_last, "project_last without d_embedding");
  TUILI_CHECK_SPEC(project_last || !norm_projected, "norm_projected without project_last");
  TUILI_CHECK_SPEC(!norm_before_positions || (embedding_norm && !project_last),
                   "norm_before_positions without embedding_norm, or with project_last");
  TUILI_CHECK_SPEC(has_head || (!tied_head && !head_bias), "tied_head and head_bias need has_head");
  TUILI_CHECK_SPEC(has_head || kind == ModelKind::encoder, "a decoder needs a head");
}

}  // namespace tuili
