// Float GEMM. A tile of rows × one panel keeps its sums in registers while k runs; panels stored in another
// format than f32 are decoded into scratch, a block of 512 k at a time, and shared by all rows.
//
// A row alone has too few chains of fma to hide their latency, so it takes several panels at once.
//
// Log: GMAC/s at m = 1 / 4 / 64, n = 576, k = 1536; one core of a Zen 4 at 3.66 GHz, where 58 is the peak.
//                     f32               f16
//   v1 AVX2      20 / 51 / 55      38 / 29 / 52
//   v1 AVX-512   23 / 57 / 50      27 / 30 / 48
//   v2 AVX2                        38 / 49 / 52
//   v2 AVX-512                     27 / 51 / 48
// v2 converts 16-bit weights in registers when one tile holds all rows. GB/s at m = 1 with AVX2: 81, 75.

namespace tuili::cpu::TUILI_ISA {
namespace {

// Calls tile with the number of rows as a compile-time constant, for rows in [0, m): as many as fit, then the
// rest.
template <int kRows, class Tile>
TUILI_INLINE void rest_of_rows(int64_t row, int64_t left, const Tile& tile) {
  if constexpr (kRows > 0) {
    if (left == kRows) return tile.template operator()<kRows>(row);
    rest_of_rows<kRows - 1>(row, left, tile);
  }
}
template <int kRows, class Tile>
TUILI_INLINE void for_each_tile(int64_t m, const Tile& tile) {
  int64_t row = 0;
  for (; row + kRows <= m; row += kRows) tile.template operator()<kRows>(row);
  rest_of_rows<kRows - 1>(row, m - row, tile);
}

// acc[r] = fma(x[r, i], w[i], acc[r]) for i ascending in [0, k); w is 16 wide with row stride ldw.
template <int kRows, class W>
TUILI_INLINE void chains(Floats (&acc)[kRows], const float* x, int64_t ldx, const W* w, int64_t ldw,
                         int64_t k) {
  for (int64_t i = 0; i < k; ++i) {
    const Floats b = load(w + i * ldw);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r] = fma(splat(x[r * ldx + i]), b, acc[r]);
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

// All rows of x times one block of one panel; w is [block.size][16].
template <class W>
void panel_block(const GemmArgs& args, int64_t panel, const KBlock& block, const W* w) {
  for_each_tile<kFloatRows>(args.m, [&]<int kRows>(int64_t row) {
    Floats acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = zero();
    chains(acc, args.x + row * args.ldx + block.begin, args.ldx, w, kPanel, block.size);
    for (int r = 0; r < kRows; ++r) finish(args, row + r, panel, block, acc[r]);
  });
}

// One row of x times one block of kPanels panels, read where they lie.
template <int kPanels, class W>
void row_block(const GemmArgs& args, int64_t panel, const KBlock& block) {
  const W* w = reinterpret_cast<const W*>(args.w.codes) + (panel * args.w.k + block.begin) * kPanel;
  const int64_t panel_size = args.w.k * kPanel;
  const float* x = args.x + block.begin;
  Floats acc[kPanels];
  for (int p = 0; p < kPanels; ++p) acc[p] = zero();
  for (int64_t i = 0; i < block.size; ++i) {
    const Floats a = splat(x[i]);
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) acc[p] = fma(a, load(w + p * panel_size + i * kPanel), acc[p]);
  }
  for (int p = 0; p < kPanels; ++p) finish(args, 0, panel + p, block, acc[p]);
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

// Panels read where they lie: 16-bit weights are converted on the way into registers, once per tile of rows.
template <class W>
void gemm_in_place(const GemmArgs& args, Range panels) {
  constexpr int kPanels = 4;
  for_each_block(args.w.k, [&](const KBlock& block) {
    int64_t panel = panels.begin;
    if (args.m == 1) {
      for (; panel + kPanels <= panels.end; panel += kPanels) row_block<kPanels, W>(args, panel, block);
    }
    for (; panel < panels.end; ++panel) {
      const W* w = reinterpret_cast<const W*>(args.w.codes) + (panel * args.w.k + block.begin) * kPanel;
      panel_block(args, panel, block, w);
    }
  });
}

void gemm_float(const GemmArgs& args, Range panels) {
  if (args.w.format == Format::f32) return gemm_in_place<float>(args, panels);
  if (args.w.format == Format::f16 && args.m <= kFloatRows) return gemm_in_place<Half>(args, panels);
  if (args.w.format == Format::bf16 && args.m <= kFloatRows) return gemm_in_place<Bfloat>(args, panels);
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for_each_block(args.w.k, [&](const KBlock& block) {
      decode_block(args.scratch, args.w, panel, block.begin, block.size);
      panel_block(args, panel, block, args.scratch);
    });
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
