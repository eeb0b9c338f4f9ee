// An architecture as data. loading/architectures/*.py fills it; nothing below knows an architecture's name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/ops.h"

namespace tuili {

enum class ModelKind : uint8_t { decoder, encoder };
enum class Norm : uint8_t { rms, layer };

// Where a layer's norms stand, with f the attention or the MLP:
//   pre       h = h + f(norm(h))
//   post      h = norm(h + f(h))                     (BERT)
//   sandwich  h = h + post_norm(f(norm(h)))          (Gemma 2 and 3)
enum class NormPlacement : uint8_t { pre, post, sandwich };

// Rotary positions: the first 2 · inv_freq.size() elements of each head turn by position · inv_freq.
struct RopeSpec {
  std::vector<float> inv_freq;
  float scale = 1;           // multiplies cos and sin
  bool interleaved = false;  // pairs (2i, 2i + 1) instead of (i, i + half)
};

struct LayerSpec {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t d_ff = 0;
  NormPlacement norm_placement = NormPlacement::pre;
  ops::Activation activation = ops::Activation::silu;
  bool gated = true;
  bool qk_norm = false;  // RMS norm over head_dim of q and k, before RoPE
  int64_t rope = -1;     // index into ModelSpec::ropes; -1: no rotation
  bool causal = true;
  int64_t sliding_window = 0;  // key j is seen by query i iff i - j < window; 0: none
  float attention_scale = 0;
  float score_softcap = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;

  int64_t q_size() const { return n_heads * head_dim; }
  int64_t kv_size() const { return n_kv_heads * head_dim; }
};

struct ModelSpec {
  ModelKind kind = ModelKind::decoder;
  int64_t n_vocab = 0;
  int64_t d_model = 0;
  int64_t max_positions = 0;
  std::vector<LayerSpec> layers;
  std::vector<RopeSpec> ropes;
  float embedding_scale = 1;
  int64_t n_positions_learned = 0;  // rows of the table of learned positions
  int64_t position_offset = 0;      // row of position 0 (RoBERTa: 2)
  int64_t n_token_types = 0;
  bool embedding_norm = false;
  Norm norm = Norm::rms;
  float norm_eps = 1e-5f;
  bool final_norm = true;
  bool has_head = true;
  bool tied_head = false;  // the head is the token embedding
  bool head_bias = false;
  float logit_softcap = 0;
  float logit_scale = 1;

  int64_t n_layers() const { return static_cast<int64_t>(layers.size()); }

  // Throws model_format naming the first inconsistency. Every size is bounded, so that products of three do
  // not wrap.
  void validate() const;
};

}  // namespace tuili
