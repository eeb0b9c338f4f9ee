// Float GEMM. A tile of rows × one panel keeps its sums in registers while k runs; weights of 16 bits are
// converted on the way into registers, quantized panels are decoded into scratch, a block of 512 k at a time,
// and shared by all rows.
//
// A tile takes several panels where few rows leave too few chains of fma to hide their latency, or where the
// registers allow it, which spares loads of x.
//
// Log: GMAC/s at m = 1 / 4 / 64, n = 576, k = 1536; one core of a Zen 4 at 3.66 GHz, where 58 is the peak.
//                     f32               f16
//   v1 AVX2      20 / 51 / 55      38 / 29 / 52
//   v1 AVX-512   23 / 57 / 50      27 / 30 / 48
//   v2 AVX2                        38 / 49 / 52
//   v2 AVX-512                     27 / 51 / 48
// v2 converts 16-bit weights in registers when one tile holds all rows.
// v3 takes 12 rows and 2 panels with AVX-512, and 8 panels while the rows of a tile are at hand; f32, m = 48,
//    n = k = 384: 57 (AVX2) and 55 (AVX-512); m = 512 with 2 threads: 103 of 117
// v4 asks for weights ahead: all-MiniLM-L6-v2 in f32 from memory, 12 tokens 2.30 -> 2.14 ms
// v5 takes 6 rows and 4 panels where there are many rows (AVX-512), 16 panels while they are at hand, 8
//    decoded ones. Shares of the fma peak, m = 504, 2 threads, (n, k) = (768, 768), (3072, 768), (768, 3072):
//    89 / 89 / 84-88 -> 95-100 / 96 / 95-98 %; BERT-base, 32 texts 9.5 -> 11.2 a second
// v6 asks ahead for up to 16 rows alone: a Marian's decoder (bench/translation.py, one thread, AVX-512), 32 /
//    64 rows 760 -> 784 / 231 -> 241 tokens a second
// v7 asks 64 steps ahead, into the second cache, and leaves 4 rows to the machine's prefetcher: from memory,
//    m = 4 / 8, one thread 21.4 -> 28.3 / 20.0 -> 25.1 GB/s of 34
// v8 takes the 16-bit and 8-bit weights of one panel at a time where those of all left sums in memory, at 3
//    rows by 2 panels and 1 by 4 (AVX2, NEON). AVX2, us: attention of 3 heads over 1,056 keys, f16 18.8 ->
//    13.3, bf16 19.0 -> 13.8, i8 20.1 -> 15.3; m = 1 from the cache, bf16 7.9 -> 4.0. NEON: not measured
// v9 converts 16-bit weights in registers, and asks ahead, for any number of rows: from memory, f16, one
//    thread, m = 8 / 16 / 32 / 64 / 256, GB/s with AVX2 5.3 / 4.1 / 2.8 / 1.74 / 0.66 -> 9.6 / 5.8 / 3.35 /
//    1.88 / 0.68, with AVX-512 12.2 / 4.4 / 2.9 / 1.7 / 0.68 -> 12.2 / 6.8 / 3.6 / 2.0 / 0.70
// Tried without gain: weights 16, 19 and 96 steps ahead; 8 rows by 3 panels and 9 by 3 (-1 to -3 %); rows
// copied to a stride of their own.

namespace tuili::cpu::TUILI_ISA {
namespace {

// Calls tile for the rows that are left from `row` on, kRows at most.
template <int kRows, class Tile>
TUILI_INLINE void rest_of_rows(int64_t row, int64_t left, const Tile& tile) {
  if constexpr (kRows > 0) {
    if (left == kRows) return tile.template operator()<kRows>(row);
    rest_of_rows<kRows - 1>(row, left, tile);
  }
}
// Calls tile with the number of rows as a compile-time constant, for rows in [0, m): kRows of them while more
// than kMost are left, then the rest.
template <int kRows, int kMost = kRows, class Tile>
TUILI_INLINE void for_each_tile(int64_t m, const Tile& tile) {
  int64_t row = 0;
  for (; m - row > kMost; row += kRows) tile.template operator()<kRows>(row);
  rest_of_rows<kMost>(row, m - row, tile);
}

// How many panels a tile of so many rows takes: the registers hold kFloatSums sums.
constexpr int panels_for(int rows) { return rows * 4 <= kFloatSums ? 4 : rows * 2 <= kFloatSums ? 2 : 1; }

// So far ahead of the chains their weights are asked for, into the second cache: with more than 4 rows the
// prefetcher of the machine keeps too little in flight.
constexpr int64_t kStepsAhead = 64;

// acc[r][p] = fma(x[r, i], w[p][i], acc[r][p]) for i ascending in [0, k); w[p] is 16 wide with row stride
// ldw. kAhead: so many steps before w is asked for, or 0.
template <int64_t kAhead, int kRows, int kPanels, class W>
TUILI_INLINE void chains(Floats (&acc)[kRows][kPanels], const float* x, int64_t ldx,
                         const W* const (&w)[kPanels], int64_t ldw, int64_t k) {
  // Converted weights of all panels do not fit beside the sums into the 8 times 16 lanes of AVX2 and NEON.
  constexpr bool kApart = kFloatSums == 6 && sizeof(W) < 4 && (kRows + 1) * kPanels >= 8 && kAhead == 0;
  for (int64_t i = 0; i < k; ++i) {
    if constexpr (kApart) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        // Hides that x is the same for each panel: GCC would keep all rows' x, and sums in memory instead.
        if constexpr (kRows > 1) __asm__("" : "+r"(x));
        const Floats b = load(w[p] + i * ldw);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) acc[r][p] = fma(splat(x[r * ldx + i]), b, acc[r][p]);
      }
      continue;
    }
    Floats b[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kAhead > 0) __builtin_prefetch(w[p] + (i + kAhead) * ldw, 0, 2);
      b[p] = load(w[p] + i * ldw);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats a = splat(x[r * ldx + i]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) acc[r][p] = fma(a, b[p], acc[r][p]);
    }
  }
}

struct KBlock {
  int64_t begin, size;
  bool is_first, is_last;
};

// A block's sums go to y: the first block is stored, later ones are added, the bias comes after the last.
TUILI_INLINE void finish(const GemmArgs& args, int64_t row, int64_t panel, const KBlock& block, Floats sums) {
  const int64_t column = panel * kPanel;
  const int64_t width = args.w.n - column < kPanel ? args.w.n - column : kPanel;
  float* y = args.y + row * args.ldy + column;
  if (width == kPanel) {
    if (!block.is_first) sums = load(y) + sums;
    if (block.is_last && args.bias) sums = sums + load(args.bias + column);
    return store(y, sums);
  }
  if (!block.is_first) sums = load_first(y, width) + sums;
  if (block.is_last && args.bias) sums = sums + load_first(args.bias + column, width);
  store_first(y, sums, width);
}

// kRows rows of x times one block of kPanels panels; panel p is at w + p · panel_size, [block.size][16].
template <int64_t kAhead, int kRows, int kPanels, class W>
void float_tile(const GemmArgs& args, int64_t row, int64_t panel, const KBlock& block, const W* w,
                int64_t panel_size) {
  Floats acc[kRows][kPanels];
  const W* panels[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) panels[p] = w + p * panel_size;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) acc[r][p] = zero();
  chains<kAhead>(acc, args.x + row * args.ldx + block.begin, args.ldx, panels, kPanel, block.size);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) finish(args, row + r, panel + p, block, acc[r][p]);
}

// All rows of x times one block of the panels: the rows of a tile stay in the first cache meanwhile.
template <class W>
void panels_block(const GemmArgs& args, Range panels, const KBlock& block, const W* w, int64_t panel_size) {
  for_each_tile<kManyRows, kFloatRows>(args.m, [&]<int kRows>(int64_t row) {
    constexpr int kPanels = panels_for(kRows);
    int64_t panel = panels.begin;
    const auto take = [&]<int kTaken>() {
      for (; panel + kTaken <= panels.end; panel += kTaken) {
        const W* at = w + (panel - panels.begin) * panel_size;
        if (kRows > 4 && row == 0)
          float_tile<kStepsAhead, kRows, kTaken>(args, row, panel, block, at, panel_size);
        else
          float_tile<0, kRows, kTaken>(args, row, panel, block, at, panel_size);
      }
    };
    take.template operator()<kPanels>();
    if constexpr (kPanels > 2) take.template operator()<2>();
    if constexpr (kPanels > 1) take.template operator()<1>();
  });
}

// Calls block for k in pieces of 512; an empty k is one empty block, so that y is written.
template <class Block>
TUILI_INLINE void for_each_block(int64_t k, const Block& block) {
  int64_t begin = 0;
  do {
    const int64_t left = k - begin, size = left < kKBlock ? left : kKBlock;
    block(KBlock{begin, size, begin == 0, size == left});
    begin += size;
  } while (begin < k);
}

// Calls piece for the panels, at most `count` at a time.
template <class Piece>
TUILI_INLINE void for_each_piece(Range panels, int64_t count, const Piece& piece) {
  for (int64_t begin = panels.begin; begin < panels.end; begin += count)
    piece(Range{begin, smaller(begin + count, panels.end)});
}

// Panels read where they lie.
template <class W>
void gemm_in_place(const GemmArgs& args, Range panels) {
  constexpr int64_t kCount = kFloatSums >= 24 ? 16 : 8;  // blocks of 32 KiB that stay in the second cache
  const auto* codes = reinterpret_cast<const W*>(args.w.codes);
  for_each_block(args.w.k, [&](const KBlock& block) {
    for_each_piece(panels, kCount, [&](Range piece) {
      panels_block(args, piece, block, codes + (piece.begin * args.w.k + block.begin) * kPanel,
                   args.w.k * kPanel);
    });
  });
}

void gemm_float(const GemmArgs& args, Range panels) {
  if (args.w.format == Format::f32) return gemm_in_place<float>(args, panels);
  if (args.w.format == Format::f16) return gemm_in_place<Half>(args, panels);
  if (args.w.format == Format::bf16) return gemm_in_place<Bfloat>(args, panels);
  for_each_piece(panels, kScratchPanels, [&](Range piece) {
    for_each_block(args.w.k, [&](const KBlock& block) {
      for (int64_t panel = piece.begin; panel < piece.end; ++panel)
        decode_block(args.scratch + (panel - piece.begin) * kPanel * kKBlock, args.w, panel, block.begin,
                     block.size);
      panels_block(args, piece, block, args.scratch, kPanel * kKBlock);
    });
  });
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
