// GEMM with quantized weights on the emulated device: every GGUF format, packed as for the CPU, against a
// float64 reference with a derived bound.
#include <bit>

#include "base/memory.h"
#include "cuda_runtime.h"
#include "device_testing.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

constexpr Format kFormats[] = {Format::q8_0, Format::q4_0, Format::q4_1, Format::q5_0,
                               Format::q5_1, Format::q4_k, Format::q5_k, Format::q6_k};

// The planes of `pack` in device memory.
struct Weights {
  PackedMatrix on_host;
  PackedMatrix on_device;
  Buffer memory;
  std::unique_ptr<OnDevice<uint8_t>> planes;

  Weights(Format format, int64_t n, int64_t k) : memory(ops::packed_bytes(format, n, k)) {
    const int64_t row_bytes = ops::row_bytes(format, k);
    const FormatInfo& info = info_of(format);
    std::mt19937_64 random(uint64_t(n * k));
    std::vector<uint8_t> rows(size_t(n * row_bytes));
    for (uint8_t& byte : rows) byte = uint8_t(random());
    // Scales and mins of a moderate size: fp16 between 2^-8 and 2^-7, of either sign.
    const auto set_half = [&](size_t at) { rows[at + 1] = uint8_t((random() & 0x80u) | 0x1cu); };
    for (size_t block = 0; block < rows.size(); block += size_t(info.block_bytes)) {
      const size_t scale = format == Format::q6_k ? 208 : 0;
      set_half(block + scale);
      if (format == Format::q4_1 || format == Format::q5_1 || format == Format::q4_k ||
          format == Format::q5_k)
        set_half(block + 2);
    }
    ops::Context context;
    context.pool = &ThreadPool::shared();
    on_host = ops::pack(context, format, n, k, rows.data(), memory.data());
    planes = std::make_unique<OnDevice<uint8_t>>(
        std::vector<uint8_t>(memory.data(), memory.data() + memory.bytes()));
    on_device = on_host;
    const auto move = [&](auto*& plane) {
      using Plane = std::remove_reference_t<decltype(plane)>;
      if (plane == nullptr) return;
      plane =
          reinterpret_cast<Plane>(planes->get() + (reinterpret_cast<const uint8_t*>(plane) - memory.data()));
    };
    move(on_device.codes);
    move(on_device.high);
    move(on_device.scale);
    move(on_device.min);
    move(on_device.sub_scale);
    move(on_device.sub_min);
  }

  // Element (j, i), after base/packed.h: its scaled code, and its min.
  std::pair<double, double> element(int64_t j, int64_t i) const {
    const PackedMatrix& w = on_host;
    const bool is_k = w.format >= Format::q4_k, is_q6 = w.format == Format::q6_k;
    const int64_t panel = j / 16, column = j % 16, group = panel * w.n_groups() + i / 32, at = i % 32;
    const int64_t quad = at / 4, byte = column * 4 + at % 4;
    const int64_t block = is_k ? panel * (w.k / 256) + i / 256 : group;
    int64_t code = 0;
    if (w.format == Format::q8_0) {
      code = int8_t(w.codes[group * 512 + quad * 64 + byte]);
    } else {
      code = w.codes[group * 256 + quad % 4 * 64 + byte] >> (quad / 4 * 4) & 15;
      if (w.format == Format::q5_0 || w.format == Format::q5_1 || w.format == Format::q5_k)
        code |= (w.high[group * 64 + byte] >> quad & 1) << 4;
      if (is_q6) code |= (w.high[group * 128 + quad / 4 * 64 + byte] >> (quad % 4 * 2) & 3) << 4;
    }
    code -= w.format == Format::q4_0 ? 8 : w.format == Format::q5_0 ? 16 : is_q6 ? 32 : 0;
    double scale = value(std::bit_cast<__half>(w.scale[block * 16 + column]));
    if (is_q6) scale *= int8_t(w.sub_scale[(group * 2 + at / 16) * 16 + column]);
    if (is_k && !is_q6) scale *= w.sub_scale[group * 16 + column];
    double min = w.min == nullptr ? 0 : value(std::bit_cast<__half>(w.min[block * 16 + column]));
    if (w.sub_min != nullptr) min *= -double(w.sub_min[group * 16 + column]);
    return {scale * double(code), min};
  }
};

template <typename Out>
std::vector<Out> multiply(const std::vector<bf16>& x, Weights& w, int64_t m, uint64_t seed,
                          const std::vector<float>& bias = {}) {
  OnDevice<bf16> left(x);
  OnDevice<float> offsets(bias);
  OnDevice<Out> y(size_t(m * w.on_host.n));
  emulation::set_seed(seed);
  const cuda::QuantizedGemmArgs args{y.output(), left.get(), w.on_device,
                                     bias.empty() ? nullptr : offsets.get(), m};
  device::check(cuda::gemm(nullptr, args), "gemm");
  return y.read();
}

void check(Format format, int64_t m, int64_t n, int64_t k) {
  Weights w(format, n, k);
  const std::vector<bf16> x = normals<bf16>(size_t(m * k), uint64_t(m + k));
  const std::vector<float> y = multiply<float>(x, w, m, uint64_t(n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double expected = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const auto [scaled, min] = w.element(j, l);
        const double left = value(x[size_t(i * k + l)]);
        expected += left * (scaled + min);
        magnitude += std::abs(left) * (std::abs(scaled) + std::abs(min));
      }
      const double bound = double(72 + k / 32) * kUnitF32 * magnitude;  // kernels.h
      const double error = std::abs(double{y[size_t(i * n + j)]} - expected);
      require(error <= bound, info_of(format).name, " y[", i, ", ", j, "] of m ", m, ", n ", n, ", k ", k,
              ": off by ", error, ", allowed ", bound);
    }
  }
}

TUILI_TEST(quantized_gemm_of_few_rows_stays_within_its_error_bound) {
  for (const Format format : kFormats) {
    check(format, 1, 40, 512);
    check(format, 3, 17, 256);
  }
  check(Format::q4_0, 16, 33, 32);
  check(Format::q8_0, 2, 8, 608);  // groups that fill no stage
}

TUILI_TEST(quantized_gemm_of_many_rows_stays_within_its_error_bound) {
  for (const Format format : kFormats) check(format, 20, 70, 256);
  check(Format::q5_1, 70, 20, 96);
}

TUILI_TEST(quantized_gemm_of_a_row_ignores_the_others) {
  for (const Format format : kFormats) {
    const int64_t m = 18, n = 24, k = 512;
    Weights w(format, n, k);
    const std::vector<bf16> x = normals<bf16>(size_t(m * k), 1);
    const std::vector<float> all = multiply<float>(x, w, m, 1);
    for (const auto& [row, n_rows] : {std::pair<int64_t, int64_t>{0, 1}, {9, 1}, {17, 1}, {6, 12}}) {
      const std::vector<bf16> some(x.begin() + row * k, x.begin() + (row + n_rows) * k);
      const std::vector<float> y = multiply<float>(some, w, n_rows, uint64_t(row));
      require(same_bits(y.data(), &all[size_t(row * n)], y.size()), info_of(format).name, ": ", n_rows,
              " rows from row ", row, " depend on their batch");
    }
  }
}

TUILI_TEST(quantized_gemm_adds_its_bias_last_and_rounds_once) {
  Weights w(Format::q4_k, 20, 256);
  const std::vector<bf16> x = normals<bf16>(3 * 256, 1);
  const std::vector<float> bias = normals<float>(20, 2);
  std::vector<float> want = multiply<float>(x, w, 3, 1);
  for (size_t i = 0; i < want.size(); ++i) want[i] += bias[i % 20];
  require_same_bits(multiply<float>(x, w, 3, 2, bias), want, "bias");
  require_same_bits(multiply<bf16>(x, w, 3, 3, bias), rounded_all<bf16>(want), "bf16");
}

TUILI_TEST(quantized_gemm_gives_the_same_bits_under_every_schedule) {
  for (const int64_t m : {2, 20}) {
    Weights w(Format::q5_k, 40, 1536);
    const std::vector<bf16> x = normals<bf16>(size_t(m * 1536), 1);
    const std::vector<float> first = multiply<float>(x, w, m, 0);
    for (uint64_t seed = 1; seed < 6; ++seed)
      require_same_bits(multiply<float>(x, w, m, seed), first, "seed ", seed);
  }
}

TUILI_TEST(quantized_gemm_refuses_float_weights_and_unaligned_rows) {
  Weights w(Format::q4_0, 16, 32);
  OnDevice<bf16> x(normals<bf16>(64, 1));
  OnDevice<float> y(16);
  cuda::QuantizedGemmArgs args{y.output(), x.get() + 1, w.on_device, nullptr, 1};
  require(cuda::gemm(nullptr, args) == cudaErrorInvalidValue, "unaligned rows");
  args.x = x.get();
  args.w.format = Format::f16;
  require(cuda::gemm(nullptr, args) == cudaErrorInvalidValue, "float weights");
}

}  // namespace
