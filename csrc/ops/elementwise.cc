// Norms, rotations, activations and sums.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr int64_t kElementsPerThread = 1 << 12;  // about a microsecond's work

// Calls body(range) for parts of [0, n_items), each item of `weight` elements.
template <class Body>
void split(const Context& context, int64_t n_items, int64_t weight, const Body& body) {
  context.pool->parallel_for(n_items, context.threads_for(n_items * weight, kElementsPerThread),
                             [&](int64_t begin, int64_t end, int) { body(cpu::Range{begin, end}); });
}

// y may be x, of whose shape it is.
void expect_rows(const char* op, const TensorView& y, const TensorView& x, const char* name_of_x = "x") {
  expect_dense(op, name_of_x, x, x.device);
  expect_dense(op, "y", y, x.device, output_type(y, x.device));
  TUILI_EXPECT(same_shape(x, y), op, ": ", name_of_x, " is ", x, ", y is ", y);
}

void expect_norm(const char* op, const TensorView& y, const TensorView& x, const TensorView& gain) {
  expect_rows(op, y, x);
  expect_vector(op, "gain", gain, x.size(1), x.device);
}

void expect_addend(const char* op, const TensorView& x, const TensorView& addend) {
  expect_dense(op, "addend", addend, x.device);
  TUILI_EXPECT(same_shape(x, addend), op, ": x is ", x, ", addend is ", addend);
}

// Fills y by make(rows, columns), of `weight` for each element, and quantizes what is made if that is
// planned. by_row: `make` takes whole rows. False, and nothing done, if there is no plan, or too little for
// all threads in the blocks of rows that share cache lines. Without outliers kWide groups of such a block
// fill lines of their own.
template <class Make>
bool make_quantized(const Context& context, Activations& y, int64_t weight, bool by_row, const Make& make) {
  if (!y.is_planned) return false;
  const int64_t m = y.x.rows(), k = y.x.size(1);
  const QuantizedRows& out = y.room.quantized;
  const int64_t groups = by_row || out.keeps_outliers ? out.n_groups : kWide;
  const int64_t pieces = ceil_div(out.n_groups, groups), n_items = ceil_div(m, kRowBlock) * pieces;
  const int threads = context.threads_for(y.x.count() * weight, kElementsPerThread);
  if (n_items < threads) return false;
  context.pool->parallel_for(n_items, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin, next; item < end; item = next) {
      const int64_t block = item / pieces, first = block * pieces;
      next = std::min(end, first + pieces);
      const cpu::Range rows{block * kRowBlock, std::min(m, (block + 1) * kRowBlock)};
      const cpu::Range taken{(item - first) * groups, std::min((next - first) * groups, out.n_groups)};
      make(rows, cpu::Range{taken.begin * kGroup, std::min(taken.end * kGroup, k)});
      context.kernels->quantize_rows(out, y.x.f32(), y.x.row_stride, k, rows, taken);
    }
  });
  y.is_ready = true;
  return true;
}

// x += addend, then norm(rows) of those rows, y: together, while they are at hand.
template <class Norm>
void add_and_norm(const Context& context, Activations& y, const TensorView& x, const TensorView& addend,
                  const Norm& norm) {
  const int64_t d = x.size(1), weight = 2;
  const auto make = [&](cpu::Range rows) {
    context.kernels->add(x.f32(), x.f32(), addend.f32(), {rows.begin * d, rows.end * d});
    norm(rows);
  };
  if (!make_quantized(context, y, weight, true, [&](cpu::Range rows, cpu::Range) { make(rows); }))
    split(context, x.rows(), weight * d, make);
}

// A row of y for the rows of x of each text.
void expect_texts(const char* op, const TensorView& y, const TensorView& x, std::span<const int32_t> n_rows) {
  expect_dense(op, "x", x, x.device);
  expect_dense(op, "y", y, x.device);
  const int64_t all = std::accumulate(n_rows.begin(), n_rows.end(), int64_t{0});
  TUILI_EXPECT(y.rows() == std::ssize(n_rows) && y.size(1) == x.size(1) && x.rows() == all &&
                   std::ranges::all_of(n_rows, [](int32_t n) { return n > 0; }),
               op, ": x is ", x, ", y is ", y, " for ", n_rows.size(), " texts of ", all, " rows");
}

// Calls body(a row of y, the rows of x) for each text.
template <class Body>
void for_each_text(const TensorView& y, const TensorView& x, std::span<const int32_t> n_rows,
                   const Body& body) {
  int64_t row = 0;
  for (size_t i = 0; i < n_rows.size(); ++i) {
    body(y.slice(static_cast<int64_t>(i), 1), x.slice(row, n_rows[i]));
    row += n_rows[i];
  }
}

}  // namespace

void expect_rope(const TensorView& x, const TensorView& cos, const TensorView& sin, int64_t n_heads) {
  expect("rope", "x", x, x.device);
  expect_dense("rope", "cos", cos, x.device);
  expect_dense("rope", "sin", sin, x.device);
  TUILI_EXPECT(n_heads > 0 && x.size(1) % n_heads == 0 && same_shape(cos, sin) && cos.rows() == x.rows() &&
                   2 * cos.size(1) <= x.size(1) / n_heads,
               "rope: x is ", x, " for ", n_heads, " heads, cos is ", cos, ", sin is ", sin);
}

void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps) {
  expect_norm("rms_norm", y, x, gain);
  if (x.device == DeviceKind::cuda) return on_device::rms_norm(context, y, x, gain, eps);
  const int64_t d = x.size(1);
  split(context, x.rows(), d, [&](cpu::Range rows) {
    context.kernels->rms_norm(y.f32(), x.f32(), gain.f32(), d, 1, d, eps, rows);
  });
}

void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps) {
  const int64_t head_dim = gain.size(0);
  expect("rms_norm_heads", "x", x, x.device);
  expect_vector("rms_norm_heads", "gain", gain, head_dim, x.device);
  TUILI_EXPECT(head_dim > 0 && x.size(1) % head_dim == 0, "rms_norm_heads: x is ", x, ", gain is ", gain);
  if (x.device == DeviceKind::cuda) return on_device::rms_norm_heads(context, x, gain, eps);
  const int64_t n_heads = x.size(1) / head_dim;
  split(context, x.rows() * n_heads, head_dim, [&](cpu::Range rows) {
    context.kernels->rms_norm(x.f32(), x.f32(), gain.f32(), head_dim, n_heads, x.row_stride, eps, rows);
  });
}

void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps) {
  expect_norm("layer_norm", y, x, gain);
  const int64_t d = x.size(1);
  expect_vector("layer_norm", "bias", bias, d, x.device);
  if (x.device == DeviceKind::cuda) return on_device::layer_norm(context, y, x, gain, bias, eps);
  split(context, x.rows(), d, [&](cpu::Range rows) {
    context.kernels->layer_norm(y.f32(), x.f32(), gain.f32(), bias.f32(), d, eps, rows);
  });
}

void add_rms_norm(const Context& context, Activations& y, const TensorView& x, const TensorView& addend,
                  const TensorView& gain, float eps) {
  const TensorView& out = y.x;
  expect_norm("add_rms_norm", out, x, gain);
  expect_addend("add_rms_norm", x, addend);
  if (x.device == DeviceKind::cuda)
    return on_device::rms_norm(context, out, x, gain, eps, &addend, on_device::planned_room(y));
  add_and_norm(context, y, x, addend, [&, d = x.size(1)](cpu::Range rows) {
    context.kernels->rms_norm(out.f32(), x.f32(), gain.f32(), d, 1, d, eps, rows);
  });
}

void add_layer_norm(const Context& context, Activations& y, const TensorView& x, const TensorView& addend,
                    const TensorView& gain, const TensorView& bias, float eps) {
  const TensorView& out = y.x;
  expect_norm("add_layer_norm", out, x, gain);
  expect_vector("add_layer_norm", "bias", bias, x.size(1), x.device);
  expect_addend("add_layer_norm", x, addend);
  if (x.device == DeviceKind::cuda)
    return on_device::layer_norm(context, out, x, gain, bias, eps, &addend, on_device::planned_room(y));
  add_and_norm(context, y, x, addend, [&, d = x.size(1)](cpu::Range rows) {
    context.kernels->layer_norm(out.f32(), x.f32(), gain.f32(), bias.f32(), d, eps, rows);
  });
}

void layer_norm_strided(const Context& context, const TensorView& x, const TensorView& gain,
                        const TensorView& bias, float eps) {
  const int64_t n = x.size(1);
  expect("layer_norm_strided", "x", x, x.device);
  expect_vector("layer_norm_strided", "gain", gain, n, x.device);
  expect_vector("layer_norm_strided", "bias", bias, n, x.device);
  if (x.device == DeviceKind::cuda) return on_device::layer_norm_strided(context, x, gain, bias, eps);
  split(context, x.rows(), n, [&](cpu::Range rows) {
    for (int64_t r = rows.begin; r < rows.end; ++r)
      context.kernels->layer_norm(x.f32_row(r), x.f32_row(r), gain.f32(), bias.f32(), n, eps, {0, 1});
  });
}

void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved) {
  expect_rope(x, cos, sin, n_heads);
  if (x.device == DeviceKind::cuda) return on_device::rope(context, x, cos, sin, n_heads, interleaved);
  split(context, x.rows(), x.size(1), [&](cpu::Range tokens) {
    context.kernels->rope(x.f32(), x.row_stride, cos.f32(), sin.f32(), n_heads, x.size(1) / n_heads,
                          cos.size(1), interleaved, tokens);
  });
}

void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind) {
  Activations unplanned{y, {}};
  activate(context, unplanned, gate, up, kind);
}

void activate(const Context& context, Activations& y, const TensorView& gate, const TensorView& up,
              Activation kind) {
  const TensorView& out = y.x;
  expect_rows("activate", out, gate, "gate");
  const bool gated = up.data != nullptr;
  if (gated) expect_dense("activate", "up", up, out.device);
  TUILI_EXPECT(!gated || same_shape(out, up), "activate: y is ", out, ", up is ", up);
  if (out.device == DeviceKind::cuda) return on_device::activate(context, out, gate, up, kind);
  constexpr int64_t kWeight = 4;
  const auto make = [&](cpu::Range elements) {
    context.kernels->activate(out.f32(), gate.f32(), gated ? up.f32() : nullptr, kind, elements);
  };
  const auto make_rows = [&, k = out.size(1)](cpu::Range rows, cpu::Range columns) {
    for (int64_t r = rows.begin; r < rows.end; ++r) make({r * k + columns.begin, r * k + columns.end});
  };
  if (!make_quantized(context, y, kWeight, false, make_rows)) split(context, out.count(), kWeight, make);
}

void add(const Context& context, const TensorView& y, const TensorView& x, const TensorView& z) {
  expect_dense("add", "y", y, y.device);
  expect_dense("add", "x", x, y.device);
  expect_dense("add", "z", z, y.device);
  TUILI_EXPECT(same_shape(y, x) && same_shape(y, z), "add: y is ", y, ", x is ", x, ", z is ", z);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::add(context.stream, y.f32(), x.f32(), z.f32(), y.count()), "add");
  split(context, y.count(), 1,
        [&](cpu::Range elements) { context.kernels->add(y.f32(), x.f32(), z.f32(), elements); });
}

void clear(const Context& context, const TensorView& y) {
  TUILI_EXPECT(y.is_dense(), "clear: y must be dense, not ", y);
  const int64_t bytes = y.count() * size_of(y.dtype);
  if (bytes == 0) return;
  if (y.device == DeviceKind::cuda) return device::fill(y.data, 0, bytes, context.stream);
  std::memset(y.data, 0, static_cast<size_t>(bytes));
}

void copy(const Context& context, const TensorView& y, const TensorView& x) {
  TUILI_EXPECT(same_shape(x, y) && x.dtype == y.dtype && x.is_dense() && y.is_dense(), "copy: x is ", x,
               ", y is ", y);
  const int64_t bytes = x.count() * size_of(x.dtype);
  if (bytes == 0) return;
  const bool from_device = x.device == DeviceKind::cuda, to_device = y.device == DeviceKind::cuda;
  if (from_device && to_device) return device::copy(y.data, x.data, bytes, context.stream);
  if (from_device) return device::copy_to_host(y.data, x.data, bytes, context.stream);
  if (to_device) return device::copy_to_device(y.data, x.data, bytes, context.stream);
  std::memcpy(y.data, x.data, static_cast<size_t>(bytes));
}

void gather_rows(const Context& context, const TensorView& y, const TensorView& x, const int32_t* rows) {
  expect_dense("gather_rows", "y", y, y.device);
  expect_dense("gather_rows", "x", x, y.device);
  const int64_t d = y.size(1);
  TUILI_EXPECT(x.size(1) == d, "gather_rows: x is ", x, ", y is ", y);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::embed(context.stream, y.f32(), x.f32(), DType::f32, rows, y.rows(), d, 1),
                         "gather_rows");
  split(context, y.rows(), d, [&](cpu::Range range) {
    for (int64_t t = range.begin; t < range.end; ++t) std::copy_n(x.f32_row(rows[t]), d, y.f32_row(t));
  });
}

void copy_heads(const Context& context, const TensorView& y, int64_t at, const TensorView& x, int64_t n_heads,
                int64_t n_heads_x) {
  expect_dense("copy_heads", "y", y, y.device, output_type(y, y.device));
  expect_dense("copy_heads", "x", x, y.device, y.dtype);
  TUILI_EXPECT(y.rows() == x.rows() && y.size(1) % n_heads == 0 && x.size(1) % n_heads_x == 0 &&
                   (n_heads_x == 1 || n_heads_x == n_heads),
               "copy_heads: x is ", x, ", y is ", y, " for ", n_heads, " and ", n_heads_x, " heads");
  const int64_t to = y.size(1) / n_heads, from = x.size(1) / n_heads_x, count = std::min(to - at, from);
  if (y.device == DeviceKind::cuda) {
    const cuda::CopyHeadsArgs args{y.data, x.data, y.dtype,   y.rows(), n_heads,
                                   to,     at,     n_heads_x, from,     count};
    return device::check(cuda::copy_heads(context.stream, args), "copy_heads");
  }
  split(context, y.rows(), n_heads * count, [&](cpu::Range rows) {
    for (int64_t t = rows.begin; t < rows.end; ++t)
      for (int64_t h = 0; h < n_heads; ++h)
        std::copy_n(x.f32_row(t) + (n_heads_x == 1 ? 0 : h * from), count, y.f32_row(t) + h * to + at);
  });
}

void clamp(const Context& context, const TensorView& y, float low, float high, float offset) {
  expect_dense("clamp", "y", y, y.device);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::clamp(context.stream, y.f32(), low, high, offset, y.count()), "clamp");
  split(context, y.count(), 1, [&](cpu::Range elements) {
    for (int64_t i = elements.begin; i < elements.end; ++i) {
      const float value = y.f32()[i];
      y.f32()[i] = (value < low ? low : value > high ? high : value) + offset;
    }
  });
}

void xielu(const Context& context, const TensorView& y, const Xielu& by) {
  expect_dense("xielu", "y", y, y.device);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::xielu(context.stream, y.f32(), by, y.count()), "xielu");
  split(context, y.count(), 4, [&](cpu::Range elements) { context.kernels->xielu(y.f32(), by, elements); });
}

void scale(const Context& context, const TensorView& y, float factor) {
  expect_dense("scale", "y", y, y.device);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::scale(context.stream, y.f32(), factor, y.count()), "scale");
  split(context, y.count(), 1, [&](cpu::Range elements) {
    for (int64_t i = elements.begin; i < elements.end; ++i) y.f32()[i] *= factor;
  });
}

void softcap(const Context& context, const TensorView& y, float cap) {
  expect_dense("softcap", "y", y, y.device);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::softcap(context.stream, y.f32(), cap, y.count()), "softcap");
  split(context, y.count(), 4,
        [&](cpu::Range elements) { context.kernels->softcap(y.f32(), cap, elements); });
}

void mean_rows(const Context& context, const TensorView& y, const TensorView& x,
               std::span<const int32_t> n_rows) {
  expect_texts("mean_rows", y, x, n_rows);
  if (x.device == DeviceKind::cuda)
    return device::check(cuda::mean_rows(context.stream, y.f32(), x.f32(), n_rows, x.size(1)), "mean_rows");
  for_each_text(y, x, n_rows, [&](const TensorView& mean, const TensorView& rows) {
    context.kernels->mean_rows(mean.f32(), rows.f32(), rows.rows(), rows.size(1));
  });
}

void weighted_mean_rows(const Context& context, const TensorView& y, const TensorView& x,
                        std::span<const int32_t> n_rows) {
  expect_texts("weighted_mean_rows", y, x, n_rows);
  if (x.device == DeviceKind::cuda)
    return device::check(cuda::weighted_mean_rows(context.stream, y.f32(), x.f32(), n_rows, x.size(1)),
                         "weighted_mean_rows");
  for_each_text(y, x, n_rows, [&](const TensorView&, const TensorView& rows) {
    const auto all = static_cast<float>(rows.rows() + 1);  // Σ (t + 1) = n_tokens · (n_tokens + 1) / 2
    for (int64_t t = 0; t < rows.rows(); ++t)
      scale(context, rows.slice(t, 1), 2 * static_cast<float>(t + 1) / all);
  });
  mean_rows(context, y, x, n_rows);
}

void max_rows(const Context& context, const TensorView& y, const TensorView& x,
              std::span<const int32_t> n_rows) {
  expect_texts("max_rows", y, x, n_rows);
  if (x.device == DeviceKind::cuda)
    return device::check(cuda::max_rows(context.stream, y.f32(), x.f32(), n_rows, x.size(1)), "max_rows");
  for_each_text(y, x, n_rows, [&](const TensorView& largest, const TensorView& rows) {
    float* const best = largest.f32();
    std::copy_n(rows.f32(), largest.count(), best);
    for (int64_t t = 1; t < rows.rows(); ++t)
      for (int64_t i = 0; i < largest.count(); ++i) {
        const float element = rows.f32_row(t)[i];
        best[i] = element >= best[i] || element != element ? element : best[i];  // a NaN stays
      }
  });
}

void l2_normalize(const Context& context, const TensorView& y, const TensorView& x) {
  expect_dense("l2_normalize", "x", x, x.device);
  expect_dense("l2_normalize", "y", y, x.device);
  TUILI_EXPECT(same_shape(x, y), "l2_normalize: x is ", x, ", y is ", y);
  if (x.device == DeviceKind::cuda)
    return device::check(cuda::l2_normalize(context.stream, y.f32(), x.f32(), x.rows(), x.size(1)),
                         "l2_normalize");
  context.kernels->l2_normalize(y.f32(), x.f32(), x.size(1), {0, x.rows()});
}

}  // namespace tuili::ops
