// embed -> layers -> norm -> head: what is computed, for any spec.
#pragma once

#include "model/batch.h"
#include "model/weights.h"

namespace tuili {

// [n_rows, n] of the memory that the carver lays out.
inline TensorView take_rows(Carver& carver, int64_t n_rows, int64_t n, DeviceKind device,
                            DType type = DType::f32) {
  return TensorView(carver.take<uint8_t>(n_rows * n * size_of(type)), type, {n_rows, n}, device);
}

// Rows of a batch as its experts see them: a token once per expert it uses, sorted by expert. `input` is the
// type that linear maps of the device read.
struct RoutedState {
  TensorView scores;     // f32 [max_tokens, largest n_experts]
  TensorView in;         // input [max_tokens · largest n_used, d_model]
  TensorView rows;       // f32 of the same shape: what the experts make of it; `in` itself where that is f32
  TensorView gate, up;   // f32 [max_tokens · largest n_used, largest expert's d_ff]
  TensorView activated;  // input of the same shape; `gate` where that is f32
  TensorView shared_gate;  // f32 [max_tokens, 1]
  ops::Routes routes;

  static RoutedState take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device);
};

// What keys, values and queries are made from (LatentSpec), for the largest layer.
struct LatentState {
  TensorView query_in, in;          // f32 [max_tokens, query_rank], [max_tokens, kv_rank]
  TensorView query_nope, key_nope;  // f32 [max_tokens, n_heads · nope_dim]
  TensorView query_rope, key_rope;  // f32 [max_tokens, n_heads · rope_dim], [max_tokens, rope_dim]
  TensorView value;                 // f32 [max_tokens, n_heads · value_dim]
  TensorView attended;              // input of the same shape; `value` where that is f32

  static LatentState take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device);
  int64_t largest() const;  // columns of the inputs of linear maps
};

// What a step writes. Views of the runtime's workspace; sizes are for the most tokens a step may have.
// `input` is the type that linear maps of the device read (ops::input_type).
struct State {
  TensorView hidden;  // f32 [max_tokens, d_model]: the residual stream; after forward() the final states
  TensorView normed, normed_too;  // input [max_tokens, d_model]; the second of parallel blocks
  TensorView mixed;               // f32 [max_tokens, d_model]: what a block adds
  TensorView query;               // f32 [max_tokens, largest q_size]
  TensorView attended;            // input [max_tokens, largest q_size]
  TensorView key, value;          // f32 [max_tokens, largest kv_size]
  TensorView gate, up;            // f32 [max_tokens, largest d_ff]
  TensorView activated;           // input [max_tokens, largest d_ff]; none where that is f32: in place
  TensorView embedded;            // f32 [max_tokens, d_embedding or what a decoder's head reads]
  RoutedState routed;             // of experts
  LatentState latent;
  ops::DistanceRoom distances;
  TensorView taps;                   // input [max_tokens, d_model · n_taps]
  ops::InputRoom room;               // [max_tokens, the largest of all inputs]
  std::vector<TensorView> cos, sin;  // of the rows' positions, one per rope: f32 [max_tokens, half]
  std::span<float> attention_partials;
  int64_t n_last_rows = 0;  // given to the last layer's MLP, but for a device's graphs that are replayed

  // Cuts the views from the carver over the device's memory, in one fixed order.
  static State take(Carver& carver, const ModelSpec& spec, int64_t max_tokens, DeviceKind device);
};

// Where intermediate results are copied. None costs nothing.
struct Taps {
  TensorView hidden;  // f32 [n_layers + 1, n_tokens, d_model]: after the embedding and each layer; the last
                      // is normed
};

class Transformer {
 public:
  explicit Transformer(const Model& model) : Transformer(model.spec, model.weights, model.compute) {}
  // Runs a model, or the encoder in it. `spec` and `weights` outlive it.
  Transformer(const ModelSpec& spec, const ModelWeights& weights, ops::Compute compute)
      : spec_(spec), weights_(weights), compute_(compute) {}

  // The first n_tokens rows of cos[i] and sin[i] f32 [., half] of rope i, on the CPU.
  void rope_tables(const ops::Context& context, std::span<const int32_t> positions,
                   std::span<const TensorView> cos, std::span<const TensorView> sin) const;

  // Computes the final hidden states of the rows that the batch asks for into state.hidden, one after
  // another, and the keys and values of all rows into `kv`. The state has the rows' cos and sin.
  void forward(const ops::Context& context, const StepBatch& batch, KvView kv, State& state,
               const Taps* taps) const;

  // What every layer's cross-attention reads of sources: keys and values of their final hidden states x f32
  // [n, d_model], written at slots [n]. key, value f32 [n, largest kv_size]: room to work in.
  void keep_source(const ops::Context& context, ops::Activations x, const TensorView& key,
                   const TensorView& value, const int32_t* slots, KvView kv) const;

  // logits f32 [n_rows, n_vocab] of final hidden rows x f32 [n_rows, d_model].
  void head(const ops::Context& context, const TensorView& logits, const TensorView& x, State& state) const;

  // The likeliest token of each of those rows, from what of the head its screen leaves; `logits` is room to
  // work in. False where all logits must be looked at.
  bool likeliest(const ops::Context& context, std::span<int32_t> tokens, const TensorView& logits,
                 const TensorView& x, State& state) const;

  // out f32 [n_rows, n_out] of the task head for x f32 [n_rows, d_model]; inner f32 [n_rows, d_inner] is room
  // to work in.
  void task_head(const ops::Context& context, const TensorView& out, const TensorView& x,
                 const TensorView& inner, State& state) const;

 private:
  struct Step;  // one forward pass: context, batch, pages, state

  void embed(const Step& step) const;
  ops::Activations layer(const Step& step, int64_t i, const ops::Activations& before) const;
  Step narrow(const Step& step) const;
  ops::Activations attention_input(const Step& step, int64_t i, const ops::Activations& before) const;
  void attention_block(const Step& step, int64_t i, const ops::Activations& before) const;
  TensorView attend(const Step& step, int64_t i, ops::Activations x) const;
  void cross_attention_block(const Step& step, int64_t i, const ops::Activations& x) const;
  void project(const Step& step, int64_t i, ops::Activations x) const;
  void apply_rope(const Step& step, int64_t rope, const TensorView& x, int64_t n_heads) const;
  void rope_and_kv_write(const Step& step, int64_t i, const TensorView& q, const TensorView& k,
                         const TensorView& v) const;
  void project_latent(const Step& step, int64_t i, ops::Activations x) const;
  void latent_queries(const Step& step, int64_t i, ops::Activations& input) const;
  void latent_keys(const Step& step, int64_t i) const;
  void attend_distances(const Step& step, int64_t i, const TensorView& out, const TensorView& q) const;
  ops::AttentionSpec attention_of(int64_t i) const;
  ops::Activations head_input(const ops::Context& context, const TensorView& x, State& state) const;
  void inner_of_head(const ops::Context& context, const TensorView& inner, const TensorView& x,
                     State& state) const;
  void qk_norm(const Step& step, const LayerSpec& spec, const TensorView& x, const float* gain,
               const std::vector<NormWeights>& heads) const;
  void gather_taps(const Step& step) const;
  void convolve(const Step& step) const;
  void mlp_block(const Step& step, int64_t i, const ops::Activations& x) const;
  void moe_block(const Step& step, int64_t i, ops::Activations x) const;
  void norm(const Step& step, const TensorView& y, const TensorView& x, const NormWeights& weights) const;
  void add(const Step& step, int64_t i) const;
  using Next = std::initializer_list<const PackedMatrix*>;
  ops::Activations add_and_norm(const Step& step, int64_t i, const TensorView& y, const NormWeights& weights,
                                Next next) const;
  ops::Activations norm_after_mlp(const Step& step, int64_t i, const TensorView& y,
                                  const NormWeights& weights) const;
  ops::Activations norm_after_attention(const Step& step, int64_t i, const TensorView& y,
                                        const NormWeights& weights) const;
  ops::Activations add_and_go_on(const Step& step, int64_t i) const;
  bool is_normed_ahead(int64_t i) const;

  void linear(const ops::Context& context, const TensorView& y, ops::Activations x, const Linear& w) const;
  void mlp(const Step& step, const LayerSpec& layer, const MlpWeights& w, const TensorView& y,
           ops::Activations x, const TensorView& gate, const TensorView& up) const;
  void activate(const Step& step, const LayerSpec& layer, ops::Activations& y, const TensorView& gate,
                const TensorView& up) const;
  void run_experts(const Step& step, const LayerSpec& layer, const MoeWeights& w) const;
  void run_experts_together(const Step& step, const LayerSpec& layer, const MoeWeights& w) const;
  void add_shared(const Step& step, const LayerSpec& layer, const MoeWeights& w, const TensorView& x) const;

  const ModelSpec& spec_;
  const ModelWeights& weights_;
  const ops::Compute compute_;
};

}  // namespace tuili
