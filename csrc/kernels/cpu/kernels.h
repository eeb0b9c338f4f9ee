// THE CPU CONTRACT: one table of function pointers per instruction set.
//
// An entry computes a slice of its output and does nothing else: no allocation, no threads, no exceptions, no
// globals, no environment. Every table gives the same bits: the order of each sum is written here and depends
// on sizes alone, never on m, on the slice, or on the width of a register.
//
// "Canonical sum" of x[0..n): 32 lanes, lane j = x[j] + x[j+32] + … in ascending order (fma(x, x, lane) for
// sums of squares), starting from 0; then lanes j and j+16 are added, then j and j+8, j+4, j+2, j+1. fma is
// the IEEE fused multiply-add everywhere; "a·b" is a rounded product.
#pragma once

#include <cstdint>

#include "base/kv_pages.h"
#include "base/packed.h"

namespace tuili::cpu {

struct Range {
  int64_t begin, end;
};

enum class Activation : uint8_t {
  silu,
  gelu,
  gelu_tanh,
  relu,
  quick_gelu,
  relu_squared,
  relu6,
  leaky_relu,
  hardswish,
  mish,
  sigmoid,
  tanh,
  identity
};
// An activation that is learned, a few numbers a layer (Huang & Schlag 2025, "Deriving activation functions
// using integration"):
//   alpha_p·x² + beta·x for x > 0, alpha_n·(e^x - 1 - x) + beta·x below
struct Xielu {
  float alpha_p = 0, alpha_n = 0, beta = 0;
  bool operator==(const Xielu&) const = default;
};

// y[i, j] = Σ_k x[i, k] · w[j, k] (+ bias[j], added last)
struct GemmArgs {
  float* y;  // f32 [m, n], row stride ldy elements
  int64_t ldy;
  const float* x;  // f32 [m, k], row stride ldx; used by gemm_float
  int64_t ldx;
  QuantizedRows xq;  // used by gemm_int8
  PackedMatrix w;
  const float* bias;  // f32 [n] or null
  int64_t m;
  float* scratch;  // kGemmScratch floats, 64-byte aligned; the caller's thread alone
};
inline constexpr int64_t kScratchPanels = 8;  // decoded at a time
inline constexpr int64_t kGemmScratch = kScratchPanels * kPanel * kKBlock + 64;

// Pages: keys are transposed, so that a lane is a token.
//   k  [n_blocks][n_kv_heads][head_dim][block_size]     v  [n_blocks][n_kv_heads][block_size][head_dim]

inline constexpr int64_t kKeyTile = 64;    // keys per softmax tile, at absolute positions
inline constexpr int64_t kKeySplit = 512;  // keys per independent split, at absolute positions

// Attention of consecutive query rows of one sequence.
struct AttentionArgs {
  float* out;  // f32 [n_rows, n_heads · head_dim], row stride ld_out
  int64_t ld_out;
  const float* q;  // same shape, row stride ld_q
  int64_t ld_q;
  KvPages pages;
  // Block id of keys [i · block_size, (i + 1) · block_size). Where all of these stand before the first tile
  // with a key that a row sees, the entry may be -1: it is not looked at.
  const int32_t* blocks;
  int64_t n_heads;
  int64_t position;  // absolute position of row 0
  int64_t n_keys;    // keys exist at positions [0, n_keys)
  int64_t window;    // key j is seen by query i iff |i - j| < window; 0: no window
  bool causal;       // key j is seen iff j <= i; false: every key in [0, n_keys)
  float scale;       // scores are (q · k) · scale
  float softcap;     // then softcap · tanh(score / softcap) if > 0
  // Then plus bias[head · bias_stride + bias_origin + key - (bias_relative ? query's position : 0)], if not
  // null; the pieces of 16 keys that hold a seen key are read whole.
  const float* bias;
  int64_t bias_stride, bias_origin;
  bool bias_relative;
  const float* sinks;  // [n_heads] or null: a score per head that takes its share of the softmax and no value
  float* scratch;      // attention_scratch(head_dim) floats, 64-byte aligned
};

// Scratch of one call: for each of the queries (row and head) that are computed together the scores of a
// tile, q, and the split's and the running accumulators.
inline constexpr int64_t kQueryTile = 12;
constexpr int64_t attention_scratch(int64_t head_dim) {
  return kQueryTile * (kKeyTile + 3 * ((head_dim + 15) / 16 * 16));
}

// One split's result for one query row and head: out[head_dim], then max, then sum. Stride in floats:
constexpr int64_t attention_partial_size(int64_t head_dim) { return head_dim + 16; }

struct Kernels {
  const char* isa;

  // Float GEMM over any format (quantized ones are dequantized exactly). Per output one chain
  // acc = fma(x[k], w[k], acc) from 0 over ascending k in each block of 512 k; block sums are added in order
  // (y = b0; y = y + b1; …); then the bias. Columns of panels.begin·16 … min(n, panels.end·16).
  void (*gemm_float)(const GemmArgs& args, Range panels);

  // Integer GEMM over quantized formats. Per output from acc = 0, the groups ascending:
  //   isum = Σ low·c exactly (c with its offset; times the group's sub-scales in K formats; |isum| < 2^24)
  //   acc = fma(scale_w · scale_a, float(isum), acc)
  //   formats with a min:  acc = fma(min_w, scaled_sum_a, acc), min_w = m, or -(dmin · float(sub_min))
  // then the outlier quads ascending, isum = Σ high·c:
  //   acc = fma(scale_w · (128 · scale_a), float(isum), acc)
  // then y = acc, + bias.
  void (*gemm_int8)(const GemmArgs& args, Range panels);

  // QuantizedRows of x (see base/packed.h) for rows [rows.begin, rows.end): of whole rows if outliers are
  // kept, else of these groups, whole wide ones if scales are wide.
  void (*quantize_rows)(const QuantizedRows& out, const float* x, int64_t ldx, int64_t k, Range rows,
                        Range groups);

  // y[t, :] = dequantize(w[ids[t], :]) · factor.   y f32 [n_tokens, w.k] dense.  ids are in range.
  void (*embed)(float* y, const PackedMatrix& w, const int32_t* ids, float factor, Range tokens);

  // y = x · (1 / sqrt(mean(x²) + eps)) · gain.  mean = canonical sum / float(n).  y may be x.  [n_rows, n]
  // Strides let it run over heads: row r of x and of y begins at (r / inner) · ld + (r % inner) · n.
  void (*rms_norm)(float* y, const float* x, const float* gain, int64_t n, int64_t inner, int64_t ld,
                   float eps, Range rows);

  // y = (x - mean) · (1 / sqrt(var + eps)) · gain + bias, the last step one fma; var = mean((x - mean)²),
  // canonical. bias may be null (0).  y may be x.  Dense [n_rows, n].
  void (*layer_norm)(float* y, const float* x, const float* gain, const float* bias, int64_t n, float eps,
                     Range rows);

  // In place on x [n_tokens, n_heads · head_dim] (row stride ld), the first 2 · half of each head:
  //   interleaved = false: pairs (i, i + half);  true: pairs (2i, 2i + 1)
  //   (a, b) -> (fma(a, cos, -(b·sin)), fma(b, cos, a·sin))
  // cos, sin  f32 [n_tokens, half]
  void (*rope)(float* x, int64_t ld, const float* cos, const float* sin, int64_t n_heads, int64_t head_dim,
               int64_t half, bool interleaved, Range tokens);

  // Writes rows of k and v (f32 [n_tokens, n_kv_heads · head_dim], stride ld) into the pages.
  // slots[t] = block_id · block_size + offset.  Rounds to nearest even; f16 pages take what is beyond ±65504,
  // ±Inf too, as ±65504 (NaN stays NaN). i8 pages take what is beyond ±2^127 as ±2^127; then per token and
  // head: amax = largest |x|; scale = amax / 127; code = round_half_even(x · (127 / amax)); amax below 2^-100
  // gives codes and scale 0, NaN gives codes 0 and scale NaN.
  void (*kv_write)(const KvPages& pages, const float* k, const float* v, int64_t ld, const int32_t* slots,
                   Range tokens);

  // All heads of kv_head for query rows [rows.begin, rows.end). Splits of 512 keys at absolute positions,
  // each from a fresh (max, sum, out); inside a split, tiles of 64 keys in order:
  //   score[t] = (fma chain over ascending d of q[d]·k[d][t] from 0) · scale (softcap) (+ bias); unseen: -inf
  //   i8: k is the code; the chain's result is multiplied with k_scale[t] before `scale`
  //   m' = max(m, max score); r = exp(m - m'); p[t] = exp(score[t] - m'); unseen p = 0
  //   sum = fma(sum, r, canonical sum of p over the 64 places);  out[d] = out[d]·r, then fma(p[t], v[t][d],
  //   out[d]) over ascending seen t.  A tile or split without seen keys is skipped.
  //   i8: v is the code, and p[t] · v_scale[t] its factor; `sum` takes p[t]
  // Splits merge in ascending order, the first is copied:
  //   M' = max(M, m); a = exp(M - M'); b = exp(m - M'); sum = fma(S, a, s·b); out = fma(O, a, o·b).
  // A sink merges last: M' = max(M, sink); a = exp(M - M'); sum = fma(S, a, exp(sink - M')); out = O·a.
  // The result is out · (1 / sum) + 0 (never -0: keys with p = 0 may be skipped or added); no seen key gives
  // zeros.
  void (*attention)(const AttentionArgs& args, int64_t kv_head, Range rows);

  // The same in two parts, so that several threads share a long row: `split` of one row into
  // partial[head in group][attention_partial_size], then the merge of all splits of one row's kv_head.
  // partials [n_splits][n_heads / n_kv_heads][attention_partial_size]; a split without seen keys has sum 0.
  void (*attention_split)(const AttentionArgs& args, int64_t kv_head, int64_t row, int64_t split,
                          float* partial);
  void (*attention_merge)(const AttentionArgs& args, int64_t kv_head, int64_t row, int64_t n_splits,
                          const float* partials);

  // y = act(x), or y = act(gate) · up for gated MLPs (up null: ungated).  Flat elements; y may be gate.
  //   silu       x' / (1 + exp(-x')), x' = max(x, -128)          relu  max(x, 0); NaN stays NaN
  //   gelu       h = x' · 0.5: fma(h, erf(x' · sqrt(0.5)), h), x' = max(x, -16)
  //   gelu_tanh  h, x' as gelu: fma(h, tanh(x' · sqrt(2/π) · fma(0.044715, x'·x', 1)), h)
  //   quick_gelu x' / (1 + exp(-1.702·x')), x' as silu        relu_squared  r·r, r as relu
  //   sigmoid    1 / (1 + exp(-x))           relu6  min(r, 6), r as relu       leaky_relu  max(0.01·x, x)
  //   hardswish  x'·min(max(x' + 3, 0), 6) / 6, x' as silu    tanh, identity  as they are called
  //   mish       x' · tanh(log(1 + e)) = x' · (n / (n + 2)), n = e·(e + 2), e = exp(min(x', 20)), x' as silu
  void (*activate)(float* y, const float* gate, const float* up, Activation kind, Range elements);

  // y = fma(alpha_p, p·p, fma(alpha_n, e - n, beta·y)), p = max(y, 0), n = min(y, 0), t = tanh(n / 2),
  // e = (t + t) / (1 - t), elementwise in place.
  void (*xielu)(float* y, Xielu by, Range elements);

  // y = x + z, elementwise; y may be x.
  void (*add)(float* y, const float* x, const float* z, Range elements);

  // y[t, :] = cap · tanh(y[t, :] / cap), elementwise in place.
  void (*softcap)(float* y, float cap, Range elements);

  // max and Σ exp(x - max) (canonical sum) of one row of n >= 1; a NaN or +Inf anywhere, or nothing but -Inf,
  // gives NaN in both.
  void (*softmax_stats)(const float* x, int64_t n, float* max, float* sum);

  // y[i] = exp(x[i] - shift)
  void (*exp_shifted)(float* y, const float* x, float shift, Range elements);

  // y[0, :] = (Σ_t x[t, :]) · (1 / n_tokens), per column a canonical sum over t.  x dense [n_tokens, n].
  void (*mean_rows)(float* y, const float* x, int64_t n_tokens, int64_t n);

  // y = x / max(sqrt(canonical sum of squares), 1e-12), per row; of x · 2^-80 where the squares' sum is
  // infinite.
  void (*l2_normalize)(float* y, const float* x, int64_t n, Range rows);
};

// The table of an instruction set, "generic", "avx2", "avxvnni", "avx512" or "neon"; null when this build or
// CPU lacks it.
const Kernels* find_kernels(const char* isa);

// The best table of this CPU, or the one named by TUILI_CPU_ISA at first use (an unknown or unavailable name
// throws tuili::Error). Chosen once.
const Kernels& kernels();

// Names of all tables that run here, best first, null-terminated.
const char* const* available_isas();

}  // namespace tuili::cpu
