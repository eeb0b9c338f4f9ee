// tuili._core.ops: single ops on numpy arrays, for tests and benchmarks.
#include "bindings/bindings.h"
#include "bindings/released.h"
#include "bindings/single_ops.h"
#include "runtime/sampler.h"

namespace tuili::bindings {

PackedWeight::PackedWeight(const std::string& format, int64_t n, int64_t k, const ByteArray& data) {
  const Format stored = to_format(format);
  TUILI_CHECK(n >= 1 && k >= 1 && n <= 1 << 24 && k <= 1 << 24, "a weight of ", n, " x ", k);
  TUILI_CHECK(data.size() == n * ops::row_bytes(stored, k), "data has ", data.size(), " bytes; ", format,
              " [", n, ", ", k, "] has ", n * ops::row_bytes(stored, k));
  memory = Buffer(ops::packed_bytes(stored, n, k));
  const uint8_t* rows = data.data();
  const Released release;
  const OneCall call({}, 0);
  matrix = ops::pack(call.context, stored, n, k, rows, memory.data());
}

namespace {

FloatArray like(const FloatArray& array) { return FloatArray(shape_of(array)); }

FloatArray copy_of(const FloatArray& array) {
  FloatArray copy = like(array);
  std::copy_n(array.data(), array.size(), copy.mutable_data());
  return copy;
}

// ---- linear maps

// Activations with room for their quantized rows.
struct Input {
  Input(const FloatArray& x, int64_t k) : activations{view_of(x), {}, false} {
    const int64_t m = x.shape(0);
    Carver measure;
    ops::quantized_rows(measure, m, k);
    memory = Buffer(measure.used());
    Carver carver(memory.data());
    activations.room.quantized = ops::quantized_rows(carver, m, k);
  }
  Buffer memory;
  ops::Activations activations;
};

FloatArray gemm(const FloatArray& x, const PackedWeight& w, const std::optional<FloatArray>& bias,
                const std::string& compute, const Isa& isa, int num_threads) {
  check_input(x, w.matrix);
  if (bias) check_length(*bias, "bias", w.matrix.n);
  FloatArray y({x.shape(0), static_cast<py::ssize_t>(w.matrix.n)});
  const OneCall call(isa, num_threads);
  Input input(x, w.matrix.k);
  const ops::LinearMap map{view_of(y), &w.matrix, bias ? bias->data() : nullptr};
  const ops::Compute how = to_compute(compute);
  const Released release;
  ops::gemm(call.context, input.activations, {&map, 1}, how);
  return y;
}

// The tokens, or nothing where all logits must be looked at.
std::optional<std::vector<int32_t>> screened_argmax(const FloatArray& x, const PackedWeight& w,
                                                    const std::optional<FloatArray>& bias, float factor,
                                                    const Isa& isa, int num_threads) {
  check_input(x, w.matrix);
  TUILI_CHECK(factor > 0, "factor must be > 0, not ", factor);
  if (bias) check_length(*bias, "bias", w.matrix.n);
  const int64_t bytes = ops::screen_bytes(w.matrix);
  TUILI_CHECK(bytes > 0, "w has no screen: it is ", info_of(w.matrix.format).name, " [", w.matrix.n, ", ",
              w.matrix.k, "]");
  FloatArray logits({x.shape(0), static_cast<py::ssize_t>(w.matrix.n)});
  const Buffer memory(bytes);
  const OneCall call(isa, num_threads);
  Input input(x, w.matrix.k);
  const ops::LinearMap head{view_of(logits), &w.matrix, bias ? bias->data() : nullptr};
  std::vector<int32_t> tokens(x.shape(0));
  const Released release;
  const ops::HeadScreen screen = ops::make_screen(call.context, w.matrix, head.bias, memory.data());
  if (!screen.w.codes || !ops::screened_argmax(call.context, tokens, input.activations, head, screen, factor))
    return std::nullopt;
  return tokens;
}

// The rows of the result in order, for tests.
py::tuple quantize_rows(const FloatArray& x, bool keep_outliers, const Isa& isa) {
  check_dims(x, "x", 2);
  const OneCall call(isa);
  const Input input(x, x.shape(1));
  QuantizedRows in = input.activations.room.quantized;
  in.keeps_outliers = keep_outliers;
  const int64_t m = x.shape(0), groups = in.n_groups;
  ops::quantize_rows(call.context, in, view_of(x));
  py::array_t<int32_t> codes({m, groups * kGroup}), sums({m, groups, int64_t{2}}), n_outliers(m);
  FloatArray scale({m, groups}), scaled_sum({m, groups});
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t from = in.place(row, group), to = row * groups + group;
      std::copy_n(in.low + from * kGroup, kGroup, codes.mutable_data() + to * kGroup);
      std::copy_n(in.half_sum + from * 2, 2, sums.mutable_data() + to * 2);
      scale.mutable_data()[to] = in.scale[from];
      scaled_sum.mutable_data()[to] = in.scaled_sum[from];
    }
    n_outliers.mutable_data()[row] = in.n_outliers[row];
    for (int64_t i = 0; i < in.n_outliers[row]; ++i) {
      const OutlierQuad& outlier = in.outliers[row * in.max_outliers() + i];
      const int64_t to = row * groups + outlier.group;
      for (int j = 0; j < 4; ++j)
        codes.mutable_data()[to * kGroup + 4 * outlier.quad + j] += 128 * outlier.high[j];
      sums.mutable_data()[to * 2 + outlier.quad / 4] -= 16 * outlier.offset_sum;
    }
  }
  return py::make_tuple(codes, scale, sums, scaled_sum, n_outliers);
}

FloatArray embed(const PackedWeight& w, const py::object& token_ids, float factor, const Isa& isa) {
  const std::vector<int32_t> ids = to_ids(token_ids, "ids");
  for (const int32_t id : ids)
    TUILI_CHECK_KIND(ErrorKind::token_id, id < w.matrix.n, "token id ", id, " is not in [0, ", w.matrix.n,
                     ")");
  FloatArray y({std::ssize(ids), w.matrix.k});
  const OneCall call(isa);
  ops::embed(call.context, view_of(y), w.matrix, ids.data(), factor);
  return y;
}

// ---- rows

FloatArray rms_norm(const FloatArray& x, const FloatArray& gain, float eps, const Isa& isa,
                    const std::string& device) {
  const DeviceKind kind = to_device(device);
  check_dims(x, "x", 2);
  check_length(gain, "gain", x.shape(1));
  const Operand from(x, kind), gains(gain, kind);
  Operand to(like(x), kind);
  ops::rms_norm(OneCall(isa).context, to.view(), from.view(), gains.view(), eps);
  return to.result();
}

FloatArray layer_norm(const FloatArray& x, const FloatArray& gain, const FloatArray& bias, float eps,
                      const Isa& isa, const std::string& device) {
  const DeviceKind kind = to_device(device);
  check_dims(x, "x", 2);
  check_length(gain, "gain", x.shape(1));
  check_length(bias, "bias", x.shape(1));
  const Operand from(x, kind), gains(gain, kind), biases(bias, kind);
  Operand to(like(x), kind);
  ops::layer_norm(OneCall(isa).context, to.view(), from.view(), gains.view(), biases.view(), eps);
  return to.result();
}

py::tuple rope_table(const py::object& position_ids, const FloatArray& inv_freq, float factor) {
  const std::vector<int32_t> positions = to_ids(position_ids, "positions");
  check_dims(inv_freq, "inv_freq", 1);
  FloatArray cos({static_cast<py::ssize_t>(positions.size()), inv_freq.shape(0)}), sin = like(cos);
  const OneCall call;
  ops::rope_table(call.context, view_of(cos), view_of(sin), positions.data(), inv_freq.data(), factor);
  return py::make_tuple(cos, sin);
}

FloatArray rope(const FloatArray& x, const FloatArray& cos, const FloatArray& sin, int64_t n_heads,
                bool interleaved, const Isa& isa, const std::string& device) {
  const DeviceKind kind = to_device(device);
  check_dims(x, "x", 2);
  check_dims(cos, "cos", 2);
  TUILI_CHECK(shape_of(cos) == shape_of(sin) && cos.shape(0) == x.shape(0),
              "cos and sin must be [n_tokens, half]");
  TUILI_CHECK(n_heads >= 1 && x.shape(1) % n_heads == 0 && 2 * cos.shape(1) <= x.shape(1) / n_heads,
              "x has rows of ", x.shape(1), " for ", n_heads, " heads, of which RoPE turns ",
              2 * cos.shape(1));
  const Operand coses(cos, kind), sines(sin, kind);
  Operand y(copy_of(x), kind);
  ops::rope(OneCall(isa).context, y.view(), coses.view(), sines.view(), n_heads, interleaved);
  return y.result();
}

FloatArray mean_rows(const FloatArray& x, const Isa& isa, const std::string& device) {
  const DeviceKind kind = to_device(device);
  check_dims(x, "x", 2);
  TUILI_CHECK(x.shape(0) >= 1, "x has no rows");
  const Operand from(x, kind);
  Operand to(FloatArray({py::ssize_t{1}, x.shape(1)}), kind);
  const auto n_rows = static_cast<int32_t>(x.shape(0));
  ops::mean_rows(OneCall(isa).context, to.view(), from.view(), {&n_rows, 1});
  return FloatArray(to.result().reshape({x.shape(1)}));
}

FloatArray l2_normalize(const FloatArray& x, const Isa& isa, const std::string& device) {
  const DeviceKind kind = to_device(device);
  check_dims(x, "x", 2);
  const Operand from(x, kind);
  Operand to(like(x), kind);
  ops::l2_normalize(OneCall(isa).context, to.view(), from.view());
  return to.result();
}

// ---- attention

struct HostAttentionOptions : AttentionOptions {
  DType kv_type;
  int num_threads;
  const std::optional<FloatArray>& bias;  // [n_heads, size]
  int64_t bias_origin;
  bool bias_relative;
  const std::optional<FloatArray>& sinks;  // [n_heads]
};

// Pages that hold k and v [n_keys, n_kv_heads, head_dim].
struct Pages {
  Pages(const OneCall& call, const FloatArray& k, const FloatArray& v, const HostAttentionOptions& options)
      : blocks(k.shape(0), options.block_size) {
    const int64_t n_keys = k.shape(0), n_kv_heads = k.shape(1), head_dim = k.shape(2),
                  size = options.block_size, n_scales = std::ssize(blocks.ids) * size * n_kv_heads;
    keys = Buffer(n_scales * head_dim * 4);
    values = Buffer(n_scales * head_dim * 4);
    pages = {keys.data(),
             values.data(),
             options.kv_type,
             size,
             n_kv_heads,
             head_dim,
             size * n_kv_heads * head_dim};
    key_scales = Buffer(n_scales * 4);
    value_scales = Buffer(n_scales * 4);
    pages.k_scale = reinterpret_cast<float*>(key_scales.data());
    pages.v_scale = reinterpret_cast<float*>(value_scales.data());
    pages.scale_stride = size * n_kv_heads;
    const auto rows = [&](const FloatArray& a) {
      return TensorView(const_cast<float*>(a.data()), DType::f32, {n_keys, n_kv_heads * head_dim});
    };
    ops::kv_write(call.context, pages, rows(k), rows(v), blocks.slots.data());
  }
  Buffer keys, values, key_scales, value_scales;
  KvPages pages;
  BlocksBackwards blocks;
};

FloatArray attend(const FloatArray& q, const FloatArray& k, const FloatArray& v,
                  const HostAttentionOptions& options, const Isa& isa) {
  const int64_t n_rows = q.shape(0), n_heads = q.shape(1), head_dim = q.shape(2), n_keys = k.shape(0);
  const OneCall call(isa, options.num_threads, head_dim);
  Pages pages(call, k, v, options);
  const int64_t n_unread = ops::first_key_read(options.position, options.window) / options.block_size;
  std::fill_n(pages.blocks.ids.begin(), std::min(n_unread, std::ssize(pages.blocks.ids)), -1);
  FloatArray out = like(q);
  ops::AttentionSpec spec = spec_of(q, k, options);
  if (options.bias) {
    spec.bias = options.bias->data();
    spec.bias_stride = options.bias->shape(1);
    spec.bias_origin = options.bias_origin;
    spec.bias_relative = options.bias_relative;
  }
  if (options.sinks) spec.sinks = options.sinks->data();
  const ops::SequenceRows rows{0, n_rows, options.position, n_keys, pages.blocks.ids.data()};
  std::vector<float> partials(ops::attention_partial_floats(n_keys, n_heads, head_dim));
  const auto flat = [&](const FloatArray& a) {
    return TensorView(const_cast<float*>(a.data()), DType::f32, {n_rows, n_heads * head_dim});
  };
  ops::attention(call.context, spec, flat(out), flat(q), pages.pages, {{&rows, 1}, {}}, partials);
  return out;
}

FloatArray attention(const FloatArray& q, const FloatArray& k, const FloatArray& v, int64_t position,
                     bool causal, int64_t window, float factor, float softcap, const std::string& kv_dtype,
                     int64_t block_size, const std::optional<FloatArray>& bias, int64_t bias_origin,
                     bool bias_relative, const std::optional<FloatArray>& sinks, const Isa& isa,
                     int num_threads) {
  const AttentionOptions options{position, causal, window, factor, softcap, block_size};
  check_attention(q, k, v, options);
  if (bias) {
    check_dims(*bias, "bias", 2);
    const int64_t before = bias_relative ? position + q.shape(0) - 1 : 0, after = k.shape(0) + 63;
    TUILI_CHECK(
        bias->shape(0) == q.shape(1) && bias_origin >= before && bias->shape(1) - bias_origin >= after,
        "bias is [", bias->shape(0), ", ", bias->shape(1), "] with origin ", bias_origin, "; it needs ",
        q.shape(1), " heads, ", before, " values before and ", after, " from the origin on");
  }
  TUILI_CHECK(!sinks || sinks->size() == q.shape(1), "sinks must be one per head");
  return attend(q, k, v,
                {options, to_kv_type(kv_dtype), num_threads, bias, bias_origin, bias_relative, sinks}, isa);
}

// ---- elements

FloatArray activate(const FloatArray& gate, const std::optional<FloatArray>& up, const std::string& kind,
                    const Isa& isa, const std::string& device) {
  const DeviceKind where = to_device(device);
  TUILI_CHECK(!up || shape_of(gate) == shape_of(*up), "gate and up must have one shape");
  const Operand gates(gate, where);
  std::optional<Operand> ups;
  if (up) ups.emplace(*up, where);
  Operand y(like(gate), where);
  ops::activate(OneCall(isa).context, y.view(), gates.view(), up ? ups->view() : TensorView(),
                to_activation(kind));
  return y.result();
}

FloatArray add(const FloatArray& x, const FloatArray& z, const Isa& isa, const std::string& device) {
  const DeviceKind kind = to_device(device);
  TUILI_CHECK(shape_of(x) == shape_of(z), "x and z must have one shape");
  const Operand left(x, kind), right(z, kind);
  Operand y(like(x), kind);
  ops::add(OneCall(isa).context, y.view(), left.view(), right.view());
  return y.result();
}

FloatArray softcap(const FloatArray& x, float cap, const Isa& isa, const std::string& device) {
  Operand y(copy_of(x), to_device(device));
  ops::softcap(OneCall(isa).context, y.view(), cap);
  return y.result();
}

FloatArray xielu(const FloatArray& x, float alpha_p, float alpha_n, float beta, const Isa& isa,
                 const std::string& device) {
  Operand y(copy_of(x), to_device(device));
  ops::xielu(OneCall(isa).context, y.view(), {alpha_p, alpha_n, beta});
  return y.result();
}

py::tuple softmax_stats(const FloatArray& x, const Isa& isa) {
  check_dims(x, "x", 1);
  TUILI_CHECK(x.shape(0) >= 1, "x is empty");
  const ops::SoftmaxStats stats = ops::softmax_stats(OneCall(isa).context, x.data(), x.shape(0));
  return py::make_tuple(stats.max, stats.sum);
}

FloatArray exp_shifted(const FloatArray& x, float shift, const Isa& isa) {
  FloatArray y = like(x);
  ops::exp_shifted(OneCall(isa).context, y.mutable_data(), x.data(), shift, x.size());
  return y;
}

// ---- sampling

py::tuple philox(uint64_t seed, uint64_t counter) {
  const auto [word] = ops::philox(seed, counter);
  return py::make_tuple(word[0], word[1], word[2], word[3]);
}

int32_t sample(const FloatArray& logits, const SamplingParams& params, const py::object& tokens,
               int64_t n_prompt) {
  check_dims(logits, "logits", 1);
  const int64_t n_vocab = logits.shape(0);
  const std::vector<int32_t> history = to_ids(tokens, "history");
  TUILI_CHECK(n_vocab >= 1 && n_prompt >= 0 && n_prompt <= std::ssize(history), "n_prompt is ", n_prompt,
              " of ", history.size(), " tokens");
  for (const int32_t id : history)
    TUILI_CHECK_KIND(ErrorKind::token_id, id < n_vocab, "history: token id ", id, " is not in [0, ", n_vocab,
                     ")");
  check_sampling(params, n_vocab);
  const std::span<const int32_t> known = history;
  const Past past{known, n_prompt, known.first(n_prompt), {}};
  return Sampler(n_vocab).sample(OneCall().context, logits.data(), params, past);
}

py::tuple logprobs(const FloatArray& logits, int64_t token, int64_t n_best) {
  check_dims(logits, "logits", 1);
  const int64_t n_vocab = logits.shape(0);
  TUILI_CHECK(token >= 0 && token < n_vocab && n_best >= 0, "token ", token, " or n_best ", n_best, " of ",
              n_vocab);
  const TokenLogprobs result = Sampler(n_vocab).logprobs(OneCall().context, logits.data(), token, n_best);
  return py::make_tuple(result.logprob, result.best);
}

void bind_linear(py::module_& ops) {
  ops.def("screened_argmax", &screened_argmax, "x"_a, "w"_a, "bias"_a = py::none(), py::kw_only(),
          "factor"_a = 1.0f, "isa"_a = py::none(), "num_threads"_a = 1);
  ops.def("gemm", &gemm, "x"_a, "w"_a, "bias"_a = py::none(), py::kw_only(), "compute"_a = "auto",
          "isa"_a = py::none(), "num_threads"_a = 1);
  ops.def("quantize_rows", &quantize_rows, "x"_a, py::kw_only(), "keep_outliers"_a = true,
          "isa"_a = py::none());
  ops.def("embed", &embed, "w"_a, "ids"_a, "scale"_a = 1.0f, py::kw_only(), "isa"_a = py::none());
}

void bind_rows(py::module_& ops) {
  ops.def("rms_norm", &rms_norm, "x"_a, "gain"_a, "eps"_a, py::kw_only(), "isa"_a = py::none(),
          "device"_a = "cpu");
  ops.def("layer_norm", &layer_norm, "x"_a, "gain"_a, "bias"_a, "eps"_a, py::kw_only(), "isa"_a = py::none(),
          "device"_a = "cpu");
  ops.def("rope_table", &rope_table, "positions"_a, "inv_freq"_a, "scale"_a = 1.0f);
  ops.def("rope", &rope, "x"_a, "cos"_a, "sin"_a, "n_heads"_a, py::kw_only(), "interleaved"_a = false,
          "isa"_a = py::none(), "device"_a = "cpu");
  ops.def("attention", &attention, "q"_a, "k"_a, "v"_a, py::kw_only(), "position"_a = 0, "causal"_a = true,
          "window"_a = 0, "scale"_a = 1.0f, "softcap"_a = 0.0f, "kv_dtype"_a = "float32", "block_size"_a = 32,
          "bias"_a = py::none(), "bias_origin"_a = 0, "bias_relative"_a = false, "sinks"_a = py::none(),
          "isa"_a = py::none(), "num_threads"_a = 1);
  ops.def("mean_rows", &mean_rows, "x"_a, py::kw_only(), "isa"_a = py::none(), "device"_a = "cpu");
  ops.def("l2_normalize", &l2_normalize, "x"_a, py::kw_only(), "isa"_a = py::none(), "device"_a = "cpu");
}

void bind_elements(py::module_& ops) {
  ops.def("activate", &activate, "gate"_a, "up"_a = py::none(), "kind"_a = "silu", py::kw_only(),
          "isa"_a = py::none(), "device"_a = "cpu");
  ops.def("add", &add, "x"_a, "z"_a, py::kw_only(), "isa"_a = py::none(), "device"_a = "cpu");
  ops.def("softcap", &softcap, "x"_a, "cap"_a, py::kw_only(), "isa"_a = py::none(), "device"_a = "cpu");
  ops.def("xielu", &xielu, "x"_a, "alpha_p"_a, "alpha_n"_a, "beta"_a, py::kw_only(), "isa"_a = py::none(),
          "device"_a = "cpu");
  ops.def("softmax_stats", &softmax_stats, "x"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("exp_shifted", &exp_shifted, "x"_a, "shift"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("philox", &philox, "seed"_a, "counter"_a);
  ops.def("sample", &sample, "logits"_a, "sampling"_a, "history"_a, "n_prompt"_a);
  ops.def("logprobs", &logprobs, "logits"_a, "token"_a, "n_best"_a);
}

}  // namespace

void bind_ops(py::module_& module) {
  py::class_<PackedWeight>(module, "PackedWeight")
      .def(py::init<const std::string&, int64_t, int64_t, const ByteArray&>(), "format"_a, "n"_a, "k"_a,
           "data"_a)
      .def_property_readonly("bytes", [](const PackedWeight& w) { return w.memory.bytes(); });
  py::module_ ops = module.def_submodule("ops", "Single ops on numpy arrays.");
  bind_linear(ops);
  bind_rows(ops);
  bind_elements(ops);
  bind_device_ops(ops);
}

}  // namespace tuili::bindings
