// The likeliest token of a float head without reading most of it.
//
// Products with an int8 copy come with a bound of their distance from the head's own. Only panels whose
// products may reach the largest lower bound are multiplied exactly; the largest of those is the largest of
// all. The bound is Cauchy and Schwarz's: |x·w - x̂·ŵ| <= |x| |w - ŵ| + |x - x̂| |ŵ|, and what the sums round.
//
// Tried without gain: the upper six bits of a Q8_0 head as the screen of the whole. With a bound per row 90
// to 98 of 100 greedy tokens of SmolLM2 are found in 1 % of the panels, but three planes instead of two are
// read at 21 GB/s by one thread (q8_0: 32), and draws, which need the whole, are made 14 to 18 % slower.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/float_environment.h"
#include "base/memory.h"
#include "ops/checks.h"
#include "ops/ops.h"

namespace tuili::ops {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlockBytes = 34;         // of q8_0: d, 32 codes
constexpr double kUnit = 0x1p-24;           // relative error of one rounded operation
constexpr double kCodeError = 0.52;         // of x in units of d: half a code, and what quantize_rows rounds
constexpr double kNormError = 1e-5;         // relative: of sums of 32 squares in float
constexpr double kLostSquare = 0x1p-126;    // absolute: of a square that a float does not hold
constexpr float kMostWeight = 8e6f;         // whose scale is below the largest half
constexpr double kMostReach = 1e30;         // a logit that may be larger is left to those who look for NaN
constexpr float kLeastSlack = 0x1p-100f;    // of what is subnormal, relative errors say nothing
constexpr int64_t kMostPanelsDivisor = 16;  // more panels than a sixteenth: all of them are read at once

// The smallest half that is not below x > 0: its bits. Beyond 65504 infinity.
uint16_t half_above(float x) {
  if (x < 0x1p-14f) return static_cast<uint16_t>(std::ceil(x * 0x1p24f));
  const uint32_t bits = std::bit_cast<uint32_t>(x) + 0x1FFF;
  return bits >= 0x47800000u ? 0x7C00 : static_cast<uint16_t>((bits - 0x38000000u) >> 13);
}

float value_of(uint16_t half) {
  return half < 0x0400 ? static_cast<float>(half) * 0x1p-24f
                       : std::bit_cast<float>((uint32_t{half} << 13) + 0x38000000u);
}

using Lanes = float[kPanel];  // one value per row of a panel

struct Norms {
  double weights[kPanel] = {}, codes[kPanel] = {}, apart[kPanel] = {};  // sums of squares
};

// To the nearest whole number, |x| < 2^22; a compiler makes vectors of it.
float rounded(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

// 32 weights of each row of a panel, [32][16], as blocks of q8_0 that are row_size bytes apart; adds to the
// norms.
void quantize_group(const float* x, uint8_t* blocks, int64_t row_size, Norms& norms) {
  Lanes amax = {}, d, inverse, weights = {}, codes = {}, apart = {};
  for (int64_t i = 0; i < kGroup; ++i)
    for (int64_t j = 0; j < kPanel; ++j) {
      const float size = std::fabs(x[i * kPanel + j]);
      amax[j] = size > amax[j] ? size : amax[j];
    }
  for (int64_t j = 0; j < kPanel; ++j) {
    const uint16_t half = half_above(amax[j] / 127);
    d[j] = value_of(half);
    inverse[j] = half ? 1 / d[j] : 0;
    blocks[j * row_size] = static_cast<uint8_t>(half & 255);
    blocks[j * row_size + 1] = static_cast<uint8_t>(half >> 8);
  }
  for (int64_t i = 0; i < kGroup; ++i) {
    Lanes code;
    for (int64_t j = 0; j < kPanel; ++j) {
      const float value = x[i * kPanel + j];
      code[j] = rounded(value * inverse[j]);
      const float copy = d[j] * code[j], rest = value - copy;
      weights[j] += value * value;
      codes[j] += copy * copy;
      apart[j] += rest * rest;
    }
    for (int64_t j = 0; j < kPanel; ++j)
      blocks[j * row_size + 2 + i] = static_cast<uint8_t>(static_cast<int8_t>(code[j]));
  }
  for (int64_t j = 0; j < kPanel; ++j) {
    norms.weights[j] += weights[j];
    norms.codes[j] += codes[j];
    norms.apart[j] += apart[j];
  }
}

// A panel's rows as blocks of q8_0, and its bounds. False if there is a weight that q8_0 cannot stand for.
// `rows` has room for whole panels.
bool screen_panel(const PackedMatrix& head, int64_t panel, const float* weights, uint8_t* rows, float* apart,
                  float* norm) {
  uint32_t n_unfit = 0;
  for (int64_t i = 0; i < head.k * kPanel; ++i) n_unfit += std::fabs(weights[i]) < kMostWeight ? 0u : 1u;
  if (n_unfit > 0) return false;
  const int64_t row_size = head.k / kGroup * kBlockBytes;
  Norms norms;
  for (int64_t group = 0; group < head.k / kGroup; ++group)
    quantize_group(weights + group * kGroup * kPanel, rows + panel * kPanel * row_size + group * kBlockBytes,
                   row_size, norms);
  // Twice what the sums round at most: the other half is several units of a logit's last place, so that a
  // factor does not make it equal to one that was left out.
  const double rounding = 2 * static_cast<double>(head.k + 16) * kUnit;
  const double lost = static_cast<double>(head.k) * kLostSquare;
  double most_apart = 0, most_norm = 0;
  for (int64_t j = 0; j < kPanel; ++j) {  // rows past n are zero
    const double codes = std::sqrt(norms.codes[j]);
    most_apart = std::max(
        most_apart, std::sqrt(norms.apart[j] + lost) + rounding * (std::sqrt(norms.weights[j]) + codes));
    most_norm = std::max(most_norm, codes * (1 + rounding));
  }
  *apart = static_cast<float>(most_apart * (1 + kNormError));
  *norm = static_cast<float>(most_norm * (1 + kNormError));
  return true;
}

// Largest |b| that is finite; infinity if one is NaN or +Inf.
float largest_bias(const float* bias, int64_t n) {
  float most = 0;
  for (int64_t i = 0; bias && i < n; ++i) {
    if (bias[i] == -kInfinity) continue;
    if (!(bias[i] < kInfinity)) return kInfinity;
    most = std::max(most, std::fabs(bias[i]));
  }
  return most;
}

// How far products of a row may be from what the copy gives, but for the panel.
struct Reach {
  double x = 0, rounding = 0;  // norms of the row, and of the difference to its codes
};

Reach reach_of(const TensorView& x, const QuantizedRows& quantized, int64_t row) {
  double squares = 0, rounding = 0;
  const float* values = x.f32_row(row);
  for (int64_t i = 0; i < x.size(1); ++i) squares += double{values[i]} * values[i];
  for (int64_t group = 0; group < quantized.n_groups; ++group) {
    const double apart = kCodeError * quantized.scale[quantized.place(row, group)];
    rounding += kGroup * apart * apart;
  }
  return {std::sqrt(squares), std::sqrt(rounding) + 0x1p-90};
}

// The panel's bound, of a screen and a row.
float bound_of(const HeadScreen& screen, const Reach& reach, int64_t panel) {
  return static_cast<float>((reach.x * screen.apart[panel] + reach.rounding * screen.norm[panel]) *
                            (1 + 1e-6)) +
         screen.slack;
}

// The largest that a logit is at least.
float largest_certain(const float* logits, int64_t n, const HeadScreen& screen, const Reach& reach) {
  float lanes[kPanel];
  std::fill_n(lanes, kPanel, -kInfinity);
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const float bound = bound_of(screen, reach, begin / kPanel);
    const int64_t width = std::min(kPanel, n - begin);
    for (int64_t j = 0; j < width; ++j) {
      const float least = logits[begin + j] - bound;
      lanes[j] = least > lanes[j] ? least : lanes[j];
    }
  }
  return *std::max_element(lanes, lanes + kPanel);
}

bool reaches(const float* logits, int64_t width, float limit) {
  uint32_t any = 0;
  for (int64_t j = 0; j < width; ++j) any |= logits[j] >= limit ? 1u : 0u;
  return any != 0;
}

// The first maximum among the panels that may have it; -1 if those are too many.
int32_t argmax_of_few(const Context& context, const cpu::GemmArgs& row, const HeadScreen& screen,
                      const Reach& reach, float factor) {
  const int64_t n = row.w.n;
  const float certain = largest_certain(row.y, n, screen, reach);
  if (!(certain > -kInfinity)) return -1;
  int64_t n_left = row.w.n_panels() / kMostPanelsDivisor;
  float best = -kInfinity;
  int32_t at = -1;
  for (int64_t begin = 0; begin < n; begin += kPanel) {
    const int64_t panel = begin / kPanel, width = std::min(kPanel, n - begin);
    if (!reaches(row.y + begin, width, certain - bound_of(screen, reach, panel))) continue;
    if (n_left-- == 0) return -1;
    context.kernels->gemm_float(row, {panel, panel + 1});
    for (int64_t j = begin; j < begin + width; ++j) {
      const float logit = row.y[j] * factor;
      if (!(logit > best)) continue;
      best = logit;
      at = static_cast<int32_t>(j);
    }
  }
  return at;
}

}  // namespace

int64_t screen_bytes(const PackedMatrix& head) {
  if (!is_float(head.format) || head.n < kLeastScreened || head.k % kGroup != 0) return 0;
  return align_up(packed_bytes(Format::q8_0, head.n, head.k)) + 2 * align_up(head.n_panels() * 4);
}

HeadScreen make_screen(const Context& context, const PackedMatrix& head, const float* bias, uint8_t* memory) {
  TUILI_EXPECT(screen_bytes(head) > 0, "make_screen: a head of ", head.n, " x ", head.k);
  const FloatEnvironment environment;  // rounded upward, a code could be 128
  const float most_bias = largest_bias(bias, head.n);
  if (!(most_bias < kMostReach)) return {};
  const int64_t copy_bytes = align_up(packed_bytes(Format::q8_0, head.n, head.k)), n_panels = head.n_panels();
  auto* const apart = reinterpret_cast<float*>(memory + copy_bytes);
  auto* const norm = reinterpret_cast<float*>(memory + copy_bytes + align_up(n_panels * 4));
  const Buffer rows(n_panels * kPanel * row_bytes(Format::q8_0, head.k));
  const int64_t panel_bytes = head.k * kPanel * info_of(head.format).block_bytes;
  const int n_threads = context.threads_for(head.n * head.k, 1 << 16);
  std::vector<uint8_t> fits(n_panels);
  context.pool->parallel_for(n_panels, n_threads, [&](int64_t begin, int64_t end, int) {
    const Buffer weights(head.k * kPanel * 4);
    auto* const values = reinterpret_cast<float*>(weights.data());
    for (int64_t panel = begin; panel < end; ++panel) {
      to_float32(values, head.format, head.codes + panel * panel_bytes, head.k * kPanel);
      fits[panel] = screen_panel(head, panel, values, rows.data(), apart + panel, norm + panel);
    }
  });
  if (!std::ranges::all_of(fits, [](uint8_t fit) { return fit != 0; })) return {};
  float most_norm = 0;
  for (int64_t i = 0; i < n_panels; ++i) most_norm = std::max(most_norm, apart[i] + norm[i]);
  return {.w = pack(context, Format::q8_0, head.n, head.k, rows.data(), memory),
          .apart = apart,
          .norm = norm,
          .most_norm = most_norm,
          .slack = most_bias * 0x1p-21f + kLeastSlack};
}

bool screened_argmax(const Context& context, std::span<int32_t> tokens, Activations& x, const LinearMap& head,
                     const HeadScreen& screen, float factor) {
  TUILI_EXPECT(std::ssize(tokens) == x.x.rows() && screen.w.n == head.w->n && factor > 0,
               "screened_argmax: ", tokens.size(), " tokens of ", x.x);
  if (!can_screen(factor)) return false;
  const LinearMap copy{head.y, &screen.w, head.bias};
  gemm(context, x, {&copy, 1}, Compute::automatic);
  context.pool->parallel_for(x.x.rows(), context.n_threads, [&](int64_t begin, int64_t end, int part) {
    for (int64_t row = begin; row < end; ++row) {
      const Reach reach = reach_of(x.x, x.room.quantized, row);
      tokens[row] = -1;
      if (!((reach.x + reach.rounding) * screen.most_norm < kMostReach)) continue;
      const cpu::GemmArgs args{.y = head.y.f32_row(row),
                               .ldy = head.y.row_stride,
                               .x = x.x.f32_row(row),
                               .ldx = x.x.row_stride,
                               .xq = {},
                               .w = *head.w,
                               .bias = head.bias,
                               .m = 1,
                               .scratch = context.scratch_of(part)};
      tokens[row] = argmax_of_few(context, args, screen, reach, factor);
    }
  });
  return std::ranges::all_of(tokens, [](int32_t token) { return token >= 0; });
}

}  // namespace tuili::ops
