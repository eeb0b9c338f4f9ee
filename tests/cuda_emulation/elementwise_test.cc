// Elementwise kernels and the writing of pages on the emulated device.
#include <numeric>

#include "device_testing.h"
#include "ops/ops.h"

namespace {

using namespace tuili;           // NOLINT: a test file
using namespace tuili::testing;  // NOLINT

// Ordinary values, and those at which a formula changes or ends.
std::vector<float> edges(size_t n, uint64_t seed) {
  std::vector<float> x = normals<float>(n, seed, 4);
  const float kEdges[] = {0.0f,   -0.0f,  0.55f,   -0.55f, 1.0f,   -1.0f,     16.0f,    -16.0f,   88.8f,
                          -88.8f, 128.0f, -128.0f, 3e38f,  -3e38f, 0x1p-149f, INFINITY, -INFINITY};
  for (size_t i = 0; i < std::size(kEdges) && i < n; ++i) x[i] = kEdges[i];
  return x;
}

constexpr size_t kCounts[] = {1, 255, 1024, 1025, 2500};

constexpr size_t kMany = 132 * 2048;  // from which on elements are made by fours

// A kind's results for n elements, `shift` elements past an aligned address.
template <typename Out>
void check_activation(cpu::Activation kind, size_t n, size_t shift = 0) {
  const std::vector<float> gate = edges(n, n), up = normals<float>(n, n + 1);
  OnDevice<float> gates(gate, shift), ups(up);
  OnDevice<Out> y(n);
  for (const bool gated : {false, true}) {
    std::vector<float> want(n);
    cpu_kernels().activate(want.data(), gate.data(), gated ? up.data() : nullptr, kind, {0, int64_t(n)});
    device::check(
        cuda::activate(nullptr, y.output(), gates.get(), gated ? ups.get() : nullptr, kind, int64_t(n)),
        "activate");
    require_same_bits(y.read(), rounded_all<Out>(want), "kind ", int(kind), ", ", n, " elements");
  }
}

TUILI_TEST(activations_have_the_bits_of_the_cpu) {
  using cpu::Activation;
  for (uint8_t i = 0; i <= uint8_t(Activation::identity); ++i) {
    for (const size_t n : kCounts) {
      check_activation<float>(Activation(i), n);
      check_activation<bf16>(Activation(i), n);
    }
  }
}

TUILI_TEST(activations_of_many_elements_have_the_bits_of_the_cpu) {
  check_activation<float>(cpu::Activation::gelu, kMany + 4);
  check_activation<bf16>(cpu::Activation::silu, kMany);
  check_activation<bf16>(cpu::Activation::silu, kMany + 2);
  check_activation<bf16>(cpu::Activation::relu, kMany, 1);
}

TUILI_TEST(sums_scales_and_caps_have_the_bits_of_the_cpu) {
  for (const size_t n : kCounts) {
    const std::vector<float> x = edges(n, n), z = normals<float>(n, n + 1);
    const auto count = int64_t(n);
    std::vector<float> want(n);
    OnDevice<float> a(x), b(z), y(n);
    // Infinity minus infinity has a sign of its own on each device.
    const auto finite = [&](std::vector<float> v) {
      for (float& f : v) f = std::isnan(f) ? NAN : f;
      return v;
    };
    cpu_kernels().add(want.data(), x.data(), z.data(), {0, count});
    device::check(cuda::add(nullptr, y.get(), a.get(), b.get(), count), "add");
    require_same_bits(finite(y.read()), finite(want), "add");
    for (size_t i = 0; i < n; ++i) want[i] = x[i] * 0.3f;
    OnDevice<float> scaled(x), capped(x);
    device::check(cuda::scale(nullptr, scaled.get(), 0.3f, count), "scale");
    require_same_bits(finite(scaled.read()), finite(want), "scale");
    want = x;
    cpu_kernels().softcap(want.data(), 30.0f, {0, count});
    device::check(cuda::softcap(nullptr, capped.get(), 30.0f, count), "softcap");
    require_same_bits(finite(capped.read()), finite(want), "softcap");
    want = x;
    OnDevice<float> learned(x);
    const cpu::Xielu by{0.8f, 1.1f, 0.5f};
    cpu_kernels().xielu(want.data(), by, {0, count});
    device::check(cuda::xielu(nullptr, learned.get(), by, count), "xielu");
    require_same_bits(finite(learned.read()), finite(want), "xielu");
  }
}

TUILI_TEST(rope_has_the_bits_of_the_cpu) {
  struct Case {
    int64_t n_tokens, n_heads, head_dim, half, gap;
  };
  for (const Case& c :
       {Case{1, 1, 2, 1, 0}, Case{5, 3, 64, 32, 0}, Case{7, 2, 80, 16, 12}, Case{3, 4, 20, 10, 5}}) {
    for (const cuda::RopePairs pairs : {cuda::RopePairs::halves, cuda::RopePairs::neighbours}) {
      const int64_t ld = c.n_heads * c.head_dim + c.gap;
      std::vector<float> want = normals<float>(size_t(c.n_tokens * ld), uint64_t(ld));
      const std::vector<float> cos = normals<float>(size_t(c.n_tokens * c.half), 1),
                               sin = normals<float>(size_t(c.n_tokens * c.half), 2);
      OnDevice<float> x(want), coss(cos), sins(sin);
      cpu_kernels().rope(want.data(), ld, cos.data(), sin.data(), c.n_heads, c.head_dim, c.half,
                         pairs == cuda::RopePairs::neighbours, {0, c.n_tokens});
      emulation::set_seed(uint64_t(ld));
      device::check(cuda::rope(nullptr, {x.get(), ld, coss.get(), sins.get(), c.n_tokens, c.n_heads,
                                         c.head_dim, c.half, pairs}),
                    "rope");
      require_same_bits(x.read(), want, c.n_heads, " heads of ", c.head_dim);
    }
  }
}

template <typename T>
void check_embed() {
  const size_t n_vocab = 11, d = 300;
  const std::vector<T> table = normals<T>(n_vocab * d, 1);
  const std::vector<int32_t> ids{3, 0, 10, 3};
  std::vector<float> want;
  for (const int32_t id : ids) {
    for (size_t i = 0; i < d; ++i) want.push_back(float(value(table[size_t(id) * d + i])) * 0.7f);
  }
  OnDevice<T> rows(table);
  OnDevice<int32_t> tokens(ids);
  OnDevice<float> y(want.size());
  device::check(cuda::embed(nullptr, y.get(), rows.get(), type_of<T>(), tokens.get(), 4, d, 0.7f), "embed");
  require_same_bits(y.read(), want, "embed");
}

TUILI_TEST(embed_scales_rows_of_every_type) {
  check_embed<float>();
  check_embed<bf16>();
}

ops::Context on_cpu() { return {.kernels = &cpu_kernels(), .pool = &ThreadPool::shared(), .n_threads = 1}; }

TUILI_TEST(clamps_have_the_bits_of_the_cpu) {
  for (const size_t n : kCounts) {
    std::vector<float> x = edges(n, n);
    x[n / 2] = NAN;
    for (const auto& [low, high, offset] : {std::tuple{-INFINITY, 7.0f, 0.0f}, {-0.5f, 0.5f, 1.0f}}) {
      std::vector<float> want = x;
      OnDevice<float> y(x);
      ops::clamp(on_cpu(), TensorView(want.data(), DType::f32, {int64_t(n)}), low, high, offset);
      ops::clamp({}, y.view({int64_t(n)}), low, high, offset);
      std::vector<float> got = y.read();
      require(std::isnan(got[n / 2]) && std::isnan(want[n / 2]), "clamp of NaN is ", got[n / 2]);
      got[n / 2] = want[n / 2];  // a GPU's sums have one NaN, a CPU's keep the operand's bits
      require_same_bits(got, want, "clamp to ", low, ", ", high);
    }
  }
}

// Heads of x, or its one head, into heads of y that are wider or narrower, from element `at` on.
template <typename T>
void check_copy_heads(int64_t n_heads, int64_t n_heads_x, int64_t size_y, int64_t size_x, int64_t at) {
  constexpr int64_t kTokens = 5;
  const std::vector<T> x = normals<T>(size_t(kTokens * n_heads_x * size_x), 1);
  std::vector<T> want = normals<T>(size_t(kTokens * n_heads * size_y), 2);
  OnDevice<T> from(x), to(want);
  ops::copy_heads({}, to.view({kTokens, n_heads * size_y}), at, from.view({kTokens, n_heads_x * size_x}),
                  n_heads, n_heads_x);
  for (int64_t row = 0; row < kTokens * n_heads; ++row) {
    const int64_t row_x = n_heads_x == 1 ? row / n_heads : row;
    for (int64_t i = 0; i < std::min(size_y - at, size_x); ++i)
      want[size_t(row * size_y + at + i)] = x[size_t(row_x * size_x + i)];
  }
  require_same_bits(to.read(), want, n_heads, " heads of ", size_y, " from ", size_x);
}

TUILI_TEST(heads_are_copied_into_wider_and_narrower_ones) {
  check_copy_heads<float>(4, 4, 24, 16, 8);
  check_copy_heads<float>(4, 1, 24, 8, 0);
  check_copy_heads<float>(3, 3, 12, 24, 0);
  check_copy_heads<bf16>(3, 3, 12, 24, 0);
  check_copy_heads<bf16>(1, 1, 7, 7, 0);
}

TUILI_TEST(rows_of_a_table_are_added) {
  const std::vector<int32_t> ids{3, 0, 3, 6};
  constexpr size_t kWidth = 300;
  const std::vector<float> table = normals<float>(7 * kWidth, 1), x = normals<float>(ids.size() * kWidth, 2);
  std::vector<float> want = x;
  for (size_t i = 0; i < want.size(); ++i) want[i] += table[size_t(ids[i / kWidth]) * kWidth + i % kWidth];
  OnDevice<float> tables(table), y(x);
  OnDevice<int32_t> rows(ids);
  device::check(
      cuda::add_rows(nullptr, y.get(), tables.get(), rows.get(), int64_t(ids.size()), int64_t(kWidth)),
      "add_rows");
  require_same_bits(y.read(), want, "add_rows");
}

TUILI_TEST(what_a_product_reads_is_rounded_to_nearest_even) {
  for (const size_t n : kCounts) {
    const std::vector<float> x = edges(n, n);
    OnDevice<float> from(x);
    OnDevice<bf16> to(n);
    device::check(cuda::round_to_bf16(nullptr, to.get(), from.get(), int64_t(n)), "round");
    require_same_bits(to.read(), rounded_all<bf16>(x), n, " elements");
  }
}

constexpr int64_t kBlocks = 5, kBlockSize = 16, kHeads = 3, kHeadDim = 24, kRow = kHeads * kHeadDim,
                  kGap = 8 * kRow, kStride = kBlockSize * kRow + kGap;

template <typename T>
KvPages pages_of(OnDevice<T>& k, OnDevice<T>& v) {
  return {k.get(), v.get(), type_of<T>(), kBlockSize, kHeads, kHeadDim, kStride};
}

template <typename T>
T clamped(float x) {
  return rounded<T>(std::is_same_v<T, __half> ? std::clamp(x, -65504.0f, 65504.0f) : x);
}

const std::vector<int32_t> kSlots{0, 17, 79, 40};

// Pages after rows of x were written into kSlots.
template <typename T>
std::vector<T> kept(std::vector<T> pages, const std::vector<float>& x) {
  for (size_t t = 0; t < kSlots.size(); ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t d = 0; d < kHeadDim; ++d) {
        const int64_t block = kSlots[t] / kBlockSize, at = kSlots[t] % kBlockSize;
        pages[size_t(block * kStride + (h * kBlockSize + at) * kHeadDim + d)] =
            clamped<T>(x[t * kRow + size_t(h * kHeadDim + d)]);
      }
    }
  }
  return pages;
}

// Rows of x in the pages of slots 0, 1, … ; beside them the pages stay.
template <typename T>
std::vector<T> kept_in_order(std::vector<T> pages, const std::vector<float>& x, int64_t n_heads,
                             int64_t head_dim, int64_t stride) {
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t d = int64_t(i) % head_dim, h = int64_t(i) / head_dim % n_heads,
                  t = int64_t(i) / head_dim / n_heads;
    pages[size_t(t / kBlockSize * stride + (h * kBlockSize + t % kBlockSize) * head_dim + d)] =
        clamped<T>(x[i]);
  }
  return pages;
}

// So many rows that their elements are written by fours, where they lie so.
template <typename T>
void check_many_kv_write(int64_t n_heads, int64_t head_dim, int64_t gap) {
  const int64_t d = n_heads * head_dim, n_tokens = int64_t(kMany) / d + 1, stride = kBlockSize * d + gap;
  const std::vector<float> k = normals<float>(size_t(n_tokens * d), 1, 1e5),
                           v = normals<float>(size_t(n_tokens * d), 2);
  std::vector<int32_t> slots(static_cast<size_t>(n_tokens));
  std::iota(slots.begin(), slots.end(), 0);
  const std::vector<T> before = normals<T>(size_t((n_tokens / kBlockSize + 1) * stride), 3);
  OnDevice<T> k_pages(before), v_pages(before);
  OnDevice<float> ks(k), vs(v);
  OnDevice<int32_t> places(slots);
  const KvPages pages{k_pages.get(), v_pages.get(), type_of<T>(), kBlockSize, n_heads, head_dim, stride};
  device::check(cuda::kv_write(nullptr, pages, ks.get(), vs.get(), d, places.get(), n_tokens), "kv_write");
  require_same_bits(k_pages.read(), kept_in_order(before, k, n_heads, head_dim, stride), "k");
  require_same_bits(v_pages.read(), kept_in_order(before, v, n_heads, head_dim, stride), "v");
}

TUILI_TEST(kv_write_of_many_rows_rounds_them_into_their_slots) {
  check_many_kv_write<__half>(3, 40, 8);
  check_many_kv_write<bf16>(2, 64, 0);
  check_many_kv_write<__half>(4, 30, 0);
  check_many_kv_write<float>(1, 128, 2);
}

template <typename T>
void check_kv_write() {
  const size_t n_tokens = kSlots.size();
  std::vector<float> k = normals<float>(n_tokens * kRow, 1), v = normals<float>(n_tokens * kRow, 2);
  k[3] = 1e6f;
  k[kRow] = -INFINITY;
  v[7] = -65520.0f;
  const std::vector<T> before = normals<T>(kBlocks * kStride, 3);
  OnDevice<T> k_pages(before), v_pages(before);
  OnDevice<float> ks(k), vs(v);
  OnDevice<int32_t> places(kSlots);
  device::check(cuda::kv_write(nullptr, pages_of(k_pages, v_pages), ks.get(), vs.get(), kRow, places.get(),
                               int64_t(n_tokens)),
                "kv_write");
  require_same_bits(k_pages.read(), kept(before, k), "k");
  require_same_bits(v_pages.read(), kept(before, v), "v");
}

TUILI_TEST(kv_write_rounds_rows_into_their_slots_alone) {
  check_kv_write<bf16>();
  check_kv_write<__half>();
}

// Queries of twice as many heads, in rows with a gap.
template <typename T>
void check_rope_kv_write(int64_t half, cuda::RopePairs pairs) {
  const auto n_tokens = std::ssize(kSlots);
  const int64_t ld = 2 * kRow + 8;
  const auto values = [&](int64_t n, uint64_t seed) { return normals<float>(size_t(n_tokens * n), seed); };
  std::vector<float> q = values(ld, 1), k = values(kRow, 2), v = values(kRow, 3);
  const std::vector<float> cos = values(half, 4), sin = values(half, 5);
  v[5] = 1e6f;
  const std::vector<T> before = normals<T>(kBlocks * kStride, 6);
  OnDevice<float> qs(q), ks(k), vs(v), coss(cos), sins(sin);
  OnDevice<T> k_pages(before), v_pages(before);
  OnDevice<int32_t> places(kSlots);
  const cuda::RopeArgs turned{qs.get(),   ld,       coss.get(), sins.get(), n_tokens,
                              2 * kHeads, kHeadDim, half,       pairs};
  device::check(cuda::rope_kv_write(
                    nullptr, {turned, ks.get(), vs.get(), kRow, pages_of(k_pages, v_pages), places.get()}),
                "rope_kv_write");
  const auto turn = [&](std::vector<float>& x, int64_t row, int64_t n_heads) {
    cpu_kernels().rope(x.data(), row, cos.data(), sin.data(), n_heads, kHeadDim, half,
                       pairs == cuda::RopePairs::neighbours, {0, n_tokens});
  };
  require_same_bits(ks.read(), k, "k in its buffer");
  turn(q, ld, 2 * kHeads);
  turn(k, kRow, kHeads);
  require_same_bits(qs.read(), q, "q");
  require_same_bits(k_pages.read(), kept(before, k), "k");
  require_same_bits(v_pages.read(), kept(before, v), "v");
}

// So many rows that they are turned and written by fours, where pairs are halves.
template <typename T>
void check_many_rope_kv_write(int64_t half, cuda::RopePairs pairs) {
  constexpr int64_t kQueries = 3, kKeys = 2, kDim = 24, kD = kKeys * kDim, kLd = kQueries * kDim + 4;
  const int64_t n_tokens = int64_t(kMany) / (kQueries * half + kKeys * (2 * kDim - half)) + 4;
  const auto values = [&](int64_t n, uint64_t seed) { return normals<float>(size_t(n_tokens * n), seed); };
  std::vector<float> q = values(kLd, 1), k = values(kD, 2), v = values(kD, 3);
  const std::vector<float> cos = values(half, 4), sin = values(half, 5);
  std::vector<int32_t> slots(static_cast<size_t>(n_tokens));
  std::iota(slots.begin(), slots.end(), 0);
  const std::vector<T> before = normals<T>(size_t((n_tokens / kBlockSize + 1) * kBlockSize * kD), 6);
  OnDevice<float> qs(q), ks(k), vs(v), coss(cos), sins(sin);
  OnDevice<T> k_pages(before), v_pages(before);
  OnDevice<int32_t> places(slots);
  const cuda::RopeArgs turned{qs.get(), kLd, coss.get(), sins.get(), n_tokens, kQueries, kDim, half, pairs};
  const KvPages pages{k_pages.get(), v_pages.get(), type_of<T>(), kBlockSize, kKeys, kDim, kBlockSize * kD};
  device::check(cuda::rope_kv_write(nullptr, {turned, ks.get(), vs.get(), kD, pages, places.get()}),
                "rope_kv_write");
  const bool interleaved = pairs == cuda::RopePairs::neighbours;
  const cpu::Range all{0, n_tokens};
  cpu_kernels().rope(q.data(), kLd, cos.data(), sin.data(), kQueries, kDim, half, interleaved, all);
  cpu_kernels().rope(k.data(), kD, cos.data(), sin.data(), kKeys, kDim, half, interleaved, all);
  require_same_bits(qs.read(), q, "q");
  require_same_bits(k_pages.read(), kept_in_order(before, k, kKeys, kDim, kBlockSize * kD), "k");
  require_same_bits(v_pages.read(), kept_in_order(before, v, kKeys, kDim, kBlockSize * kD), "v");
}

TUILI_TEST(rope_kv_write_of_many_rows_is_rope_and_kv_write) {
  check_many_rope_kv_write<__half>(8, cuda::RopePairs::halves);
  check_many_rope_kv_write<bf16>(12, cuda::RopePairs::halves);
  check_many_rope_kv_write<bf16>(12, cuda::RopePairs::neighbours);
  check_many_rope_kv_write<__half>(6, cuda::RopePairs::halves);
}

TUILI_TEST(rope_kv_write_is_rope_and_kv_write) {
  for (const int64_t half : {int64_t{3}, kHeadDim / 2}) {
    for (const cuda::RopePairs pairs : {cuda::RopePairs::halves, cuda::RopePairs::neighbours}) {
      check_rope_kv_write<bf16>(half, pairs);
      check_rope_kv_write<__half>(half, pairs);
    }
  }
}

}  // namespace
