// GEMM on the emulated device, against a float64 reference with a derived bound.
#include "device_testing.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

struct GemmCase {
  size_t m, n, k;
  std::vector<bf16> x = normals<bf16>(m * k, m * 1'000'000 + n * 1000 + k);
  std::vector<bf16> w = normals<bf16>(n * k, n * 1000 + k);
  std::vector<float> bias = {};  // empty: none
  int64_t multiprocessors = 1;   // large tiles pay where there are few

  std::vector<float> run(uint64_t seed, size_t shift = 0) const {
    emulation::set_seed(seed);
    OnDevice<bf16> left(x, shift), right(w, shift);
    OnDevice<float> output(std::vector<float>(m * n));
    OnDevice<float> offsets(bias);
    const cuda::GemmArgs args{output.get(), left.get(), right.get(), bias.empty() ? nullptr : offsets.get(),
                              int64_t(m),   int64_t(n), int64_t(k),  multiprocessors};
    device::check(cuda::gemm(nullptr, args), "gemm");
    return output.read();
  }

  // kernels/cuda/kernels.h says where the first part comes from.
  void check(const std::vector<float>& y) const {
    for (size_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double expected = bias.empty() ? 0 : double(bias[j]), magnitude = std::abs(expected);
        for (size_t l = 0; l < k; ++l) {
          const double product = value(x[i * k + l]) * value(w[j * k + l]);
          expected += product;
          magnitude += std::abs(product);
        }
        const double bound = 1.4 * double(k + 32) * kUnitF32 * magnitude;
        const double error = std::abs(value(y[i * n + j]) - expected);
        require(error <= bound, "y[", i, ", ", j, "] of m ", m, ", n ", n, ", k ", k, ": off by ", error,
                ", allowed ", bound);
      }
    }
  }
};

TUILI_TEST(gemm_stays_within_its_error_bound) {
  constexpr size_t kShapes[][3] = {{1, 1, 1},    {1, 8, 16},     {5, 3, 7},     {64, 128, 32},  {65, 129, 33},
                                   {16, 24, 0},  {2, 136, 96},   {70, 17, 40},  {33, 130, 200}, {3, 7, 250},
                                   {130, 5, 64}, {100, 120, 40}, {120, 250, 72}};
  uint64_t seed = 0;
  for (const auto& [m, n, k] : kShapes) {
    const GemmCase product{m, n, k};
    const std::vector<float> y = product.run(++seed);
    product.check(y);
    require(same_bits(y.data(), product.run(++seed, 1).data(), y.size()), "m ", m, ", n ", n, ", k ", k,
            ": unaligned rows change the bits");
  }
}

TUILI_TEST(gemm_stays_within_its_error_bound_on_hopper) {
  emulation::set_tensor_core(emulation::kHopper);
  const GemmCase product{.m = 9, .n = 20, .k = 300};
  product.check(product.run(1));
  emulation::set_tensor_core(emulation::kAmpere);
}

TUILI_TEST(gemm_adds_its_bias_last) {
  GemmCase product{.m = 9, .n = 20, .k = 48};
  const std::vector<float> plain = product.run(1);
  product.bias = normals<float>(20, 5);
  const std::vector<float> y = product.run(2);
  for (size_t i = 0; i < y.size(); ++i) require(y[i] == plain[i] + product.bias[i % 20], "element ", i);
}

// Huge, wide, broad, square and tall tiles beside slim ones and those of few rows.
TUILI_TEST(gemm_of_a_row_ignores_the_others) {
  constexpr size_t kSizes[][2] = {{120, 250}, {120, 120}, {120, 60}, {60, 60}, {60, 30}};
  for (const auto& [m, n] : kSizes) {
    const GemmCase many{.m = m, .n = n, .k = 168};
    const std::vector<float> all = many.run(1);
    for (const size_t n_rows : {size_t{1}, size_t{16}, size_t{33}}) {
      for (const size_t i : {size_t{0}, m / 3, m - n_rows}) {
        GemmCase few{.m = n_rows, .n = n, .k = 168, .multiprocessors = 132};
        few.w = many.w;
        few.x.assign(many.x.begin() + int64_t(i * many.k), many.x.begin() + int64_t((i + n_rows) * many.k));
        require(same_bits(few.run(i).data(), &all[i * n], n_rows * n), n_rows, " rows from row ", i, " of ",
                m, " × ", n, " depend on their batch");
      }
    }
  }
}

TUILI_TEST(gemm_gives_the_same_bits_under_every_schedule) {
  constexpr size_t kSizes[][2] = {{5, 40}, {16, 40}, {20, 30}, {33, 40}, {65, 40}, {65, 120}, {120, 250}};
  for (const auto& [m, n] : kSizes) {
    const GemmCase product{.m = m, .n = n, .k = n > 100 ? size_t{200} : size_t{600}};
    const std::vector<float> first = product.run(0);
    product.check(first);
    for (uint64_t seed = 1; seed < (n > 100 ? 4 : 12); ++seed) {
      require(same_bits(product.run(seed).data(), first.data(), first.size()), "seed ", seed, " differs");
    }
  }
}

}  // namespace
