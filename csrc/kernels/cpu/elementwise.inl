// Norms, activations, RoPE, softmax statistics and pooling: everything that is not a matrix product or
// attention.

namespace tuili::cpu::TUILI_ISA {
namespace {

// The canonical sum over [0, n): lane = step(lane, i, count) adds elements i … i + count to 16 of the 32
// lanes; it must add 0 for those past count.
template <class Step>
TUILI_INLINE float canonical_sum(int64_t n, const Step& step) {
  Floats low = zero(), high = zero();
  int64_t i = 0;
  for (; n - i >= 32; i += 32) {  // where `step` is compiled without tails
    low = step(low, i, 16);
    high = step(high, i + 16, 16);
  }
  if (n - i > 0) low = step(low, i, smaller(16, n - i));
  if (n - i > 16) high = step(high, i + 16, n - i - 16);
  return sum(low + high);
}

TUILI_INLINE float sum_of_squares(const float* x, int64_t n) {
  return canonical_sum(n, [=](Floats lane, int64_t i, int64_t count) {
    const Floats a = load_up_to(x + i, count);
    return fma(a, a, lane);
  });
}

void rms_norm(float* y, const float* x, const float* gain, int64_t n, int64_t inner, int64_t ld, float eps,
              Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t at = r / inner * ld + r % inner * n;
    const float* in = x + at;
    float* out = y + at;
    const float mean = sum_of_squares(in, n) / float(n);
    const Floats inverse = splat(1 / __builtin_sqrtf(mean + eps));
    for_each_16({0, n}, [=](int64_t i, int64_t count) {
      store_up_to(out + i, load_up_to(in + i, count) * inverse * load_up_to(gain + i, count), count);
    });
  }
}

void layer_norm(float* y, const float* x, const float* gain, const float* bias, int64_t n, float eps,
                Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* in = x + r * n;
    float* out = y + r * n;
    const float total = canonical_sum(
        n, [=](Floats lane, int64_t i, int64_t count) { return lane + load_up_to(in + i, count); });
    const Floats mean = splat(total / float(n));
    const float squares = canonical_sum(n, [=](Floats lane, int64_t i, int64_t count) {
      const Floats d = select(first(count), load_up_to(in + i, count) - mean, zero());
      return fma(d, d, lane);
    });
    const Floats inverse = splat(1 / __builtin_sqrtf(squares / float(n) + eps));
    for_each_16({0, n}, [=](int64_t i, int64_t count) {
      const Floats normed = (load_up_to(in + i, count) - mean) * inverse;
      const Floats offset = bias ? load_up_to(bias + i, count) : zero();
      store_up_to(out + i, fma(normed, load_up_to(gain + i, count), offset), count);
    });
  }
}

// Halves of one head: pairs (i, i + half).
TUILI_INLINE void rotate_halves(float* x, const float* cos, const float* sin, int64_t half) {
  for_each_16({0, half}, [=](int64_t i, int64_t count) {
    const Floats a = load_up_to(x + i, count), b = load_up_to(x + half + i, count);
    const Floats c = load_up_to(cos + i, count), s = load_up_to(sin + i, count);
    store_up_to(x + i, fma(a, c, negate(b * s)), count);
    store_up_to(x + half + i, fma(b, c, a * s), count);
  });
}

// Pairs (2i, 2i + 1): put side by side, rotated as halves, put back.
TUILI_INLINE void rotate_pairs(float* x, const float* cos, const float* sin, int64_t half) {
  for_each_16({0, half}, [=](int64_t i, int64_t count) {
    float halves[32] = {};
    for (int64_t j = 0; j < count; ++j) {
      halves[j] = x[2 * (i + j)];
      halves[count + j] = x[2 * (i + j) + 1];
    }
    rotate_halves(halves, cos + i, sin + i, count);
    for (int64_t j = 0; j < count; ++j) {
      x[2 * (i + j)] = halves[j];
      x[2 * (i + j) + 1] = halves[count + j];
    }
  });
}

void rope(float* x, int64_t ld, const float* cos, const float* sin, int64_t n_heads, int64_t head_dim,
          int64_t half, bool interleaved, Range tokens) {
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    for (int64_t h = 0; h < n_heads; ++h) {
      float* head = x + t * ld + h * head_dim;
      if (interleaved) {
        rotate_pairs(head, cos + t * half, sin + t * half, half);
      } else {
        rotate_halves(head, cos + t * half, sin + t * half, half);
      }
    }
  }
}

// The clamps keep -Inf from becoming 0 · Inf; far below them the result is 0 anyway.
template <Activation kKind>
TUILI_INLINE Floats activated(Floats x) {
  if constexpr (kKind == Activation::relu) return max(zero(), x);
  if constexpr (kKind == Activation::relu_squared) return max(zero(), x) * max(zero(), x);
  if constexpr (kKind == Activation::relu6) return min(splat(6), max(zero(), x));
  if constexpr (kKind == Activation::leaky_relu) return max(x * splat(0.01f), x);
  if constexpr (kKind == Activation::sigmoid) return splat(1) / (splat(1) + exp(negate(x)));
  if constexpr (kKind == Activation::tanh) return tanh(x);
  if constexpr (kKind == Activation::identity) return x;
  if constexpr (kKind == Activation::hardswish) {
    x = max(splat(-128), x);
    return x * min(splat(6), max(zero(), x + splat(3))) / splat(6);
  }
  if constexpr (kKind == Activation::mish) {
    x = max(splat(-128), x);
    const Floats e = exp(min(splat(20), x)), n = e * (e + splat(2));
    return x * (n / (n + splat(2)));
  }
  if constexpr (kKind == Activation::silu) {
    x = max(splat(-128), x);
    return x / (splat(1) + exp(negate(x)));
  }
  if constexpr (kKind == Activation::quick_gelu) {
    x = max(splat(-128), x);
    return x / (splat(1) + exp(x * splat(-1.702f)));
  }
  x = max(splat(-16), x);
  const Floats half = x * splat(0.5f);
  if constexpr (kKind == Activation::gelu) return fma(half, erf(x * splat(0.70710678f)), half);
  const Floats cubic = fma(splat(0.044715f), x * x, splat(1));
  return fma(half, tanh(x * splat(0.79788456f) * cubic), half);
}

template <Activation kKind>
void activate_as(float* y, const float* gate, const float* up, Range elements) {
  for_each_16(elements, [=](int64_t i, int64_t count) {
    Floats value = activated<kKind>(load_up_to(gate + i, count));
    if (up) value = value * load_up_to(up + i, count);
    store_up_to(y + i, value, count);
  });
}

void activate(float* y, const float* gate, const float* up, Activation kind, Range elements) {
  switch (kind) {
    case Activation::silu: return activate_as<Activation::silu>(y, gate, up, elements);
    case Activation::gelu: return activate_as<Activation::gelu>(y, gate, up, elements);
    case Activation::gelu_tanh: return activate_as<Activation::gelu_tanh>(y, gate, up, elements);
    case Activation::relu: return activate_as<Activation::relu>(y, gate, up, elements);
    case Activation::quick_gelu: return activate_as<Activation::quick_gelu>(y, gate, up, elements);
    case Activation::relu_squared: return activate_as<Activation::relu_squared>(y, gate, up, elements);
    case Activation::relu6: return activate_as<Activation::relu6>(y, gate, up, elements);
    case Activation::leaky_relu: return activate_as<Activation::leaky_relu>(y, gate, up, elements);
    case Activation::hardswish: return activate_as<Activation::hardswish>(y, gate, up, elements);
    case Activation::mish: return activate_as<Activation::mish>(y, gate, up, elements);
    case Activation::sigmoid: return activate_as<Activation::sigmoid>(y, gate, up, elements);
    case Activation::tanh: return activate_as<Activation::tanh>(y, gate, up, elements);
    case Activation::identity: return activate_as<Activation::identity>(y, gate, up, elements);
  }
}

void xielu(float* y, Xielu by, Range elements) {
  for_each_16(elements, [=](int64_t i, int64_t count) {
    const Floats x = load_up_to(y + i, count), above = max(zero(), x), below = min(zero(), x);
    const Floats t = tanh(below * splat(0.5f)), e = (t + t) / (splat(1) - t);
    const Floats lower = fma(splat(by.alpha_n), e - below, splat(by.beta) * x);
    store_up_to(y + i, fma(splat(by.alpha_p), above * above, lower), count);
  });
}

void add(float* y, const float* x, const float* z, Range elements) {
  for_each_16(elements, [=](int64_t i, int64_t count) {
    store_up_to(y + i, load_up_to(x + i, count) + load_up_to(z + i, count), count);
  });
}

TUILI_INLINE Floats capped(Floats x, float cap) { return splat(cap) * tanh(x / splat(cap)); }

void softcap(float* y, float cap, Range elements) {
  for_each_16(elements, [=](int64_t i, int64_t count) {
    store_up_to(y + i, capped(load_up_to(y + i, count), cap), count);
  });
}

void softmax_stats(const float* x, int64_t n, float* max_out, float* sum_out) {
  const Floats lowest = splat(-__builtin_inff());
  Floats best = lowest;
  for_each_16({0, n}, [&](int64_t i, int64_t count) {
    best = max(best, select(first(count), load_up_to(x + i, count), lowest));
  });
  const Floats shift = splat(max_of(best));
  const float total = canonical_sum(n, [=](Floats lane, int64_t i, int64_t count) {
    return lane + select(first(count), exp(load_up_to(x + i, count) - shift), zero());
  });
  // A NaN may have slipped past max, never past the sum.
  *max_out = total != total ? total : max_of(best);
  *sum_out = total;
}

void exp_shifted(float* y, const float* x, float shift, Range elements) {
  for_each_16(elements, [=](int64_t i, int64_t count) {
    store_up_to(y + i, exp(load_up_to(x + i, count) - splat(shift)), count);
  });
}

void mean_rows(float* y, const float* x, int64_t n_tokens, int64_t n) {
  const Floats scale = splat(1 / float(n_tokens));
  for_each_16({0, n}, [=](int64_t i, int64_t count) {
    Floats lanes[32];  // lane j of 16 columns
    for (Floats& lane : lanes) lane = zero();
    for (int64_t t = 0; t < n_tokens; ++t) lanes[t % 32] = lanes[t % 32] + load_up_to(x + t * n + i, count);
    for (int half = 16; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
    store_up_to(y + i, lanes[0] * scale, count);
  });
}

void l2_normalize(float* y, const float* x, int64_t n, Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* in = x + r * n;
    float* out = y + r * n;
    float squares = sum_of_squares(in, n);
    if (squares == __builtin_inff()) {
      for_each_16({0, n}, [=](int64_t i, int64_t count) {
        store_up_to(out + i, load_up_to(in + i, count) * splat(0x1p-80f), count);
      });
      in = out;
      squares = sum_of_squares(in, n);
    }
    const float norm = __builtin_sqrtf(squares);
    const Floats divisor = splat(norm > 1e-12f || norm != norm ? norm : 1e-12f);
    for_each_16({0, n}, [=](int64_t i, int64_t count) {
      store_up_to(out + i, load_up_to(in + i, count) / divisor, count);
    });
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
