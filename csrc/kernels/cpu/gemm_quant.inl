// Integer GEMM: a tile of rows × one panel. Per group of 32 k the products of codes and int8 activations are
// summed exactly; unpacking the codes is shared by all rows of the tile. One kernel, every m: a row alone is
// a tile of one.
//
// Log: GMAC/s at m = 1 / 4 / 64, n = 576, k = 1536, weights in L2; one core of a Zen 4 at 3.66 GHz, 2 cores.
//                       q4_0              q5_0              q8_0              q4_k              q6_k
//   v1 AVX2          75 /  90 /  90    55 /  89 /  89    53 /  61 /  61    64 /  84 /  83    43 /  83 /  82
//   v1 AVX-512      112 / 164 / 161    73 / 155 / 154    90 / 162 / 158    91 / 146 / 145    65 / 124 / 132
//   v2 AVX2          82 / 126 / 127    54 / 100 / 102    51 /  64 /  65    66 / 113 / 114    43 /  77 /  77
//   v3 AVX2          45 /  60 /  59    36 /  52 /  52    27 /  33 /  33    42 /  57 /  57    26 /  40 /  39
//   v3 AVX-512       67 /  81 /  81    50 /  76 /  79    63 /  80 /  81    58 /  77 /  77    45 /  66 /  63
// v2 holds the sums in registers; v3 adds the residual plane, here, at worst, in every group.
//
// GMAC/s of q4_0 with AVX-512 on the same core, quantizing the activations included; m = 512, k = 576:
//                                                                 n = 576     n = 3072
//   v4 the residual plane is a sparse second pass                      120          116
//   v5 rows in blocks of four; sums begin with the offset              125          115
//   v6 a tile meets eight panels in a row                              155          161
// GMAC/s with AVX-512 and one thread where nothing else is said, before -> after:
//   v7  brings the next panel from memory: 2 threads, m = 8 / 16, past the last cache 243 / 258 -> 274 / 290
//   v8  second bytes of outliers in place of the residual plane, of 8 panels together: 1.1B shapes, m = 512,
//       2 threads, random weights 129 -> 265
//   v9  sums four groups where their scales are one (q8_0, no outliers): m = 512, n = 768, k = 3072 161 ->
//       202 of a peak of 233
//   v10 brings panels for up to 16 rows alone: a Marian's decoder (bench/translation.py), 32 / 64 rows 1,780
//       -> 2,000 / 605 -> 645 tokens a second
//   v11 leaves 1 to 3 rows to the machine's prefetcher: from memory, m = 1, q4_0 / q8_0, k = 2048 24.5 ->
//       27.4 / 23.3 -> 31.9 GB/s of 33
//   v12 keeps sums times 8 for offsets, steps from panel to panel for outliers: q4_0, m = 16, n = 576, k =
//       576 / 1536, real activations 153.8 -> 155.8 / 159.2 -> 162.2 (176 without outliers)
//   v13 asks for the lines of a y that no cache holds while its sums are made: q8_0 with wide scales, m = 64,
//       n = 32000, k = 512 187 -> 195
//   v14 unpacks a piece's codes once for many rows (AVX2): q4_0 / q4_k / q5_0 / q6_k, m = 64, k = 2048 +4 /
//       +4 / +21 / +16 %
//   v15 multiplies 8-bit codes as int16, from 4 rows on (AVX2): q8_0 of one scale / wide, m = 4 and 64 +15
//       and +15 / +19 and +19 %. The halves of a quad in turn spill less than all four registers of it
//   v16 unpacks scales and mins with the codes, for outliers, too (AVX2): m = 256, q4_1 / q4_0, k = 576 31.1
//       -> 33.0 / 31.1 -> 33.3 MAC a cycle, k = 1536 29.9 -> 31.7 / 29.6 -> 31.9; the tile without outliers
//       36-37
//   v17 looks once whether a run of panels is full: all-MiniLM-L6-v2 in int8, with v2 of quant.inl's
//       embedding, 12 / 128 tokens 1.04 -> 1.02 / 11.8 -> 11.5 ms
//   v18 the first tile of many rows unpacks for those behind it, 4 bits from 16 rows on, too (AVX2): m = 16,
//       q4_1 / q4_0, k = 576 108 -> 114.5 / 107.7 -> 114
//   v19 asks for codes of less than 8 bits 8 KB ahead, into the second cache, with 1 to 3 rows: SmolLM2, two
//       threads, Q4_0 / Q4_1 with AVX2 +8 / +14 %, with AVX-512 +7 / +11 %; 4 to 10 KB do alike
//   v20 asks once more 2 KB ahead, into the first cache, for 8 bits with AVX2, too, and has few rows take
//       their outliers panel by panel: SmolLM2, two threads, Q4_0 / Q4_1 / Q8_0 with AVX2 +3 / +6 / +3 %,
//       with AVX-512 +6 / +7 / +4 %
//   v21 asks ahead with any number of rows, 8 at once into the second cache alone: from memory, q8_0 of wide
//       scales, m = 4 / 8 / 16 16.2 -> 25.4 / 11.5 -> 19.4 / 8.5 -> 11.8 GB/s of 33, q4_0 15.3 -> 20.6 / 10.1
//       -> 11.1 / 5.8 -> 5.8, q8_0 with AVX2 13.2 -> 17.3 / 7.4 -> 9.2 / 4.4 -> 4.8; SmolLM2 Q8_0, two
//       threads, 8 / 16 sequences +9 / +13 %
// On a Zen 4 all multipliers, of bytes and of floats, share two ports, and vpaddw that waits for a product
// takes slots of them: products and sums in registers make 1.62-1.73 vpmaddubsw a cycle in any order.
//
// Tried without gain: prefetching x; tiles of 4 or 8 rows and 2 panels, of 12 rows, with AVX2 of 2 (-13 %),
// 3, 5 and 6; a panel distance of two; 32 groups of all panels in turn; an order of products and sums by
// hand; ~a for -a (AVX2, 8 bits); codes that carry their offset; sums times 128 for offsets; shifts by a
// vector for a quad's codes; outliers of 2 or 4 panels together, with AVX2 of 8; pieces of 4 panels, 8 chunks
// of panels a thread; threads that wait ask for the next product's weights; tiles ask for their share of the
// next panels, or for the lines of y; codes into the first cache alone, 1 to 16 KB ahead, or past the caches
// (NTA); 1 to 3 rows of 8 bits ahead with AVX-512 (-6
// %); 8 rows ahead into the first cache, too (k = 512 -20 %, k = 2048 +10 %); GELU and codes at once behind
// 192 rows of 8 panels of an ungated MLP (0.985-1.048 of the time).

namespace tuili::cpu::TUILI_ISA {
namespace {

// 4- and 5-bit codes sit in pairs of quads q and q + 4 that share bytes, so they are taken together; the two
// halves of a 6-bit group have scales of their own.
template <Format kFormat>
constexpr int quad_of(int step) {
  constexpr int kBits = coding_of(kFormat).bits;
  return kBits == 4 || kBits == 5 ? step / 2 + step % 2 * 4 : step;
}

// A group of fewer than 8 bits as its products take it, made once for many rows.
struct alignas(64) UnpackedGroup {
  uint8_t codes[kGroup * kPanel];  // a byte each: [8 quads][16 columns][4 k]
  float scale[kPanel];
  float min[kPanel];  // what is added, if the format has one
};
constexpr int64_t kUnpackedBytes = sizeof(UnpackedGroup);

// Where a tile finds its panels' codes: `unpacking` leaves them unpacked for its outliers and for the tiles
// of rows behind it; `words` multiplies them with int16 activations.
enum class Codes { packed, words, unpacking, unpacked };
constexpr bool are_prepared(Codes codes) { return codes == Codes::unpacking || codes == Codes::unpacked; }

// Null where nothing is unpacked.
template <Codes kCodes>
TUILI_INLINE UnpackedGroup* unpacked_at(uint8_t* prepared, int64_t group) {
  return are_prepared(kCodes) ? reinterpret_cast<UnpackedGroup*>(prepared) + group : nullptr;
}

template <Format kFormat>
TUILI_INLINE Floats min_of(const GroupView& group) {
  if constexpr (coding_of(kFormat).sub_scales == 0) return load(group.min);
  return negate(load(group.min) * to_float(load_i8(group.sub_min)));
}

// What each sum of a run is multiplied with: nothing, or the sub-scale of its half.
template <Format kFormat>
struct RunScales {
  SubScales of_half[2];
};

// Where the groups of a tile's rows are in a plane: row r's is at + r / 4 · block + r % 4.
struct Places {
  int64_t at, block;

  TUILI_INLINE int64_t of(int r) const { return at + r / kRowBlock * block + r % kRowBlock; }
};

// Whether full tiles multiply int16 by int16; activations are then widened once for all panels of a piece.
template <Format kFormat>
constexpr bool kInWords = Words::kAreUsed && coding_of(kFormat).bits == 8;

// words = the low codes of 4 rows.
template <class W>
void widen_rows(int16_t* words, const QuantizedRows& x, int64_t row) {
  const int8_t* low = x.low + x.place(row, 0) * kGroup;
  for (int64_t i = 0; i < x.n_groups * kRowBlock * kGroup; i += kGroup) W::widen_group(words + i, low + i);
}

// isum[r] += Σ code · a over the group.  a: [4 rows][32] words
template <class W, int kRows, int kQuad = 0>
TUILI_INLINE void add_word_products(Ints (&isum)[kRows], const GroupView& group, const int16_t* a) {
  const Bytes w = load_codes(group.codes + 64 * kQuad);
  const W even = W::even(w), odd = W::odd(w);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) isum[r] = even.dot(isum[r], a + r * kGroup + 4 * kQuad);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) isum[r] = odd.dot(isum[r], a + r * kGroup + 4 * kQuad + 2);
  if constexpr (kQuad < 7) add_word_products<W, kRows, kQuad + 1>(isum, group, a);
}

// isum[r] = start[r] + Σ code · a over the group, in runs of as many quads as a Partial holds exactly.
template <Format kFormat, Codes kCodes, int kRows, int kStep = 0>
TUILI_INLINE void add_products(Ints (&isum)[kRows], Partial (&partial)[kRows], const Ints (&start)[kRows],
                               const GroupView& group, UnpackedGroup* unpacked,
                               const RunScales<kFormat>& scales, const int8_t* codes, Places places) {
  constexpr Coding kCoding = coding_of(kFormat);
  constexpr int kQuad = kCodes == Codes::unpacked ? kStep : quad_of<kFormat>(kStep);
  constexpr int kHalfLimit = kCoding.sub_scales == 2 ? 4 : 8;
  constexpr int kExact = run_length(kCoding.bits);
  constexpr int kRun = kExact < kHalfLimit ? kExact : kHalfLimit;
  const Bytes w =
      kCodes == Codes::unpacked ? load_codes(unpacked->codes + 64 * kQuad) : codes_at<kFormat, kQuad>(group);
  if constexpr (kCodes == Codes::unpacking) store_codes(unpacked->codes + 64 * kQuad, w);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kStep == 0 && kCoding.sub_scales == 0) partial[r] = sum_from(start[r]);
    if constexpr (kStep % kRun == 0 && (kStep > 0 || kCoding.sub_scales > 0)) partial[r] = no_sum();
    partial[r] = dot<kCoding.bits>(partial[r], w, codes + places.of(r) * kGroup + 4 * kQuad);
    if constexpr (kStep % kRun == kRun - 1) {
      Ints run;
      if constexpr (kCoding.sub_scales > 0) run = widen(partial[r], scales.of_half[kQuad / 4]);
      if constexpr (kCoding.sub_scales == 0) run = widen(partial[r]);
      if constexpr (kStep > kRun - 1) isum[r] = accumulate(isum[r], run);
      if constexpr (kStep == kRun - 1) isum[r] = kCoding.sub_scales > 0 ? run : completed(run, start[r]);
    }
  }
  if constexpr (kStep < 7)
    add_products<kFormat, kCodes, kRows, kStep + 1>(isum, partial, start, group, unpacked, scales, codes,
                                                    places);
}

// 32 · sub_scale of both halves of a 6-bit group as a pair of int16 per column, for pair_dot with the half
// sums.
TUILI_INLINE Ints offset_pairs(const GroupView& group) {
  const Ints low = shl<5>(load_i8(group.sub_scale)) & splat_int(0xffff);
  return low | shl<21>(load_i8(group.sub_scale + kPanel));
}

// The offset of the codes as a power of two; -1: none.
template <Format kFormat>
constexpr int offset_bits() {
  constexpr Coding kCoding = coding_of(kFormat);
  constexpr int kOffset = kCoding.bits == 8 ? kSignedOffset : kCoding.offset;
  static_assert(kOffset == 0 || kOffset == 8 || kOffset == 16 || kOffset == 32 || kOffset == 128);
  return kOffset == 0 ? -1 : __builtin_ctz(kOffset);
}

// The offset of the codes, 2^kBits, times -Σ of the activations.
template <int kBits>
TUILI_INLINE Ints offset_products(int32_t offset_sum) {
  const Ints sum = splat_int(offset_sum);
  if constexpr (kBits == 3) return sum;
  return shl<kBits - 3>(sum);
}

template <Format kFormat>
TUILI_INLINE RunScales<kFormat> run_scales(const GroupView& group) {
  constexpr int kCount = coding_of(kFormat).sub_scales;
  RunScales<kFormat> out;
  if constexpr (kCount > 0) out.of_half[0] = out.of_half[1] = sub_scales(load_i8(group.sub_scale));
  if constexpr (kCount > 1) out.of_half[1] = sub_scales(load_i8(group.sub_scale + kPanel));
  return out;
}

// acc[r] += kGroups groups of the weights, from `group` on, times those of each row; several have one scale.
template <Format kFormat, Codes kCodes, int kRows, int kGroups>
TUILI_INLINE void add_groups(Floats (&acc)[kRows], const PackedMatrix& w, int64_t panel, int64_t first,
                             uint8_t* prepared, const QuantizedRows& x, Places places) {
  constexpr Coding kCoding = coding_of(kFormat);
  constexpr int kOffsetBits = offset_bits<kFormat>();
  const GroupView group = group_at<kFormat>(w, panel, first);
  UnpackedGroup* const unpacked = unpacked_at<kCodes>(prepared, first);
  Ints isum[kRows], start[kRows];
  Partial partial[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    start[r] = splat_int(0);
    if constexpr (kOffsetBits >= 0 && kCoding.sub_scales == 0)
      start[r] = offset_products<kOffsetBits>(x.offset_sum[places.of(r)]);
  }
  if constexpr (kCodes == Codes::words) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) isum[r] = start[r];
    for (int64_t g = first; g < first + kGroups; ++g)
      add_word_products<Words>(isum, group_at<kFormat>(w, panel, g),
                               reinterpret_cast<const int16_t*>(prepared) + g * kRowBlock * kGroup);
  } else {
    add_products<kFormat, kCodes, kRows>(isum, partial, start, group, unpacked, run_scales<kFormat>(group),
                                         x.low, places);
    for (int g = 1; g < kGroups; ++g)
      add_products<kFormat, Codes::packed, kRows>(isum, partial, isum, group_at<kFormat>(w, panel, first + g),
                                                  nullptr, {}, x.low,
                                                  {places.at + g * kRowBlock, places.block});
  }
  const Floats scale = kCodes == Codes::unpacked ? load(unpacked->scale) : load(group.scale);
  if constexpr (kCodes == Codes::unpacking) store(unpacked->scale, scale);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kOffsetBits >= 0 && kCoding.sub_scales > 0)
      isum[r] = isum[r] - pair_dot(offset_pairs(group), x.half_sum + 2 * places.of(r));
    acc[r] = fma(scale * splat(x.scale[places.of(r)]), to_float(isum[r]), acc[r]);
  }
  if constexpr (kCoding.has_min) {
    const Floats min = kCodes == Codes::unpacked ? load(unpacked->min) : min_of<kFormat>(group);
    if constexpr (kCodes == Codes::unpacking) store(unpacked->min, min);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r] = fma(min, splat(x.scaled_sum[places.of(r)]), acc[r]);
  }
}

// sums[p] += the outliers of a row times panel p of those from `panel` on. They are few.
template <Format kFormat, Codes kCodes, int kPanels>
TUILI_INLINE void add_outliers(Floats (&sums)[kPanels], const GemmArgs& args, int64_t row, int64_t panel,
                               uint8_t* prepared) {
  constexpr bool kUnpacked = are_prepared(kCodes);
  constexpr Coding kCoding = coding_of(kFormat);
  constexpr int kOffsetBits = offset_bits<kFormat>();
  const OutlierQuad* outlier = args.xq.outliers + row * args.xq.max_outliers();
  const OutlierQuad* end = outlier + args.xq.n_outliers[row];
  for (; outlier < end; ++outlier) {
    Ints start = splat_int(0);
    if constexpr (kOffsetBits >= 0 && kCoding.sub_scales == 0)
      start = offset_products<kOffsetBits>(outlier->offset_sum);
    const Floats scale = splat(outlier->scale);
    GroupView group = group_at<kFormat>(args.w, panel, outlier->group);
    const UnpackedGroup* unpacked = unpacked_at<kCodes>(prepared, outlier->group);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const Bytes w = kUnpacked ? load_codes(unpacked->codes + 64 * outlier->quad)
                                : codes_at<kFormat>(group, outlier->quad);
      Ints isum;
      if constexpr (kCoding.sub_scales == 0) {
        isum = completed(widen(dot<kCoding.bits>(sum_from(start), w, outlier->high)), start);
      } else {
        const uint8_t* sub = group.sub_scale + (kCoding.sub_scales == 2 ? outlier->quad / 4 * kPanel : 0);
        isum = widen(dot<kCoding.bits>(no_sum(), w, outlier->high), sub_scales(load_i8(sub)));
        if constexpr (kOffsetBits >= 0) isum = isum - pair_dot(offset_pairs(group), outlier->half_sum);
      }
      const Floats scale_w = kUnpacked ? load(unpacked->scale) : load(group.scale);
      sums[p] = fma(scale_w * scale, to_float(isum), sums[p]);
      group = next_panel<kFormat>(group, args.xq.n_groups);
      if constexpr (kUnpacked) unpacked += args.xq.n_groups;
    }
  }
}

// How far ahead the first rows ask for codes: from memory into the second cache, then into the first, which
// tiles of 8 rows leave to their loads.
constexpr int64_t kBytesAhead = 8192, kBytesNear = 2048;

// Whether the machine's prefetcher keeps too little of them in flight: not for few rows of 8 bits.
template <Format kFormat, int kRows>
constexpr bool kAsksAhead = kRows >= 4 || coding_of(kFormat).bits < 8 || Words::kAreUsed;

template <int64_t kBytes, int kRows>
TUILI_INLINE void ask_ahead(const uint8_t* codes) {
#pragma GCC unroll 32
  for (int64_t i = 0; i < kBytes; i += 64) {
    __builtin_prefetch(codes + kBytesAhead + i, 0, 2);
    if constexpr (kRows < 8) __builtin_prefetch(codes + kBytesNear + i, 0, 3);
  }
}

// Sums of kRows rows, the first a multiple of 4, and one panel, without outliers.
template <Format kFormat, Codes kCodes, int kGroups, int kRows>
void int8_tile(Floats (&sums)[kRows], const GemmArgs& args, int64_t row, int64_t panel, uint8_t* prepared) {
  const QuantizedRows& x = args.xq;
  Floats acc[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r] = zero();
  const bool asks = kAsksAhead<kFormat, kRows> && kCodes != Codes::unpacked && (kRows < 4 || row == 0);
  for (int64_t g = 0; g < x.n_groups; g += kGroups) {
    if (asks) ask_ahead<kGroups * kCodeBytes<kFormat>, kRows>(group_at<kFormat>(args.w, panel, g).codes);
    add_groups<kFormat, kCodes, kRows, kGroups>(acc, args.w, panel, g, prepared, x,
                                                {x.place(row, g), x.n_groups * kRowBlock});
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = acc[r];  // `acc` stays in registers if nothing else indexes it
}

// Numbers of a y that the second cache may hold.
constexpr int64_t kMostCached = 1 << 18;

// y of kRows rows and kPanels panels. What lies in no cache is asked for a tile or more before it is written:
// stores that wait for their lines would hold up the tiles behind them.
template <Format kFormat, Codes kCodes, int kGroups, int kRows, int kPanels>
void int8_tiles(const GemmArgs& args, int64_t row, int64_t panel, uint8_t* prepared) {
  Floats tiles[kPanels][kRows];
  const bool y_ahead = kRows == kInt8Rows && kPanels > 1 && args.m * args.ldy > kMostCached;
  const int64_t panel_bytes = are_prepared(kCodes) ? args.xq.n_groups * kUnpackedBytes : 0;
  for (int p = 0; p < kPanels; ++p) {
    if (y_ahead)
      for (int r = 0; r < kRows; ++r)
        __builtin_prefetch(args.y + (row + r) * args.ldy + (panel + p) * kPanel);
    int8_tile<kFormat, kCodes, kGroups, kRows>(tiles[p], args, row, panel + p, prepared + p * panel_bytes);
  }
  const int64_t column = panel * kPanel, ldy = args.ldy;
  const bool is_full = column + kPanels * kPanel <= args.w.n;
  float* y = args.y + row * ldy + column;
  const float* const bias = args.bias ? args.bias + column : nullptr;
  for (int r = 0; r < kRows; ++r, y += ldy) {
    Floats sums[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[p] = tiles[p][r];
    add_outliers<kFormat, kCodes, kPanels>(sums, args, row + r, panel, prepared);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      if (is_full)
        store(y + p * kPanel, bias ? sums[p] + load(bias + p * kPanel) : sums[p]);
      else
        finish(args, row + r, panel + p, KBlock{0, args.w.k, true, true}, sums[p]);
    }
  }
}

// Panels that take the outliers of a row together. Few rows take those of each panel while its codes are at
// hand: going back through several would mislead the prefetcher of the machine.
constexpr int kOutlierPanels = kFloatSums >= 24 ? 8 : 4;
template <int kRows>
constexpr int kTogether = kRows < 4 ? 1 : kOutlierPanels;

static_assert(kInt8Rows == 1 || kInt8Rows % kRowBlock == 0, "a tile begins with a block of rows");

// A tile of rows meets all panels of a piece in a row: its codes stay in the first cache, the panels in the
// second, and y is written in runs of 512 bytes instead of a line in each page.
template <Format kFormat, Codes kCodes, int kGroups, int kRows>
void int8_tiles_of(const GemmArgs& args, int64_t row, Range piece, uint8_t* prepared) {
  const int64_t panel_bytes = are_prepared(kCodes) ? args.xq.n_groups * kUnpackedBytes : 0;
  int64_t panel = piece.begin;
  const auto take = [&]<int kPanels>() {
    for (; panel + kPanels <= piece.end; panel += kPanels)
      int8_tiles<kFormat, kCodes, kGroups, kRows, kPanels>(args, row, panel,
                                                           prepared + (panel - piece.begin) * panel_bytes);
  };
  take.template operator()<kTogether<kRows>>();
  take.template operator()<1>();
}

// kCodes: of full tiles, the last few rows take packed ones.  prepared: room for the unpacked codes of the
// piece, or for the words of a tile's rows
template <Format kFormat, int kGroups, Codes kCodes>
void int8_piece(const GemmArgs& args, Range piece, uint8_t* prepared) {
  for_each_tile<kInt8Rows>(args.m, [&]<int kRows>(int64_t row) {
    const auto take = [&]<Codes kTaken>() {
      int8_tiles_of<kFormat, kTaken, kGroups, kRows>(args, row, piece, prepared);
    };
    if constexpr (kRows < kInt8Rows) {
      take.template operator()<Codes::packed>();
    } else {
      if constexpr (kCodes == Codes::words)
        widen_rows<Words>(reinterpret_cast<int16_t*>(prepared), args.xq, row);
      if constexpr (kCodes == Codes::unpacked)
        if (row == 0) return take.template operator()<Codes::unpacking>();
      take.template operator()<kCodes>();
    }
  });
}

template <Format kFormat, int kGroups = 1>
void int8_panels(const GemmArgs& args, Range panels) {
  constexpr int64_t kCount = 8, kRoom = kGemmScratch * int64_t{sizeof(float)};
  constexpr int kBits = coding_of(kFormat).bits;
  constexpr int64_t kWordBytes = 2 * kRowBlock * kGroup;
  auto* const prepared = reinterpret_cast<uint8_t*>(args.scratch);
  if constexpr (kInWords<kFormat>) {
    if (args.m >= kInt8Rows && args.xq.n_groups * kWordBytes <= kRoom)
      return for_each_piece(panels, kCount, [&](Range piece) {
        int8_piece<kFormat, kGroups, Codes::words>(args, piece, prepared);
      });
  } else if constexpr (kBits < 8 && kRowsUnpacked > 0) {
    int64_t count = smaller(kCount, kRoom / (larger(args.xq.n_groups, 1) * kUnpackedBytes));
    if (count > kOutlierPanels) count = count / kOutlierPanels * kOutlierPanels;
    if (args.m >= kRowsUnpacked && count > 0)
      return for_each_piece(panels, count, [&](Range piece) {
        int8_piece<kFormat, kGroups, Codes::unpacked>(args, piece, prepared);
      });
  }
  for_each_piece(panels, kCount,
                 [&](Range piece) { int8_piece<kFormat, kGroups, Codes::packed>(args, piece, nullptr); });
}

void gemm_int8(const GemmArgs& args, Range panels) {
  if (args.xq.has_wide_scales) return int8_panels<Format::q8_0, kWide>(args, panels);
  switch (args.w.format) {
    case Format::f32:
    case Format::f16:
    case Format::bf16: return;  // float weights have no integer form; ops/ checks
    case Format::q8_0: return int8_panels<Format::q8_0>(args, panels);
    case Format::q4_0: return int8_panels<Format::q4_0>(args, panels);
    case Format::q4_1: return int8_panels<Format::q4_1>(args, panels);
    case Format::q5_0: return int8_panels<Format::q5_0>(args, panels);
    case Format::q5_1: return int8_panels<Format::q5_1>(args, panels);
    case Format::q4_k: return int8_panels<Format::q4_k>(args, panels);
    case Format::q5_k: return int8_panels<Format::q5_k>(args, panels);
    case Format::q6_k: return int8_panels<Format::q6_k>(args, panels);
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
