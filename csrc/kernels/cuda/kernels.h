// THE CUDA CONTRACT: launchers. Names and shapes as in kernels/cpu/kernels.h, pointers to device memory.
//
// A launcher enqueues on the stream and returns at once: 0, or the cudaError_t of the launch, which
// device::check turns into an exception; sizes and types that its kernel cannot take are
// cudaErrorInvalidValue. It allocates nothing and keeps nothing. This header needs no CUDA header; a build
// without CUDA links absent.cc, whose launchers throw.
//
// What is handed from kernel to kernel is f32, but for what a GEMM reads: that is bf16. A result "f32 or
// bf16" is computed in f32 and rounded once, to nearest even. A row's bits depend on its own values and on
// sizes, never on the other rows, their number, or the stream. "CPU's bits" promises more: f32 results equal
// those of kernels/cpu bit for bit.
#pragma once

#include <cstdint>
#include <span>

#include "base/device.h"
#include "base/dtype.h"
#include "base/kv_pages.h"
#include "base/packed.h"
#include "base/rounding.h"
#include "kernels/cpu/kernels.h"

struct __nv_bfloat16;  // CUDA's own type, so that kernels and callers mean the same

namespace tuili::cuda {

using device::Stream;
using bf16 = __nv_bfloat16;
using cpu::Activation;
using cpu::Xielu;

// Where results go: f32 or bf16 elements.
struct Output {
  void* data;
  DType dtype;
};

// ---- rows

// Row r of x, addend and y begins at (r / inner) · ld + (r % inner) · n: with inner = 1 and ld = n the rows
// are dense; with inner = n_heads they are heads.
struct NormArgs {
  Output y;             // may be x when f32; rows lie as those of x
  float* x;             // f32 [n_rows, n]
  const float* addend;  // f32 [n_rows, n] or null: x += addend first, and x keeps the sum, or y
  const float* gain;    // f32 [n]
  const float* bias;    // f32 [n], of layer_norm; null is 0
  int64_t n_rows;
  int64_t n;
  int64_t inner;
  int64_t ld;
  float eps;
  bf16* rounded = nullptr;  // y of f32 once more, for what a GEMM reads, or null; rows lie as those of x
};

// rms_norm:    y = x · (1 / sqrt(mean(x²) + eps)) · gain
// layer_norm:  y = (x - mean) · (1 / sqrt(var + eps)) · gain + bias, the last step one fma
// Means are canonical sums (kernels/cpu/kernels.h), divided by n. CPU's bits. n < 2^31.
int rms_norm(Stream stream, const NormArgs& args);
int layer_norm(Stream stream, const NormArgs& args);

// y = x / max(sqrt(canonical sum of squares), 1e-12), per row of x f32 [n_rows, n]; y may be x. CPU's bits.
int l2_normalize(Stream stream, float* y, const float* x, int64_t n_rows, int64_t n);

// Of the rows x[t, :] of each text i, of which there are n_rows[i] > 0, one text after another (a list in the
// host's memory):
//   y[i, :] = (Σ_t x[t, :]) · (1 / n_rows[i]), per column a canonical sum over t      y f32 [n_texts, n]
// the same of x[t, :] · (2 (t + 1) / (n_rows[i] + 1)), and each column's largest (a NaN stays). CPU's bits.
int mean_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n);
int weighted_mean_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n);
int max_rows(Stream stream, float* y, const float* x, std::span<const int32_t> n_rows, int64_t n);

// ---- elements; counts are below 2^31

// y[t, :] = table[ids[t], :] · factor      y f32 [n_tokens, d]; table f32 or bf16 [., d]. CPU's bits.
int embed(Stream stream, float* y, const void* table, DType type, const int32_t* ids, int64_t n_tokens,
          int64_t d, float factor);

// y[t, :] += table[ids[t], :]              y f32 [n_tokens, d]; table f32 [., d]. CPU's bits.
int add_rows(Stream stream, float* y, const float* table, const int32_t* ids, int64_t n_tokens, int64_t d);

// y = x rounded, for what a GEMM reads.
int round_to_bf16(Stream stream, bf16* y, const float* x, int64_t count);

// y = act(gate), or act(gate) · up when up is not null. y may be gate when f32. CPU's bits.
int activate(Stream stream, Output y, const float* gate, const float* up, Activation kind, int64_t count);

// y = x + z; y may be x or z.      y = factor · y.      y = cap · tanh(y / cap).      y = xielu(y).
// y = min(max(y, low), high) + offset; NaN stays NaN, some NaN. Else the CPU's bits.
int add(Stream stream, float* y, const float* x, const float* z, int64_t count);
int scale(Stream stream, float* y, float factor, int64_t count);
int softcap(Stream stream, float* y, float cap, int64_t count);
int xielu(Stream stream, float* y, const Xielu& by, int64_t count);
int clamp(Stream stream, float* y, float low, float high, float offset, int64_t count);

// The first `count` elements of the heads of x [n_tokens, n_heads_x · size_x] go into those of y [n_tokens,
// n_heads · size_y], from element `at` on. Both dense and of one type, f32 or bf16; n_heads_x is n_heads, or
// 1: one head for all.
struct CopyHeadsArgs {
  void* y;
  const void* x;
  DType type;
  int64_t n_tokens;
  int64_t n_heads, size_y, at;
  int64_t n_heads_x, size_x;
  int64_t count;
};
int copy_heads(Stream stream, const CopyHeadsArgs& args);

// Which elements of a head RoPE turns together: (i, i + half), or (2i, 2i + 1).
enum class RopePairs : uint8_t { halves, neighbours };

// In place on x f32 [n_tokens, n_heads · head_dim] (row stride ld), the first 2 · half of each head:
//   (a, b) -> (fma(a, cos, -(b·sin)), fma(b, cos, a·sin))      cos, sin  f32 [n_tokens, half]. CPU's bits.
struct RopeArgs {
  float* x;
  int64_t ld;
  const float* cos;
  const float* sin;
  int64_t n_tokens;
  int64_t n_heads;
  int64_t head_dim;
  int64_t half;
  RopePairs pairs;
};
int rope(Stream stream, const RopeArgs& args);

// ---- keys and values

// Pages: both lie token by token, unlike the CPU's: the tensor cores take keys by rows, and values by columns
// that ldmatrix turns.
//   k, v  [n_blocks][n_kv_heads][block_size][head_dim]

// Writes rows of k and v (f32 [n_tokens, n_kv_heads · head_dim], stride ld) into the pages at slots[t] =
// block id · block_size + offset. Rounds to nearest even; f16 and i8 take what is beyond ±65504 as ±65504
// (NaN stays NaN). i8: codes and scales as the CPU makes them, of heads up to 256.
int kv_write(Stream stream, const KvPages& pages, const float* k, const float* v, int64_t ld,
             const int32_t* slots, int64_t n_tokens);

// rope of q, and kv_write of v and of k as rope would turn it, in one launch; k itself stays as it is.
struct RopeKvArgs {
  RopeArgs q;      // its tables and pairs are k's, too
  const float* k;  // f32 [n_tokens, n_kv_heads · head_dim], row stride ld_kv
  const float* v;
  int64_t ld_kv;
  KvPages pages;
  const int32_t* slots;
};
int rope_kv_write(Stream stream, const RopeKvArgs& args);

// ---- attention

inline constexpr int kAttentionSplit = 512;  // keys per independent split, at absolute positions

// Rows [first_row, first_row + n_rows) of q stand at `position`, position + 1, …; keys exist at positions [0,
// n_keys), those of [i · block_size, (i + 1) · block_size) in block blocks[first_block + i].
struct AttentionSequence {
  int32_t first_row;
  int32_t n_rows;
  int32_t position;
  int32_t n_keys;
  int32_t first_block;
};

enum class Causal : uint8_t { no, yes };

struct AttentionArgs {
  Output out;  // f32 or bf16 [n_tokens, n_heads · head_dim], row stride ld_out
  int64_t ld_out;
  const float* q;  // f32 of the same shape, row stride ld_q
  int64_t ld_q;
  KvPages pages;  // head_dim at most 256
  const int32_t* blocks;
  const AttentionSequence* sequences;  // [n_sequences], in device memory: a captured launch reads new ones
  int64_t n_sequences;
  int64_t max_rows;  // at least every n_rows
  int64_t max_keys;  // at least every n_keys
  int64_t n_tokens;  // rows of q
  int64_t n_heads;   // a multiple of pages.n_kv_heads
  int64_t window;    // key j is seen by the query at i iff |i - j| < window; 0: no window
  Causal causal;     // yes: iff j <= i, too; no: also keys of another sequence (cross attention)
  float scale;       // > 0
  float softcap;     // scores become softcap · tanh(score / softcap); 0: they do not
  float* partials;  // scratch, attention_partial_floats(…) or more; with those of one split nothing is shared
  int64_t partial_floats;
  // Added to the score of each seen key, not null: bias[head · bias_stride + row of q · bias_row_stride +
  // bias_origin + key - (bias_relative ? the query's position : 0)]. Slopes (ALiBi) and buckets (T5) are
  // tables of all rows; DistanceArgs makes one of each row.
  const float* bias = nullptr;
  int64_t bias_stride = 0, bias_row_stride = 0, bias_origin = 0;
  bool bias_relative = false;
  const float* sinks = nullptr;  // [n_heads] or null: a score per head that takes its share and no value
};

constexpr int64_t attention_partial_floats(int64_t n_tokens, int64_t n_heads, int64_t head_dim,
                                           int64_t n_keys) {
  return n_keys <= kAttentionSplit ? 0
                                   : ceil_div(n_keys, kAttentionSplit) * n_tokens * n_heads * (head_dim + 2);
}

// q is rounded to the type of the pages. Those of i8 are read as pages of f16 that hold f32(scale · code)
// rounded. Splits of 512 keys at absolute positions, each from a fresh (max, sum, out); inside a split, tiles
// of 64 keys in order:
//   score = q · k in one chain of tensor-core steps of 16 d; unseen keys are -inf
//   with a cap or a bias: score = score · scale, (capped,) · log2(e), then fma(bias, log2(e), score); u = 1
//   without: u = scale · log2(e)
//   m' = max(m, max score · u); r = 2^(m - m'); p = 2^fma(score, u, -m'), rounded to the type of the pages
//   sum = sum · r, then += p · 1 in steps of 16 keys
//   out[d] = out[d] · r, then += p · v[.][d] in the same steps
// Splits merge in ascending order: M' = max(M, m); out = fma(O, 2^(M - M'), o · 2^(m - M')), the sum
// likewise. A sink s, · log2(e), merges last:
//   M' = max(M, s); sum = fma(S, 2^(M - M'), 2^(s - M')); out = O · 2^(M - M')
// The result is out · (1 / sum) + 0; no seen key gives zeros. An unseen key has p = 0, which
// changes no bit: the tensor cores add 0 · v exactly for every finite v below 2^100. So a query's bits are
// the same alone, in a chunk, with its splits shared out over blocks or not. 2^x is the device's own, within
// 2^-22.
//
// That is of pages, other than of f32, and heads of a multiple of 8, on 16 bytes as are the rows of q. All
// others, without tensor cores: q and p are not rounded, codes are read as f32(scale · code), and of the keys
// that are seen, tile by tile,
//   q · k: lane j of 32 adds products j, j + 32, … by one fma chain, then a fixed tree
//   score = q · k · (scale · log2(e)), or softcap · log2(e) · tanh(q · k · (scale / softcap))
//   the bias as above
//   sum = sum · r, then += p key by key;  out[d] = out[d] · r, then fma(p, v[.][d], out[d]) key by key
// with one max, sum and out for all splits; then sinks and the quotient as above. Of an unseen key p = 0
// changes nothing but the sign of a zero, for every finite v.
int attention(Stream stream, const AttentionArgs& args);

// Scores from distances, as biases of attention over whole sequences that see all their keys:
//   bias[head][row][key] = (q[row]·keys[head][p] + k[key]·queries[head][p]) · scale
//   p = places[origin + row - key]
// rows and keys counted in their sequence; each product one fma chain over ascending d, 0 without a table
struct DistanceArgs {
  float* bias;      // f32 [n_heads][n_tokens][ld_bias]
  int64_t ld_bias;  // at least every n_keys
  const float* q;   // f32 [n_tokens, n_heads · head_dim], row stride ld
  const float* k;   // the same of all rows of the texts
  int64_t ld;
  const bf16* keys;     // [n_heads][n_rows][head_dim], or null
  const bf16* queries;  // the same
  int64_t n_rows;
  const int32_t* places;
  int64_t origin;
  const AttentionSequence* sequences;  // parts of texts, in q
  const AttentionSequence* texts;      // each of which is there, in k
  int64_t n_sequences;
  int64_t n_texts;
  int64_t max_rows;
  int64_t n_tokens;
  int64_t n_heads;
  int64_t head_dim;  // a multiple of 8 with rows on 16 bytes is faster, and has the same bits
  float scale;
};
int distance_bias(Stream stream, const DistanceArgs& args);

// ---- convolution

// y[t, c · n_taps + j] = x[t + j - n_taps / 2, c] rounded, 0 beyond the ends of the text that t is in.
struct TapArgs {
  bf16* y;                         // [n_tokens, d · n_taps], dense
  const float* x;                  // [n_tokens, d], dense
  const AttentionSequence* texts;  // [n_texts]: first_row and n_rows of each
  int64_t n_texts;
  int64_t max_rows;  // at least every n_rows
  int64_t d;
  int64_t n_taps;
};
int gather_taps(Stream stream, const TapArgs& args);

// ---- linear maps

// To which the tiles of a product are shared out: a number decides how fast, never which bits.
inline constexpr int64_t kMultiprocessors = 132;  // of an H200

// Of up to 16 rows several products with one x, one format, one m and one k are a launch. Each has its own
// bits.
inline constexpr int64_t kTogetherRows = 16;
inline constexpr int kMostTogether = 4;

// y[i, j] = Σ_k x[i, k] · w[j, k] (+ bias[j], added last)
struct GemmArgs {
  float* y;           // [m, n], dense, overlaps no input
  const bf16* x;      // [m, k], dense
  const bf16* w;      // [n, k], dense
  const float* bias;  // f32 [n] or null
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t multiprocessors = kMultiprocessors;
};

// Tensor cores, accumulating in f32: groups of 32 k ascending, zero past the end, each in two steps of 16,
// the first 16 k and then the others. A step adds its products after aligning them to the largest and
// cuts what lies below (as published by MMA-Sim), so |error| ≤ 1.4 · (k + 32) · 2^-24 · Σ |x · w| before the
// bias. Any m, any k and any alignment of the element give the same bits; 16-byte rows are faster. An
// invalid argument: sizes of 2^31 or so, or n of 2^21 or more.
int gemm(Stream stream, std::span<const GemmArgs> products);
inline int gemm(Stream stream, const GemmArgs& args) { return gemm(stream, {&args, 1}); }

// The same with quantized weights: w.codes points to records (base/device_records.h).
struct QuantizedGemmArgs {
  float* y;       // [m, w.n], dense
  const bf16* x;  // [m, w.k], dense, rows on 16 bytes
  PackedMatrix w;
  const float* bias;  // f32 [w.n] or null
  int64_t m;
  int64_t multiprocessors = kMultiprocessors;
};

// k has four parts: ceil(k / 1,024) · 256 each, the last ones shorter, or none. Per output and part from
// acc = 0, the groups of 32 k ascending:
//   sum = Σ x · c on tensor cores, the first 16 k, then the others, c the integer that the scale multiplies;
//   in a step k 4 t + 2 h and the next have mma's places 2 t + 8 h and the next
//   acc = fma(scale, sum, acc); q6_k: for each 16 k on its own, with its scale
//   formats with a min: acc = fma(min, Σ x in the same two steps, acc), min = m, or -(dmin · float(sub_min))
// then ((part 0 + part 1) + part 2) + part 3, then the bias. x is not quantized, unlike on the CPU. Any m
// gives the same bits. |error| ≤ (68 + n_groups + 4) · 2^-24 · Σ |x| · (|scale · c| + |min|), 68 ≥ 1.4 · 48
// from the two steps of a group; a part more is a group less in every chain.
int gemm(Stream stream, std::span<const QuantizedGemmArgs> products);
inline int gemm(Stream stream, const QuantizedGemmArgs& args) { return gemm(stream, {&args, 1}); }

// ---- experts

inline constexpr int kMostExperts = 1024;

// What the logits of experts become. In near_best each expert used, the best of those left, has its share of
// a softmax of those of them that are near: (best - x) / max(|x|, best) <= near.
enum class Scoring : uint8_t { softmax, sigmoid, near_best };

// Of each token the n_used best experts, ascending, and their weights; the rules are those of MoeSpec
// (model/spec.h). CPU's choices, of equal scores too, and CPU's bits.
struct RouteArgs {
  int32_t* experts;             // [n_tokens, n_used]
  float* weights;               // f32 of the same shape
  const float* logits;          // f32 [n_tokens, n_experts], at most kMostExperts
  const float* selection_bias;  // f32 [n_experts] or null
  int64_t n_tokens;
  int64_t n_experts;  // a multiple of n_groups
  int64_t n_used;
  int64_t n_groups, n_groups_used, group_top;
  Scoring scoring;
  float near;
  bool normalize;
  float scale;
};
int route(Stream stream, const RouteArgs& args);

// places[i]: where pair i stands among n pairs sorted by expert, otherwise in order; first[e] [n_experts +
// 1]: the first place of each expert.
int sort_by_expert(Stream stream, int32_t* places, int32_t* first, const int32_t* experts, int64_t n,
                   int64_t n_experts);

// y[places[i], :] = x[i / n_each, :] for i in [0, n_tokens · n_each)      x bf16 [n_tokens, d], y bf16
int scatter_rows(Stream stream, bf16* y, const bf16* x, const int32_t* places, int64_t n_tokens,
                 int64_t n_each, int64_t d);

// y[t, :] = Σ weights[i] · x[places[i], :] over i in [t · n_each, (t + 1) · n_each), ascending, from 0, each
// product and each sum rounded. y f32 [n_tokens, d]. CPU's bits.
int weighted_sum_rows(Stream stream, float* y, const float* x, const int32_t* places, const float* weights,
                      int64_t n_tokens, int64_t n_each, int64_t d);

// y[t, :] += sigmoid(gate[t]) · x[t, :].   y, x f32 [n_tokens, d], gate f32 [n_tokens]. CPU's bits.
int add_gated(Stream stream, float* y, const float* x, const float* gate, int64_t n_tokens, int64_t d);

// A linear map of one expert.
struct ExpertMap {
  PackedMatrix w;     // records as QuantizedGemmArgs has them; of bf16 [n, k] dense at w.codes, on 16 bytes
  const float* bias;  // f32 [n] or null
};

// Rows sorted by expert, each times its expert's map. first and maps lie in device memory: a captured launch
// reads new ones.
struct ExpertGemmArgs {
  float* y;               // f32 [n_rows, n], dense
  const bf16* x;          // [n_rows, k], dense, on 16 bytes
  const ExpertMap* maps;  // [n_experts], of one format and size
  const int32_t* first;   // [n_experts + 1]: expert e has rows first[e] … first[e + 1] - 1
  Format format;
  int64_t n, k;
  int64_t n_experts;
  int64_t n_rows;  // a number decides how fast, never which bits
};

// The tiles, orders of sums, bounds and bits of `gemm` with the expert's weights.
int gemm_experts(Stream stream, const ExpertGemmArgs& args);

// ---- rows of logits, f32 [n_rows, n_vocab]

// tokens[r] = number `counter` of the seed's draws from softmax(row r / temperature), as runtime/sampler.h
// draws with top_k, top_p and min_p at most; the first maximum at temperature 0 or if it is +Inf;
// kNotANumber, kNothingAllowed. kUndecided: the uniform number, or top_p, lies so close to a sum of
// probabilities that the order of adding decides, or top_k or top_p reach further than the likeliest 512 or
// so that are sorted; then the CPU must draw. draws in device memory. n_vocab is below 2^19.
struct Draw {
  uint64_t seed;
  uint64_t counter;
  float temperature;
  float least = 0.0f;  // in [0, 1]: who has less of the likeliest's probability is not drawn
  int64_t top_k = 0;   // the best of equal ones are the first; 0: all
  uint64_t top_p = 0;  // of 2^64: the likeliest, until their probabilities reach it; 0: all
};
inline constexpr int64_t kMostTopK = 256;  // more are left to the CPU sooner or later
// In place of a token.
inline constexpr int32_t kNotANumber = -1;      // a logit is NaN
inline constexpr int32_t kNothingAllowed = -2;  // every logit is -inf
inline constexpr int32_t kUndecided = -3;
int draw(Stream stream, int32_t* tokens, const float* logits, const Draw* draws, int64_t n_rows,
         int64_t n_vocab);

// The same for the rows whose draws are cut by top_k or top_p, which `draw` leaves out.
int draw_likeliest(Stream stream, int32_t* tokens, const float* logits, const Draw* draws, int64_t n_rows,
                   int64_t n_vocab);

// What a row is beside its logits: max and Σ exp(x - max), the CPU's canonical sum and bits, or NaN in both,
// as its softmax_stats; and how many of its logits reach the bound, -inf aside: the n_best largest and, as a
// rule, few more.
struct BestLogits {
  float max, sum;
  float bound;
  int32_t count;
};
struct BestLogit {
  int32_t id;
  float logit;
};
inline constexpr int64_t kMostBest = 256;

// rows[r] of row r, and in listed[r · capacity …] its `count` logits that reach the bound, in any order; of
// more than `capacity` none. 1 <= n_best <= kMostBest, capacity at most 2,048, n_vocab below 2^19. A number
// of rows changes nothing; a larger n_best lists more.
int best_logits(Stream stream, BestLogits* rows, BestLogit* listed, const float* logits, int64_t n_rows,
                int64_t n_vocab, int64_t n_best, int64_t capacity);

}  // namespace tuili::cuda
