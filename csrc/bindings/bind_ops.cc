// tuili._core.ops: single ops on numpy arrays, for tests and benchmarks.
#include <memory>
#include <optional>

#include "base/float_environment.h"
#include "base/memory.h"
#include "bindings/bindings.h"
#include "bindings/numpy.h"
#include "runtime/sampler.h"

namespace tuili::bindings {
namespace {

using Isa = std::optional<std::string>;

// A context for one call.
struct OneCall {
  explicit OneCall(const Isa& isa, int num_threads = 1, int64_t head_dim = 64) {
    context.kernels = &ops::find_kernels(isa ? isa->c_str() : nullptr);
    context.pool = &ThreadPool::shared();
    context.n_threads = resolve_num_threads(num_threads);
    context.scratch_floats = ops::scratch_floats_for(head_dim);
    scratch = Buffer(context.scratch_floats * context.n_threads * 4);
    context.scratch = reinterpret_cast<float*>(scratch.data());
  }
  Buffer scratch;
  ops::Context context;
  FloatEnvironment environment;
};

std::vector<py::ssize_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

FloatArray like(const FloatArray& array) { return FloatArray(shape_of(array)); }

FloatArray copy_of(const FloatArray& array) {
  FloatArray copy = like(array);
  std::copy_n(array.data(), array.size(), copy.mutable_data());
  return copy;
}

// ---- linear maps

struct PackedWeight {
  PackedWeight(const std::string& format, int64_t n, int64_t k, const ByteArray& data) {
    const Format stored = to_format(format);
    TUILI_CHECK(n >= 1 && k >= 1 && n <= 1 << 24 && k <= 1 << 24, "a weight of ", n, " x ", k);
    TUILI_CHECK(data.size() == n * ops::row_bytes(stored, k), "data has ", data.size(), " bytes; ", format,
                " [", n, ", ", k, "] has ", n * ops::row_bytes(stored, k));
    memory = Buffer(ops::packed_bytes(stored, n, k));
    const uint8_t* rows = data.data();
    const py::gil_scoped_release release;
    const OneCall call(std::nullopt, 0);
    matrix = ops::pack(call.context, stored, n, k, rows, memory.data());
  }
  Buffer memory;
  PackedMatrix matrix;
};

// Activations with room for their quantized rows.
struct Input {
  Input(const FloatArray& x, int64_t k) : activations{view_of(x), {}, false} {
    const int64_t m = x.shape(0);
    Carver measure;
    ops::quantized_rows(measure, m, k);
    memory = Buffer(measure.used());
    Carver carver(memory.data());
    activations.quantized = ops::quantized_rows(carver, m, k);
  }
  Buffer memory;
  ops::Activations activations;
};

FloatArray gemm(const FloatArray& x, const PackedWeight& w, const std::optional<FloatArray>& bias,
                const std::string& compute, const Isa& isa, int num_threads) {
  check_dims(x, "x", 2);
  TUILI_CHECK(x.shape(1) == w.matrix.k, "x has rows of ", x.shape(1), "; w has rows of ", w.matrix.k);
  if (bias) check_length(*bias, "bias", w.matrix.n);
  FloatArray y({x.shape(0), static_cast<py::ssize_t>(w.matrix.n)});
  const OneCall call(isa, num_threads);
  Input input(x, w.matrix.k);
  const ops::LinearMap map{view_of(y), &w.matrix, bias ? bias->data() : nullptr};
  const ops::Compute how = to_compute(compute);
  const py::gil_scoped_release release;
  ops::gemm(call.context, input.activations, {&map, 1}, how);
  return y;
}

// The rows of the result in order, for tests.
py::tuple quantize_rows(const FloatArray& x, const Isa& isa) {
  check_dims(x, "x", 2);
  const OneCall call(isa);
  const Input input(x, x.shape(1));
  const QuantizedRows& in = input.activations.quantized;
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
      sums.mutable_data()[to * 2 + outlier.quad / 4] -= 128 * outlier.minus_sum;
    }
  }
  return py::make_tuple(codes, scale, sums, scaled_sum, n_outliers);
}

FloatArray embed(const PackedWeight& w, const py::object& token_ids, float factor, const Isa& isa) {
  const std::vector<int32_t> ids = to_ids(token_ids, "ids");
  for (const int32_t id : ids)
    TUILI_CHECK_KIND(ErrorKind::token_id, id < w.matrix.n, "token id ", id, " is not in [0, ", w.matrix.n,
                     ")");
  FloatArray y({static_cast<int64_t>(ids.size()), w.matrix.k});
  const OneCall call(isa);
  ops::embed(call.context, view_of(y), w.matrix, ids.data(), factor);
  return y;
}

// ---- rows

FloatArray rms_norm(const FloatArray& x, const FloatArray& gain, float eps, const Isa& isa) {
  check_dims(x, "x", 2);
  check_length(gain, "gain", x.shape(1));
  FloatArray y = like(x);
  const OneCall call(isa);
  ops::rms_norm(call.context, view_of(y), view_of(x), view_of(gain), eps);
  return y;
}

FloatArray layer_norm(const FloatArray& x, const FloatArray& gain, const FloatArray& bias, float eps,
                      const Isa& isa) {
  check_dims(x, "x", 2);
  check_length(gain, "gain", x.shape(1));
  check_length(bias, "bias", x.shape(1));
  FloatArray y = like(x);
  const OneCall call(isa);
  ops::layer_norm(call.context, view_of(y), view_of(x), view_of(gain), view_of(bias), eps);
  return y;
}

py::tuple rope_table(const py::object& position_ids, const FloatArray& inv_freq, float factor) {
  const std::vector<int32_t> positions = to_ids(position_ids, "positions");
  check_dims(inv_freq, "inv_freq", 1);
  FloatArray cos({static_cast<py::ssize_t>(positions.size()), inv_freq.shape(0)}), sin = like(cos);
  const OneCall call(std::nullopt);
  ops::rope_table(call.context, view_of(cos), view_of(sin), positions.data(), inv_freq.data(), factor);
  return py::make_tuple(cos, sin);
}

FloatArray rope(const FloatArray& x, const FloatArray& cos, const FloatArray& sin, int64_t n_heads,
                bool interleaved, const Isa& isa) {
  check_dims(x, "x", 2);
  check_dims(cos, "cos", 2);
  TUILI_CHECK(shape_of(cos) == shape_of(sin) && cos.shape(0) == x.shape(0),
              "cos and sin must be [n_tokens, half]");
  TUILI_CHECK(n_heads >= 1 && x.shape(1) % n_heads == 0 && 2 * cos.shape(1) <= x.shape(1) / n_heads,
              "x has rows of ", x.shape(1), " for ", n_heads, " heads, of which RoPE turns ",
              2 * cos.shape(1));
  FloatArray y = copy_of(x);
  const OneCall call(isa);
  ops::rope(call.context, view_of(y), view_of(cos), view_of(sin), n_heads, interleaved);
  return y;
}

FloatArray mean_rows(const FloatArray& x, const Isa& isa) {
  check_dims(x, "x", 2);
  TUILI_CHECK(x.shape(0) >= 1, "x has no rows");
  FloatArray y({py::ssize_t{1}, x.shape(1)});
  const OneCall call(isa);
  ops::mean_rows(call.context, view_of(y), view_of(x));
  return FloatArray(y.reshape({x.shape(1)}));
}

FloatArray l2_normalize(const FloatArray& x, const Isa& isa) {
  check_dims(x, "x", 2);
  FloatArray y = like(x);
  const OneCall call(isa);
  ops::l2_normalize(call.context, view_of(y), view_of(x));
  return y;
}

// ---- attention

struct AttentionOptions {
  int64_t position;
  bool causal;
  int64_t window;
  float scale, softcap;
  ops::KvType kv_type;
  int64_t block_size;
  int num_threads;
  const std::optional<FloatArray>& bias;  // [n_heads, size]
  int64_t bias_origin;
  bool bias_relative;
  const std::optional<FloatArray>& sinks;  // [n_heads]
};

// Pages that hold k and v [n_keys, n_kv_heads, head_dim], their blocks in reverse order.
struct Pages {
  Pages(const OneCall& call, const FloatArray& k, const FloatArray& v, const AttentionOptions& options) {
    const int64_t n_keys = k.shape(0), n_kv_heads = k.shape(1), head_dim = k.shape(2),
                  size = options.block_size;
    const int64_t n_blocks = (n_keys + size - 1) / size;
    for (int64_t i = 0; i < n_blocks; ++i) blocks.push_back(static_cast<int32_t>(n_blocks - 1 - i));
    const int64_t bytes = n_blocks * size * n_kv_heads * head_dim * 4;
    keys = Buffer(bytes);
    values = Buffer(bytes);
    pages = {keys.data(),
             values.data(),
             options.kv_type,
             size,
             n_kv_heads,
             head_dim,
             size * n_kv_heads * head_dim};
    key_scales = Buffer(n_blocks * size * n_kv_heads * 4);
    value_scales = Buffer(n_blocks * size * n_kv_heads * 4);
    pages.k_scale = reinterpret_cast<float*>(key_scales.data());
    pages.v_scale = reinterpret_cast<float*>(value_scales.data());
    pages.scale_stride = size * n_kv_heads;
    std::vector<int32_t> slots;
    for (int64_t i = 0; i < n_keys; ++i)
      slots.push_back(static_cast<int32_t>(blocks[i / size] * size + i % size));
    const auto rows = [&](const FloatArray& a) {
      return TensorView(const_cast<float*>(a.data()), DType::f32, {n_keys, n_kv_heads * head_dim});
    };
    ops::kv_write(call.context, pages, rows(k), rows(v), slots.data());
  }
  Buffer keys, values, key_scales, value_scales;
  ops::KvPages pages;
  std::vector<int32_t> blocks;
};

FloatArray attend(const FloatArray& q, const FloatArray& k, const FloatArray& v,
                  const AttentionOptions& options, const Isa& isa) {
  const int64_t n_rows = q.shape(0), n_heads = q.shape(1), head_dim = q.shape(2), n_keys = k.shape(0);
  const OneCall call(isa, options.num_threads, head_dim);
  const Pages pages(call, k, v, options);
  FloatArray out = like(q);
  ops::AttentionSpec spec{n_heads,        k.shape(1),    head_dim,       options.window,
                          options.causal, options.scale, options.softcap};
  if (options.bias) {
    spec.bias = options.bias->data();
    spec.bias_stride = options.bias->shape(1);
    spec.bias_origin = options.bias_origin;
    spec.bias_relative = options.bias_relative;
  }
  if (options.sinks) spec.sinks = options.sinks->data();
  const ops::SequenceRows rows{0, n_rows, options.position, n_keys, pages.blocks.data()};
  std::vector<float> partials(ops::attention_partial_floats(n_keys, n_heads, head_dim));
  const auto flat = [&](const FloatArray& a) {
    return TensorView(const_cast<float*>(a.data()), DType::f32, {n_rows, n_heads * head_dim});
  };
  ops::attention(call.context, spec, flat(out), flat(q), pages.pages, {&rows, 1}, partials);
  return out;
}

FloatArray attention(const FloatArray& q, const FloatArray& k, const FloatArray& v, int64_t position,
                     bool causal, int64_t window, float factor, float softcap, const std::string& kv_dtype,
                     int64_t block_size, const std::optional<FloatArray>& bias, int64_t bias_origin,
                     bool bias_relative, const std::optional<FloatArray>& sinks, const Isa& isa,
                     int num_threads) {
  check_dims(q, "q", 3);
  check_dims(k, "k", 3);
  TUILI_CHECK(shape_of(k) == shape_of(v), "k and v must have one shape");
  TUILI_CHECK(k.shape(0) >= 1 && k.shape(2) == q.shape(2) && q.shape(2) >= 1 && k.shape(1) >= 1 &&
                  q.shape(1) % k.shape(1) == 0,
              "q is [", q.shape(0), ", ", q.shape(1), ", ", q.shape(2), "], k is [", k.shape(0), ", ",
              k.shape(1), ", ", k.shape(2), "]");
  TUILI_CHECK(block_size == 16 || block_size == 32 || block_size == 64, "block_size must be 16, 32 or 64");
  TUILI_CHECK(position >= 0 && window >= 0 && (!causal || position + q.shape(0) <= k.shape(0)),
              "rows at positions [", position, ", ", position + q.shape(0), ") of ", k.shape(0), " keys");
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
                {position, causal, window, factor, softcap, to_kv_type(kv_dtype), block_size, num_threads,
                 bias, bias_origin, bias_relative, sinks},
                isa);
}

// ---- elements

FloatArray activate(const FloatArray& gate, const std::optional<FloatArray>& up, const std::string& kind,
                    const Isa& isa) {
  TUILI_CHECK(!up || shape_of(gate) == shape_of(*up), "gate and up must have one shape");
  FloatArray y = like(gate);
  const OneCall call(isa);
  ops::activate(call.context, view_of(y), view_of(gate), up ? view_of(*up) : TensorView(),
                to_activation(kind));
  return y;
}

FloatArray add(const FloatArray& x, const FloatArray& z, const Isa& isa) {
  TUILI_CHECK(shape_of(x) == shape_of(z), "x and z must have one shape");
  FloatArray y = like(x);
  const OneCall call(isa);
  ops::add(call.context, view_of(y), view_of(x), view_of(z));
  return y;
}

FloatArray softcap(const FloatArray& x, float cap, const Isa& isa) {
  FloatArray y = copy_of(x);
  const OneCall call(isa);
  ops::softcap(call.context, view_of(y), cap);
  return y;
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
  TUILI_CHECK(n_vocab >= 1 && n_prompt >= 0 && n_prompt <= static_cast<int64_t>(history.size()),
              "n_prompt is ", n_prompt, " of ", history.size(), " tokens");
  for (const int32_t id : history)
    TUILI_CHECK_KIND(ErrorKind::token_id, id < n_vocab, "history: token id ", id, " is not in [0, ", n_vocab,
                     ")");
  check_sampling(params, n_vocab);
  return Sampler(n_vocab).sample(OneCall(std::nullopt).context, logits.data(), params, history, n_prompt, {});
}

// ---- the device

// A copy of an array in device memory.
class OnDevice {
 public:
  OnDevice(const void* from, DType dtype, std::initializer_list<int64_t> shape)
      : view_(nullptr, dtype, shape, DeviceKind::cuda),
        memory_(device::allocate(std::max<int64_t>(1, bytes()))) {
    view_.data = memory_.get();
    if (from != nullptr) device::copy_to_device(memory_.get(), from, bytes(), nullptr);
    device::synchronize(nullptr);
  }
  void copy_to(void* to) const {
    device::copy_to_host(to, memory_.get(), bytes(), nullptr);
    device::synchronize(nullptr);
  }
  const TensorView& view() const { return view_; }

 private:
  struct Free {
    void operator()(void* memory) const { device::free(memory); }
  };
  int64_t bytes() const { return view_.count() * size_of(view_.dtype); }

  TensorView view_;
  std::unique_ptr<void, Free> memory_;
};

// float32, or uint16 holding bfloat16.
template <class Array, DType dtype>
Array rms_norm_on_device(const Array& x, const FloatArray& gain, float eps) {
  check_dims(x, "x", 2);
  check_length(gain, "gain", x.shape(1));
  const int64_t n = x.shape(0), d = x.shape(1);
  const OnDevice from(x.data(), dtype, {n, d}), weights(gain.data(), DType::f32, {d}),
      to(nullptr, dtype, {n, d});
  ops::rms_norm(OneCall(std::nullopt).context, to.view(), from.view(), weights.view(), eps);
  Array y(shape_of(x));
  to.copy_to(y.mutable_data());
  return y;
}

template <class Array, DType dtype>
Array gemm_into(const HalfArray& x, const HalfArray& w) {
  const int64_t m = x.shape(0), k = x.shape(1), n = w.shape(0);
  const OnDevice xs(x.data(), DType::bf16, {m, k}), ws(w.data(), DType::bf16, {n, k}),
      ys(nullptr, dtype, {m, n});
  ops::gemm(OneCall(std::nullopt).context, ys.view(), xs.view(), ws.view());
  Array y({m, n});
  ys.copy_to(y.mutable_data());
  return y;
}

py::array gemm_on_device(const HalfArray& x, const HalfArray& w, const std::string& out) {
  check_dims(x, "x", 2);
  check_dims(w, "w", 2);
  TUILI_CHECK(x.shape(1) == w.shape(1), "x has rows of ", x.shape(1), "; w has rows of ", w.shape(1));
  const DType dtype = choose<DType>(out, "out", {{"float32", DType::f32}, {"bfloat16", DType::bf16}});
  if (dtype == DType::f32) return gemm_into<FloatArray, DType::f32>(x, w);
  return gemm_into<HalfArray, DType::bf16>(x, w);
}

void bind_linear(py::module_& ops) {
  ops.def("gemm", &gemm, "x"_a, "w"_a, "bias"_a = py::none(), py::kw_only(), "compute"_a = "auto",
          "isa"_a = py::none(), "num_threads"_a = 1);
  ops.def("quantize_rows", &quantize_rows, "x"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("embed", &embed, "w"_a, "ids"_a, "scale"_a = 1.0f, py::kw_only(), "isa"_a = py::none());
  ops.def("gemm_on_device", &gemm_on_device, "x"_a, "w"_a, "out"_a = "float32");
  ops.def("rms_norm_on_device", &rms_norm_on_device<FloatArray, DType::f32>, "x"_a.noconvert(), "gain"_a,
          "eps"_a);
  ops.def("rms_norm_on_device", &rms_norm_on_device<HalfArray, DType::bf16>, "x"_a.noconvert(), "gain"_a,
          "eps"_a);
}

void bind_rows(py::module_& ops) {
  ops.def("rms_norm", &rms_norm, "x"_a, "gain"_a, "eps"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("layer_norm", &layer_norm, "x"_a, "gain"_a, "bias"_a, "eps"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("rope_table", &rope_table, "positions"_a, "inv_freq"_a, "scale"_a = 1.0f);
  ops.def("rope", &rope, "x"_a, "cos"_a, "sin"_a, "n_heads"_a, py::kw_only(), "interleaved"_a = false,
          "isa"_a = py::none());
  ops.def("attention", &attention, "q"_a, "k"_a, "v"_a, py::kw_only(), "position"_a = 0, "causal"_a = true,
          "window"_a = 0, "scale"_a = 1.0f, "softcap"_a = 0.0f, "kv_dtype"_a = "float32", "block_size"_a = 32,
          "bias"_a = py::none(), "bias_origin"_a = 0, "bias_relative"_a = false, "sinks"_a = py::none(),
          "isa"_a = py::none(), "num_threads"_a = 1);
  ops.def("mean_rows", &mean_rows, "x"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("l2_normalize", &l2_normalize, "x"_a, py::kw_only(), "isa"_a = py::none());
}

void bind_elements(py::module_& ops) {
  ops.def("activate", &activate, "gate"_a, "up"_a = py::none(), "kind"_a = "silu", py::kw_only(),
          "isa"_a = py::none());
  ops.def("add", &add, "x"_a, "z"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("softcap", &softcap, "x"_a, "cap"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("softmax_stats", &softmax_stats, "x"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("exp_shifted", &exp_shifted, "x"_a, "shift"_a, py::kw_only(), "isa"_a = py::none());
  ops.def("philox", &philox, "seed"_a, "counter"_a);
  ops.def("sample", &sample, "logits"_a, "sampling"_a, "history"_a, "n_prompt"_a);
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
}

}  // namespace tuili::bindings
