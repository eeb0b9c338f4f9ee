// Experts on the emulated device: the CPU's choices, weights and places, and products that have the bits of
// each expert's own gemm (gemm_test.cc and gemm_quant_test.cc hold those against a float64 reference).
#include "cuda_runtime.h"
#include "ops/ops.h"
#include "packed_weights.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

ops::Context on_cpu() { return {.kernels = &cpu_kernels(), .pool = &ThreadPool::shared(), .n_threads = 1}; }

// ---- routing

// What ops::Routes points to.
struct RouteLists {
  std::vector<int32_t> experts, places, first;
  std::vector<float> weights;
};

RouteLists route_on_cpu(const ops::Routing& routing, std::vector<float> logits, int64_t n_tokens,
                        int64_t n_experts) {
  const auto n = size_t(n_tokens * routing.n_used);
  RouteLists lists{std::vector<int32_t>(n), std::vector<int32_t>(n),
                   std::vector<int32_t>(size_t(n_experts + 1)), std::vector<float>(n)};
  ops::route(on_cpu(), routing, TensorView(logits.data(), DType::f32, {n_tokens, n_experts}),
             {lists.experts.data(), lists.weights.data(), lists.places.data(), lists.first.data()});
  return lists;
}

RouteLists route_on_device(ops::Routing routing, const std::vector<float>& logits, int64_t n_tokens,
                           int64_t n_experts) {
  const auto n = size_t(n_tokens * routing.n_used);
  OnDevice<float> scores(logits), weights(n);
  OnDevice<int32_t> experts(n), places(n), first(size_t(n_experts + 1));
  std::optional<OnDevice<float>> bias;
  if (const float* const from = routing.selection_bias)
    routing.selection_bias = bias.emplace(std::vector<float>(from, from + n_experts)).get();
  ops::route({}, routing, scores.view({n_tokens, n_experts}),
             {experts.get(), weights.get(), places.get(), first.get()});
  return {experts.read(), places.read(), first.read(), weights.read()};
}

// Logits with many equal values, zeros of both signs, rows of one value, of infinities and of what is no
// number.
std::vector<float> logits_of(int64_t n_tokens, int64_t n_experts, uint64_t seed) {
  std::vector<float> x = normals<float>(size_t(n_tokens * n_experts), seed, 2);
  const auto row = [&](int64_t t) { return x.begin() + t % n_tokens * n_experts; };
  for (auto& value : x) value = std::round(value * 2) / 2;
  std::fill_n(row(3), n_experts, 0.5f);
  *row(4) = INFINITY;
  std::fill_n(row(5), n_experts, -INFINITY);
  row(6)[n_experts - 1] = NAN;
  row(7)[n_experts / 2] = -200.0f;
  return x;
}

void check_route(const ops::Routing& routing, int64_t n_tokens, int64_t n_experts, uint64_t seed) {
  const std::vector<float> logits = logits_of(n_tokens, n_experts, seed);
  emulation::set_seed(seed);
  const RouteLists want = route_on_cpu(routing, logits, n_tokens, n_experts);
  RouteLists got = route_on_device(routing, logits, n_tokens, n_experts);
  require(got.experts == want.experts, n_experts, " experts: others were chosen");
  require(got.places == want.places && got.first == want.first, n_experts, " experts: sorted otherwise");
  for (size_t i = 0; i < want.weights.size(); ++i)  // a NaN has a sign of its own on each device
    if (std::isnan(want.weights[i]) && std::isnan(got.weights[i])) got.weights[i] = want.weights[i];
  require_same_bits(got.weights, want.weights, n_experts, " experts: weights");
}

TUILI_TEST(routes_are_the_cpus) {
  uint64_t seed = 0;
  for (const auto& [n_tokens, n_experts, n_used] :
       {std::tuple{9, 1, 1}, {1, 8, 2}, {70, 8, 2}, {40, 40, 5}, {9, 100, 40}, {12, 64, 64}}) {
    for (const ops::Scoring scoring : {ops::Scoring::softmax, ops::Scoring::sigmoid, ops::Scoring::near_best})
      for (const bool normalize : {false, true})
        check_route(
            {.n_used = n_used, .scoring = scoring, .near = 0.5f, .normalize = normalize, .scale = 2.5f},
            n_tokens, n_experts, ++seed);
  }
}

TUILI_TEST(routes_through_groups_are_the_cpus) {
  uint64_t seed = 0;
  for (const auto& [n_experts, n_groups, n_groups_used, group_top, n_used] :
       {std::tuple{6, 3, 2, 2, 2}, {64, 8, 4, 2, 8}, {80, 40, 3, 1, 6}, {36, 4, 1, 9, 9}}) {
    const std::vector<float> bias = logits_of(1, n_experts, ++seed);
    for (const float* selection_bias : {static_cast<const float*>(nullptr), bias.data()})
      check_route({.n_used = n_used,
                   .scoring = ops::Scoring::sigmoid,
                   .n_groups = n_groups,
                   .n_groups_used = n_groups_used,
                   .group_top = group_top,
                   .selection_bias = selection_bias},
                  20, n_experts, ++seed);
  }
}

TUILI_TEST(a_long_list_of_pairs_is_sorted) { check_route({.n_used = 3}, 700, 7, 1); }

// ---- rows

constexpr int64_t kTokens = 9, kUsed = 3, kPairs = kTokens * kUsed;

std::vector<int32_t> some_places() {
  std::vector<int32_t> places;
  for (int64_t i = 0; i < kPairs; ++i) places.push_back(int32_t(i * 10 % kPairs));
  return places;
}

TUILI_TEST(rows_go_to_their_experts_and_come_back) {
  const std::vector<int32_t> places = some_places();
  OnDevice<int32_t> places_there(places);
  for (const int64_t d : {8, 33, 264}) {
    std::vector<float> x = normals<float>(size_t(kTokens * d), 1), sorted(size_t(kPairs * d));
    OnDevice<float> xs(x);
    OnDevice<bf16> in(sorted.size()), room(x.size());
    ops::Activations on_host{TensorView(x.data(), DType::f32, {kTokens, d}), {}};
    ops::scatter_rows(on_cpu(), TensorView(sorted.data(), DType::f32, {kPairs, d}), on_host, places.data(),
                      kUsed);
    ops::Activations there{xs.view({kTokens, d}), {{}, reinterpret_cast<uint16_t*>(room.get())}};
    ops::scatter_rows({}, in.view({kPairs, d}), there, places_there.get(), kUsed);
    require_same_bits(in.read(), rounded_all<bf16>(sorted), "rows of ", d, " that go");

    std::vector<float> weights = normals<float>(size_t(kPairs), 2), y(size_t(kTokens * d));
    OnDevice<float> weights_there(weights), rows(sorted), sums(y.size());
    ops::weighted_sum_rows(on_cpu(), TensorView(y.data(), DType::f32, {kTokens, d}),
                           TensorView(sorted.data(), DType::f32, {kPairs, d}), places.data(), weights.data(),
                           kUsed);
    ops::weighted_sum_rows({}, sums.view({kTokens, d}), rows.view({kPairs, d}), places_there.get(),
                           weights_there.get(), kUsed);
    require_same_bits(sums.read(), y, "rows of ", d, " that come back");

    std::vector<float> gate = {0, -0.0f, 1, -90, 90, -80, 3e38f, -3e38f, 0.5f};
    OnDevice<float> gates(gate);
    ops::add_gated({}, sums.view({kTokens, d}), xs.view({kTokens, d}), gates.view({kTokens}));
    ops::add_gated(on_cpu(), TensorView(y.data(), DType::f32, {kTokens, d}),
                   TensorView(x.data(), DType::f32, {kTokens, d}),
                   TensorView(gate.data(), DType::f32, {kTokens}));
    require_same_bits(sums.read(), y, "a shared expert's rows of ", d);
  }
}

// ---- products

// Maps of several experts in device memory.
struct Experts {
  Format format;
  int64_t n, k;
  std::vector<PackedWeights> packed;
  std::vector<OnDevice<bf16>> dense;
  std::vector<OnDevice<float>> biases;
  std::vector<cuda::ExpertMap> maps;

  Experts(Format format_, int64_t n_, int64_t k_, size_t count) : format(format_), n(n_), k(k_) {
    for (size_t e = 0; e < count; ++e) {
      biases.emplace_back(normals<float>(size_t(n), e));
      cuda::ExpertMap map{{.format = format, .n = n, .k = k}, e % 2 == 0 ? biases.back().get() : nullptr};
      if (format == Format::bf16) {
        dense.emplace_back(normals<bf16>(size_t(n * k), 100 + e));
        map.w.codes = reinterpret_cast<const uint8_t*>(dense.back().get());
      } else {
        map.w = packed.emplace_back(format, n, k, e).on_device;
      }
      maps.push_back(map);
    }
  }

  // The rows of expert e by its own product.
  std::vector<float> alone(size_t e, const std::vector<bf16>& x) const {
    const auto m = int64_t(x.size()) / k;
    OnDevice<bf16> rows(x);
    OnDevice<float> y(size_t(m * n));
    const auto& [w, bias] = maps[e];
    device::check(
        format == Format::bf16
            ? cuda::gemm(nullptr, cuda::GemmArgs{y.get(), rows.get(), reinterpret_cast<const bf16*>(w.codes),
                                                 bias, m, n, k})
            : cuda::gemm(nullptr, cuda::QuantizedGemmArgs{y.get(), rows.get(), w, bias, m}),
        "gemm");
    return y.read();
  }
};

void check_products(Format format, int64_t n, int64_t k, const std::vector<int32_t>& counts, uint64_t seed) {
  const Experts experts(format, n, k, counts.size());
  std::vector<int32_t> first{0};
  for (const int32_t count : counts) first.push_back(first.back() + count);
  const int64_t n_rows = first.back();
  const std::vector<bf16> x = normals<bf16>(size_t(n_rows * k), seed);
  OnDevice<bf16> rows(x);
  OnDevice<int32_t> firsts(first);
  OnDevice<cuda::ExpertMap> maps(experts.maps);
  OnDevice<float> y(size_t(n_rows * n));
  emulation::set_seed(seed);
  ops::gemm_experts({}, y.view({n_rows, n}), rows.view({n_rows, k}),
                    {maps.get(), int64_t(counts.size()), format, n, k}, firsts.get());
  const std::vector<float> got = y.read();
  for (size_t e = 0; e < counts.size(); ++e) {
    const std::vector<bf16> own(x.begin() + first[e] * k, x.begin() + first[e + 1] * k);
    if (own.empty()) continue;
    const std::vector<float> part(got.begin() + first[e] * n, got.begin() + first[e + 1] * n);
    require_same_bits(part, experts.alone(e, own), info_of(format).name, ", expert ", e, " of ",
                      counts.size());
  }
}

// Counts for slim tiles, for several of them, for square (quantized: tall) and for wide ones; with experts
// that nobody chose.
const std::vector<std::vector<int32_t>> kCounts = {{0, 1, 0, 0, 3}, {17, 0, 40, 1}, {0, 20, 70}, {66}};

TUILI_TEST(products_of_experts_have_the_bits_of_each_alone) {
  uint64_t seed = 0;
  for (const std::vector<int32_t>& counts : kCounts) check_products(Format::bf16, 40, 72, counts, ++seed);
  check_products(Format::bf16, 17, 50, kCounts[1], ++seed);  // rows that do not begin on 16 bytes
  check_products(Format::bf16, 17, 50, kCounts[2], ++seed);
  check_products(Format::bf16, 17, 50, {130, 0, 68}, ++seed);
  std::vector<int32_t> many(70);  // more experts than a warp has lanes
  many[0] = many[33] = many[69] = 2;
  many[31] = 18;
  check_products(Format::bf16, 8, 32, many, ++seed);
}

TUILI_TEST(products_of_quantized_experts_have_the_bits_of_each_alone) {
  uint64_t seed = 0;
  for (const Format format : kQuantizedFormats)
    for (const std::vector<int32_t>& counts : kCounts) check_products(format, 40, 256, counts, ++seed);
}

TUILI_TEST(products_of_experts_give_the_same_bits_under_every_schedule) {
  for (uint64_t seed = 1; seed < 6; ++seed) {
    check_products(Format::bf16, 40, 600, {5, 0, 20}, seed);
    check_products(Format::q4_k, 40, 1536, {5, 0, 20}, seed);
  }
}

TUILI_TEST(products_of_experts_refuse_what_no_kernel_reads) {
  cuda::ExpertGemmArgs right{};
  right.format = Format::bf16;
  right.n = 8, right.k = 32, right.n_experts = 1, right.n_rows = 1;
  const auto refused = [&](auto&& change) {
    cuda::ExpertGemmArgs wrong = right;
    change(wrong);
    return cuda::gemm_experts(nullptr, wrong) == cudaErrorInvalidValue;
  };
  require(refused([](auto& args) { args.format = Format::f16; }), "fp16 weights");
  require(refused([](auto& args) { args.n_experts = cuda::kMostExperts + 1; }), "too many experts");
  require(refused([](auto& args) { args.format = Format::q4_0, args.k = 40; }), "half a group");
  require(refused([](auto& args) { args.x = reinterpret_cast<const bf16*>(uintptr_t{2}); }),
          "unaligned rows");
}

}  // namespace
