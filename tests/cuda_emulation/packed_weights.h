// Random weights of a quantized format, packed as for the CPU, on the host and on the device.
#pragma once

#include <bit>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "device_testing.h"
#include "ops/ops.h"

namespace tuili::testing {

inline constexpr Format kQuantizedFormats[] = {Format::q8_0, Format::q4_0, Format::q4_1, Format::q5_0,
                                               Format::q5_1, Format::q4_k, Format::q5_k, Format::q6_k};

// What `pack` makes, and its records in device memory.
struct PackedWeights {
  PackedMatrix on_host;
  PackedMatrix on_device;
  Buffer memory;
  std::optional<OnDevice<uint8_t>> records;

  PackedWeights(Format format, int64_t n, int64_t k, uint64_t seed = 0)
      : memory(ops::packed_bytes(format, n, k)) {
    const int64_t row_bytes = ops::row_bytes(format, k);
    const FormatInfo& info = info_of(format);
    std::mt19937_64 random(uint64_t(n * k) + seed);
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
    std::vector<uint8_t> arranged(size_t(ops::device_bytes(format, n, k)));
    ops::arrange_for_device(context, arranged.data(), on_host);
    on_device = {.format = format, .n = n, .k = k, .codes = records.emplace(arranged).get()};
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

}  // namespace tuili::testing
