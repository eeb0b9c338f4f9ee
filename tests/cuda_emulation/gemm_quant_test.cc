// GEMM with quantized weights on the emulated device: every GGUF format, packed as for the CPU, against a
// float64 reference with a derived bound.
#include "cuda_runtime.h"
#include "packed_weights.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

std::vector<float> multiply(const std::vector<bf16>& x, PackedWeights& w, int64_t m, uint64_t seed,
                            const std::vector<float>& bias = {}) {
  OnDevice<bf16> left(x);
  OnDevice<float> offsets(bias);
  OnDevice<float> y(size_t(m * w.on_host.n));
  emulation::set_seed(seed);
  const cuda::QuantizedGemmArgs args{y.get(), left.get(), w.on_device, bias.empty() ? nullptr : offsets.get(),
                                     m,       1};  // wide tiles pay with one multiprocessor
  device::check(cuda::gemm(nullptr, args), "gemm");
  return y.read();
}

void check(Format format, int64_t m, int64_t n, int64_t k) {
  PackedWeights w(format, n, k);
  const std::vector<bf16> x = normals<bf16>(size_t(m * k), uint64_t(m + k));
  const std::vector<float> y = multiply(x, w, m, uint64_t(n));
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
  for (const Format format : kQuantizedFormats) {
    check(format, 1, 40, 512);
    check(format, 3, 17, 256);
  }
  check(Format::q4_0, 16, 33, 32);
  check(Format::q8_0, 2, 8, 608);    // groups that fill no stage
  check(Format::q5_1, 1, 36, 1312);  // three parts of k, the last with a group alone
}

TUILI_TEST(quantized_gemm_of_many_rows_stays_within_its_error_bound) {
  for (const Format format : kQuantizedFormats) check(format, 20, 70, 256);
  check(Format::q5_1, 70, 20, 96);
}

// Wide tiles beside square ones (72 columns), or square ones beside tall ones (40), slim ones and those of
// few rows; two parts of k.
TUILI_TEST(quantized_gemm_of_a_row_ignores_the_others) {
  for (const Format format : kQuantizedFormats) {
    for (const int64_t n : {40, 72}) {
      const int64_t m = 66, k = format >= Format::q4_k ? 512 : 480;
      PackedWeights w(format, n, k);
      const std::vector<bf16> x = normals<bf16>(size_t(m * k), 1);
      const std::vector<float> all = multiply(x, w, m, 1);
      for (const auto& [row, n_rows] :
           {std::pair<int64_t, int64_t>{0, 1}, {9, 1}, {65, 1}, {6, 12}, {40, 20}}) {
        const std::vector<bf16> some(x.begin() + row * k, x.begin() + (row + n_rows) * k);
        const std::vector<float> y = multiply(some, w, n_rows, uint64_t(row));
        require(same_bits(y.data(), &all[size_t(row * n)], y.size()), info_of(format).name, ": ", n_rows,
                " rows from row ", row, " depend on their batch");
      }
    }
  }
}

// Tall tiles (17 columns), wide and square ones (72), slim ones and those of few rows.
TUILI_TEST(quantized_gemm_adds_the_parts_of_k_in_one_order) {
  const int64_t m = 66, k = 3424;  // four parts: 1,024 thrice, and 352, of which a group is alone
  const std::vector<bf16> x = normals<bf16>(size_t(m * k), 1);
  for (const int64_t n : {17, 72}) {
    PackedWeights w(Format::q4_0, n, k);
    const std::vector<float> all = multiply(x, w, m, 1);
    for (const int64_t n_rows : {1, 10, 20}) {
      const std::vector<bf16> some(x.begin(), x.begin() + n_rows * k);
      const std::vector<float> y = multiply(some, w, n_rows, 2);
      require(same_bits(y.data(), all.data(), y.size()), n_rows, " rows are not those of ", m);
    }
  }
}

TUILI_TEST(quantized_gemm_of_many_columns_has_the_bits_of_few_rows) {
  for (const Format format : {Format::q8_0, Format::q4_0, Format::q5_0, Format::q6_k}) {
    const int64_t n = 12290, k = format == Format::q6_k ? 512 : 352;
    PackedWeights w(format, n, k);
    const std::vector<bf16> x = normals<bf16>(size_t(9 * k), 1);
    const std::vector<float> broad = multiply(x, w, 9, 1);
    const std::vector<float> few = multiply({x.begin(), x.begin() + 8 * k}, w, 8, 2);
    require(same_bits(broad.data(), few.data(), few.size()), info_of(format).name);
  }
}

TUILI_TEST(quantized_gemm_adds_its_bias_last) {
  PackedWeights w(Format::q4_k, 20, 256);
  const std::vector<bf16> x = normals<bf16>(3 * 256, 1);
  const std::vector<float> bias = normals<float>(20, 2);
  std::vector<float> want = multiply(x, w, 3, 1);
  for (size_t i = 0; i < want.size(); ++i) want[i] += bias[i % 20];
  require_same_bits(multiply(x, w, 3, 2, bias), want, "bias");
}

TUILI_TEST(quantized_gemm_gives_the_same_bits_under_every_schedule) {
  for (const int64_t m : {2, 20}) {
    PackedWeights w(Format::q5_k, 72, 1536);  // of 20 rows square tiles
    const std::vector<bf16> x = normals<bf16>(size_t(m * 1536), 1);
    const std::vector<float> first = multiply(x, w, m, 0);
    for (uint64_t seed = 1; seed < 6; ++seed)
      require_same_bits(multiply(x, w, m, seed), first, "seed ", seed);
  }
}

TUILI_TEST(quantized_gemm_refuses_float_weights_and_unaligned_rows) {
  PackedWeights w(Format::q4_0, 16, 32);
  OnDevice<bf16> x(normals<bf16>(64, 1));
  OnDevice<float> y(16);
  cuda::QuantizedGemmArgs args{y.get(), x.get() + 1, w.on_device, nullptr, 1};
  require(cuda::gemm(nullptr, args) == cudaErrorInvalidValue, "unaligned rows");
  args.x = x.get();
  args.w.format = Format::f16;
  require(cuda::gemm(nullptr, args) == cudaErrorInvalidValue, "float weights");
}

}  // namespace
