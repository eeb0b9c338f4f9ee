// Rows in file formats -> panels of base/packed.h, exactly. Block layouts: the GGUF specification.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/memory.h"
#include "base/rounding.h"
#include "ops/checks.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

// A quantized format, apart from how its bits lie in a block.
struct Layout {
  int64_t code_bytes;       // of one group and panel
  int64_t high_bytes;       // of one group and panel
  int64_t groups;           // of one block
  int64_t scale_at;         // byte of d in a block
  int64_t min_at;           // byte of m or dmin, -1 without
  int64_t sub_scale_bytes;  // of one group and output
  bool sub_min;
};

constexpr Layout kLayouts[kFormatCount] = {
    {},
    {},
    {},                               // float formats
    {512, 0, 1, 0, -1, 0, false},     // q8_0
    {256, 0, 1, 0, -1, 0, false},     // q4_0
    {256, 0, 1, 0, 2, 0, false},      // q4_1
    {256, 64, 1, 0, -1, 0, false},    // q5_0
    {256, 64, 1, 0, 2, 0, false},     // q5_1
    {256, 0, 8, 0, 2, 1, true},       // q4_k
    {256, 64, 8, 0, 2, 1, true},      // q5_k
    {256, 128, 8, 208, -1, 2, false}  // q6_k
};

constexpr const Layout& layout_of(Format format) { return kLayouts[static_cast<int>(format)]; }

// The planes of a packed matrix, while they are written.
struct Planes {
  uint8_t* codes = nullptr;
  uint8_t* high = nullptr;
  uint16_t* scale = nullptr;
  uint16_t* min = nullptr;
  uint8_t* sub_scale = nullptr;
  uint8_t* sub_min = nullptr;
};

Planes take_planes(Carver& carver, Format format, int64_t n, int64_t k) {
  const int64_t panels = ceil_div(n, kPanel);
  Planes planes;
  if (is_float(format)) {
    planes.codes = carver.take<uint8_t>(panels * k * kPanel * info_of(format).block_bytes);
    return planes;
  }
  const Layout& layout = layout_of(format);
  const int64_t groups = panels * (k / kGroup), blocks = panels * (k / info_of(format).block_size);
  planes.codes = carver.take<uint8_t>(groups * layout.code_bytes);
  if (layout.high_bytes) planes.high = carver.take<uint8_t>(groups * layout.high_bytes);
  planes.scale = carver.take<uint16_t>(blocks * kPanel);
  if (layout.min_at >= 0) planes.min = carver.take<uint16_t>(blocks * kPanel);
  if (layout.sub_scale_bytes)
    planes.sub_scale = carver.take<uint8_t>(groups * kPanel * layout.sub_scale_bytes);
  if (layout.sub_min) planes.sub_min = carver.take<uint8_t>(groups * kPanel);
  return planes;
}

template <class Word>
Word load(const uint8_t* bytes) {
  Word value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// ---- the 32 codes of group g of a block

using Codes = uint8_t[kGroup];

void nibbles(const uint8_t* bytes, Codes& codes) {  // low nibbles are elements 0-15, high ones 16-31
  for (int i = 0; i < 16; ++i) {
    codes[i] = bytes[i] & 15;
    codes[i + 16] = bytes[i] >> 4;
  }
}

void add_fifth_bits(uint32_t bits, Codes& codes) {
  for (int i = 0; i < kGroup; ++i) codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

// Groups 2j and 2j + 1 are the low and the high nibbles of 32 bytes.
void k_nibbles(const uint8_t* quants, int64_t group, Codes& codes) {
  for (int i = 0; i < kGroup; ++i) codes[i] = quants[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
}

template <Format kFormat>
void decode_group(const uint8_t* block, int64_t group, Codes& codes) {
  switch (kFormat) {
    case Format::q8_0: std::memcpy(codes, block + 2, kGroup); return;
    case Format::q4_0: return nibbles(block + 2, codes);
    case Format::q4_1: return nibbles(block + 4, codes);
    case Format::q5_0: nibbles(block + 6, codes); return add_fifth_bits(load<uint32_t>(block + 2), codes);
    case Format::q5_1: nibbles(block + 8, codes); return add_fifth_bits(load<uint32_t>(block + 4), codes);
    case Format::q4_k: return k_nibbles(block + 16, group, codes);
    case Format::q5_k:
      k_nibbles(block + 48, group, codes);
      for (int i = 0; i < kGroup; ++i) codes[i] |= (block[16 + i] >> group & 1) << 4;
      return;
    case Format::q6_k: {  // two halves of 128: 64 bytes of nibbles and 32 bytes of bit pairs each
      const int64_t half = group / 4, quarter = group % 4;
      const uint8_t* low = block + half * 64 + quarter % 2 * 32;
      const uint8_t* high = block + 128 + half * 32;
      for (int i = 0; i < kGroup; ++i)
        codes[i] = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (quarter * 2) & 3) << 4;
      return;
    }
    default: static_assert(!is_float(kFormat));
  }
}

// The 6-bit scale and min of a group of q4_k and q5_k, from the block's 12 bytes: four bytes of scales, four
// of mins, whose two top bits extend the nibbles of the last four.
void sub_scale_and_min(const uint8_t* bytes, int64_t group, uint8_t* scale, uint8_t* min) {
  if (group < 4) {
    *scale = bytes[group] & 63;
    *min = bytes[group + 4] & 63;
    return;
  }
  *scale = (bytes[group + 4] & 15) | bytes[group - 4] >> 6 << 4;
  *min = bytes[group + 4] >> 4 | bytes[group] >> 6 << 4;
}

// ---- planes

// Writes the codes of one output of one group. `codes` and `high` begin at the group.
template <Format kFormat>
void write_codes(const Codes& code, int64_t column, uint8_t* codes, uint8_t* high) {
  constexpr Layout kLayout = layout_of(kFormat);
  for (int64_t quad = 0; quad < 8; ++quad) {
    for (int64_t i = 0; i < 4; ++i) {
      const uint8_t value = code[quad * 4 + i];
      const int64_t at = column * 4 + i;
      if (kLayout.code_bytes == 512) {
        codes[quad * 64 + at] = value;
        continue;
      }
      codes[quad % 4 * 64 + at] |= static_cast<uint8_t>((value & 15) << (quad / 4 * 4));
      if (kLayout.high_bytes == 64) high[at] |= static_cast<uint8_t>((value >> 4) << quad);
      if (kLayout.high_bytes == 128)
        high[quad / 4 * 64 + at] |= static_cast<uint8_t>((value >> 4) << (quad % 4 * 2));
    }
  }
}

struct Source {
  int64_t n, k;
  const uint8_t* rows;
};

template <Format kFormat>
void pack_quantized_panel(const Source& from, const Planes& to, int64_t panel) {
  constexpr Layout layout = layout_of(kFormat);
  constexpr FormatInfo info = info_of(kFormat);
  const int64_t n_blocks = from.k / info.block_size;
  const int64_t n_outputs = std::min(kPanel, from.n - panel * kPanel);
  for (int64_t column = 0; column < n_outputs; ++column) {
    const uint8_t* row = from.rows + (panel * kPanel + column) * n_blocks * info.block_bytes;
    for (int64_t b = 0; b < n_blocks; ++b) {
      const uint8_t* block = row + b * info.block_bytes;
      const int64_t block_id = panel * n_blocks + b;
      to.scale[block_id * kPanel + column] = load<uint16_t>(block + layout.scale_at);
      if (to.min) to.min[block_id * kPanel + column] = load<uint16_t>(block + layout.min_at);
      for (int64_t g = 0; g < layout.groups; ++g) {
        const int64_t group_id = block_id * layout.groups + g;
        Codes codes;
        decode_group<kFormat>(block, g, codes);
        write_codes<kFormat>(codes, column, to.codes + group_id * layout.code_bytes,
                             to.high + group_id * layout.high_bytes);
        if (to.sub_min)
          sub_scale_and_min(block + 4, g, &to.sub_scale[group_id * kPanel + column],
                            &to.sub_min[group_id * kPanel + column]);
        else if (to.sub_scale)
          for (int64_t half = 0; half < 2; ++half)
            to.sub_scale[(group_id * 2 + half) * kPanel + column] = block[192 + g * 2 + half];
      }
    }
  }
}

template <class Element>
void pack_float_panel(const Source& from, const Planes& planes, int64_t panel) {
  const int64_t n_outputs = std::min(kPanel, from.n - panel * kPanel);
  auto* to = reinterpret_cast<Element*>(planes.codes) + panel * from.k * kPanel;
  for (int64_t column = 0; column < n_outputs; ++column) {
    const uint8_t* row =
        from.rows + (panel * kPanel + column) * from.k * static_cast<int64_t>(sizeof(Element));
    for (int64_t i = 0; i < from.k; ++i)
      std::memcpy(&to[i * kPanel + column], row + i * static_cast<int64_t>(sizeof(Element)), sizeof(Element));
  }
}

using PackPanel = void (*)(const Source& from, const Planes& to, int64_t panel);

PackPanel pack_panel_of(Format format) {
  switch (format) {
    case Format::f32: return pack_float_panel<uint32_t>;
    case Format::f16:
    case Format::bf16: return pack_float_panel<uint16_t>;
    case Format::q8_0: return pack_quantized_panel<Format::q8_0>;
    case Format::q4_0: return pack_quantized_panel<Format::q4_0>;
    case Format::q4_1: return pack_quantized_panel<Format::q4_1>;
    case Format::q5_0: return pack_quantized_panel<Format::q5_0>;
    case Format::q5_1: return pack_quantized_panel<Format::q5_1>;
    case Format::q4_k: return pack_quantized_panel<Format::q4_k>;
    case Format::q5_k: return pack_quantized_panel<Format::q5_k>;
    case Format::q6_k: return pack_quantized_panel<Format::q6_k>;
  }
  return nullptr;
}

// IEEE half to float, exactly. Source: IEEE 754-2019, binary16.
float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

bool has_wide_scales(const PackedMatrix& w) {
  if (w.format != Format::q8_0 || w.k % (kWide * kGroup) != 0) return false;
  const int64_t n_scales = w.n_panels() * w.n_groups() * kPanel;
  for (int64_t at = 0; at < n_scales; at += kWide * kPanel)
    for (int64_t group = 1; group < kWide; ++group)
      if (std::memcmp(w.scale + at, w.scale + at + group * kPanel, kPanel * sizeof(*w.scale)) != 0)
        return false;
  return true;
}

}  // namespace

int64_t row_bytes(Format format, int64_t k) {
  const FormatInfo& info = info_of(format);
  TUILI_CHECK_KIND(ErrorKind::model_format, k > 0 && k % info.block_size == 0, info.name,
                   " cannot store rows of ", k, ": its blocks have ", info.block_size, " elements");
  return k / info.block_size * info.block_bytes;
}

int64_t packed_bytes(Format format, int64_t n, int64_t k) {
  row_bytes(format, k);
  Carver measure;
  take_planes(measure, format, n, k);
  return measure.used();
}

PackedMatrix packed_view(Format format, int64_t n, int64_t k, const uint8_t* memory) {
  row_bytes(format, k);
  Carver carver(const_cast<uint8_t*>(memory));
  const Planes at = take_planes(carver, format, n, k);
  PackedMatrix packed{format, n, k, at.codes, at.high, at.scale, at.min, at.sub_scale, at.sub_min};
  packed.has_wide_scales = has_wide_scales(packed);
  return packed;
}

PackedMatrix pack(const Context& context, Format format, int64_t n, int64_t k, const uint8_t* rows,
                  uint8_t* memory) {
  TUILI_EXPECT(n > 0 && memory != nullptr, "pack: ", n, " rows");
  const Source from{n, k, rows};
  Carver carver(memory);
  const Planes to = take_planes(carver, format, n, k);
  const PackPanel pack_panel = pack_panel_of(format);
  context.pool->parallel_for(ceil_div(n, kPanel), context.threads_for(n * k, 65536),
                             [&](int64_t begin, int64_t end, int) {
                               for (int64_t panel = begin; panel < end; ++panel) pack_panel(from, to, panel);
                             });
  return packed_view(format, n, k, memory);
}

void to_float32(float* y, Format format, const uint8_t* values, int64_t count) {
  TUILI_EXPECT(is_float(format), "to_float32: ", info_of(format).name, " is not a float format");
  if (format == Format::f32) {
    std::memcpy(y, values, static_cast<size_t>(count) * 4);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = load<uint16_t>(values + i * 2);
    y[i] = format == Format::f16 ? half_to_float(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
  }
}

}  // namespace tuili::ops
