#include "model/weights.h"

#include <algorithm>

#include "base/check.h"

namespace tuili {
namespace {

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Each bucket's value to the places that are in it.
void spread(PositionBias& bias, const float* table) {
  const int64_t n_heads = std::ssize(bias.values) / bias.size;
  for (int64_t h = 0; h < n_heads; ++h)
    for (int64_t p = 0; p < bias.size; ++p)
      bias.values[h * bias.size + p] = table[bias.buckets[p] * n_heads + h];
}

}  // namespace

ModelBuilder::ModelBuilder(ModelSpec spec, ops::Compute compute, int num_threads)
    : num_threads_(resolve_num_threads(num_threads)) {
  spec.validate();
  model_.spec = std::move(spec);
  // Outliers decide near ties of a decoder's next token; vectors, labels and translations do without.
  const bool is_decoder = model_.spec.kind == ModelKind::decoder;
  model_.compute = compute == ops::Compute::automatic && !is_decoder ? ops::Compute::int8 : compute;
  expect_part(model_.spec, model_.weights, "");
  for (size_t i = 0; i < slots_.size(); ++i) index_.emplace(slots_[i].name, i);
}

void ModelBuilder::expect_matrix(const std::string& name, int64_t n, int64_t k, PackedMatrix& target) {
  slots_.push_back({.name = prefix_ + name, .n = n, .k = k, .is_vector = false, .matrix = &target});
}

void ModelBuilder::expect_floats(const std::string& name, int64_t n, int64_t k, bool is_vector,
                                 const float*& target) {
  slots_.push_back({.name = prefix_ + name, .n = n, .k = k, .is_vector = is_vector, .floats = &target});
}

void ModelBuilder::expect_linear(const std::string& name, int64_t n, int64_t k, bool bias, Linear& target) {
  expect_matrix(name, n, k, target.w);
  if (bias) expect_floats(name + ".bias", 1, n, true, target.bias);
}

void ModelBuilder::expect_norm(const std::string& name, int64_t width, NormWeights& target) {
  expect_floats(name, 1, width, true, target.gain);
  if (spec_->norm == Norm::layer) expect_floats(name + ".bias", 1, width, true, target.bias);
}

void ModelBuilder::expect_qk_norm(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights) {
  if (layer.qk_norm == QkNorm::none) return;
  if (layer.qk_norm != QkNorm::layer) {
    const bool whole = layer.qk_norm == QkNorm::whole;
    expect_floats(prefix + "query_norm", 1, whole ? layer.q_size() : layer.head_dim, true,
                  weights.query_norm);
    expect_floats(prefix + "key_norm", 1, whole ? layer.kv_size() : layer.head_dim, true, weights.key_norm);
    return;
  }
  const auto expect_heads = [&](const std::string& name, std::vector<NormWeights>& norms, int64_t n_heads) {
    norms.resize(n_heads);  // slots point into it
    for (int64_t h = 0; h < n_heads; ++h) {
      expect_floats(join(name, h), 1, layer.head_dim, true, norms[h].gain);
      expect_floats(join(name, h, ".bias"), 1, layer.head_dim, true, norms[h].bias);
    }
  };
  expect_heads(prefix + "query_norms.", weights.query_norms, layer.n_heads);
  expect_heads(prefix + "key_norms.", weights.key_norms, layer.n_kv_heads);
}

void ModelBuilder::expect_latent(const std::string& prefix, const LayerSpec& layer, LatentWeights& weights) {
  const LatentSpec& latent = layer.latent;
  const int64_t d = spec_->d_model, n = layer.n_heads;
  const int64_t d_query = latent.query_rank ? latent.query_rank : d;
  if (latent.query_rank) {
    expect_linear(prefix + "query_in", latent.query_rank, d, layer.qkv_bias, weights.query_in);
    expect_floats(prefix + "query_latent_norm", 1, latent.query_rank, true, weights.query_norm);
  }
  expect_matrix(prefix + "query_nope", n * latent.nope_dim, d_query, weights.query_nope.w);
  expect_matrix(prefix + "query_rope", n * latent.rope_dim, d_query, weights.query_rope.w);
  expect_linear(prefix + "latent", latent.kv_rank, d, layer.qkv_bias, weights.in);
  expect_linear(prefix + "key_rope", latent.rope_dim, d, layer.qkv_bias, weights.key_rope);
  expect_floats(prefix + "latent_norm", 1, latent.kv_rank, true, weights.norm);
  expect_matrix(prefix + "key_nope", n * latent.nope_dim, latent.kv_rank, weights.key_nope.w);
  expect_matrix(prefix + "value", n * latent.value_dim, latent.kv_rank, weights.value.w);
}

void ModelBuilder::expect_attention(const std::string& prefix, const LayerSpec& layer,
                                    LayerWeights& weights) {
  const int64_t d = spec_->d_model;
  int64_t d_attended = layer.q_size();
  if (layer.latent.kv_rank) {
    expect_latent(prefix, layer, weights.latent);
    d_attended = layer.n_heads * layer.latent.value_dim;
  } else {
    expect_linear(prefix + "query", layer.q_size(), d, layer.qkv_bias, weights.query);
    expect_linear(prefix + "key", layer.kv_size(), d, layer.qkv_bias, weights.key);
    expect_linear(prefix + "value", layer.kv_size(), d, layer.qkv_bias, weights.value);
    expect_qk_norm(prefix, layer, weights);
    if (layer.attention_gate)
      expect_matrix(prefix + "attention_gate", layer.q_size(), d, weights.attention_gate.w);
  }
  if (layer.sinks) expect_floats(prefix + "sinks", 1, layer.n_heads, true, weights.sinks);
  expect_linear(prefix + "output", d, d_attended, layer.output_bias, weights.output);
}

void ModelBuilder::expect_cross_attention(const std::string& prefix, const LayerSpec& layer,
                                          LayerWeights& weights) {
  const int64_t d = spec_->d_model;
  expect_norm(prefix + "cross_norm", d, weights.cross_norm);
  expect_linear(prefix + "cross_query", layer.q_size(), d, layer.qkv_bias, weights.cross_query);
  expect_linear(prefix + "cross_key", layer.kv_size(), d, layer.qkv_bias, weights.cross_key);
  expect_linear(prefix + "cross_value", layer.kv_size(), d, layer.qkv_bias, weights.cross_value);
  expect_linear(prefix + "cross_output", d, layer.q_size(), layer.output_bias, weights.cross_output);
}

void ModelBuilder::expect_mlp(const std::string& prefix, int64_t d_ff, const LayerSpec& layer,
                              MlpWeights& weights) {
  const int64_t d = spec_->d_model;
  if (layer.gated) expect_linear(prefix + "gate", d_ff, d, layer.mlp_bias, weights.gate);
  expect_linear(prefix + "up", d_ff, d, layer.mlp_bias, weights.up);
  expect_linear(prefix + "down", d, d_ff, layer.mlp_bias, weights.down);
}

void ModelBuilder::expect_moe(const std::string& prefix, const LayerSpec& layer, MoeWeights& weights) {
  const MoeSpec& moe = layer.moe;
  const int64_t d = spec_->d_model;
  expect_linear(prefix + "router", moe.n_experts, d, moe.router_bias, weights.router);
  if (moe.selection_bias)
    expect_floats(prefix + "selection_bias", 1, moe.n_experts, true, weights.selection_bias);
  weights.experts.resize(moe.n_experts);  // slots point into it
  for (int64_t e = 0; e < moe.n_experts; ++e)
    expect_mlp(join(prefix, "experts.", e, "."), moe.d_ff, layer, weights.experts[e]);
  if (moe.d_ff_shared) expect_mlp(prefix + "shared.", moe.d_ff_shared, layer, weights.shared);
  if (moe.shared_gate) expect_matrix(prefix + "shared_gate", 1, d, weights.shared_gate.w);
}

void ModelBuilder::expect_layer(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights) {
  const int64_t d = spec_->d_model;
  const bool sandwich = layer.norm_placement == NormPlacement::sandwich;
  if (layer.attention_norm) expect_norm(prefix + "attention_norm", d, weights.attention_norm);
  expect_attention(prefix, layer, weights);
  if (sandwich) expect_norm(prefix + "post_attention_norm", d, weights.post_attention_norm);
  if (layer.cross_attention) expect_cross_attention(prefix, layer, weights);
  if (layer.norm_placement != NormPlacement::parallel) expect_norm(prefix + "mlp_norm", d, weights.mlp_norm);
  if (layer.moe.n_experts)
    expect_moe(prefix, layer, weights.moe);
  else
    expect_mlp(prefix, layer.d_ff, layer, weights.mlp);
  if (sandwich) expect_norm(prefix + "post_mlp_norm", d, weights.post_mlp_norm);
}

void ModelBuilder::expect_embedding() {
  const ModelSpec& spec = *spec_;
  ModelWeights& weights = *weights_;
  const int64_t d = spec.d_model, e = spec.embedding_width(), width = spec.position_width();
  if (!spec.shares_embedding) expect_matrix("token_embedding", spec.n_vocab, e, weights.token_embedding);
  if (spec.d_embedding) {
    expect_linear("embedding_in", d, e, spec.project_last && !spec.norm_projected, weights.embedding_in);
    if (spec.has_head && !spec.has_inner_head())
      expect_matrix("embedding_out", e, d, weights.embedding_out.w);
  }
  if (spec.n_positions_learned)
    expect_floats("position_embedding", spec.n_positions_learned, width, false, weights.position_embedding);
  if (spec.n_token_types)
    expect_floats("token_type_embedding", spec.n_token_types, width, false, weights.token_type_embedding);
  if (spec.embedding_norm) expect_norm("embedding_norm", spec.embedding_norm_width(), weights.embedding_norm);
}

// The tensors of the model, or of its encoder, with `prefix` before their names.
void ModelBuilder::expect_part(const ModelSpec& spec, ModelWeights& weights, std::string prefix) {
  weights.encoder.resize(spec.encoder.size());  // slots point into it
  for (size_t i = 0; i < spec.encoder.size(); ++i)
    expect_part(spec.encoder[i], weights.encoder[i], prefix + "encoder.");
  spec_ = &spec;
  weights_ = &weights;
  prefix_ = std::move(prefix);
  expect_embedding();
  weights.layers.resize(spec.layers.size());
  expect_distances();
  if (const int64_t n_taps = spec.convolution.n_taps) {
    expect_linear("convolution", spec.d_model, spec.d_model * n_taps, true, weights.convolution);
    expect_norm("convolution_norm", spec.d_model, weights.convolution_norm);
  }
  weights.bias_tables.resize(spec.position_biases.size());  // slots point into it
  for (size_t i = 0; i < spec.position_biases.size(); ++i)
    if (const PositionBias& bias = spec.position_biases[i]; !bias.buckets.empty())
      expect_floats(join("position_biases.", i), bias.n_buckets, std::ssize(bias.values) / bias.size, false,
                    weights.bias_tables[i]);
  for (size_t i = 0; i < spec.layers.size(); ++i)
    if (spec.layers[i].weights_of < 0)
      expect_layer(join("layers.", i, "."), spec.layers[i], weights.layers[i]);
  if (spec.final_norm) expect_norm("final_norm", spec.d_model, weights.final_norm);
  if (spec.has_head && !spec.tied_head)
    expect_matrix("head", spec.n_vocab, spec.embedding_width(), weights.head.w);
  if (spec.head_bias) expect_floats("head.bias", 1, spec.n_vocab, true, weights.head.bias);
  if (spec.task_head.n_out || spec.has_inner_head()) expect_task_head();
}

void ModelBuilder::expect_task_head() {
  const ModelSpec& spec = *spec_;
  const TaskHead& head = spec.task_head;
  TaskHeadWeights& weights = weights_->task_head;
  const int64_t d_in = head.d_inner ? head.d_inner : spec.d_model;
  if (head.d_inner)
    expect_linear("task_head.dense", head.d_inner, spec.d_model, head.dense_bias, weights.dense);
  if (head.norm) {
    expect_floats("task_head.norm", 1, d_in, true, weights.norm.gain);
    expect_floats("task_head.norm.bias", 1, d_in, true, weights.norm.bias);
  }
  if (!head.n_out) return;  // the model's own
  if (!head.tied) expect_matrix("task_head.out", head.n_out, d_in, weights.out.w);
  if (head.out_bias) expect_floats("task_head.out.bias", 1, head.n_out, true, weights.out.bias);
}

std::vector<int64_t> ModelBuilder::shape_of(const Slot& slot) {
  return slot.is_vector ? std::vector<int64_t>{slot.k} : std::vector<int64_t>{slot.n, slot.k};
}

std::vector<ModelBuilder::Expected> ModelBuilder::expected() const {
  std::vector<Expected> all;
  for (const Slot& slot : slots_) all.push_back({slot.name, shape_of(slot)});
  return all;
}

ModelBuilder::Slot& ModelBuilder::empty_slot(std::string_view name) {
  const auto found = index_.find(name);
  TUILI_CHECK_KIND(ErrorKind::model_format, found != index_.end(), "the model has no tensor ", name);
  Slot& slot = slots_[found->second];
  TUILI_CHECK_KIND(ErrorKind::model_format, !slot.filled, "tensor ", name, " is given twice");
  return slot;
}

void ModelBuilder::fill(Slot& slot, Format format, std::span<const uint8_t> packed) {
  if (slot.matrix)
    *slot.matrix = ops::packed_view(format, slot.n, slot.k, packed.data());
  else
    *slot.floats = reinterpret_cast<const float*>(packed.data());
  model_.n_parameters += slot.n * slot.k;
  model_.weight_bytes += std::ssize(packed);
  model_.tensors.push_back(
      {slot.name, slot.matrix ? format : Format::f32, packed, slot.matrix ? *slot.matrix : PackedMatrix()});
  slot.filled = true;
}

// Memory of one tensor. Many lie in one buffer, which is then large enough for huge pages; it has as much as
// all before it, so that small models stay small.
uint8_t* ModelBuilder::take(int64_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  constexpr int64_t kMostBytes = 0;  // each lies alone: what reads past its end is seen
#else
  constexpr int64_t kMostBytes = int64_t{64} << 20;
#endif
  std::vector<Buffer>& memory = model_.memory;
  if (memory.empty() || bytes > memory.back().bytes() - taken_) {
    memory.emplace_back(std::max(bytes, std::min(model_.weight_bytes, kMostBytes)));
    taken_ = 0;
  }
  uint8_t* const data = memory.back().data() + taken_;
  taken_ += align_up(bytes);
  return data;
}

void ModelBuilder::add(std::string_view name, Format format, std::span<const int64_t> shape,
                       std::span<const uint8_t> data) {
  Slot& slot = empty_slot(name);
  const std::vector<int64_t> wanted = shape_of(slot);
  TUILI_CHECK_KIND(ErrorKind::model_format, std::ranges::equal(shape, wanted), "tensor ", name, " has shape ",
                   shape_text(shape), "; the configuration wants ", shape_text(wanted));
  TUILI_CHECK_KIND(ErrorKind::model_unsupported, slot.matrix != nullptr || is_float(format), "tensor ", name,
                   " must be f32, f16 or bf16, not ", info_of(format).name);
  const int64_t bytes = slot.n * ops::row_bytes(format, slot.k);
  TUILI_CHECK_KIND(ErrorKind::model_format, std::ssize(data) == bytes, "tensor ", name, " has ", data.size(),
                   " bytes; ", info_of(format).name, " ", shape_text(wanted), " has ", bytes);
  const int64_t count = slot.n * slot.k;
  const int64_t packed_bytes = slot.matrix ? ops::packed_bytes(format, slot.n, slot.k) : count * 4;
  uint8_t* const packed = take(packed_bytes);
  if (slot.matrix) {
    const ops::Context context{.pool = &ThreadPool::shared(), .n_threads = num_threads_};
    ops::pack(context, format, slot.n, slot.k, data.data(), packed);
  } else {
    ops::to_float32(reinterpret_cast<float*>(packed), format, data.data(), count);
  }
  fill(slot, format, {packed, static_cast<size_t>(packed_bytes)});
}

void ModelBuilder::map(int fd, int64_t bytes) {
  TUILI_CHECK(model_.mapping.bytes() == 0, "this builder has mapped a file already");
  model_.mapping = Mapping(fd, bytes);
}

void ModelBuilder::place(std::string_view name, Format format, int64_t begin, int64_t bytes) {
  Slot& slot = empty_slot(name);
  TUILI_CHECK_KIND(ErrorKind::model_format, slot.matrix != nullptr || format == Format::f32, "tensor ", name,
                   " is ", info_of(format).name, "; packed it is f32");
  const int64_t wanted = slot.matrix ? ops::packed_bytes(format, slot.n, slot.k) : slot.n * slot.k * 4;
  TUILI_CHECK_KIND(ErrorKind::model_format, bytes == wanted && begin % kAlignment == 0, "tensor ", name,
                   " has ", bytes, " bytes at ", begin, "; packed it takes ", wanted, ", aligned to ",
                   kAlignment);
  fill(slot, format, model_.mapping.range(begin, bytes));
}

void ModelBuilder::borrow(std::string_view name, Format format, const uint8_t* data, int64_t bytes) {
  Slot& slot = empty_slot(name);
  borrows_ = true;
  if (!slot.matrix)
    *slot.floats = reinterpret_cast<const float*>(data);
  else
    *slot.matrix = {.format = format, .n = slot.n, .k = slot.k, .codes = data};
  model_.n_parameters += slot.n * slot.k;
  model_.weight_bytes += bytes;
  slot.filled = true;
}

// What is made of several tensors, or is another part's.
void ModelBuilder::finish_part(ModelSpec& spec, ModelWeights& weights) {
  for (size_t i = 0; i < weights.bias_tables.size(); ++i)
    if (weights.bias_tables[i]) spread(spec.position_biases[i], weights.bias_tables[i]);
  for (const PositionBias& bias : spec.position_biases) weights.bias_values.push_back(bias.values.data());
  weights.distance_places = spec.distances.places.data();
  if (spec.tied_head) weights.head.w = weights.token_embedding;
  if (spec.task_head.tied) weights.task_head.out.w = weights.token_embedding;
  for (size_t i = 0; i < weights.layers.size(); ++i)
    if (const int64_t owner = spec.layers[i].weights_of; owner >= 0)
      weights.layers[i] = weights.layers[owner];
  for (size_t i = 0; i < weights.encoder.size(); ++i) {
    if (spec.encoder[i].shares_embedding) weights.encoder[i].token_embedding = weights.token_embedding;
    finish_part(spec.encoder[i], weights.encoder[i]);
  }
}

// A greedy step reads the head's screen and little of the head.
void ModelBuilder::screen_head() {
  const ModelSpec& spec = model_.spec;
  const Linear& head = model_.weights.head;
  if (spec.kind == ModelKind::encoder || !spec.has_head || spec.logit_softcap > 0 ||
      !ops::can_screen(spec.logit_scale))
    return;
  const int64_t bytes = ops::screen_bytes(head.w);
  if (bytes == 0) return;
  const ops::Context context{.pool = &ThreadPool::shared(), .n_threads = num_threads_};
  model_.weights.head_screen = ops::make_screen(context, head.w, head.bias, take(bytes));
  model_.weight_bytes += bytes;
  model_.screen_bytes = bytes;
}

Model ModelBuilder::finish() {
  TUILI_CHECK(!slots_.empty(), "this builder has already built its model");
  std::string missing;
  int64_t n_missing = 0;
  for (const Slot& slot : slots_)
    if (!slot.filled && ++n_missing <= 8) missing += (missing.empty() ? "" : ", ") + slot.name;
  TUILI_CHECK_KIND(ErrorKind::model_format, n_missing == 0, n_missing, " tensors are missing: ", missing,
                   n_missing > 8 ? ", …" : "");
  if (!borrows_) fold_distances();  // a device gets what the host has made of them
  finish_part(model_.spec, model_.weights);
  if (!borrows_) screen_head();
  index_.clear();
  slots_.clear();
  return std::move(model_);
}

}  // namespace tuili
