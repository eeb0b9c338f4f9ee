// ModelSpec and its parts, ModelBuilder, Model.
#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/numpy.h"
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
constexpr Named<QkNorm> kQkNorms[] = {
    {"none", QkNorm::none}, {"heads", QkNorm::heads}, {"whole", QkNorm::whole}, {"layer", QkNorm::layer}};
constexpr Named<Scoring> kScorings[] = {{"softmax", Scoring::softmax}, {"sigmoid", Scoring::sigmoid}};
constexpr Named<HeadRows> kHeadRows[] = {
    {"all", HeadRows::all}, {"first", HeadRows::first}, {"last", HeadRows::last}, {"mean", HeadRows::mean}};

// A property with the name of an enumerator.
template <class Spec, class Value, size_t kCount>
auto named(Value Spec::* member, const Named<Value> (&names)[kCount]) {
  return [member, &names](const Spec& spec) { return name_of(spec.*member, names); };
}

void bind_rope_spec(py::module_& module) {
  py::class_<RopeSpec>(module, "RopeSpec")
      .def(py::init([](std::vector<float> inv_freq, float scale, bool interleaved) {
             return RopeSpec{std::move(inv_freq), scale, interleaved};
           }),
           py::kw_only(), "inv_freq"_a, "scale"_a = 1.0f, "interleaved"_a = false)
      .def_readonly("inv_freq", &RopeSpec::inv_freq)
      .def_readonly("scale", &RopeSpec::scale)
      .def_readonly("interleaved", &RopeSpec::interleaved);
}

void bind_position_bias(py::module_& module) {
  py::class_<PositionBias>(module, "PositionBias")
      .def(py::init([](const FloatArray& values, int64_t origin, bool relative, std::vector<int32_t> buckets,
                       int64_t n_buckets) {
             check_dims(values, "values", 2);
             return PositionBias{{values.data(), values.data() + values.size()},
                                 values.shape(1),
                                 origin,
                                 relative,
                                 std::move(buckets),
                                 n_buckets};
           }),
           py::kw_only(), "values"_a, "origin"_a, "relative"_a, "buckets"_a = py::tuple(), "n_buckets"_a = 0)
      .def_property_readonly("values",
                             [](const PositionBias& bias) {
                               const auto n = static_cast<int64_t>(bias.values.size());
                               FloatArray all({n / bias.size, bias.size});
                               std::ranges::copy(bias.values, all.mutable_data());
                               return all;
                             })
      .def_readonly("origin", &PositionBias::origin)
      .def_readonly("relative", &PositionBias::relative);
}

MoeSpec make_moe(int64_t n_experts, int64_t n_used, int64_t d_ff, const std::string& scoring, bool normalize,
                 float scale, int64_t n_groups, int64_t n_groups_used, int64_t group_top, bool router_bias,
                 bool selection_bias, int64_t d_ff_shared, bool shared_gate, float clamp) {
  return {.n_experts = n_experts,
          .n_used = n_used,
          .d_ff = d_ff,
          .scoring = choose(scoring, "scoring", kScorings),
          .normalize = normalize,
          .scale = scale,
          .n_groups = n_groups,
          .n_groups_used = n_groups_used,
          .group_top = group_top,
          .router_bias = router_bias,
          .selection_bias = selection_bias,
          .d_ff_shared = d_ff_shared,
          .shared_gate = shared_gate,
          .clamp = clamp};
}

void bind_moe_spec(py::module_& module) {
  py::class_<MoeSpec>(module, "MoeSpec")
      .def(py::init(&make_moe), py::kw_only(), "n_experts"_a, "n_used"_a, "d_ff"_a, "scoring"_a = "softmax",
           "normalize"_a = false, "scale"_a = 1.0f, "n_groups"_a = 1, "n_groups_used"_a = 1,
           "group_top"_a = 1, "router_bias"_a = false, "selection_bias"_a = false, "d_ff_shared"_a = 0,
           "shared_gate"_a = false, "clamp"_a = 0.0f)
      .def_readonly("n_experts", &MoeSpec::n_experts)
      .def_readonly("n_used", &MoeSpec::n_used)
      .def_readonly("d_ff", &MoeSpec::d_ff)
      .def_property_readonly("scoring", named(&MoeSpec::scoring, kScorings))
      .def_readonly("normalize", &MoeSpec::normalize)
      .def_readonly("scale", &MoeSpec::scale)
      .def_readonly("n_groups", &MoeSpec::n_groups)
      .def_readonly("n_groups_used", &MoeSpec::n_groups_used)
      .def_readonly("group_top", &MoeSpec::group_top)
      .def_readonly("router_bias", &MoeSpec::router_bias)
      .def_readonly("selection_bias", &MoeSpec::selection_bias)
      .def_readonly("d_ff_shared", &MoeSpec::d_ff_shared)
      .def_readonly("shared_gate", &MoeSpec::shared_gate)
      .def_readonly("clamp", &MoeSpec::clamp);
}

void bind_latent_spec(py::module_& module) {
  py::class_<LatentSpec>(module, "LatentSpec")
      .def(py::init([](int64_t kv_rank, int64_t query_rank, int64_t nope_dim, int64_t rope_dim,
                       int64_t value_dim, float norm_eps) {
             return LatentSpec{kv_rank, query_rank, nope_dim, rope_dim, value_dim, norm_eps};
           }),
           py::kw_only(), "kv_rank"_a, "query_rank"_a = 0, "nope_dim"_a, "rope_dim"_a, "value_dim"_a,
           "norm_eps"_a = 1e-6f)
      .def_readonly("kv_rank", &LatentSpec::kv_rank)
      .def_readonly("query_rank", &LatentSpec::query_rank)
      .def_readonly("nope_dim", &LatentSpec::nope_dim)
      .def_readonly("rope_dim", &LatentSpec::rope_dim)
      .def_readonly("value_dim", &LatentSpec::value_dim)
      .def_readonly("norm_eps", &LatentSpec::norm_eps);
}

LayerSpec make_layer(int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t d_ff,
                     const std::string& norm_placement, const std::string& activation, bool gated,
                     const std::string& qk_norm, float qkv_clip, int64_t rope, int64_t position_bias,
                     bool causal, int64_t sliding_window, float attention_scale, float score_softcap,
                     bool sinks, float residual_scale, bool qkv_bias, bool output_bias, bool mlp_bias,
                     const std::optional<MoeSpec>& moe, const std::optional<LatentSpec>& latent,
                     int64_t weights_of, bool attention_norm, bool cross_attention) {
  return {.n_heads = n_heads,
          .n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .d_ff = d_ff,
          .norm_placement = choose(norm_placement, "norm_placement", kPlacements),
          .attention_norm = attention_norm,
          .activation = to_activation(activation),
          .gated = gated,
          .qk_norm = choose(qk_norm, "qk_norm", kQkNorms),
          .qkv_clip = qkv_clip,
          .rope = rope,
          .position_bias = position_bias,
          .causal = causal,
          .sliding_window = sliding_window,
          .attention_scale = attention_scale,
          .score_softcap = score_softcap,
          .sinks = sinks,
          .residual_scale = residual_scale,
          .qkv_bias = qkv_bias,
          .output_bias = output_bias,
          .mlp_bias = mlp_bias,
          .moe = moe.value_or(MoeSpec{}),
          .latent = latent.value_or(LatentSpec{}),
          .cross_attention = cross_attention,
          .weights_of = weights_of};
}

void bind_distance_spec(py::module_& module) {
  py::class_<DistanceSpec>(module, "DistanceSpec")
      .def(py::init([](std::vector<int32_t> places, int64_t n_rows, bool keys, bool queries, bool shared,
                       bool norm) {
             const auto origin = static_cast<int64_t>(places.size() / 2);
             return DistanceSpec{std::move(places), origin, n_rows, keys, queries, shared, norm};
           }),
           py::kw_only(), "places"_a, "n_rows"_a, "keys"_a, "queries"_a, "shared"_a = false, "norm"_a = false)
      .def_readonly("places", &DistanceSpec::places)
      .def_readonly("n_rows", &DistanceSpec::n_rows)
      .def_readonly("keys", &DistanceSpec::keys)
      .def_readonly("queries", &DistanceSpec::queries);
  py::class_<ConvolutionSpec>(module, "ConvolutionSpec")
      .def(py::init([](int64_t n_taps, const std::string& activation) {
             ConvolutionSpec spec{.n_taps = n_taps, .activation = std::nullopt};
             if (activation != "tanh") spec.activation = to_activation(activation);
             return spec;
           }),
           py::kw_only(), "n_taps"_a, "activation"_a = "tanh")
      .def_readonly("n_taps", &ConvolutionSpec::n_taps);
}

void bind_layer_spec(py::module_& module) {
  py::class_<LayerSpec>(module, "LayerSpec")
      .def(py::init(&make_layer), py::kw_only(), "n_heads"_a, "n_kv_heads"_a, "head_dim"_a, "d_ff"_a,
           "norm_placement"_a = "pre", "activation"_a = "silu", "gated"_a = true, "qk_norm"_a = "none",
           "qkv_clip"_a = 0.0f, "rope"_a = -1, "position_bias"_a = -1, "causal"_a = true,
           "sliding_window"_a = 0, "attention_scale"_a = 0.0f, "score_softcap"_a = 0.0f, "sinks"_a = false,
           "residual_scale"_a = 1.0f, "qkv_bias"_a = false, "output_bias"_a = false, "mlp_bias"_a = false,
           "moe"_a = py::none(), "latent"_a = py::none(), "weights_of"_a = -1, "attention_norm"_a = true,
           "cross_attention"_a = false)
      .def_readonly("n_heads", &LayerSpec::n_heads)
      .def_readonly("n_kv_heads", &LayerSpec::n_kv_heads)
      .def_readonly("head_dim", &LayerSpec::head_dim)
      .def_readonly("d_ff", &LayerSpec::d_ff)
      .def_property_readonly("norm_placement", named(&LayerSpec::norm_placement, kPlacements))
      .def_property_readonly("activation", named(&LayerSpec::activation, kActivations))
      .def_readonly("gated", &LayerSpec::gated)
      .def_property_readonly("qk_norm", named(&LayerSpec::qk_norm, kQkNorms))
      .def_readonly("qkv_clip", &LayerSpec::qkv_clip)
      .def_readonly("position_bias", &LayerSpec::position_bias)
      .def_readonly("sinks", &LayerSpec::sinks)
      .def_readonly("residual_scale", &LayerSpec::residual_scale)
      .def_readonly("moe", &LayerSpec::moe)
      .def_readonly("latent", &LayerSpec::latent)
      .def_readonly("rope", &LayerSpec::rope)
      .def_readonly("causal", &LayerSpec::causal)
      .def_readonly("sliding_window", &LayerSpec::sliding_window)
      .def_readonly("attention_scale", &LayerSpec::attention_scale)
      .def_readonly("score_softcap", &LayerSpec::score_softcap)
      .def_readonly("qkv_bias", &LayerSpec::qkv_bias)
      .def_readonly("output_bias", &LayerSpec::output_bias)
      .def_readonly("mlp_bias", &LayerSpec::mlp_bias)
      .def_readonly("cross_attention", &LayerSpec::cross_attention)
      .def_readonly("weights_of", &LayerSpec::weights_of)
      .def_readonly("attention_norm", &LayerSpec::attention_norm);
}

TaskHead make_task_head(int64_t n_out, const std::string& rows, int64_t d_inner, bool dense_bias,
                        const std::string& activation, bool norm, bool out_bias, bool tied) {
  TaskHead head{.rows = choose(rows, "rows", kHeadRows),
                .d_inner = d_inner,
                .dense_bias = dense_bias,
                .tanh = activation == "tanh",
                .activation = std::nullopt,
                .norm = norm,
                .n_out = n_out,
                .out_bias = out_bias,
                .tied = tied};
  if (!head.tanh && activation != "none") head.activation = to_activation(activation);
  return head;
}

void bind_task_head(py::module_& module) {
  py::class_<TaskHead>(module, "TaskHead")
      .def(py::init(&make_task_head), py::kw_only(), "n_out"_a, "rows"_a = "all", "d_inner"_a = 0,
           "dense_bias"_a = true, "activation"_a = "none", "norm"_a = false, "out_bias"_a = true,
           "tied"_a = false)
      .def_readonly("n_out", &TaskHead::n_out)
      .def_readonly("d_inner", &TaskHead::d_inner)
      .def_readonly("tied", &TaskHead::tied)
      .def_property_readonly("all_rows", [](const TaskHead& head) { return head.rows == HeadRows::all; });
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

ModelSpec make_model(const std::string& kind, int64_t n_vocab, int64_t d_model, int64_t max_positions,
                     std::vector<LayerSpec> layers, std::vector<RopeSpec> ropes,
                     std::vector<PositionBias> position_biases, int64_t d_embedding, float embedding_scale,
                     int64_t n_positions_learned, int64_t position_offset, int64_t padding_id,
                     int64_t n_token_types, bool embedding_norm, const std::string& norm, float norm_eps,
                     bool final_norm, bool has_head, bool tied_head, bool head_bias, float logit_softcap,
                     float logit_scale, bool project_last, const TaskHead& task_head,
                     const std::optional<ModelSpec>& encoder, bool shares_embedding, bool norm_projected,
                     const DistanceSpec& distances, const ConvolutionSpec& convolution) {
  ModelSpec spec{.kind = choose(kind, "kind", kKinds),
                 .n_vocab = n_vocab,
                 .d_model = d_model,
                 .max_positions = max_positions,
                 .layers = std::move(layers),
                 .ropes = std::move(ropes),
                 .position_biases = std::move(position_biases),
                 .d_embedding = d_embedding,
                 .embedding_scale = embedding_scale,
                 .n_positions_learned = n_positions_learned,
                 .position_offset = position_offset,
                 .padding_id = padding_id,
                 .n_token_types = n_token_types,
                 .embedding_norm = embedding_norm,
                 .norm = choose(norm, "norm", kNorms),
                 .norm_eps = norm_eps,
                 .final_norm = final_norm,
                 .has_head = has_head,
                 .tied_head = tied_head,
                 .head_bias = head_bias,
                 .logit_softcap = logit_softcap,
                 .logit_scale = logit_scale,
                 .project_last = project_last,
                 .norm_projected = norm_projected,
                 .task_head = task_head,
                 .encoder = {},
                 .shares_embedding = shares_embedding,
                 .distances = distances,
                 .convolution = convolution};
  if (encoder) spec.encoder.push_back(*encoder);
  spec.validate();
  return spec;
}

void bind_model_spec(py::module_& module) {
  py::class_<ModelSpec>(module, "ModelSpec")
      .def(py::init(&make_model), py::kw_only(), "kind"_a, "n_vocab"_a, "d_model"_a, "max_positions"_a,
           "layers"_a, "ropes"_a = py::tuple(), "position_biases"_a = py::tuple(), "d_embedding"_a = 0,
           "embedding_scale"_a = 1.0f, "n_positions_learned"_a = 0, "position_offset"_a = 0,
           "padding_id"_a = -1, "n_token_types"_a = 0, "embedding_norm"_a = false, "norm"_a = "rms",
           "norm_eps"_a = 1e-5f, "final_norm"_a = true, "has_head"_a = true, "tied_head"_a = false,
           "head_bias"_a = false, "logit_softcap"_a = 0.0f, "logit_scale"_a = 1.0f, "project_last"_a = false,
           "task_head"_a = TaskHead(), "encoder"_a = py::none(), "shares_embedding"_a = false,
           "norm_projected"_a = false, "distances"_a = DistanceSpec(), "convolution"_a = ConvolutionSpec())
      .def("without_words", &without_words, "task_head"_a = TaskHead(), py::kw_only(), "causal"_a = true)
      .def_property_readonly("kind", named(&ModelSpec::kind, kKinds))
      .def_property_readonly(
          "encoder",
          [](const ModelSpec& s) { return s.encoder.empty() ? std::nullopt : std::optional(s.encoder[0]); })
      .def_readonly("n_vocab", &ModelSpec::n_vocab)
      .def_readonly("d_model", &ModelSpec::d_model)
      .def_readonly("max_positions", &ModelSpec::max_positions)
      .def_readonly("layers", &ModelSpec::layers)
      .def_readonly("ropes", &ModelSpec::ropes)
      .def_readonly("position_biases", &ModelSpec::position_biases)
      .def_readonly("embedding_scale", &ModelSpec::embedding_scale)
      .def_readonly("n_positions_learned", &ModelSpec::n_positions_learned)
      .def_readonly("position_offset", &ModelSpec::position_offset)
      .def_readonly("padding_id", &ModelSpec::padding_id)
      .def_readonly("n_token_types", &ModelSpec::n_token_types)
      .def_readonly("embedding_norm", &ModelSpec::embedding_norm)
      .def_property_readonly("norm", named(&ModelSpec::norm, kNorms))
      .def_readonly("norm_eps", &ModelSpec::norm_eps)
      .def_readonly("final_norm", &ModelSpec::final_norm)
      .def_readonly("has_head", &ModelSpec::has_head)
      .def_readonly("tied_head", &ModelSpec::tied_head)
      .def_readonly("head_bias", &ModelSpec::head_bias)
      .def_readonly("logit_softcap", &ModelSpec::logit_softcap)
      .def_readonly("logit_scale", &ModelSpec::logit_scale)
      .def_readonly("d_embedding", &ModelSpec::d_embedding)
      .def_readonly("distances", &ModelSpec::distances)
      .def_readonly("convolution", &ModelSpec::convolution)
      .def_readonly("task_head", &ModelSpec::task_head);
}

// A builder that several Python threads may feed: one tensor at a time.
struct Builder {
  Builder(const ModelSpec& spec, const std::string& compute, int num_threads)
      : builder(spec, to_compute(compute), num_threads) {}

  py::list expected() const {
    py::list all;
    for (const auto& [name, shape] : builder.expected())
      all.append(py::make_tuple(name, py::tuple(py::cast(shape))));
    return all;
  }

  void add(const std::string& name, const std::string& format, const std::vector<int64_t>& shape,
           const ByteArray& data) {
    const Format stored = to_format(format);
    const std::span<const uint8_t> bytes{data.data(), static_cast<size_t>(data.size())};
    const py::gil_scoped_release release;  // the caller holds `data`
    const std::lock_guard lock(turn);
    builder.add(name, stored, shape, bytes);
  }

  void map(int fd, int64_t n_bytes) {
    const py::gil_scoped_release release;
    const std::lock_guard lock(turn);
    builder.map(fd, n_bytes);
  }

  void place(const std::string& name, const std::string& format, int64_t begin, int64_t n_bytes) {
    const Format packed = to_format(format);
    const std::lock_guard lock(turn);
    builder.place(name, packed, begin, n_bytes);
  }

  std::unique_ptr<Model> finish() {
    const py::gil_scoped_release release;
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
  bind_rope_spec(module);
  bind_position_bias(module);
  bind_moe_spec(module);
  bind_latent_spec(module);
  bind_distance_spec(module);
  bind_layer_spec(module);
  bind_task_head(module);
  bind_model_spec(module);
  py::class_<Model>(module, "Model")
      .def_property_readonly("spec", [](const Model& m) { return m.spec; })
      .def_readonly("n_parameters", &Model::n_parameters)
      .def_readonly("weight_bytes", &Model::weight_bytes)
      .def_readonly("screen_bytes", &Model::screen_bytes)
      .def(
          "upload",
          [](const Model& m, const std::string& device, int num_threads) {
            const Device to = device_named(device);
            TUILI_CHECK(to.kind == DeviceKind::cuda, "upload: device is \"", device, "\"");
            const py::gil_scoped_release release;
            return std::make_unique<Model>(upload(m, to.ordinal, num_threads));
          },
          "device"_a = "cuda", py::kw_only(), "num_threads"_a = 0)
      .def_property_readonly("device", [](const Model& m) { return name_of(Device{m.device, m.ordinal}); })
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
}

}  // namespace tuili::bindings
