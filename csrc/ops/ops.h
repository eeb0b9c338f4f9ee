// THE OP VOCABULARY: what the rooms above may compute.
//
// An op checks shapes, dtypes and devices once, chooses the device and the split over threads, and calls
// kernels. It throws Error internal where only a programmer can be wrong. Views may not overlap unless an op
// says so. Sizes are named as everywhere: activations [n_tokens, d], weights [n_out, n_in].
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "base/memory.h"
#include "base/packed.h"
#include "base/rounding.h"
#include "base/side_streams.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cuda/kernels.h"

namespace tuili::ops {

using cpu::Activation;
using cpu::Xielu;

// Where an op runs. Everything is borrowed; one caller at a time.
struct Context {
  const cpu::Kernels* kernels = nullptr;
  ThreadPool* pool = nullptr;
  int n_threads = 1;
  float* scratch = nullptr;    // n_threads pieces of scratch_floats, each 64-byte aligned
  int64_t scratch_floats = 0;  // at least scratch_floats_for(largest head_dim)
  device::Stream stream = nullptr;
  const SideStreams* sides = nullptr;  // of cuda, for several linear maps of few rows; null: none

  float* scratch_of(int part) const { return scratch + part * scratch_floats; }
  // How many are worth it: with less than work_per_thread, about a microsecond, waking one costs more.
  int threads_for(int64_t work, int64_t work_per_thread) const {
    return static_cast<int>(std::clamp<int64_t>(work / work_per_thread, 1, n_threads));
  }
};

// Ops given to context() run beside those given to the context it was made of, until join(), where the device
// has room: for n_rows few. On the CPU all ops run in order.
class Beside {
 public:
  Beside(const Context& context, int64_t n_rows);
  const Context& context() const { return beside_; }
  void join() { fork_.join(); }

 private:
  Fork fork_;
  Context beside_;
};

// The table of `isa`, or this CPU's best when null. Throws invalid_parameter for one that does not run here.
const cpu::Kernels& find_kernels(const char* isa);

// Scratch that a thread needs for any op on heads of head_dim, a multiple of 16.
int64_t scratch_floats_for(int64_t head_dim);

// ---- linear maps

enum class Compute : uint8_t {
  automatic,  // quantized weights: int8 activations with second bytes for outliers, and exact integer sums
  int8,       // the same without second bytes; with wide scales (base/packed.h) where the weights have them
  float32,    // quantized weights are dequantized exactly
};

// What linear maps read: f32 on the CPU, which quantizes it where weights are; on cuda bf16.
constexpr DType input_type(DeviceKind device) {
  return device == DeviceKind::cuda ? DType::bf16 : DType::f32;
}

// Room for the input of a linear map as its kernel reads it; the other device's is empty.
struct InputRoom {
  QuantizedRows quantized;      // cpu: see quantized_rows()
  uint16_t* rounded = nullptr;  // cuda: bf16 [m, k]
};

// The input of one or more linear maps. Quantized, or rounded, when the first one asks, then shared.
struct Activations {
  TensorView x;    // f32 [m, k]; on cuda or bf16
  InputRoom room;  // for [m, k]: see input_room()
  bool is_ready = false;
  bool is_planned = false;  // who makes x quantizes, or rounds, its rows while they are at hand: see plan()
};

// Cuts memory for m rows of k values from the carver.
inline QuantizedRows quantized_rows(Carver& carver, int64_t m, int64_t k) {
  QuantizedRows rows;
  rows.n_groups = ceil_div(k, kGroup);
  const int64_t places = rows.n_places(m);
  rows.low = carver.take<int8_t>(places * kGroup);
  rows.scale = carver.take<float>(places);
  rows.scaled_sum = carver.take<float>(places);
  rows.offset_sum = carver.take<int32_t>(places);
  rows.half_sum = carver.take<int16_t>(places * 2);
  rows.outliers = carver.take<OutlierQuad>(m * rows.max_outliers());
  rows.n_outliers = carver.take<int32_t>(m);
  return rows;
}
InputRoom input_room(Carver& carver, int64_t m, int64_t k, DeviceKind device);

// y[i, j] = Σ_k x[i, k] · w[j, k] (+ bias[j])
struct LinearMap {
  TensorView y;  // f32 [m, n]
  const PackedMatrix* w;
  const float* bias = nullptr;  // f32 [n]
};

// Several linear maps of the same input, on the CPU split together over the threads. On cuda float weights
// are bf16 [n, k], dense at w->codes, and `compute` does not matter.
void gemm(const Context& context, Activations& x, std::span<const LinearMap> maps, Compute compute);

// Says which weights x will meet: the op that makes it then quantizes its rows, if they read it so, or rounds
// them on cuda, while these are at hand, and spares `gemm` a pass and the threads a join.
void plan(Activations& x, std::initializer_list<const PackedMatrix*> next, Compute compute);

// Fills `out` from x f32 [m, k], as out.keeps_outliers and out.has_wide_scales say.
void quantize_rows(const Context& context, const QuantizedRows& out, const TensorView& x);

// y[t, :] = w[ids[t], :] · factor.   y f32 [n_tokens, w.k].  The ids are in range; they and w lie where y is.
void embed(const Context& context, const TensorView& y, const PackedMatrix& w, const int32_t* ids,
           float factor);

// y[t, :] += table[ids[t], :].   y, table f32 [., d], dense. The ids are in range; they lie where y does.
void add_rows(const Context& context, const TensorView& y, const TensorView& table, const int32_t* ids);

// ---- packing

// Bytes of a packed [n, k] matrix. Throws model_format if the format cannot store rows of k.
int64_t packed_bytes(Format format, int64_t n, int64_t k);

// Packs `rows` (n rows in the format's own encoding) into `memory` (zeroed, 64-byte aligned, packed_bytes),
// exactly.
PackedMatrix pack(const Context& context, Format format, int64_t n, int64_t k, const uint8_t* rows,
                  uint8_t* memory);

// The matrix that `pack` has left in `memory` (64-byte aligned, packed_bytes).
PackedMatrix packed_view(Format format, int64_t n, int64_t k, const uint8_t* memory);

// The same numbers as records (base/device_records.h), which a device's kernels read: how many bytes, and
// what makes them on the host. w is quantized.
int64_t device_bytes(Format format, int64_t n, int64_t k);
void arrange_for_device(const Context& context, uint8_t* records, const PackedMatrix& w);

// Bytes of one row in the format's own encoding. Throws model_format if k is no multiple of the block.
int64_t row_bytes(Format format, int64_t k);

// y[i] = values of `count` elements stored as f32, f16 or bf16.
void to_float32(float* y, Format format, const uint8_t* values, int64_t count);

// ---- norms

// y = x / sqrt(mean(x²) + eps) · gain per row.
//   x, y f32 [n_tokens, d], y on cuda or bf16; y may be x; gain f32 [d]
void rms_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
              float eps);

// The same over each of the n heads of x f32 [n_tokens, n · head_dim], in place; gain f32 [head_dim].
void rms_norm_heads(const Context& context, const TensorView& x, const TensorView& gain, float eps);

// y = (x - mean) / sqrt(var + eps) · gain + bias per row.   Dense; y may be x.
void layer_norm(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gain,
                const TensorView& bias, float eps);

// x += addend first, in one pass (on cuda, where y is not x); a planned y is quantized in it, too.
//   x, addend f32 [n_tokens, d], dense; y may be x, of which the norm alone is left then
void add_rms_norm(const Context& context, Activations& y, const TensorView& x, const TensorView& addend,
                  const TensorView& gain, float eps);
void add_layer_norm(const Context& context, Activations& y, const TensorView& x, const TensorView& addend,
                    const TensorView& gain, const TensorView& bias, float eps);

// A layer norm in place on rows that need not be dense.
void layer_norm_strided(const Context& context, const TensorView& x, const TensorView& gain,
                        const TensorView& bias, float eps);

// ---- positions

// cos and sin of float32(position · inv_freq), times factor, computed in double and rounded once; f32
// [n_tokens, half], dense.
void rope_table(const Context& context, const TensorView& cos, const TensorView& sin,
                const int32_t* positions, const float* inv_freq, float factor);

// Rotates the heads of x f32 [n_tokens, n_heads · head_dim] in place by tables [n_tokens, half].
void rope(const Context& context, const TensorView& x, const TensorView& cos, const TensorView& sin,
          int64_t n_heads, bool interleaved);

// ---- attention over pages

inline constexpr int64_t kKeyTile = cpu::kKeyTile;  // keys that are read together, at absolute positions

// The first key that may be read for a row at `position` and the rows after it. window: 0 for none
constexpr int64_t first_key_read(int64_t position, int64_t window) {
  const int64_t first_seen = window > 0 && position >= window ? position - window + 1 : 0;
  return first_seen / kKeyTile * kKeyTile;
}

// Consecutive rows of one sequence: [first_row, first_row + n_rows) of q stand at position, position + 1, …
struct SequenceRows {
  int64_t first_row = 0;
  int64_t n_rows = 0;
  int64_t position = 0;
  int64_t n_keys = 0;               // keys exist at positions [0, n_keys)
  const int32_t* blocks = nullptr;  // ids of the blocks of those keys; any value for a block that lies wholly
                                    // before first_key_read of the first row
};

// The same in device memory, where `blocks` of sequence i begin at first_block of its entry.
using DeviceSequence = cuda::AttentionSequence;
struct DeviceSequences {
  const DeviceSequence* list = nullptr;
  int64_t count = 0;
  const int32_t* blocks = nullptr;  // the tables of all
  int64_t max_rows = 0;             // at least every n_rows
  int64_t max_keys = 0;             // at least every n_keys
};

// The rows of a batch, for the device that has q.
struct BatchRows {
  std::span<const SequenceRows> on_cpu;
  DeviceSequences on_device;
};

struct AttentionSpec {
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;  // 0: none
  bool causal = true;
  float scale = 1;
  float softcap = 0;  // 0: none
  // Added to the scores, see kernels.h; null: none.
  const float* bias = nullptr;
  int64_t bias_stride = 0, bias_origin = 0;
  bool bias_relative = false;
  const float* sinks = nullptr;  // [n_heads]
};

// Writes k and v f32 [n_tokens, n_kv_heads · head_dim] at slots[t] = block id · block_size + offset. Pages
// and slots lie where k does; those of cuda are laid out as kernels/cuda/kernels.h says.
void kv_write(const Context& context, const KvPages& pages, const TensorView& k, const TensorView& v,
              const int32_t* slots);

// rope of q and of k, then kv_write of k and v: what attention needs of a row. The buffer of k may keep what
// it held.
struct RopeKv {
  TensorView q;         // f32 [n_tokens, n_heads · head_dim]
  TensorView k, v;      // f32 [n_tokens, n_kv_heads · head_dim]
  TensorView cos, sin;  // as rope's
  int64_t n_heads;
  bool interleaved;
};
void rope_kv_write(const Context& context, const RopeKv& x, const KvPages& pages, const int32_t* slots);

// Floats of `partials` for one long row; with less, long rows are not shared between threads.
int64_t attention_partial_floats(int64_t n_keys, int64_t n_heads, int64_t head_dim);

// A number of keys that covers n_keys, one of few: launches with the same one are alike.
int64_t device_keys(int64_t n_keys);

// Floats of `partials` on cuda: what n_tokens rows need, or as much more, within reason, as their splits can
// use.
int64_t device_partial_floats(int64_t n_tokens, int64_t n_keys, int64_t n_heads, int64_t head_dim);

// out, q f32 [n_tokens, n_heads · head_dim]; out on cuda or bf16.  partials: scratch, see above; may be empty
// on the CPU.
void attention(const Context& context, const AttentionSpec& spec, const TensorView& out, const TensorView& q,
               const KvPages& pages, const BatchRows& rows, std::span<float> partials);

// Room for what distances add to the scores of a step; the other device's is empty.
struct DistanceRoom {
  TensorView by_query, by_key;  // cpu: f32 [at least k's rows, n_rows]; with more, several heads go at once
  TensorView scores;            // cuda: f32 [n_heads, at least n_tokens · max_keys]
};

// Cuts it from the carver for n_tokens that see most_keys; n_rows 0: none.
DistanceRoom distance_room(Carver& carver, int64_t n_tokens, int64_t most_keys, int64_t n_heads,
                           int64_t n_rows, DeviceKind device);

// What distances add to scores. A table has n_rows rows, of which each layer and head has made keys, which
// queries meet, and queries, which keys meet: f32 [n_rows, head_dim] per head, or none; on cuda bf16, one
// head after another.
struct Distances {
  std::span<const PackedMatrix> keys, queries;  // [n_heads]
  const int32_t* places = nullptr;  // [origin + query's position - key's]: a row of the table; never falls
  int64_t origin = 0;
  int64_t n_rows = 0;
  DistanceRoom room;
};

// Scratch that a thread needs for it.
int64_t distance_scratch_floats(int64_t head_dim, int64_t most_keys);

// As `attention`, all keys seen, over rows of whole texts: q has those that `rows` counts, in the order of
// `texts`; k f32 [rows of all texts, as q] has their keys, also in the pages. Scores are
//   (q·k) · scale + (q·keys[place] + k·queries[place]) · scale
void distance_attention(const Context& context, const AttentionSpec& spec, const TensorView& out,
                        const TensorView& q, const TensorView& k, const KvPages& pages, const BatchRows& rows,
                        const BatchRows& texts, const Distances& distances, std::span<float> partials);

// ---- experts

inline constexpr int64_t kMaxExperts = cuda::kMostExperts;

using cuda::Scoring;

struct Routing {
  int64_t n_used = 1;
  Scoring scoring = Scoring::softmax;
  float near = 0;  // of near_best
  bool normalize = false;
  float scale = 1;
  int64_t n_groups = 1, n_groups_used = 1, group_top = 1;
  const float* selection_bias = nullptr;  // [n_experts]
};

// Pairs of a token and an expert that it uses, token by token; the lists lie where the rows do.
struct Routes {
  int32_t* experts = nullptr;  // [n_tokens, n_used], ascending for each token
  float* weights = nullptr;    // of the same shape
  int32_t* places = nullptr;   // of the same shape: where the pair stands among those sorted by expert,
                               // otherwise in order
  int32_t* first = nullptr;    // [n_experts + 1]: each expert's first place
};

// Chooses the n_used best experts of each token (see MoeSpec), and sorts the pairs by expert.
//   scores  f32 [n_tokens, n_experts], dense: logits; lost
void route(const Context& context, const Routing& routing, const TensorView& scores, const Routes& routes);

// y[places[i], :] = x[i / n_each, :].   y f32; on cuda bf16
void scatter_rows(const Context& context, const TensorView& y, Activations& x, const int32_t* places,
                  int64_t n_each);

// y[t, :] = Σ weights[i] · x[places[i], :] over i in [t · n_each, (t + 1) · n_each), ascending, from 0
void weighted_sum_rows(const Context& context, const TensorView& y, const TensorView& x,
                       const int32_t* places, const float* weights, int64_t n_each);

// y[t, :] += sigmoid(gate[t]) · x[t, :].   gate f32 [n_tokens]; lost
void add_gated(const Context& context, const TensorView& y, const TensorView& x, const TensorView& gate);

// The same linear map of every expert of a layer, on cuda alone: one format, one size.
using cuda::ExpertMap;
struct ExpertMaps {
  const ExpertMap* list = nullptr;  // [n_experts], in the device's memory
  int64_t n_experts = 0;
  Format format = Format::bf16;
  int64_t n = 0, k = 0;
};

// y f32 [n_rows, n] of x bf16 [n_rows, k], both on cuda, their rows sorted by expert: expert e has those from
// first[e] to first[e + 1].
void gemm_experts(const Context& context, const TensorView& y, const TensorView& x, const ExpertMaps& maps,
                  const int32_t* first);

// ---- elementwise

// y = act(gate), or act(gate) · up when up has data.   y may be gate.
void activate(const Context& context, const TensorView& y, const TensorView& gate, const TensorView& up,
              Activation kind);

// The same for what linear maps read: a planned y is quantized while its rows are at hand.
void activate(const Context& context, Activations& y, const TensorView& gate, const TensorView& up,
              Activation kind);

// y = x + z; y may be x or z.
void add(const Context& context, const TensorView& y, const TensorView& x, const TensorView& z);

// y = 0 on any device; dense.
void clear(const Context& context, const TensorView& y);

// y[t, :] = x[rows[t], :].   y, x f32 [., d], dense; rows, in range, lie where they do.
void gather_rows(const Context& context, const TensorView& y, const TensorView& x, const int32_t* rows);

// y = x, both dense and of one type and shape, wherever each is. Between devices it is done when the
// context's stream has been waited for.
void copy(const Context& context, const TensorView& y, const TensorView& x);

// Of one type, f32; on cuda or bf16. Elements of the heads of x [n_tokens, n_heads_x · a] into those of y
// [n_tokens, n_heads · b], from element `at` of a head on; as many as both have. n_heads_x is n_heads, or 1:
// one head for all.
void copy_heads(const Context& context, const TensorView& y, int64_t at, const TensorView& x, int64_t n_heads,
                int64_t n_heads_x);

// y[t, c · n_taps + j] = x[t + j - n_taps / 2, c], 0 beyond the ends of the text that t is in.
//   x f32 [n_tokens, d], y f32 or on cuda bf16 [n_tokens, d · n_taps]
void gather_taps(const Context& context, const TensorView& y, const TensorView& x, const BatchRows& texts,
                 int64_t n_taps);

// y = min(max(y, low), high) + offset; NaN stays NaN.
void clamp(const Context& context, const TensorView& y, float low, float high, float offset);

// y = xielu(y), by kernels.h's formula
void xielu(const Context& context, const TensorView& y, const Xielu& by);

// y = factor · y
void scale(const Context& context, const TensorView& y, float factor);

// y = cap · tanh(y / cap)
void softcap(const Context& context, const TensorView& y, float cap);

// y f32 [n_texts, d] = means over the rows of each text, of which x f32 [Σ n_rows, d] has n_rows > 0, one
// text after another.
void mean_rows(const Context& context, const TensorView& y, const TensorView& x,
               std::span<const int32_t> n_rows);

// The same of x[t, :] · (2 (t + 1) / (n_rows + 1)), t counted in its text; x may be overwritten. And the
// largest of each column, NaN if there is one.
void weighted_mean_rows(const Context& context, const TensorView& y, const TensorView& x,
                        std::span<const int32_t> n_rows);
void max_rows(const Context& context, const TensorView& y, const TensorView& x,
              std::span<const int32_t> n_rows);

// y = x / |x| per row; y may be x.
void l2_normalize(const Context& context, const TensorView& y, const TensorView& x);

// ---- rows of logits

struct SoftmaxStats {
  float max;
  float sum;  // Σ exp(x - max); NaN, like max, if any x is NaN
};
SoftmaxStats softmax_stats(const Context& context, const float* x, int64_t n);

// On cuda only. tokens i32 [n_rows]: of each row of logits f32 [n_rows, n_vocab], dense, the token that
// draws[row], in the device's memory, asks for (kernels/cuda/kernels.h), or what is said there in its place;
// kUndecided: the host must draw.
using cuda::Draw;
using cuda::kMostTopK;
using cuda::kNotANumber;
using cuda::kNothingAllowed;
using cuda::kUndecided;
inline constexpr int64_t kMostDrawn = 1 << 19;  // n_vocab is below
void draw(const Context& context, const TensorView& tokens, const TensorView& logits, const Draw* draws);

// The same for the draws that top_k or top_p cut, whose tokens `draw` leaves as they were.
void draw_likeliest(const Context& context, const TensorView& tokens, const TensorView& logits,
                    const Draw* draws);

// On cuda only. Into y u8: BestLogits [n_rows], then BestLogit [n_rows, capacity]: of each row of logits f32
// [n_rows, n_vocab], dense, what kernels/cuda/kernels.h says.
using cuda::BestLogit;
using cuda::BestLogits;
using cuda::kMostBest;
constexpr int64_t best_logits_bytes(int64_t n_rows, int64_t capacity) {
  return n_rows * (int64_t{sizeof(BestLogits)} + capacity * int64_t{sizeof(BestLogit)});
}
void best_logits(const Context& context, const TensorView& y, const TensorView& logits, int64_t n_best,
                 int64_t capacity);

// What spares a float head [n, k] when only the likeliest token is wanted: a copy in int8, which says what is
// far from being the largest, and how far its products can be from the head's own, per panel. An input x
// whose codes are δ apart from it (norms are Euclidean) has products within |x| · apart + δ · norm +
// slack.
struct HeadScreen {
  PackedMatrix w;                // q8_0 [n, k]; without codes there is no screen
  const float* apart = nullptr;  // [n_panels]
  const float* norm = nullptr;   // [n_panels]
  float most_norm = 0;           // of all rows of the head
  float slack = 0;               // of biases and of what is subnormal
};

// Heads with fewer outputs are read fast enough.
inline constexpr int64_t kLeastScreened = 4096;

// Whether logits that differ still differ after · factor: neither subnormal nor infinite.
constexpr bool can_screen(float factor) { return factor >= 0x1p-20f && factor <= 0x1p20f; }

// Bytes that make_screen writes for a head; 0 if it has no screen.
int64_t screen_bytes(const PackedMatrix& head);

// The screen of a head in `memory`, aligned as Buffer's; none if a weight or bias is NaN or infinite (a bias
// may be -Inf), or beyond what q8_0 and sums hold.
HeadScreen make_screen(const Context& context, const PackedMatrix& head, const float* bias, uint8_t* memory);

// tokens[row] = the first maximum of head.y[row] · factor, factor > 0, if head.y were the head's product of
// x: the same token, bit for bit, from the few panels that may have it. head.y is room to work in. False
// where that spares too little, or where logits may not be finite: then tokens are undefined.
bool screened_argmax(const Context& context, std::span<int32_t> tokens, Activations& x, const LinearMap& head,
                     const HeadScreen& screen, float factor);

// y[i] = exp(x[i] - shift)
void exp_shifted(const Context& context, float* y, const float* x, float shift, int64_t n);

// Index of the first maximum; kNotANumber if any x is NaN, kNothingAllowed if every x is -inf.
int64_t argmax(const float* x, int64_t n);

// Natural logarithm of x > 0, to about one ulp of double.
double natural_log(double x);

// Philox4x32-10. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
struct Random4 {
  uint32_t word[4];
};
Random4 philox(uint64_t key, uint64_t counter);

// Uniform in [0, 1), with 53 bits of the numbers of (key, counter).
double uniform(uint64_t key, uint64_t counter);

}  // namespace tuili::ops
