// The ops that have a CUDA kernel, on the emulated device, against float64 references with derived bounds.
#include "kernels/cuda/kernels.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string_view>
#include <type_traits>

#include "base/check.h"
#include "base/device.h"
#include "cuda_bf16.h"
#include "emulation.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "ops/ops.h"
#include "testing.h"

namespace {

using namespace tuili;  // NOLINT: a test file
using cuda::bf16;
using testing::require;

constexpr double kUnitF32 = 0x1p-24;  // unit roundoff
constexpr double kUnitBf16 = 0x1p-8;

double value(float x) { return x; }
double value(bf16 x) { return __bfloat162float(x); }

template <typename T>
T rounded(double x) {
  if constexpr (std::is_same_v<T, float>) {
    return static_cast<float>(x);
  } else {
    return __float2bfloat16_rn(static_cast<float>(x));
  }
}

template <typename T>
constexpr double unit() {
  return std::is_same_v<T, float> ? kUnitF32 : kUnitBf16;
}

template <typename T>
std::vector<T> normals(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> values(n);
  for (T& x : values) x = rounded<T>(normal(random));
  return values;
}

// Device memory with the contents of a vector, `shift` elements past an aligned address.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values, size_t shift = 0)
      : n_(values.size()), memory_(device::allocate(int64_t((n_ + shift) * sizeof(T) + 1))), shift_(shift) {
    device::copy_to_device(get(), values.data(), int64_t(n_ * sizeof(T)), nullptr);
  }
  ~OnDevice() { device::free(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* get() { return static_cast<T*>(memory_) + shift_; }
  TensorView view(std::initializer_list<int64_t> shape) {
    return {get(), std::is_same_v<T, float> ? DType::f32 : DType::bf16, shape, DeviceKind::cuda};
  }
  std::vector<T> read() {
    std::vector<T> values(n_);
    device::copy_to_host(values.data(), get(), int64_t(n_ * sizeof(T)), nullptr);
    return values;
  }

 private:
  size_t n_;
  void* memory_;
  size_t shift_;
};

// The ops' CPU side is not set up: what runs here runs on the device.
ops::Context on_device() { return {}; }

template <typename T>
bool same_bits(const T* a, const T* b, size_t n) {
  return std::memcmp(a, b, n * sizeof(T)) == 0;
}

// ---- rms_norm

template <typename T>
struct NormCase {
  size_t n_tokens, d_model;
  float eps = 1e-5f;
  std::vector<T> x = normals<T>(n_tokens * d_model, n_tokens * 1000 + d_model);
  std::vector<float> gain = normals<float>(d_model, d_model);

  std::vector<T> run(uint64_t seed, size_t shift = 0) const {
    emulation::set_seed(seed);
    OnDevice<T> input(x, shift), output(std::vector<T>(x.size()), shift);
    OnDevice<float> weights(gain, shift);
    const auto rows = int64_t(n_tokens), d = int64_t(d_model);
    ops::rms_norm(on_device(), output.view({rows, d}), input.view({rows, d}), weights.view({d}), eps);
    return output.read();
  }

  // Squares are positive, so their sum has a relative error of at most d_model + 1 roundings; the square root
  // halves that of the mean (one division and one sum more), and four roundings follow. The last is to T.
  double relative_bound() const { return (0.5 * double(d_model + 4) + 5) * kUnitF32 * 1.01 + unit<T>(); }

  void check(const std::vector<T>& y) const {
    for (size_t t = 0; t < n_tokens; ++t) {
      double squares = 0;
      for (size_t i = 0; i < d_model; ++i) squares += value(x[t * d_model + i]) * value(x[t * d_model + i]);
      const double scale = 1 / std::sqrt(squares / double(d_model) + double(eps));
      for (size_t i = 0; i < d_model; ++i) {
        const double expected = value(x[t * d_model + i]) * scale * double(gain[i]);
        const double error = std::abs(value(y[t * d_model + i]) - expected);
        require(error <= relative_bound() * std::abs(expected), "row ", t, " of ", n_tokens, " × ", d_model,
                ", element ", i, ": off by ", error, ", allowed ", relative_bound() * std::abs(expected));
      }
    }
  }
};

template <typename T>
void check_rms_norm() {
  uint64_t seed = 0;
  for (const size_t n_tokens : {1, 3}) {
    for (const size_t d_model : {1, 7, 8, 64, 576, 640, 1001, 2048, 2056, 5000}) {
      const NormCase<T> norm{n_tokens, d_model};
      const std::vector<T> y = norm.run(++seed);
      norm.check(y);
      require(same_bits(y.data(), norm.run(++seed, 1).data(), y.size()), d_model,
              ": unaligned rows change the bits");
    }
  }
}

TUILI_TEST(rms_norm_f32_stays_within_its_error_bound) { check_rms_norm<float>(); }
TUILI_TEST(rms_norm_bf16_stays_within_its_error_bound) { check_rms_norm<bf16>(); }

TUILI_TEST(rms_norm_of_a_row_ignores_the_others) {
  const NormCase<bf16> many{.n_tokens = 37, .d_model = 576};
  const std::vector<bf16> all = many.run(1);
  for (size_t t = 0; t < many.n_tokens; t += 6) {
    NormCase<bf16> one{.n_tokens = 1, .d_model = 576};
    one.x.assign(many.x.begin() + int64_t(t * 576), many.x.begin() + int64_t((t + 1) * 576));
    require(same_bits(one.run(t).data(), &all[t * 576], 576), "row ", t, " depends on its batch");
  }
}

TUILI_TEST(rms_norm_works_in_place_and_on_nothing) {
  const NormCase<float> norm{.n_tokens = 2, .d_model = 300};
  OnDevice<float> x(norm.x), gain(norm.gain);
  ops::rms_norm(on_device(), x.view({2, 300}), x.view({2, 300}), gain.view({300}), norm.eps);
  norm.check(x.read());
  ops::rms_norm(on_device(), x.view({0, 300}), x.view({0, 300}), gain.view({300}), norm.eps);
}

// ---- gemm

template <typename Out>
struct GemmCase {
  size_t m, n, k;
  std::vector<bf16> x = normals<bf16>(m * k, m * 1'000'000 + n * 1000 + k);
  std::vector<bf16> w = normals<bf16>(n * k, n * 1000 + k);

  std::vector<Out> run(uint64_t seed, size_t shift = 0) const {
    emulation::set_seed(seed);
    OnDevice<bf16> left(x, shift), right(w, shift);
    OnDevice<Out> output(std::vector<Out>(m * n));
    const int64_t rows = int64_t(m), columns = int64_t(n), depth = int64_t(k);
    ops::gemm(on_device(), output.view({rows, columns}), left.view({rows, depth}),
              right.view({columns, depth}));
    return output.read();
  }

  // kernels/cuda/kernels.h says where the first part comes from; bf16 results are rounded once more.
  void check(const std::vector<Out>& y) const {
    for (size_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double expected = 0, magnitude = 0;
        for (size_t l = 0; l < k; ++l) {
          const double product = value(x[i * k + l]) * value(w[j * k + l]);
          expected += product;
          magnitude += std::abs(product);
        }
        double bound = 1.4 * double(k + 16) * kUnitF32 * magnitude;
        if constexpr (std::is_same_v<Out, bf16>) bound += kUnitBf16 * (std::abs(expected) + bound);
        const double error = std::abs(value(y[i * n + j]) - expected);
        require(error <= bound, "y[", i, ", ", j, "] of m ", m, ", n ", n, ", k ", k, ": off by ", error,
                ", allowed ", bound);
      }
    }
  }
};

template <typename Out>
void check_gemm() {
  constexpr size_t kShapes[][3] = {{1, 1, 1},      {1, 8, 16},  {5, 3, 7},    {64, 128, 32},
                                   {65, 129, 33},  {16, 24, 0}, {2, 136, 96}, {70, 17, 40},
                                   {33, 130, 200}, {3, 7, 250}, {130, 5, 64}};
  uint64_t seed = 0;
  for (const auto& [m, n, k] : kShapes) {
    const GemmCase<Out> product{m, n, k};
    const std::vector<Out> y = product.run(++seed);
    product.check(y);
    require(same_bits(y.data(), product.run(++seed, 1).data(), y.size()), "m ", m, ", n ", n, ", k ", k,
            ": unaligned rows change the bits");
  }
}

TUILI_TEST(gemm_f32_stays_within_its_error_bound) { check_gemm<float>(); }
TUILI_TEST(gemm_bf16_stays_within_its_error_bound) { check_gemm<bf16>(); }

TUILI_TEST(gemm_stays_within_its_error_bound_on_hopper) {
  emulation::set_tensor_core(emulation::kHopper);
  const GemmCase<float> product{.m = 9, .n = 20, .k = 300};
  product.check(product.run(1));
  emulation::set_tensor_core(emulation::kAmpere);
}

TUILI_TEST(gemm_of_a_row_ignores_the_others) {
  const GemmCase<float> many{.m = 37, .n = 50, .k = 168};
  const std::vector<float> all = many.run(1);
  for (size_t i = 0; i < many.m; i += 6) {
    GemmCase<float> one{.m = 1, .n = 50, .k = 168};
    one.w = many.w;
    one.x.assign(many.x.begin() + int64_t(i * many.k), many.x.begin() + int64_t((i + 1) * many.k));
    require(same_bits(one.run(i).data(), &all[i * many.n], many.n), "row ", i, " depends on its batch");
  }
}

TUILI_TEST(gemm_gives_the_same_bits_under_every_schedule) {
  const GemmCase<float> product{.m = 20, .n = 40, .k = 160};
  const std::vector<float> first = product.run(0);
  product.check(first);
  for (uint64_t seed = 1; seed < 20; ++seed) {
    require(same_bits(product.run(seed).data(), first.data(), first.size()), "seed ", seed, " differs");
  }
}

// ---- mistakes

// What the call says is wrong.
template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

void require_error(std::string_view words, const std::string& error) {
  require(error.find(words) != std::string::npos, "says \"", error, "\", not \"", words, "\"");
}

TUILI_TEST(ops_refuse_what_their_kernels_cannot_read) {
  OnDevice<bf16> x(normals<bf16>(64, 1)), w(normals<bf16>(64, 2));
  OnDevice<float> y(normals<float>(64, 3));
  const TensorView a = x.view({8, 8}), b = w.view({8, 8}), out = y.view({8, 8});
  TensorView on_host = a, f16 = out;
  on_host.device = DeviceKind::cpu;
  f16.dtype = DType::f16;
  const auto gemm_error = [&](TensorView to, TensorView left, TensorView right) {
    return error_of([&] { ops::gemm(on_device(), to, left, right); });
  };
  require_error("w must be [n, k]", gemm_error(out, a, w.view({8, 7})));
  require_error("for cuda", gemm_error(out, on_host, b));
  require_error("must be dense bf16", gemm_error(out, out, b));
  require_error("y must be", gemm_error(f16, a, b));
  const auto norm_error = [&](TensorView to, TensorView from, TensorView gain) {
    return error_of([&] { ops::rms_norm(on_device(), to, from, gain, 1e-5f); });
  };
  require_error("rms_norm: x is", norm_error(a, a, y.view({7})));
  require_error("rms_norm: x is", norm_error(out, a, y.view({8})));
  require_error("must be f32 or bf16", norm_error(f16, f16, y.view({8})));
}

TUILI_TEST(a_fault_on_the_device_is_an_error_of_the_op) {
  const auto fault = [] { __syncwarp(0); };
  TUILI_LAUNCH(fault, 1, 32, 0, nullptr);
  const int status = cudaGetLastError();
  require_error("gemm: the CUDA emulator reports 719", error_of([&] { device::check(status, "gemm"); }));
  require_error("is not in its own mask", error_of([&] { device::check(status, "gemm"); }));
  const auto too_large = [] {
    float* nowhere = nullptr;
    device::check(cuda::gemm(nullptr, nowhere, nullptr, nullptr, 1, 1, INT64_MAX), "gemm");
  };
  require_error("gemm: the CUDA emulator reports 1: invalid argument", error_of(too_large));
}

// ---- the tensor cores

uint16_t bits(float x) { return __float2bfloat16_rn(x).bits; }

TUILI_TEST(the_tensor_core_adds_integers_exactly) {
  uint16_t a[16], b[16];
  float expected = 5.0f;
  for (int i = 0; i < 16; ++i) {
    a[i] = bits(float(i - 7));
    b[i] = bits(float(3 * i - 20));
    expected += float((i - 7) * (3 * i - 20));
  }
  require(emulation::tensor_core_dot(5.0f, a, b, 16) == expected, "not exact");
}

TUILI_TEST(the_tensor_core_cuts_what_lies_below_its_sum) {
  const uint16_t one[8] = {bits(1.0f)};
  const auto dot = [&](float c, float a) {
    const uint16_t row[8] = {bits(a)};
    return emulation::tensor_core_dot(c, row, one, 8);
  };
  require(dot(1.0f, 0x1p-23f) == 1.0f + 0x1p-23f, "the last bit is kept");
  require(dot(1.0f, 0x1.8p-23f) == 1.0f + 0x1p-23f, "rounded toward zero, not to nearest");
  require(dot(1.0f, -0x1p-24f) == 1.0f - 0x1p-24f, "one fraction bit more than float's");
  require(dot(1.0f, -0x1p-25f) == 1.0f, "below that, cut before it is added");
  require(dot(-1.0f, 0.0f) == -1.0f && dot(0.0f, 0.0f) == 0.0f, "zeros");
  require(dot(0.0f, 0x1p-130f) == 0x1p-130f, "subnormals");
  require(std::isnan(dot(NAN, 1.0f)) && std::isinf(dot(1.0f, INFINITY)), "NaN and infinity pass");
}

struct Tiles {
  alignas(16) bf16 a[16][16];
  alignas(16) bf16 b[8][16];
};

TUILI_TEST(ldmatrix_and_mma_multiply_small_integers_exactly) {
  Tiles tiles;
  for (int i = 0; i < 16 * 16; ++i) tiles.a[i / 16][i % 16] = {bits(float(i * 37 % 23 - 11))};
  for (int i = 0; i < 8 * 16; ++i) tiles.b[i / 16][i % 16] = {bits(float(i * 29 % 19 - 9))};
  float d[16][8];
  const auto kernel = [&] {
    Tiles& shared = cuda::shared_storage<Tiles>();
    const int lane = int(threadIdx.x);
    if (lane == 0) shared = tiles;
    __syncwarp();
    uint32_t a[4], b[4];
    cuda::ptx::ldmatrix_x4(a, &shared.a[lane % 16][lane / 16 * 8]);
    cuda::ptx::ldmatrix_x4(b, &shared.b[lane % 8][lane / 8 % 2 * 8]);
    float acc[4] = {};
    cuda::ptx::mma_m16n8k16(acc, a, {b[0], b[1]});
    for (int e = 0; e < 4; ++e) d[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2] = acc[e];
  };
  TUILI_LAUNCH(kernel, 1, 32, sizeof(Tiles), nullptr);
  device::check(cudaGetLastError(), "mma");
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double expected = 0;
      for (int k = 0; k < 16; ++k) expected += value(tiles.a[i][k]) * value(tiles.b[j][k]);
      require(d[i][j] == expected, "d[", i, ", ", j, "] = ", d[i][j], ", expected ", expected);
    }
  }
}

// ---- the device

TUILI_TEST(device_memory_begins_as_nan_and_knows_its_pointers) {
  require(device::available() && std::string(device::build_kind()) == "emulated", "not the emulated device");
  auto* memory = static_cast<float*>(device::allocate(16));
  float host[4] = {};
  device::copy_to_host(host, memory, 16, nullptr);
  require(std::isnan(host[0]) && std::isnan(host[3]), "new memory is not NaN");
  const char* kOutside = "not all inside one device allocation";
  require_error(kOutside, error_of([&] { device::copy_to_device(host, host, 16, nullptr); }));
  require_error(kOutside, error_of([&] { device::copy_to_host(host, memory + 1, 16, nullptr); }));
  require_error("must be positive", error_of([] { device::allocate(0); }));
  require_error("do not fit", error_of([] { device::allocate(INT64_MAX / 2); }));
  device::free(memory);
  require_error(kOutside, error_of([&] { device::copy_to_host(host, memory, 16, nullptr); }));
}

}  // namespace
