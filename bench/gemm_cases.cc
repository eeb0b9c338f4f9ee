// GEMM of every weight format, rows m and way (integer, float), one thread.
//
//   cached    weights of at most 256 KiB, read again and again: what the arithmetic costs
//   rotating  256 MiB of weights, past the last-level cache, as a decode step reads them
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>

#include "cases.h"

namespace tuili::bench {
namespace {

constexpr int64_t kK = 2048;
constexpr int64_t kCachedBytes = int64_t{256} << 10, kRotationBytes = int64_t{256} << 20;
constexpr int64_t kRotatingN = 1536, kCountedK = 512, kCountedN = 64, kCountedM = 8;
constexpr int64_t kCountedMany = 32;  // rows for which AVX2 unpacks a weight once, also of 4 bits

// The places of fp16 scales and mins in a block; -1: none.
struct HalfPlaces {
  int64_t first, second;
};
constexpr HalfPlaces half_places(Format format) {
  switch (format) {
    case Format::q4_1:
    case Format::q5_1:
    case Format::q4_k:
    case Format::q5_k: return {0, 2};
    case Format::q6_k: return {208, -1};
    default: return {0, -1};
  }
}

uint16_t random_bits(std::mt19937& random, int exponent, int mantissa_bits, int sign_bit) {
  const uint32_t bits = static_cast<uint32_t>(random());
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  return static_cast<uint16_t>((bits >> 16 & 1u) << sign_bit |
                               static_cast<uint32_t>(exponent) << mantissa_bits | mantissa);
}

// Rows as in a file, scales and float weights near 1e-2: random bits would make denormals and halve the
// speed.
std::vector<uint8_t> random_rows(Format format, int64_t n, int64_t k) {
  std::mt19937 random(7);
  std::vector<uint8_t> rows(static_cast<size_t>(n * ops::row_bytes(format, k)));
  const FormatInfo& info = info_of(format);
  const auto put = [&](size_t at, uint16_t bits) { std::memcpy(&rows[at], &bits, sizeof(bits)); };
  if (format == Format::f32) {
    const std::vector<float> values = normal_values(n * k, 0.02f);
    std::memcpy(rows.data(), values.data(), rows.size());
  } else if (is_float(format)) {
    const bool half = format == Format::f16;
    for (size_t at = 0; at < rows.size(); at += 2)
      put(at, random_bits(random, half ? 8 : 120, half ? 10 : 7, 15));
  } else {
    for (uint8_t& byte : rows) byte = static_cast<uint8_t>(random());
    const HalfPlaces places = half_places(format);
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(info.block_bytes)) {
      for (const int64_t place : {places.first, places.second})
        if (place >= 0) put(at + static_cast<size_t>(place), random_bits(random, 8, 10, 15));
    }
  }
  return rows;
}

// The same matrix, its planes moved from `from` to `to`.
PackedMatrix moved(PackedMatrix w, const uint8_t* from, const uint8_t* to) {
  const auto move = [&]<class T>(const T*& plane) {
    if (plane != nullptr)
      plane = reinterpret_cast<const T*>(to + (reinterpret_cast<const uint8_t*>(plane) - from));
  };
  move(w.codes), move(w.high), move(w.scale), move(w.min), move(w.sub_scale), move(w.sub_min);
  return w;
}

struct GemmData {
  Arena arena;
  std::vector<PackedMatrix> copies;
  cpu::GemmArgs args{};
  size_t turn = 0;
};

struct Shape {
  int64_t m, n, k, rotation_bytes;
};

enum class Sums : uint8_t { floats, groups, wide };  // wide: integer sums of the groups that share a scale

// What rows of q8_0 are with one scale for each kWide groups.
void share_scales(std::vector<uint8_t>& rows) {
  const int64_t bytes = info_of(Format::q8_0).block_bytes;
  for (int64_t block = 0; block < std::ssize(rows) / bytes; ++block)
    std::memcpy(&rows[block * bytes], &rows[block / kWide * kWide * bytes], 2);
}

Work gemm_work(const cpu::Kernels& kernels, Format format, Sums sums, Shape shape) {
  const auto [m, n, k, rotation] = shape;
  const bool integer = sums != Sums::floats;
  const int64_t packed = align_up(ops::packed_bytes(format, n, k));
  const int64_t n_copies = std::max<int64_t>(rotation / packed, 1);
  auto data =
      std::make_shared<GemmData>(Arena(n_copies * packed + m * (k * 16 + n * 8) + (int64_t{1} << 20)));
  Arena& arena = data->arena;
  const ops::Context context{.kernels = &kernels, .pool = &ThreadPool::shared()};
  std::vector<uint8_t> rows = random_rows(format, n, k);
  if (sums == Sums::wide) share_scales(rows);
  uint8_t* first = arena.take<uint8_t>(packed);
  data->copies = {ops::pack(context, format, n, k, rows.data(), first)};
  for (int64_t i = 1; i < n_copies; ++i) {
    uint8_t* copy = arena.take<uint8_t>(packed);
    std::memcpy(copy, first, static_cast<size_t>(packed));
    data->copies.push_back(moved(data->copies[0], first, copy));
  }
  cpu::GemmArgs& args = data->args;
  args.x = arena.take(normal_values(m * k));
  args.y = arena.take<float>(m * n);
  args.ldx = k, args.ldy = n, args.m = m;
  args.scratch = arena.take<float>(cpu::kGemmScratch);
  if (integer) {
    args.xq = ops::quantized_rows(arena.carver, m, k);
    args.xq.has_wide_scales = sums == Sums::wide;
    args.xq.keeps_outliers = sums == Sums::groups;
    kernels.quantize_rows(args.xq, args.x, k, k, {0, m}, {0, args.xq.n_groups});
  }
  const auto kernel = integer ? kernels.gemm_int8 : kernels.gemm_float;
  const auto run = [data, kernel] {
    data->args.w = data->copies[data->turn++ % data->copies.size()];
    kernel(data->args, {0, data->args.w.n_panels()});
  };
  return {
      .run = run,
      .macs = static_cast<double>(m * n * k),
      .bytes = static_cast<double>(packed + m * n * 4 + (integer ? args.xq.n_groups * 44 * m : m * k * 4)),
      .unit = integer ? Unit::int8 : Unit::float_fma,
      .outputs = {bytes_of(args.y, m * n)}};
}

// Rows of an embedding table, here and there.
Work embed_work(const cpu::Kernels& kernels, Format format) {
  constexpr int64_t kN = 256, kTokens = 8;
  auto data = std::make_shared<GemmData>(
      Arena(ops::packed_bytes(format, kN, kK) + kTokens * (kK + 1) * 4 + (int64_t{1} << 20)));
  const ops::Context context{.kernels = &kernels, .pool = &ThreadPool::shared()};
  const std::vector<uint8_t> rows = random_rows(format, kN, kK);
  uint8_t* packed = data->arena.take<uint8_t>(ops::packed_bytes(format, kN, kK));
  data->args.w = ops::pack(context, format, kN, kK, rows.data(), packed);
  data->args.y = data->arena.take<float>(kTokens * kK);
  int32_t* ids = data->arena.take<int32_t>(kTokens);
  for (int32_t t = 0; t < kTokens; ++t) ids[t] = t * 97 % kN;
  const double items = kTokens * kK, element = static_cast<double>(ops::row_bytes(format, kK)) / kK;
  const auto run = [=, table = &kernels] { table->embed(data->args.y, data->args.w, ids, 1, {0, kTokens}); };
  return {.run = run,
          .items = items,
          .bytes = items * (4 + element),
          .outputs = {bytes_of(data->args.y, kTokens * kK)}};
}

int64_t cached_n(Format format) {
  const int64_t panel_bytes = ops::packed_bytes(format, kPanel, kK);
  return std::max<int64_t>(kCachedBytes / panel_bytes, 1) * kPanel;
}

// Columns, and k where the format allows it, that fill no panel, group or block.
Shape odd_shape(Format format, Sums sums, int64_t m) {
  const int64_t block = info_of(format).block_size;
  if (sums == Sums::wide) return {m, 37, kWide * kGroup * 5, 0};
  return {m, 37, block == 1 ? 547 : block == 32 ? 32 * 19 : 256 * 3, 0};
}

}  // namespace

std::vector<Case> gemm_cases() {
  std::vector<Case> cases;
  const auto add = [&](Format format, Sums sums, const char* mode, Shape shape, Use use) {
    constexpr const char* kNames[] = {"float", "int8", "wide"};
    const std::string name =
        join("gemm_", kNames[static_cast<int>(sums)], '/', info_of(format).name, '/', mode, "/m:", shape.m);
    cases.push_back({name, [=](const cpu::Kernels& k) { return gemm_work(k, format, sums, shape); }, use});
  };
  for (int i = 0; i < kFormatCount; ++i) {
    const auto format = static_cast<Format>(i);
    for (const Sums sums : {Sums::groups, Sums::wide, Sums::floats}) {
      if (sums != Sums::floats && is_float(format)) continue;
      if (sums == Sums::wide && format != Format::q8_0) continue;
      for (const int64_t m : {1, 2, 4, 8, 16, 64})
        add(format, sums, "cached", {m, cached_n(format), kK, 0}, Use::speed);
      for (const int64_t m : {1, 4, 8, 16})
        add(format, sums, "rotating", {m, kRotatingN, kK, kRotationBytes}, Use::speed);
      for (const int64_t m : {int64_t{1}, kCountedM})
        add(format, sums, "counted", {m, kCountedN, kCountedK, 0}, Use::counted);
      if (sums == Sums::groups)
        add(format, sums, "counted", {kCountedMany, kCountedN, kCountedK, 0}, Use::counted);
      for (const int64_t m : {1, 3, 7, 13}) add(format, sums, "odd", odd_shape(format, sums, m), Use::odd);
    }
    cases.push_back({join("embed/", info_of(format).name),
                     [=](const cpu::Kernels& kernels) { return embed_work(kernels, format); }, Use::counted});
  }
  return cases;
}

}  // namespace tuili::bench
