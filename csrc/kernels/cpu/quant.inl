// Activations to int8, and the decoding of packed weights: dequantized blocks for gemm_float, single rows for
// embed.
//
// v1 quantize_rows: 18.5 ns a group of real activations with outliers, 9.4 without (AVX-512, from the first
//    cache); in a step of 16 rows 35, as other threads wrote its input
// v2 runs behind the norm or activation of a block of rows, while they are at hand (ops/elementwise.cc), and
//    an 8-bit row is embedded without its 15 neighbours: all-MiniLM-L6-v2 in int8, 12 tokens, 2 threads, busy
//    machine 1.24 -> 1.14 and 1.08 -> 1.04 ms, quiet 0.672 -> 0.670; what it spares is joins
// v3 counts and codes without branches on what is above the limit. Cycles a group of real activations, 512
//    rows of k = 576 / 1536: AVX2 60 / 103 -> 55 / 58, AVX-512 61 / 115 -> 59 / 61, without outliers 32 -> 27
//    and 35 -> 32. The generic table takes 24 % more instructions for it
// Tried without gain: all of a row's groups coded without a branch, 16 divisions at once, then the outliers
// (20.7 ns).

namespace tuili::cpu::TUILI_ISA {
namespace {

// What a format's codes mean (base/packed.h): w = scale · sub_scale · (code - offset) + min term.
struct Coding {
  int bits;
  int offset;
  int sub_scales;  // per group: 0, 1 or 2
  bool has_min;
  int block_groups;  // groups that share a scale
};

constexpr Coding coding_of(Format format) {
  switch (format) {
    case Format::q8_0: return {8, 0, 0, false, 1};
    case Format::q4_0: return {4, 8, 0, false, 1};
    case Format::q4_1: return {4, 0, 0, true, 1};
    case Format::q5_0: return {5, 16, 0, false, 1};
    case Format::q5_1: return {5, 0, 0, true, 1};
    case Format::q4_k: return {4, 0, 1, true, 8};
    case Format::q5_k: return {5, 0, 1, true, 8};
    case Format::q6_k: return {6, 32, 2, false, 8};
    default: return {0, 0, 0, false, 1};  // float formats have no codes
  }
}

TUILI_INLINE int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

// The planes of one group of one panel; null where the format has none.
struct GroupView {
  const uint8_t* codes = nullptr;
  const uint8_t* high = nullptr;
  const Half* scale = nullptr;
  const Half* min = nullptr;
  const uint8_t* sub_scale = nullptr;
  const uint8_t* sub_min = nullptr;
};

// Of a group's codes, without the high bits of 5- and 6-bit ones.
template <Format kFormat>
constexpr int64_t kCodeBytes = coding_of(kFormat).bits == 8 ? 512 : 256;

template <Format kFormat>
TUILI_INLINE GroupView group_at(const PackedMatrix& w, int64_t panel, int64_t group) {
  constexpr Coding kCoding = coding_of(kFormat);
  const int64_t n_groups = groups_of(w.k);
  const int64_t at = panel * n_groups + group;
  const int64_t block = kCoding.block_groups == 1 ? at : panel * (n_groups / 8) + group / 8;
  GroupView out;
  out.codes = w.codes + at * kCodeBytes<kFormat>;
  if constexpr (kCoding.bits == 5) out.high = w.high + at * 64;
  if constexpr (kCoding.bits == 6) out.high = w.high + at * 128;
  out.scale = reinterpret_cast<const Half*>(w.scale) + block * kPanel;
  if constexpr (kCoding.has_min) out.min = reinterpret_cast<const Half*>(w.min) + block * kPanel;
  if constexpr (kCoding.sub_scales > 0) out.sub_scale = w.sub_scale + at * kCoding.sub_scales * kPanel;
  if constexpr (kCoding.sub_scales > 0 && kCoding.has_min) out.sub_min = w.sub_min + at * kPanel;
  return out;
}

// The same group of the next panel.
template <Format kFormat>
TUILI_INLINE GroupView next_panel(GroupView group, int64_t n_groups) {
  constexpr Coding kCoding = coding_of(kFormat);
  const int64_t n_scales = (kCoding.block_groups == 1 ? n_groups : n_groups / 8) * kPanel;
  group.codes += n_groups * kCodeBytes<kFormat>;
  if constexpr (kCoding.bits == 5) group.high += n_groups * 64;
  if constexpr (kCoding.bits == 6) group.high += n_groups * 128;
  group.scale += n_scales;
  if constexpr (kCoding.has_min) group.min += n_scales;
  if constexpr (kCoding.sub_scales > 0) group.sub_scale += n_groups * kCoding.sub_scales * kPanel;
  if constexpr (kCoding.sub_scales > 0 && kCoding.has_min) group.sub_min += n_groups * kPanel;
  return group;
}

// The codes of quad kQuad (0 to 7) for 16 columns. 8-bit codes are signed (plus kSignedOffset).
template <Format kFormat, int kQuad>
TUILI_INLINE Bytes codes_at(const GroupView& group) {
  constexpr int kBits = coding_of(kFormat).bits;
  if constexpr (kBits == 8) return load_signed(group.codes + 64 * kQuad);
  const Bytes pair = load_codes(group.codes + 64 * (kQuad % 4));
  const Bytes low = kQuad < 4 ? bits<0>(pair, 15) : bits<-4>(pair, 15);
  if constexpr (kBits == 5) return low | bits<4 - kQuad>(load_codes(group.high), 16);
  if constexpr (kBits == 6)
    return low | bits<4 - 2 * (kQuad % 4)>(load_codes(group.high + 64 * (kQuad / 4)), 48);
  return low;
}

// The codes of a quad that is known at run time.
template <Format kFormat>
TUILI_INLINE Bytes codes_at(const GroupView& group, int quad) {
  constexpr int kBits = coding_of(kFormat).bits;
  if constexpr (kBits == 8) return load_signed(group.codes + 64 * quad);
  const Bytes low = bits_from(load_codes(group.codes + 64 * (quad % 4)), quad / 4 * 4, 15);
  if constexpr (kBits == 5) return low | bits<4>(bits_from(load_codes(group.high), quad, 1), 16);
  if constexpr (kBits == 6)
    return low | bits<4>(bits_from(load_codes(group.high + 64 * (quad / 4)), quad % 4 * 2, 3), 48);
  return low;
}

// ---- Dequantization, rounded as gguf's own: one rounding per product and per sum

struct GroupScales {
  Floats scale[2];  // of quads 0-3 and 4-7, sub-scale included
  Floats min;       // what is added; in K formats negative
};

template <Format kFormat>
TUILI_INLINE GroupScales scales_at(const GroupView& group) {
  constexpr Coding kCoding = coding_of(kFormat);
  const Floats scale = load(group.scale);
  GroupScales out = {{scale, scale}, zero()};
  if constexpr (kCoding.sub_scales > 0) {
    out.scale[0] = scale * to_float(load_i8(group.sub_scale));
    out.scale[1] =
        kCoding.sub_scales == 2 ? scale * to_float(load_i8(group.sub_scale + kPanel)) : out.scale[0];
  }
  if constexpr (kCoding.has_min) out.min = load(group.min);
  if constexpr (kCoding.has_min && kCoding.sub_scales > 0) {
    out.min = negate(out.min * to_float(load_i8(group.sub_min)));
  }
  return out;
}

template <Format kFormat, int kQuad>
TUILI_INLINE void dequantize_quads(float* out, const GroupView& group, const GroupScales& scales) {
  constexpr Coding kCoding = coding_of(kFormat);
  constexpr int kOffset = kCoding.offset + (kCoding.bits == 8 ? kSignedOffset : 0);
  constexpr int kSign = kCoding.bits == 8 && kSignedOffset == 0 ? -1 : 0xff;  // mask of a shifted byte
  const Ints codes = as_ints(codes_at<kFormat, kQuad>(group));
  const Ints of_k[4] = {shr<24>(shl<24>(codes)) & splat_int(kSign),
                        shr<24>(shl<16>(codes)) & splat_int(kSign), shr<24>(shl<8>(codes)) & splat_int(kSign),
                        shr<24>(codes) & splat_int(kSign)};
  for (int j = 0; j < 4; ++j) {
    const Floats code = to_float(of_k[j] - splat_int(kOffset));
    Floats value = code * scales.scale[kQuad / 4];
    if constexpr (kCoding.has_min) value = value + scales.min;
    store(out + (4 * kQuad + j) * kPanel, value);
  }
  if constexpr (kQuad < 7) dequantize_quads<kFormat, kQuad + 1>(out, group, scales);
}

// out[kb][16] = the columns of a panel for k in [k0, k0 + kb), both multiples of 32.
template <Format kFormat>
void dequantize_block(float* out, const PackedMatrix& w, int64_t panel, int64_t k0, int64_t kb) {
  for (int64_t k = 0; k < kb; k += kGroup) {
    const GroupView group = group_at<kFormat>(w, panel, (k0 + k) / kGroup);
    dequantize_quads<kFormat, 0>(out + k * kPanel, group, scales_at<kFormat>(group));
  }
}

template <class T>
TUILI_INLINE void convert_block(float* out, const PackedMatrix& w, int64_t panel, int64_t k0, int64_t kb) {
  const T* in = reinterpret_cast<const T*>(w.codes) + (panel * w.k + k0) * kPanel;
  for (int64_t k = 0; k < kb; ++k) store(out + k * kPanel, load(in + k * kPanel));
}

// Any format but f32, which is read where it lies.
void decode_block(float* out, const PackedMatrix& w, int64_t panel, int64_t k0, int64_t kb) {
  switch (w.format) {
    case Format::f32: return;
    case Format::f16: return convert_block<Half>(out, w, panel, k0, kb);
    case Format::bf16: return convert_block<Bfloat>(out, w, panel, k0, kb);
    case Format::q8_0: return dequantize_block<Format::q8_0>(out, w, panel, k0, kb);
    case Format::q4_0: return dequantize_block<Format::q4_0>(out, w, panel, k0, kb);
    case Format::q4_1: return dequantize_block<Format::q4_1>(out, w, panel, k0, kb);
    case Format::q5_0: return dequantize_block<Format::q5_0>(out, w, panel, k0, kb);
    case Format::q5_1: return dequantize_block<Format::q5_1>(out, w, panel, k0, kb);
    case Format::q4_k: return dequantize_block<Format::q4_k>(out, w, panel, k0, kb);
    case Format::q5_k: return dequantize_block<Format::q5_k>(out, w, panel, k0, kb);
    case Format::q6_k: return dequantize_block<Format::q6_k>(out, w, panel, k0, kb);
  }
}

// Rows of 8-bit codes: of each quad's line a row's 4 alone, by dequantize_quads' arithmetic. The table lies
// in memory: the next token's lines are asked for meanwhile (for f32, whose lines are in a row, without
// gain).
void embed_bytes(float* y, const PackedMatrix& w, const int32_t* ids, float factor, Range tokens) {
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int64_t panel = ids[t] / kPanel, column = ids[t] % kPanel;
    float* row = y + t * w.k;
    for (int64_t g = 0; g < groups_of(w.k); ++g) {
      if (t + 1 < tokens.end) {
        const GroupView next = group_at<Format::q8_0>(w, ids[t + 1] / kPanel, g);
        for (int quad = 0; quad < 8; ++quad) __builtin_prefetch(next.codes + 64 * quad);
        __builtin_prefetch(next.scale);
      }
      const GroupView group = group_at<Format::q8_0>(w, panel, g);
      uint8_t codes[kGroup];
      for (int quad = 0; quad < 8; ++quad)
        __builtin_memcpy(codes + 4 * quad, group.codes + 64 * quad + 4 * column, 4);
      float scales[kPanel];
      store(scales, load(group.scale));
      for_each_16({g * kGroup, smaller(w.k, (g + 1) * kGroup)}, [&](int64_t k, int64_t count) {
        const Floats value = to_float(load_i8(codes + (k - g * kGroup))) * splat(scales[column]);
        store_up_to(row + k, value * splat(factor), count);
      });
    }
  }
}

// One row of the matrix: of fewer bits 16 columns are decoded to keep one. A row is read once per token, and
// this is the same code.
void embed(float* y, const PackedMatrix& w, const int32_t* ids, float factor, Range tokens) {
  if (w.format == Format::q8_0) return embed_bytes(y, w, ids, factor, tokens);
  alignas(64) float block[kGroup * kPanel];
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int64_t panel = ids[t] / kPanel, column = ids[t] % kPanel;
    float* row = y + t * w.k;
    for (int64_t k0 = 0; k0 < w.k; k0 += kGroup) {
      const int64_t kb = w.k - k0 < kGroup ? w.k - k0 : kGroup;
      const float* values = block;
      if (w.format == Format::f32)
        values = reinterpret_cast<const float*>(w.codes) + (panel * w.k + k0) * kPanel;
      decode_block(block, w, panel, k0, kb);
      for (int64_t k = 0; k < kb; ++k) row[k0 + k] = values[k * kPanel + column] * factor;
    }
  }
}

// ---- Activations

// The 32 values of a group; zeros past the end of the row.
struct GroupValues {
  Floats x0, x1;
};

TUILI_INLINE GroupValues load_group(const float* x, int64_t left) {
  if (left >= kGroup) return {load(x), load(x + 16)};
  return {load_first(x, left < 16 ? left : 16), left > 16 ? load_first(x + 16, left - 16) : zero()};
}

// Largest of magnitudes; Inf and NaN are above all numbers, as their bits are.
TUILI_INLINE float largest(Ints magnitudes) {
  const int32_t bits = max_of(magnitudes);
  float out;
  __builtin_memcpy(&out, &bits, sizeof(out));
  return out;
}

TUILI_INLINE float largest(Floats a0, Floats a1) { return largest(max(as_ints(a0), as_ints(a1))); }

TUILI_INLINE float amax_of(GroupValues values) { return largest(absolute(values.x0), absolute(values.x1)); }

// How many values of the row are above the limit.
int64_t count_above(const float* row, int64_t k, float limit) {
  const Floats one = as_floats(splat_int(1)), least = splat(limit);
  Ints count = splat_int(0);
  for (int64_t at = 0; at < k; at += kGroup) {
    const GroupValues values = load_group(row + at, k - at);
    count = count + as_ints(select(less(least, absolute(values.x0)), one, zero())) +
            as_ints(select(less(least, absolute(values.x1)), one, zero()));
  }
  return sum(count);
}

// Above what a value of row r is an outlier. Leaves the groups' amaxes in `scale`.
float outlier_limit(const QuantizedRows& out, const float* row, int64_t r, int64_t k) {
  double sum = 0;
  for (int64_t g = 0; g < out.n_groups; ++g) {
    const float amax = amax_of(load_group(row + g * kGroup, k - g * kGroup));
    out.scale[out.place(r, g)] = amax;
    sum += amax;
  }
  float limit = float(sum / double(out.n_groups));
  while (count_above(row, k, limit) > out.max_outliers()) limit = limit > 0 ? 2 * limit : 0x1p-149f;
  return limit;
}

// Splits the codes of the quads that need it. The sums in half_sum fit in int16 once all are split.
TUILI_INLINE void split_outliers(const QuantizedRows& out, int64_t row, int64_t group, const int32_t* codes) {
  const int64_t at = out.place(row, group);
  uint32_t beyond = 0;  // bit i: of code i
  for (int i = 0; i < kGroup; ++i) beyond |= uint32_t(uint32_t(codes[i] + 127) > 254) << i;
  beyond = (beyond | beyond >> 1 | beyond >> 2 | beyond >> 3) & 0x11111111;
  for (; beyond != 0; beyond &= beyond - 1) {
    const int32_t quad = __builtin_ctz(beyond) / 4;
    const int32_t* code = codes + 4 * quad;
    OutlierQuad& outlier = out.outliers[row * out.max_outliers() + out.n_outliers[row]++];
    outlier = {int32_t(group), quad, {}, 0, {}, 128 * out.scale[at]};
    int32_t sum = 0;
    for (int j = 0; j < 4; ++j) {
      const int32_t high = (code[j] + 64) >> 7;
      outlier.high[j] = int8_t(high);
      sum += high;
      out.low[at * kGroup + 4 * quad + j] = int8_t(code[j] - 128 * high);
    }
    outlier.half_sum[quad / 4] = int16_t(sum);
    outlier.offset_sum = -8 * sum;
    out.half_sum[2 * at + quad / 4] = int16_t(out.half_sum[2 * at + quad / 4] - 128 * sum);
    out.offset_sum[at] += 128 * 8 * sum;
  }
}

// Codes one group of a row; kSplits: its amax is above `limit`.
template <bool kSplits>
TUILI_INLINE void quantize_group(const QuantizedRows& out, int64_t row, int64_t group, GroupValues values,
                                 float amax, float limit) {
  const int64_t at = out.place(row, group);
  int8_t* low = out.low + at * kGroup;
  const bool finite = amax <= 0x1.fffffep127f;
  if (!finite || amax < 0x1p-100f) {
    store_i8(low, splat_int(0));
    store_i8(low + 16, splat_int(0));
    out.half_sum[2 * at] = out.half_sum[2 * at + 1] = 0;
    out.offset_sum[at] = 0;
    out.scale[at] = out.scaled_sum[at] = finite ? 0 : __builtin_nanf("");
    return;
  }
  float base = amax;
  if constexpr (kSplits) {
    const Floats a0 = absolute(values.x0), a1 = absolute(values.x1);
    const float rest =
        largest(select(less(splat(limit), a0), zero(), a0), select(less(splat(limit), a1), zero(), a1));
    base = rest > 0.75f * amax ? amax : rest > amax / 128 ? rest : amax / 128;
  }
  // |x| · (127 / base) is at most 127 · (1 + 2^-24)², which rounds to 127: no clamp is needed; nor for
  // outliers.
  const Floats inverse = splat(127 / base);
  const Ints q0 = as_ints(values.x0 * inverse + splat(kRounder)) - splat_int(kRounderBits);
  const Ints q1 = as_ints(values.x1 * inverse + splat(kRounder)) - splat_int(kRounderBits);
  store_i8(low, q0, q1);
  int32_t of[2];
  sums(of, q0, q1);
  out.scale[at] = base / 127;
  out.scaled_sum[at] = out.scale[at] * float(of[0] + of[1]);
  out.offset_sum[at] = -8 * (of[0] + of[1]);
  out.half_sum[2 * at] = int16_t(of[0]);
  out.half_sum[2 * at + 1] = int16_t(of[1]);
  if (kSplits && base < amax) {
    alignas(64) int32_t codes[kGroup];
    store(reinterpret_cast<float*>(codes), as_floats(q0));
    store(reinterpret_cast<float*>(codes + 16), as_floats(q1));
    split_outliers(out, row, group, codes);
  }
}

// Codes row r, 64 groups at a time, first those with nothing above the limit: which they are is no pattern
// that a branch could learn.
void quantize_with_outliers(const QuantizedRows& out, const float* row, int64_t r, int64_t k) {
  const float limit = outlier_limit(out, row, r, k);
  for (int64_t first = 0; first < out.n_groups; first += 64) {
    const int64_t count = smaller(64, out.n_groups - first);
    uint64_t above = 0;
    for (int64_t i = 0; i < count; ++i) above |= uint64_t{out.scale[out.place(r, first + i)] > limit} << i;
    const auto code = [&]<bool kSplits>(uint64_t set) {
      for (; set != 0; set &= set - 1) {
        const int64_t g = first + __builtin_ctzll(set);
        quantize_group<kSplits>(out, r, g, load_group(row + g * kGroup, k - g * kGroup),
                                out.scale[out.place(r, g)], limit);
      }
    };
    code.template operator()<false>(~above & (~uint64_t{0} >> (64 - count)));
    code.template operator()<true>(above);
  }
}

// Codes the kWide groups of one scale.
TUILI_INLINE void quantize_wide(const QuantizedRows& out, int64_t row, int64_t group, const float* x) {
  constexpr int kVectors = kWide * kGroup / 16;
  const int64_t at = out.place(row, group);
  const auto codes_of = [&](int i) { return out.low + (at + i / 2 * kRowBlock) * kGroup + i % 2 * 16; };
  Floats values[kVectors];
  Ints most = splat_int(0);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    values[i] = load(x + 16 * i);
    most = max(most, as_ints(absolute(values[i])));
  }
  const float amax = largest(most);
  const bool finite = amax <= 0x1.fffffep127f;
  if (!finite || amax < 0x1p-100f) {
    for (int i = 0; i < kVectors; ++i) store_i8(codes_of(i), splat_int(0));
    out.offset_sum[at] = 0;
    out.scale[at] = finite ? 0 : __builtin_nanf("");
    return;
  }
  const Floats inverse = splat(127 / amax);
  Ints total = splat_int(0);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const Ints codes = as_ints(values[i] * inverse + splat(kRounder)) - splat_int(kRounderBits);
    store_i8(codes_of(i), codes);
    total = total + codes;
  }
  out.offset_sum[at] = -8 * sum(total);
  out.scale[at] = amax / 127;
}

void quantize_rows(const QuantizedRows& out, const float* x, int64_t ldx, int64_t k, Range rows,
                   Range groups) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* row = x + r * ldx;
    if (groups.begin == 0) out.n_outliers[r] = 0;
    if (out.has_wide_scales) {
      for (int64_t g = groups.begin; g < groups.end; g += kWide) quantize_wide(out, r, g, row + g * kGroup);
      continue;
    }
    if (out.keeps_outliers) {
      quantize_with_outliers(out, row, r, k);
      continue;
    }
    for (int64_t g = groups.begin; g < groups.end; ++g) {
      const GroupValues values = load_group(row + g * kGroup, k - g * kGroup);
      quantize_group<false>(out, r, g, values, amax_of(values), 0);
    }
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
