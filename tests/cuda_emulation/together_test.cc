// Products of one x in one launch, each of which has its own bits.
#include "cuda_runtime.h"
#include "packed_weights.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

// Columns that fill no tile.
constexpr int64_t kColumns[cuda::kMostTogether] = {70, 17, 1, 33};

int64_t columns(const cuda::GemmArgs& args) { return args.n; }
int64_t columns(const cuda::QuantizedGemmArgs& args) { return args.w.n; }

// What all products of `args` give, in one launch and one by one, by product.
template <typename Args>
void check(std::vector<Args> args, const char* name, uint64_t seed) {
  const auto run = [&](bool together) {
    std::vector<std::vector<float>> results;
    std::vector<OnDevice<float>> outputs;
    for (Args& one : args)
      one.y = outputs.emplace_back(std::vector<float>(size_t(one.m * columns(one)), -7)).get();
    emulation::set_seed(seed);
    if (together) {
      device::check(cuda::gemm(nullptr, std::span<const Args>(args)), "gemm");
    } else {
      for (const Args& alone : args) device::check(cuda::gemm(nullptr, alone), "gemm");
    }
    for (auto& output : outputs) results.push_back(output.read());
    return results;
  };
  const auto all = run(true), each = run(false);
  for (size_t i = 0; i < args.size(); ++i)
    require_same_bits(all[i], each[i], name, ", product ", i, " of ", args.size(), ", m ", args[i].m);
}

TUILI_TEST(gemms_together_have_the_bits_of_each_alone) {
  const int64_t k = 168;
  OnDevice<float> bias(normals<float>(70, 3));
  for (const int64_t m : {1, 8, 9, 16}) {
    for (const size_t shift : {size_t{0}, size_t{1}}) {  // 1: of one product the rows are on no 16 bytes
      OnDevice<bf16> x(normals<bf16>(size_t(m * k), uint64_t(m)));
      std::vector<OnDevice<bf16>> weights;
      std::vector<cuda::GemmArgs> args;
      for (const int64_t n : kColumns) {
        const bool is_shifted = weights.size() == 1;
        weights.emplace_back(normals<bf16>(size_t(n * k), uint64_t(n)), is_shifted * shift);
        args.push_back({nullptr, x.get(), weights.back().get(), n == 17 ? nullptr : bias.get(), m, n, k});
      }
      check(args, "bf16", uint64_t(m));
      check(std::vector(args.begin(), args.begin() + 2), "bf16", uint64_t(m) + 1);
      args[1].n = 0;
      check(args, "bf16, one without columns", uint64_t(m) + 2);
    }
  }
}

TUILI_TEST(quantized_gemms_together_have_the_bits_of_each_alone) {
  OnDevice<float> bias(normals<float>(70, 3));
  for (const Format format : kQuantizedFormats) {
    const int64_t k = format >= Format::q4_k ? 512 : 480;
    std::vector<PackedWeights> weights;
    for (const int64_t n : kColumns) weights.emplace_back(format, n, k);
    for (const int64_t m : {1, 9}) {
      OnDevice<bf16> x(normals<bf16>(size_t(m * k), uint64_t(m)));
      std::vector<cuda::QuantizedGemmArgs> args;
      for (const auto& w : weights)
        args.push_back({nullptr, x.get(), w.on_device, w.on_device.n == 17 ? nullptr : bias.get(), m});
      check(args, info_of(format).name, uint64_t(m));
    }
  }
}

// Together they reach the width of the broad tiles, alone they do not.
TUILI_TEST(quantized_gemms_of_many_columns_together_have_the_bits_of_each_alone) {
  const int64_t m = 9, n = 6200, k = 96;
  const PackedWeights one(Format::q4_0, n, k, 1), other(Format::q4_0, n, k, 2);
  OnDevice<bf16> x(normals<bf16>(size_t(m * k), 1));
  OnDevice<float> ys(size_t(2 * m * n)), alone(size_t(m * n));
  const cuda::QuantizedGemmArgs args[] = {{ys.get(), x.get(), one.on_device, nullptr, m},
                                          {ys.get() + m * n, x.get(), other.on_device, nullptr, m}};
  device::check(cuda::gemm(nullptr, args), "gemm");
  for (size_t i = 0; i < 2; ++i) {
    cuda::QuantizedGemmArgs each = args[i];
    each.y = alone.get();
    device::check(cuda::gemm(nullptr, each), "gemm");
    require(same_bits(alone.read().data(), &ys.read()[i * size_t(m * n)], size_t(m * n)), "product ", i);
  }
}

// Five of one format, which are more than one launch takes, between others.
TUILI_TEST(linear_maps_of_several_formats_have_the_bits_of_each_alone) {
  constexpr int64_t k = 64;
  constexpr Format kFormats[] = {Format::q8_0, Format::q4_0, Format::q4_0, Format::q4_0,
                                 Format::q4_0, Format::q4_0, Format::bf16, Format::q4_0};
  OnDevice<bf16> dense(normals<bf16>(16 * k, 9));
  std::vector<PackedWeights> weights;
  std::vector<PackedMatrix> matrices;
  for (const Format format : kFormats) {
    const int64_t n = 16 + int64_t(matrices.size());
    if (format == Format::bf16) {
      matrices.push_back(
          {.format = format, .n = 16, .k = k, .codes = reinterpret_cast<const uint8_t*>(dense.get())});
    } else {
      matrices.push_back(weights.emplace_back(format, n, k, uint64_t(n)).on_device);
    }
  }
  for (const int64_t m : {3, 17}) {  // 17: a launch each
    OnDevice<bf16> x(normals<bf16>(size_t(m * k), 1));
    std::vector<OnDevice<float>> together, alone;
    std::vector<ops::LinearMap> maps;
    for (const PackedMatrix& w : matrices) {
      for (auto* outputs : {&together, &alone}) outputs->emplace_back(size_t(m * w.n));
      ops::Activations input{x.view({m, k}), {}};
      const ops::LinearMap map{alone.back().view({m, w.n}), &w};
      ops::gemm({}, input, {&map, 1}, ops::Compute::automatic);
      maps.push_back({together.back().view({m, w.n}), &w});
    }
    ops::Activations input{x.view({m, k}), {}};
    ops::gemm({}, input, maps, ops::Compute::automatic);
    for (size_t i = 0; i < maps.size(); ++i)
      require_same_bits(together[i].read(), alone[i].read(), "map ", i, ", m ", m);
  }
}

TUILI_TEST(gemms_together_are_few_of_few_rows_and_one_input) {
  OnDevice<bf16> x(normals<bf16>(17 * 32, 1)), w(normals<bf16>(8 * 32, 2));
  OnDevice<float> y(17 * 8);
  const auto refuses = [](auto args, const char* what) {
    require(cuda::gemm(nullptr, std::span<const typename decltype(args)::value_type>(args)) ==
                cudaErrorInvalidValue,
            what);
  };
  const cuda::GemmArgs dense{y.get(), x.get(), w.get(), nullptr, 2, 8, 32};
  std::vector<cuda::GemmArgs> args(2, dense);
  args[1].x = w.get();
  refuses(args, "another x");
  args = std::vector(2, dense), args[1].k = 16;
  refuses(args, "another k");
  args = std::vector(2, dense), args[0].m = 1;
  refuses(args, "another m");
  args = std::vector(2, dense), args[0].m = args[1].m = 17;
  refuses(args, "many rows");
  refuses(std::vector(5, dense), "five products");
  refuses(std::vector<cuda::GemmArgs>{}, "none");

  const PackedWeights small(Format::q4_0, 8, 32), large(Format::q4_0, 8, 64), bytes(Format::q8_0, 8, 32);
  const cuda::QuantizedGemmArgs quantized{y.get(), x.get(), small.on_device, nullptr, 2};
  std::vector<cuda::QuantizedGemmArgs> both(2, quantized);
  both[1].x = w.get();
  refuses(both, "another x");
  both = std::vector(2, quantized), both[1].w = large.on_device;
  refuses(both, "another k");
  both = std::vector(2, quantized), both[1].w = bytes.on_device;
  refuses(both, "another format");
  both = std::vector(2, quantized), both[0].m = 1;
  refuses(both, "another m");
  both = std::vector(2, quantized), both[0].m = both[1].m = 17;
  refuses(both, "many rows");
  refuses(std::vector(5, quantized), "five products");
}

}  // namespace
