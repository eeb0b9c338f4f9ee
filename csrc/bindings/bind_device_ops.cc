// Ops whose operands on a device differ from the CPU's: bfloat16 activations, pages laid out for tensor
// cores.
#include "bindings/bindings.h"
#include "bindings/single_ops.h"
#include "ops/on_device.h"

namespace tuili::bindings {
namespace {

TensorView view(const OnDevice& memory, DType dtype, std::initializer_list<int64_t> shape) {
  return {memory.as<void>(), dtype, shape, DeviceKind::cuda};
}

// y [m, n] of bfloat16 x [m, k] and weights in device memory.
FloatArray product(const HalfArray& x, const PackedMatrix& w) {
  check_input(x, w);
  const int64_t m = x.shape(0);
  const OnDevice xs(x.data(), x.nbytes()), ys(nullptr, m * w.n * int64_t{sizeof(float)});
  ops::Activations input{view(xs, DType::bf16, {m, w.k}), {}};
  const ops::LinearMap map{view(ys, DType::f32, {m, w.n}), &w};
  ops::gemm(OneCall().context, input, {&map, 1}, ops::Compute::automatic);
  FloatArray y({m, w.n});
  ys.copy_to(y.mutable_data());
  return y;
}

FloatArray gemm_dense(const HalfArray& x, const HalfArray& w) {
  check_dims(w, "w", 2);
  const OnDevice ws(w.data(), w.nbytes());
  return product(x, {.format = Format::bf16, .n = w.shape(0), .k = w.shape(1), .codes = ws.as<uint8_t>()});
}

FloatArray gemm_packed(const HalfArray& x, const PackedWeight& w) {
  const Format format = w.matrix.format;
  const int64_t n = w.matrix.n, k = w.matrix.k;
  const Buffer arranged(ops::device_bytes(format, n, k));
  ops::arrange_for_device(OneCall().context, arranged.data(), w.matrix);
  const OnDevice records(arranged.data(), arranged.bytes());
  return product(x, {.format = format, .n = n, .k = k, .codes = records.as<uint8_t>()});
}

// Pages that hold k and v [n_keys, n_kv_heads, head_dim].
struct DevicePages {
  DevicePages(const ops::Context& context, const FloatArray& k, const FloatArray& v, DType kv_type,
              int64_t size)
      : blocks(k.shape(0), size),
        n_scales(std::ssize(blocks.ids) * size * k.shape(1)),
        keys(nullptr, n_scales * k.shape(2) * size_of(kv_type)),
        values(nullptr, n_scales * k.shape(2) * size_of(kv_type)),
        key_scales(nullptr, n_scales * 4),
        value_scales(nullptr, n_scales * 4),
        pages{keys.as<void>(),
              values.as<void>(),
              kv_type,
              size,
              k.shape(1),
              k.shape(2),
              size * k.shape(1) * k.shape(2),
              key_scales.as<float>(),
              value_scales.as<float>(),
              size * k.shape(1)} {
    const OnDevice ks(k.data(), k.nbytes()), vs(v.data(), v.nbytes()),
        places(blocks.slots.data(), k.shape(0) * int64_t{sizeof(int32_t)});
    const std::initializer_list<int64_t> rows = {k.shape(0), k.shape(1) * k.shape(2)};
    ops::on_device::kv_write(context, pages, view(ks, DType::f32, rows), view(vs, DType::f32, rows),
                             places.as<int32_t>());
    device::synchronize(nullptr);
  }
  BlocksBackwards blocks;
  int64_t n_scales;
  OnDevice keys, values, key_scales, value_scales;
  KvPages pages;
};

FloatArray attend(const FloatArray& q, const FloatArray& k, const FloatArray& v, DType kv_type,
                  const AttentionOptions& options) {
  const int64_t n_rows = q.shape(0), n_heads = q.shape(1), head_dim = q.shape(2), n_keys = k.shape(0);
  const OneCall call;
  const DevicePages held(call.context, k, v, kv_type, options.block_size);
  const OnDevice queries(q.data(), q.nbytes()), out(nullptr, q.nbytes()),
      table(held.blocks.ids.data(), std::ssize(held.blocks.ids) * int64_t{sizeof(int32_t)});
  const ops::DeviceSequence sequence{0, static_cast<int32_t>(n_rows), static_cast<int32_t>(options.position),
                                     static_cast<int32_t>(n_keys), 0};
  const OnDevice sequences(&sequence, sizeof(sequence));
  const int64_t floats = ops::on_device::partial_floats(n_rows, n_heads, head_dim, n_keys);
  const OnDevice partials(nullptr, floats * int64_t{sizeof(float)});
  ops::on_device::attention(call.context, spec_of(q, k, options),
                            view(out, DType::f32, {n_rows, n_heads * head_dim}),
                            view(queries, DType::f32, {n_rows, n_heads * head_dim}), held.pages,
                            {sequences.as<ops::DeviceSequence>(), 1, table.as<int32_t>(), n_rows, n_keys},
                            {partials.as<float>(), static_cast<size_t>(floats)});
  FloatArray result({n_rows, n_heads, head_dim});
  out.copy_to(result.mutable_data());
  return result;
}

FloatArray attention(const FloatArray& q, const FloatArray& k, const FloatArray& v, int64_t position,
                     bool causal, int64_t window, float factor, float softcap, const std::string& kv_dtype,
                     int64_t block_size) {
  const AttentionOptions options{position, causal, window, factor, softcap, block_size};
  check_attention(q, k, v, options);
  TUILI_CHECK(k.shape(2) <= 256, "heads must be of at most 256 dimensions, not ", k.shape(2));
  return attend(q, k, v, to_kv_type(kv_dtype), options);
}

}  // namespace

void bind_device_ops(py::module_& ops) {
  ops.def("gemm_on_device", &gemm_dense, "x"_a, "w"_a);
  ops.def("gemm_on_device", &gemm_packed, "x"_a, "w"_a);
  ops.def("attention_on_device", &attention, "q"_a, "k"_a, "v"_a, py::kw_only(), "position"_a = 0,
          "causal"_a = true, "window"_a = 0, "scale"_a = 1.0f, "softcap"_a = 0.0f, "kv_dtype"_a = "bfloat16",
          "block_size"_a = 32);
}

}  // namespace tuili::bindings
