// Named tensors -> a typed struct of packed weights, every shape checked against the spec.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/device_memory.h"
#include "base/mapping.h"
#include "base/memory.h"
#include "model/spec.h"

namespace tuili {

struct Linear {
  PackedMatrix w;               // [n, k]
  const float* bias = nullptr;  // [n]
};

struct NormWeights {
  const float* gain = nullptr;
  const float* bias = nullptr;  // layer norms only
};

struct MlpWeights {
  Linear gate, up;  // [d_ff, d_model]; gate only where a layer is gated
  Linear down;      // [d_model, d_ff]
};

struct MoeWeights {
  Linear router;                          // [n_experts, d_model]
  const float* selection_bias = nullptr;  // [n_experts]
  std::vector<MlpWeights> experts;
  ops::ExpertMaps gates, ups, downs;  // of all experts, on a device that multiplies them together
  MlpWeights shared;
  Linear shared_gate;  // [1, d_model]
};

struct LatentWeights {
  Linear query_in;                    // [query_rank, d_model], if there is a query_rank
  Linear query_nope;                  // [n_heads · nope_dim, query_rank or d_model]
  Linear query_rope;                  // [n_heads · rope_dim, the same]
  Linear in, key_rope;                // [kv_rank, d_model], [rope_dim, d_model]
  Linear key_nope, value;             // [n_heads · nope_dim, kv_rank], [n_heads · value_dim, kv_rank]
  const float* query_norm = nullptr;  // [query_rank]
  const float* norm = nullptr;        // [kv_rank]
};

struct LayerWeights {
  NormWeights attention_norm, post_attention_norm, mlp_norm, post_mlp_norm;
  Linear query, key, value;  // [q_size, d_model], [kv_size, d_model] twice
  Linear output;             // [d_model, q_size]; of latent attention [d_model, n_heads · value_dim]
  Linear attention_gate;     // [q_size, d_model]
  NormWeights cross_norm;    // of cross-attention, like those that follow, of the shapes of attention's
  Linear cross_query, cross_key, cross_value, cross_output;
  const float* query_norm = nullptr;  // see QkNorm
  const float* key_norm = nullptr;
  std::vector<NormWeights> query_norms, key_norms;  // of QkNorm::layer, one per head
  const float* sinks = nullptr;                     // [n_heads]
  MlpWeights mlp;
  MoeWeights moe;                                             // in its place
  LatentWeights latent;                                       // in the place of query, key and value
  Linear distance_key, distance_query;                        // of DistanceSpec, where they are not shared
  std::vector<PackedMatrix> distance_keys, distance_queries;  // [n_heads]: what they make of the table
};

struct TaskHeadWeights {
  Linear dense;      // [d_inner, d_model]
  NormWeights norm;  // d_inner
  Linear out;        // [n_out, d_inner or d_model]
};

struct ModelWeights {
  PackedMatrix token_embedding;                 // [n_vocab, d_model or d_embedding]
  Linear embedding_in, embedding_out;           // [d_model, d_embedding] and back
  const float* position_embedding = nullptr;    // [n_positions_learned, d_model or d_embedding]
  const float* token_type_embedding = nullptr;  // [n_token_types, d_model or d_embedding]
  NormWeights embedding_norm, final_norm;
  const float* distance_table = nullptr;  // [distances.n_rows, d_model]
  NormWeights distance_norm;
  const int32_t* distance_places = nullptr;  // the spec's, where the model is
  Linear convolution;                        // [d_model, d_model · n_taps], the taps of an input together
  NormWeights convolution_norm;
  std::vector<const float*> bias_tables;  // per position bias: [n_buckets, n_heads], or null
  std::vector<const float*> bias_values;  // per position bias: the spec's values, where the model is
  std::vector<LayerWeights> layers;
  Linear head;                  // [n_vocab, d_model or d_embedding]
  ops::HeadScreen head_screen;  // of a float head on the CPU
  TaskHeadWeights task_head;
  std::vector<ModelWeights> encoder;  // as in the spec
};

// The bytes that the kernels read of one tensor: a matrix as ops::packed_view takes it, or float32.
struct PackedTensor {
  std::string name;
  Format format;  // of a vector or table f32
  std::span<const uint8_t> bytes;
  PackedMatrix matrix;  // over them; of a vector or table empty
};

struct Model {
  ModelSpec spec;
  ops::Compute compute = ops::Compute::automatic;
  ModelWeights weights;        // views into `memory` or `mapping`
  std::vector<Buffer> memory;  // of tensors that were packed, several in each
  Mapping mapping;             // the file that the others are in
  Device device;
  std::vector<PlacedBuffer> device_memory;  // of a model on a device, which has nothing in those two
  std::vector<PackedTensor> tensors;
  int64_t n_parameters = 0;
  int64_t weight_bytes = 0;
  int64_t screen_bytes = 0;  // of those: the copy of the head that greedy steps read instead
};

// Takes tensors one by one, in any order, and packs each at once: the peak is the model and one source
// tensor.
class ModelBuilder {
 public:
  // Throws model_format if the spec contradicts itself. num_threads as resolve_num_threads takes it.
  ModelBuilder(ModelSpec spec, ops::Compute compute, int num_threads);
  ModelBuilder(const ModelBuilder&) = delete;  // its slots point into it
  ModelBuilder& operator=(const ModelBuilder&) = delete;

  struct Expected {
    std::string name;
    std::vector<int64_t> shape;
  };
  std::vector<Expected> expected() const;

  // data: the rows in the format's own encoding. Throws model_format unless the name is expected, new, and of
  // that shape, and model_unsupported for a quantized vector or table that is added to.
  void add(std::string_view name, Format format, std::span<const int64_t> shape,
           std::span<const uint8_t> data);

  // For `place`: the file of all tensors that another model was packed into, of exactly `bytes` bytes. The
  // descriptor may be closed afterwards. Throws as Mapping does.
  void map(int fd, int64_t bytes);

  // In place of `add`: the tensor as packed before lies in the mapped file. Throws model_format unless the
  // name is expected and new, the range aligned and in the file, and its length that of this shape and
  // format.
  void place(std::string_view name, Format format, int64_t begin, int64_t bytes);

  // In place of `add`: what the kernels of a device read of the tensor, `bytes` bytes at `data` in its
  // memory, which the caller keeps: records of a quantized format, or bf16 [n, k], or float32 of a vector or
  // table; null if no kernel reads it.
  void borrow(std::string_view name, Format format, const uint8_t* data, int64_t bytes);

  // The model; the builder is empty afterwards. Throws model_format naming what is missing.
  Model finish();

 private:
  struct Slot {
    std::string name;
    int64_t n, k;                    // a vector has n = 1
    bool is_vector;                  // [k] instead of [n, k]
    PackedMatrix* matrix = nullptr;  // packed here, or
    const float** floats = nullptr;  // kept as float32 here
    bool filled = false;
  };

  void expect_part(const ModelSpec& spec, ModelWeights& weights, std::string prefix);
  void expect_embedding();
  void expect_task_head();
  static void finish_part(ModelSpec& spec, ModelWeights& weights);
  void expect_distances();
  void expect_layer(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights);
  void expect_attention(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights);
  void expect_cross_attention(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights);
  void expect_latent(const std::string& prefix, const LayerSpec& layer, LatentWeights& weights);
  void expect_qk_norm(const std::string& prefix, const LayerSpec& layer, LayerWeights& weights);
  void expect_mlp(const std::string& prefix, int64_t d_ff, const LayerSpec& layer, MlpWeights& weights);
  void expect_moe(const std::string& prefix, const LayerSpec& layer, MoeWeights& weights);
  void expect_matrix(const std::string& name, int64_t n, int64_t k, PackedMatrix& target);
  void expect_floats(const std::string& name, int64_t n, int64_t k, bool is_vector, const float*& target);
  void expect_linear(const std::string& name, int64_t n, int64_t k, bool bias, Linear& target);
  void expect_norm(const std::string& name, int64_t width, NormWeights& target);
  static std::vector<int64_t> shape_of(const Slot& slot);
  void screen_head();
  void fold_distances();
  void fold_heads(const ops::Context& context, const Linear& map, const TensorView& table,
                  const LayerSpec& layer, std::vector<PackedMatrix>& heads);
  Slot& empty_slot(std::string_view name);
  uint8_t* take(int64_t bytes);
  void fill(Slot& slot, Format format, std::span<const uint8_t> packed);

  Model model_;
  const ModelSpec* spec_ = nullptr;  // of the part whose tensors are listed: the model, or its encoder
  ModelWeights* weights_ = nullptr;  // of that part
  std::string prefix_;               // of its tensors' names
  std::vector<Slot> slots_;
  std::unordered_map<std::string_view, size_t> index_;
  int num_threads_;
  int64_t taken_ = 0;     // of the last buffer of memory
  bool borrows_ = false;  // whether tensors lie in a device's memory
};

}  // namespace tuili
