// ModelSpec and its parts, ModelBuilder, Model.
#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/fields.h"
#include "bindings/names.h"
#include "bindings/numpy.h"
#include "bindings/released.h"
#include "model/weights.h"
#include "runtime/upload.h"

namespace tuili::bindings {
namespace {

constexpr Named<ModelKind> kKinds[] = {{"decoder", ModelKind::decoder},
                                       {"encoder", ModelKind::encoder},
                                       {"encoder-decoder", ModelKind::encoder_decoder}};
constexpr Named<Norm> kNorms[] = {{"rms", Norm::rms}, {"layer", Norm::layer}};
constexpr Named<NormPlacement> kPlacements[] = {{"pre", NormPlacement::pre},
                                                {"post", NormPlacement::post},
                                                {"sandwich", NormPlacement::sandwich},
                                                {"branch", NormPlacement::branch},
                                                {"normed_residual", NormPlacement::normed_residual},
                                                {"parallel", NormPlacement::parallel},
                                                {"parallel_two", NormPlacement::parallel_two}};
constexpr Named<QkNorm> kQkNorms[] = {{"none", QkNorm::none},
                                      {"heads", QkNorm::heads},
                                      {"rotated", QkNorm::rotated},
                                      {"whole", QkNorm::whole},
                                      {"layer", QkNorm::layer}};
constexpr Named<ops::Scoring> kScorings[] = {{"softmax", ops::Scoring::softmax},
                                             {"sigmoid", ops::Scoring::sigmoid},
                                             {"near_best", ops::Scoring::near_best}};
constexpr Named<HeadRows> kHeadRows[] = {
    {"all", HeadRows::all}, {"first", HeadRows::first}, {"last", HeadRows::last}, {"mean", HeadRows::mean}};

void bind_position_specs(py::module_& module) {
  Fields<RopeSpec>(module, "RopeSpec")
      .field("inv_freq", &RopeSpec::inv_freq)
      .needed()
      .field("scale", &RopeSpec::scale)
      .field("interleaved", &RopeSpec::interleaved)
      .done();
  Fields<PositionBias>(module, "PositionBias")
      .field(
          "values",
          [](const PositionBias& bias) {
            const int64_t n = std::ssize(bias.values);
            FloatArray all({bias.size ? n / bias.size : 0, bias.size});
            std::ranges::copy(bias.values, all.mutable_data());
            return all;
          },
          [](PositionBias& bias, const py::handle& value) {
            const auto values = value.cast<FloatArray>();
            check_dims(values, "values", 2);
            bias.values.assign(values.data(), values.data() + values.size());
            bias.size = values.shape(1);
          })
      .field("origin", &PositionBias::origin)
      .field("relative", &PositionBias::relative)
      .needed()
      .field("buckets", &PositionBias::buckets)
      .field("n_buckets", &PositionBias::n_buckets)
      .done();
  Fields<DistanceSpec>(module, "DistanceSpec")
      .field("places", &DistanceSpec::places)
      .field("n_rows", &DistanceSpec::n_rows)
      .field("keys", &DistanceSpec::keys)
      .field("queries", &DistanceSpec::queries)
      .needed()
      .field("shared", &DistanceSpec::shared)
      .field("norm", &DistanceSpec::norm)
      .done([](DistanceSpec& spec) { spec.origin = static_cast<int64_t>(spec.places.size() / 2); });
}

void bind_moe_spec(py::module_& module) {
  Fields<MoeSpec>(module, "MoeSpec")
      .field("n_experts", &MoeSpec::n_experts)
      .field("n_used", &MoeSpec::n_used)
      .field("d_ff", &MoeSpec::d_ff)
      .needed()
      .field("scoring", &MoeSpec::scoring, kScorings)
      .field("near", &MoeSpec::near)
      .field("normalize", &MoeSpec::normalize)
      .field("scale", &MoeSpec::scale)
      .field("n_groups", &MoeSpec::n_groups)
      .field("n_groups_used", &MoeSpec::n_groups_used)
      .field("group_top", &MoeSpec::group_top)
      .field("router_bias", &MoeSpec::router_bias)
      .field("selection_bias", &MoeSpec::selection_bias)
      .field("d_ff_shared", &MoeSpec::d_ff_shared)
      .field("shared_gate", &MoeSpec::shared_gate)
      .field("clamp", &MoeSpec::clamp)
      .field("steepness", &MoeSpec::steepness)
      .done();
}

void bind_latent_spec(py::module_& module) {
  Fields<LatentSpec>(module, "LatentSpec")
      .field("kv_rank", &LatentSpec::kv_rank)
      .field("nope_dim", &LatentSpec::nope_dim)
      .field("rope_dim", &LatentSpec::rope_dim)
      .field("value_dim", &LatentSpec::value_dim)
      .needed()
      .field("query_rank", &LatentSpec::query_rank)
      .field("norm_eps", &LatentSpec::norm_eps)
      .done();
}

void bind_layer_spec(py::module_& module) {
  Fields<ops::Xielu>(module, "Xielu")
      .field("alpha_p", &ops::Xielu::alpha_p)
      .field("alpha_n", &ops::Xielu::alpha_n)
      .field("beta", &ops::Xielu::beta)
      .needed()
      .done();
  Fields<LayerSpec>(module, "LayerSpec")
      .field("n_heads", &LayerSpec::n_heads)
      .field("n_kv_heads", &LayerSpec::n_kv_heads)
      .field("head_dim", &LayerSpec::head_dim)
      .field("d_ff", &LayerSpec::d_ff)
      .needed()
      .field("norm_placement", &LayerSpec::norm_placement, kPlacements)
      .field("attention_norm", &LayerSpec::attention_norm)
      .field("activation", &LayerSpec::activation, kActivations)
      .optional("xielu", &LayerSpec::xielu)
      .field("gated", &LayerSpec::gated)
      .field("qk_norm", &LayerSpec::qk_norm, kQkNorms)
      .field("qkv_clip", &LayerSpec::qkv_clip)
      .field("rope", &LayerSpec::rope)
      .field("rope_values", &LayerSpec::rope_values)
      .field("position_bias", &LayerSpec::position_bias)
      .field("causal", &LayerSpec::causal)
      .field("sliding_window", &LayerSpec::sliding_window)
      .field("attention_scale", &LayerSpec::attention_scale)
      .field("score_softcap", &LayerSpec::score_softcap)
      .field("attention_gate", &LayerSpec::attention_gate)
      .field("sinks", &LayerSpec::sinks)
      .field("residual_scale", &LayerSpec::residual_scale)
      .field("qkv_bias", &LayerSpec::qkv_bias)
      .field("output_bias", &LayerSpec::output_bias)
      .field("mlp_bias", &LayerSpec::mlp_bias)
      .optional("moe", &LayerSpec::moe)
      .optional("latent", &LayerSpec::latent)
      .field("cross_attention", &LayerSpec::cross_attention)
      .field("weights_of", &LayerSpec::weights_of)
      .done();
}

void bind_task_specs(py::module_& module) {
  Fields<ConvolutionSpec>(module, "ConvolutionSpec")
      .field("n_taps", &ConvolutionSpec::n_taps)
      .needed()
      .field("activation", &ConvolutionSpec::activation, kActivations)
      .done();
  Fields<TaskHead>(module, "TaskHead")
      .field("n_out", &TaskHead::n_out)
      .needed()
      .field("rows", &TaskHead::rows, kHeadRows)
      .field("d_inner", &TaskHead::d_inner)
      .field("dense_bias", &TaskHead::dense_bias)
      .field(
          "activation",
          [](const TaskHead& head) {
            return std::string(head.activation ? name_of(*head.activation, kActivations) : "none");
          },
          [](TaskHead& head, const py::handle& value) {
            const auto text = value.cast<std::string>();
            if (text != "none") head.activation = to_activation(text);
          })
      .field("norm", &TaskHead::norm)
      .field("out_bias", &TaskHead::out_bias)
      .field("tied", &TaskHead::tied)
      .done();
}

// An encoder with a decoder's layers: what it computes up to its head, and a head of another kind.
ModelSpec without_words(ModelSpec spec, const TaskHead& head, bool causal) {
  spec.kind = ModelKind::encoder;
  spec.has_head = spec.tied_head = spec.head_bias = false;
  spec.task_head = head;
  if (!causal)
    for (LayerSpec& layer : spec.layers) layer.causal = false;
  spec.validate();
  return spec;
}

void bind_model_spec(py::module_& module) {
  Fields<ModelSpec>(module, "ModelSpec")
      .field("kind", &ModelSpec::kind, kKinds)
      .field("n_vocab", &ModelSpec::n_vocab)
      .field("d_model", &ModelSpec::d_model)
      .field("max_positions", &ModelSpec::max_positions)
      .field("layers", &ModelSpec::layers)
      .needed()
      .field("ropes", &ModelSpec::ropes)
      .field("position_biases", &ModelSpec::position_biases)
      .field("d_embedding", &ModelSpec::d_embedding)
      .field("embedding_scale", &ModelSpec::embedding_scale)
      .field("n_positions_learned", &ModelSpec::n_positions_learned)
      .field("position_offset", &ModelSpec::position_offset)
      .field("padding_id", &ModelSpec::padding_id)
      .field("n_token_types", &ModelSpec::n_token_types)
      .field("embedding_norm", &ModelSpec::embedding_norm)
      .field("norm_before_positions", &ModelSpec::norm_before_positions)
      .field("norm", &ModelSpec::norm, kNorms)
      .field("norm_eps", &ModelSpec::norm_eps)
      .field("final_norm", &ModelSpec::final_norm)
      .field("has_head", &ModelSpec::has_head)
      .field("tied_head", &ModelSpec::tied_head)
      .field("head_bias", &ModelSpec::head_bias)
      .field("logit_softcap", &ModelSpec::logit_softcap)
      .field("logit_scale", &ModelSpec::logit_scale)
      .field("project_last", &ModelSpec::project_last)
      .field("norm_projected", &ModelSpec::norm_projected)
      .field("task_head", &ModelSpec::task_head)
      .field(
          "encoder",
          [](const ModelSpec& s) { return s.encoder.empty() ? std::nullopt : std::optional(s.encoder[0]); },
          [](ModelSpec& s, const py::handle& value) {
            if (!value.is_none()) s.encoder.push_back(value.cast<ModelSpec>());
          })
      .field("shares_embedding", &ModelSpec::shares_embedding)
      .field("distances", &ModelSpec::distances)
      .field("convolution", &ModelSpec::convolution)
      .done([](ModelSpec& spec) { spec.validate(); })
      .def("without_words", &without_words, "task_head"_a = TaskHead(), py::kw_only(), "causal"_a = true);
}

// A builder that several Python threads may feed: one tensor at a time.
struct Builder {
  Builder(const ModelSpec& spec, const std::string& compute, int num_threads)
      : builder(spec, to_compute(compute), num_threads) {}

  py::list expected() {
    const std::lock_guard lock(turn);
    py::list all;
    for (const auto& [name, shape] : builder.expected())
      all.append(py::make_tuple(name, py::tuple(py::cast(shape))));
    return all;
  }

  void add(const std::string& name, const std::string& format, const std::vector<int64_t>& shape,
           const ByteArray& data) {
    const Format stored = to_format(format);
    const std::span<const uint8_t> bytes{data.data(), static_cast<size_t>(data.size())};
    const Released release;  // the caller holds `data`
    const std::lock_guard lock(turn);
    builder.add(name, stored, shape, bytes);
  }

  void map(int fd, int64_t n_bytes) {
    const Released release;
    const std::lock_guard lock(turn);
    builder.map(fd, n_bytes);
  }

  void place(const std::string& name, const std::string& format, int64_t begin, int64_t n_bytes) {
    const Format packed = to_format(format);
    const std::lock_guard lock(turn);
    builder.place(name, packed, begin, n_bytes);
  }

  std::unique_ptr<Model> finish() {
    const Released release;
    const std::lock_guard lock(turn);
    return std::make_unique<Model>(builder.finish());
  }

  ModelBuilder builder;
  std::mutex turn;
};

// Bytes that `owner` keeps alive, as a read-only array.
py::array view_of_bytes(std::span<const uint8_t> bytes, const py::object& owner) {
  py::array_t<uint8_t> view(static_cast<py::ssize_t>(bytes.size()), bytes.data(), owner);
  view.attr("flags").attr("writeable") = false;
  return view;
}

py::list packed_tensors(const py::object& self) {
  py::list all;
  for (const PackedTensor& tensor : self.cast<const Model&>().tensors)
    all.append(py::make_tuple(tensor.name, info_of(tensor.format).name, view_of_bytes(tensor.bytes, self)));
  return all;
}

py::array mapped_range(const py::object& self, int64_t begin, int64_t n_bytes) {
  return view_of_bytes(self.cast<const Model&>().mapping.range(begin, n_bytes), self);
}

}  // namespace

void bind_model(py::module_& module) {
  bind_position_specs(module);
  bind_moe_spec(module);
  bind_latent_spec(module);
  bind_layer_spec(module);
  bind_task_specs(module);
  bind_model_spec(module);
  py::class_<Model>(module, "Model")
      .def_property_readonly("spec", [](const Model& m) { return m.spec; })
      .def_readonly("n_parameters", &Model::n_parameters)
      .def_readonly("weight_bytes", &Model::weight_bytes)
      .def_readonly("screen_bytes", &Model::screen_bytes)
      .def(
          "upload",
          [](const Model& m, const std::string& device, int num_threads) {
            const Device to = cuda_named(device, "upload");
            const Released release;
            return std::make_unique<Model>(upload(m, to.ordinal, num_threads));
          },
          "device"_a = "cuda", py::kw_only(), "num_threads"_a = 0)
      .def_property_readonly("device", [](const Model& m) { return name_of(m.device); })
      .def("packed_tensors", &packed_tensors)
      .def("mapped_range", &mapped_range, "begin"_a, "n_bytes"_a);
  py::class_<Builder>(module, "ModelBuilder")
      .def(py::init<const ModelSpec&, const std::string&, int>(), "spec"_a, py::kw_only(),
           "compute"_a = "auto", "num_threads"_a = 0)
      .def("expected", &Builder::expected)
      .def("add", &Builder::add, "name"_a, "format"_a, "shape"_a, "data"_a)
      .def("map", &Builder::map, "fd"_a, "n_bytes"_a)
      .def("place", &Builder::place, "name"_a, "format"_a, "begin"_a, "n_bytes"_a)
      .def("finish", &Builder::finish);
  module.attr("PACKED_LAYOUT_VERSION") = kPackedLayoutVersion;
  module.attr("MAX_LAYERS") = kMaxLayers;
  module.attr("MAX_VOCAB") = kMaxVocab;
  module.attr("MAX_MODEL") = kMaxModel;
  module.attr("MAX_INNER") = kMaxInner;
  module.attr("MAX_HEADS") = kMaxHeads;
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  module.attr("MAX_EXPERTS") = ops::kMaxExperts;
  module.attr("MAX_POSITIONS") = kMaxPositions;
}

}  // namespace tuili::bindings
