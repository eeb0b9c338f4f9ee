// Linear maps, embedding look-ups, and the quantization of their inputs.
#include <algorithm>

#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/on_device.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr int64_t kMacsPerThread = 1 << 17;
constexpr int64_t kElementsPerThread = 1 << 11;  // to quantize or to look up
constexpr int64_t kPanelsPerChunk = 8;           // as many as a tile of rows meets in a row
constexpr int64_t kFloatPanelsPerChunk = 12;     // three tiles of 4: most widths are multiples of 24

void check(const Activations& x, const LinearMap& map) {
  expect("gemm", "y", map.y);
  const PackedMatrix& w = *map.w;
  TUILI_EXPECT(x.x.size(1) == w.k && map.y.rows() == x.x.rows() && map.y.size(1) == w.n && w.codes != nullptr,
               "gemm: x is ", x.x, ", w is ", info_of(w.format).name, " [", w.n, ", ", w.k, "], y is ",
               map.y);
}

bool is_integer(const PackedMatrix& w, Compute compute) {
  return compute != Compute::float32 && !is_float(w.format);
}

// How maps read their input.
struct Reading {
  bool any_integer = false, any_wide = false, all_wide = false;

  void take(const PackedMatrix& w, Compute compute) {
    any_integer |= is_integer(w, compute);
    any_wide |= compute == Compute::int8 && w.has_wide_scales;
    all_wide &= w.has_wide_scales || !is_integer(w, compute);
  }
  // Some want what the others cannot read.
  bool is_mixed() const { return any_wide && !all_wide; }
};

Reading reading_of(Compute compute) { return {.all_wide = compute == Compute::int8}; }

void set_kind(QuantizedRows& rows, int64_t k, const Reading& reading, Compute compute) {
  rows.n_groups = ceil_div(k, kGroup);
  rows.keeps_outliers = compute == Compute::automatic;
  rows.has_wide_scales = reading.all_wide;
}

}  // namespace

InputRoom input_room(Carver& carver, int64_t m, int64_t k, DeviceKind device) {
  if (device == DeviceKind::cuda) return {{}, carver.take<uint16_t>(m * k)};
  return {quantized_rows(carver, m, k)};
}

void quantize_rows(const Context& context, const QuantizedRows& out, const TensorView& x) {
  expect("quantize_rows", "x", x);
  const int64_t k = x.size(1);
  TUILI_EXPECT(out.n_groups == ceil_div(k, kGroup) && out.low != nullptr,
               "quantize_rows: no room for the groups of ", x);
  TUILI_EXPECT(!out.has_wide_scales || (k % (kWide * kGroup) == 0 && !out.keeps_outliers),
               "quantize_rows: wide scales of ", x);
  // Rows of a block share cache lines.
  context.pool->parallel_for(
      ceil_div(x.rows(), kRowBlock), context.threads_for(x.count(), kElementsPerThread),
      [&](int64_t begin, int64_t end, int) {
        const cpu::Range rows{begin * kRowBlock, std::min(end * kRowBlock, x.rows())};
        context.kernels->quantize_rows(out, x.f32(), x.row_stride, k, rows, {0, out.n_groups});
      });
}

void gemm(const Context& context, Activations& x, std::span<const LinearMap> maps, Compute compute) {
  if (x.x.device == DeviceKind::cuda) return on_device::gemm(context, x, maps);
  expect("gemm", "x", x.x);
  const int64_t m = x.x.rows(), k = x.x.size(1);
  int64_t n_panels = 0;
  Reading reading = reading_of(compute);
  for (const LinearMap& map : maps) {
    check(x, map);
    n_panels += map.w->n_panels();
    reading.take(*map.w, compute);
  }
  if (m == 0) return;
  if (reading.is_mixed()) {  // what a map gives does not depend on the others
    for (const LinearMap& map : maps) gemm(context, x, {&map, 1}, compute);
    return;
  }
  QuantizedRows& quantized = x.room.quantized;
  if (reading.any_integer && !(x.is_ready && quantized.has_wide_scales == reading.all_wide)) {
    set_kind(quantized, k, reading, compute);
    quantize_rows(context, quantized, x.x);
    x.is_ready = true;
  }
  const int threads = context.threads_for(m * k * n_panels * kPanel, kMacsPerThread);
  context.pool->parallel_for(
      n_panels, threads,
      [&](int64_t begin, int64_t end, int part) {
        for (const LinearMap& map : maps) {  // [begin, end) counts panels over all maps
          const int64_t panels = map.w->n_panels();
          const cpu::Range range{std::clamp<int64_t>(begin, 0, panels), std::clamp<int64_t>(end, 0, panels)};
          begin -= panels;
          end -= panels;
          if (range.begin == range.end) continue;
          const auto kernel =
              is_integer(*map.w, compute) ? context.kernels->gemm_int8 : context.kernels->gemm_float;
          kernel({.y = map.y.f32(),
                  .ldy = map.y.row_stride,
                  .x = x.x.f32(),
                  .ldx = x.x.row_stride,
                  .xq = quantized,
                  .w = *map.w,
                  .bias = map.bias,
                  .m = m,
                  .scratch = context.scratch_of(part)},
                 range);
        }
      },
      reading.any_integer ? kPanelsPerChunk : kFloatPanelsPerChunk);
}

void plan(Activations& x, std::initializer_list<const PackedMatrix*> next, Compute compute) {
  if (x.x.device == DeviceKind::cuda) {
    x.is_planned = next.size() > 0 && x.x.dtype == DType::f32 && x.room.rounded != nullptr;
    return;
  }
  Reading reading = reading_of(compute);
  for (const PackedMatrix* w : next) reading.take(*w, compute);
  x.is_planned = reading.any_integer && !reading.is_mixed();
  if (x.is_planned) set_kind(x.room.quantized, x.x.size(1), reading, compute);
}

void embed(const Context& context, const TensorView& y, const PackedMatrix& w, const int32_t* ids,
           float factor) {
  if (y.device == DeviceKind::cuda) return on_device::embed(context, y, w, ids, factor);
  expect_dense("embed", "y", y);
  TUILI_EXPECT(y.size(1) == w.k, "embed: y is ", y, ", the table has rows of ", w.k);
  context.pool->parallel_for(y.rows(), context.threads_for(y.count(), kElementsPerThread),
                             [&](int64_t begin, int64_t end, int) {
                               context.kernels->embed(y.f32(), w, ids, factor, {begin, end});
                             });
}

void add_rows(const Context& context, const TensorView& y, const TensorView& table, const int32_t* ids) {
  expect_dense("add_rows", "y", y, y.device);
  expect_dense("add_rows", "table", table, y.device);
  const int64_t d = y.size(1);
  TUILI_EXPECT(table.size(1) == d, "add_rows: y is ", y, ", the table ", table);
  if (y.device == DeviceKind::cuda)
    return device::check(cuda::add_rows(context.stream, y.f32(), table.f32(), ids, y.rows(), d), "add_rows");
  for (int64_t t = 0; t < y.rows(); ++t)
    context.kernels->add(y.f32_row(t), y.f32_row(t), table.f32_row(ids[t]), {0, d});
}

}  // namespace tuili::ops
