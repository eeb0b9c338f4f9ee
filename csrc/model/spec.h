// An architecture as data. loading/architectures/*.py fills it; nothing below knows an architecture's name.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ops/ops.h"

namespace tuili {

// Limits that no real model comes near, beside ops::kMaxExperts.
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxVocab = 1 << 22;
inline constexpr int64_t kMaxModel = 1 << 17;  // numbers of a hidden state
inline constexpr int64_t kMaxInner = 1 << 20;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxPositions = 1 << 24;

enum class ModelKind : uint8_t { decoder, encoder, encoder_decoder };
enum class Norm : uint8_t { rms, layer };

// Where a layer's norms stand, with f the attention or the MLP:
//   pre       h = h + f(norm(h))
//   post      h = norm(h + f(h))                     (BERT)
//   sandwich  h = h + post_norm(f(norm(h)))          (Gemma 2 and 3)
//   branch    h = h + norm(f(h))                     (OLMo 2)
//   normed_residual   h = norm(h) + f(norm(h))       (BLOOM with apply_residual_connection_post_layernorm)
//   parallel  h = h + attention(norm(h)) + mlp(norm(h))          (GPT-J)
//   parallel_two                                     the same, each with a norm of its own  (GPT-NeoX)
enum class NormPlacement : uint8_t {
  pre,
  post,
  sandwich,
  branch,
  normed_residual,
  parallel,
  parallel_two,
};

// What q and k go through before RoPE, or behind it.
enum class QkNorm : uint8_t {
  none,
  heads,    // RMS norm of each head, one gain [head_dim]     (Qwen 3)
  rotated,  // the same behind RoPE                           (Hunyuan)
  whole,    // RMS norm of all heads together                 (OLMo 2)
  layer,    // layer norm of each head, gains and biases [n_heads, head_dim]   (Cohere)
};

// Scores from keys' positions, added to those from keys.
struct PositionBias {
  std::vector<float> values;  // [n_heads][size]
  int64_t size = 0;
  int64_t origin = 0;     // where a head's value for key 0 stands,
  bool relative = false;  // or that for the query's own key; one place per position on both sides
  // If there are buckets, [size], the checkpoint has a table f32 [n_buckets, n_heads], and the builder sets
  // values[h][p] = table[buckets[p]][h].
  std::vector<int32_t> buckets;
  int64_t n_buckets = 0;
};

// Experts in the place of one MLP. A token goes through the n_used whose scores (plus selection_bias) are the
// best, the first of equal ones, and sums their outputs in ascending order, each times its score.
struct MoeSpec {
  int64_t n_experts = 0;  // 0: one MLP
  int64_t n_used = 0;
  int64_t d_ff = 0;  // of an expert
  ops::Scoring scoring = ops::Scoring::softmax;
  float near = 0;  // how far from the best an expert may be, in shares of it, to have a part in its score: of
                   // near_best   (Phi-3.5-MoE; Liu et al. 2024, "GRIN: GRadient-INformed MoE")
  bool normalize = false;  // scores are divided by the sum of those used
  float scale = 1;         // and multiplied by this
  // Only experts of the best groups are used; a group's score is the sum of its group_top best.
  int64_t n_groups = 1, n_groups_used = 1, group_top = 1;
  bool router_bias = false;     // added before scoring
  bool selection_bias = false;  // added to choose, not to weigh   (DeepSeek-V3)
  int64_t d_ff_shared = 0;      // an MLP that every token goes through besides; 0: none
  bool shared_gate = false;     // its output is multiplied with sigmoid(shared_gate · x)   (Qwen2-MoE)
  float clamp = 0;              // c: gate = min(gate, c), up = 1 + up within ±c   (GPT-OSS); 0: none
  float steepness = 1;  // s: activation(s · gate) / s in place of activation(gate), if there is a clamp
  bool operator==(const MoeSpec&) const = default;
};

// Rotary positions: the first 2 · inv_freq.size() elements of each head turn by position · inv_freq.
struct RopeSpec {
  std::vector<float> inv_freq;
  float scale = 1;           // multiplies cos and sin
  bool interleaved = false;  // pairs (2i, 2i + 1) instead of (i, i + half)
};

// Attention whose keys and values are made from one small vector per token (DeepSeek). A head's query and key
// are rope_dim rotated elements, the same key ones for all heads, and nope_dim others; value_dim may differ
// from both. In the cache a head has head_dim elements, the largest of the two, with zeros behind.
struct LatentSpec {
  int64_t kv_rank = 0;     // 0: plain attention
  int64_t query_rank = 0;  // of a small vector that queries are made from; 0: they are made from x
  int64_t nope_dim = 0, rope_dim = 0, value_dim = 0;
  float norm_eps = 1e-6f;  // of the RMS norms of the small vectors
  bool operator==(const LatentSpec&) const = default;
};

// Scores from the distance of query and key, learned as a table whose rows each layer maps to keys and
// queries of its own (DeBERTa: He et al. 2021, "Decoding-enhanced BERT with disentangled attention").
struct DistanceSpec {
  // [size]: the row of distance i - origin, query minus key; empty: no such scores
  std::vector<int32_t> places;
  int64_t origin = 0;
  int64_t n_rows = 0;    // of the table, each of d_model numbers
  bool keys = false;     // queries meet the table's keys
  bool queries = false;  // keys meet the table's queries
  bool shared = false;   // its maps are those of the layer's own keys and queries
  bool norm = false;     // layer norm of the table
};

// Behind the first layer: h = norm(h + activation(convolution of the layer's input along the tokens)).
struct ConvolutionSpec {
  int64_t n_taps = 0;  // odd; 0: none
  ops::Activation activation = ops::Activation::tanh;
};

struct LayerSpec {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t d_ff = 0;
  NormPlacement norm_placement = NormPlacement::pre;
  bool attention_norm = true;  // of pre: false where the embeddings are normed already (ModernBERT)
  ops::Activation activation = ops::Activation::silu;
  ops::Xielu xielu;  // applied first, with activation identity   (Apertus); zeros: none
  bool gated = true;
  QkNorm qk_norm = QkNorm::none;
  float qkv_clip = 0;          // q, k and v are clamped to ±this, behind the norms; 0: not
  int64_t rope = -1;           // index into ModelSpec::ropes; -1: no rotation
  bool rope_values = false;    // values turn as keys do   (RoFormer)
  int64_t position_bias = -1;  // index into ModelSpec::position_biases
  bool causal = true;
  int64_t sliding_window = 0;   // key j is seen by query i iff |i - j| < window; 0: none
  float attention_scale = 0;    // scores are (q · k) times this
  float score_softcap = 0;      // c: scores become c · tanh(score / c); 0: none
  bool attention_gate = false;  // attended · sigmoid(gate(x)), x what query is made from   (AFMoE)
  bool sinks = false;           // a learned score per head takes its share of each softmax
  float residual_scale = 1;     // what attention and MLP add is multiplied with this
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  MoeSpec moe;
  LatentSpec latent;
  bool cross_attention = false;  // a second attention between the halves, of these sizes and biases, to the
                                 // hidden states of a source; its norm stands as the others do
  int64_t weights_of = -1;       // an earlier layer whose weights this one has too (ALBERT); -1: its own

  int64_t q_size() const { return n_heads * head_dim; }
  int64_t kv_size() const { return n_kv_heads * head_dim; }
  bool operator==(const LayerSpec&) const = default;
};

// What a task head reads of a text: every row of the final hidden states, or one made of them.
enum class HeadRows : uint8_t { all, first, last, mean };

// A task's answer from final hidden states: out(norm(activation(dense(x)))), as far as the parts are there.
// Without n_out they stand before a decoder's head (BERT as a decoder), which reads d_inner numbers.
struct TaskHead {
  HeadRows rows = HeadRows::all;
  int64_t d_inner = 0;  // of dense; 0: neither dense nor activation nor norm
  bool dense_bias = true;
  std::optional<ops::Activation> activation;
  bool norm = false;  // layer norm
  int64_t n_out = 0;  // 0: there is no task head
  bool out_bias = true;
  bool tied = false;  // out is the token embedding
};

struct ModelSpec {
  ModelKind kind = ModelKind::decoder;
  int64_t n_vocab = 0;
  int64_t d_model = 0;
  int64_t max_positions = 0;
  std::vector<LayerSpec> layers;
  std::vector<RopeSpec> ropes;
  std::vector<PositionBias> position_biases;
  int64_t d_embedding = 0;  // columns of the embedding and the head, between which and d_model maps lie (OPT
                            // 350m); 0: d_model
  float embedding_scale = 1;        // multiplies the looked-up rows
  int64_t n_positions_learned = 0;  // rows of the table of learned positions
  int64_t position_offset = 0;      // row of position 0 (RoBERTa: 2)
  int64_t padding_id = -1;          // has the row before position 0's; a prompt's is not counted
  int64_t n_token_types = 0;
  bool embedding_norm = false;
  bool norm_before_positions = false;  // of embedding_norm (BlenderbotSmall's decoder)
  Norm norm = Norm::rms;
  float norm_eps = 1e-5f;
  bool final_norm = true;
  bool has_head = true;
  bool tied_head = false;  // the head is the token embedding
  bool head_bias = false;
  float logit_softcap = 0;      // as score_softcap, of the scaled logits; 0: none
  float logit_scale = 1;        // multiplies logits
  bool project_last = false;    // the map from d_embedding stands, with a bias, behind positions, token types
                                // and norm, which have that width too (ALBERT)
  bool norm_projected = false;  // with project_last: the norm stands behind the map, which has no bias
                                // (DeBERTa)
  TaskHead task_head;           // of encoders; without n_out, what stands before a decoder's head
  std::vector<ModelSpec> encoder;  // of encoder-decoders, one: its hidden states are what all layers'
                                   // cross-attention sees; the rest is the decoder. An encoder with one is
                                   // such a decoder that reads whole texts, for a task head
  bool shares_embedding = false;   // of that encoder: its tokens are looked up in the decoder's embedding
  DistanceSpec distances;          // of encoders
  ConvolutionSpec convolution;     // of encoders

  // Whether parts of a task head stand before the head.
  bool has_inner_head() const { return task_head.d_inner > 0 && task_head.n_out == 0; }
  int64_t embedding_width() const { return d_embedding ? d_embedding : d_model; }
  int64_t position_width() const { return project_last ? d_embedding : d_model; }
  int64_t embedding_norm_width() const { return norm_projected ? d_model : position_width(); }
  int64_t n_layers() const { return std::ssize(layers); }
  int64_t largest_kv_size() const;  // of a layer

  // Throws model_format naming the first inconsistency. Every size is bounded, so that products of three do
  // not wrap.
  void validate() const;
};

}  // namespace tuili
