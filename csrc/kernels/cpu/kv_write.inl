// Writing keys and values into pages. Keys are transposed there: neighbours in a page go 16 at a time, as
// blocks that are turned in registers.
//
// Log: cycles per number, 104 tokens of 12 heads of 32 in f32 pages of 32 (AVX-512, AVX2).
//   v1 one token after another, by elements   1.00, 0.97
//   v2 16 tokens at once, by vectors          0.32, 0.40
// Tried: attention writes a head's new keys just before it reads them, interleaved with v2: a Marian's 32
// sources with 4 beams, one / two threads +1.4 / +0.1 %; SmolLM2 f32, 16 / 40 sequences +1.8 / -1.2 %; Q4_0,
// 32 of them -0.7 %.

namespace tuili::cpu::TUILI_ISA {
namespace {

constexpr int64_t kFewTokens = 4;  // are written faster one by one

// Within the finite numbers of T: an infinite value would reach rows that do not see its key, as 0 · Inf.
template <class T>
TUILI_INLINE Floats saturated(Floats x) {
  if constexpr (__is_same(T, Half)) return max(splat(-65504), min(splat(65504), x));  // NaN passes
  if constexpr (kCoded<T>) return max(splat(-0x1p127f), min(splat(0x1p127f), x));     // scale · 127 is finite
  return x;
}

// Tokens from the first of `tokens` on, 16 at most, that stand one after another in one page.
TUILI_INLINE int64_t neighbours(const int32_t* slots, int64_t block_size, Range tokens) {
  const int32_t* const own = slots + tokens.begin;
  const int64_t room = smaller(16, block_size - own[0] % block_size);
  const int64_t most = smaller(room, tokens.end - tokens.begin);
  int64_t n = 1;
  while (n < most && own[n] == own[0] + n) ++n;
  return n;
}

// One key, to the elements of a page that are block_size apart.
template <class T>
TUILI_INLINE void write_key(T* to, int64_t block_size, const float* x, int64_t head_dim) {
  for_each_16({0, head_dim}, [=](int64_t d, int64_t count) {
    T rounded[16];
    store(rounded, saturated<T>(load_up_to(x + d, count)));
    for (int64_t i = 0; i < count; ++i) to[(d + i) * block_size] = rounded[i];
  });
}

// n keys side by side, x [n, head_dim] with a row stride of ld.
template <class T>
TUILI_INLINE void write_keys(T* to, int64_t block_size, const float* x, int64_t ld, int64_t n,
                             int64_t head_dim) {
  alignas(64) float rows[16 * 16], columns[16 * 16];
  for (int64_t i = n; i < 16; ++i) store(rows + 16 * i, zero());
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t count = smaller(16, head_dim - d);
    for (int64_t i = 0; i < n; ++i) store(rows + 16 * i, saturated<T>(load_up_to(x + i * ld + d, count)));
    transpose(columns, rows);
    for (int64_t i = 0; i < count; ++i) store_up_to(to + (d + i) * block_size, load(columns + 16 * i), n);
  }
}

template <class T>
void write_pages(const KvPages& pages, const float* k, const float* v, int64_t ld, const int32_t* slots,
                 Range tokens) {
  const int64_t head_dim = pages.head_dim, block_size = pages.block_size;
  for (int64_t t = tokens.begin, n; t < tokens.end; t += n) {
    n = neighbours(slots, block_size, {t, tokens.end});
    if (n < kFewTokens) n = 1;
    const int64_t block = slots[t] / block_size, offset = slots[t] % block_size;
    for (int64_t h = 0; h < pages.n_kv_heads; ++h) {
      const int64_t page = block * pages.block_stride + h * head_dim * block_size;
      const int64_t at = t * ld + h * head_dim;
      T* const to_k = static_cast<T*>(pages.k) + page + offset;
      T* const to_v = static_cast<T*>(pages.v) + page + offset * head_dim;
      if (n == 1)
        write_key(to_k, block_size, k + at, head_dim);
      else
        write_keys(to_k, block_size, k + at, ld, n, head_dim);
      for (int64_t i = 0; i < n; ++i)
        for_each_16({0, head_dim}, [=](int64_t d, int64_t count) {
          store_up_to(to_v + i * head_dim + d, saturated<T>(load_up_to(v + at + i * ld + d, count)), count);
        });
    }
  }
}

// Codes n numbers to to[0], to[stride], …; returns their scale.
float code_vector(Code* to, int64_t stride, const float* x, int64_t n) {
  Ints largest = splat_int(0);
  for_each_16({0, n}, [&](int64_t i, int64_t count) {
    largest = max(largest, as_ints(absolute(saturated<Code>(load_up_to(x + i, count)))));
  });
  // As integers magnitudes are ordered like floats, with NaN above all.
  const int32_t amax_bits = max_of(largest);
  constexpr int32_t kSmallest = 27 << 23, kInfinity = 0x7f800000;  // 2^-100
  const bool usable = amax_bits >= kSmallest && amax_bits < kInfinity;
  float amax;
  __builtin_memcpy(&amax, &amax_bits, sizeof(amax));
  const Floats inverse = splat(127 / amax);
  for_each_16({0, n}, [=](int64_t i, int64_t count) {
    const Floats value = saturated<Code>(load_up_to(x + i, count)) * inverse;
    const Ints code = as_ints(value + splat(kRounder)) - splat_int(kRounderBits);
    int8_t codes[16];
    store_i8(codes, usable ? code : splat_int(0));
    for (int64_t j = 0; j < count; ++j) to[(i + j) * stride].value = codes[j];
  });
  return usable ? amax / 127 : amax_bits < kInfinity ? 0 : __builtin_nanf("");
}

void write_codes(const KvPages& pages, const float* k, const float* v, int64_t ld, const int32_t* slots,
                 Range tokens) {
  const int64_t head_dim = pages.head_dim, block_size = pages.block_size;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int64_t block = slots[t] / block_size, offset = slots[t] % block_size;
    for (int64_t h = 0; h < pages.n_kv_heads; ++h) {
      const int64_t page = block * pages.block_stride + h * head_dim * block_size;
      const int64_t scale = block * pages.scale_stride + h * block_size + offset;
      const int64_t at = t * ld + h * head_dim;
      Code* to_k = static_cast<Code*>(pages.k) + page + offset;
      Code* to_v = static_cast<Code*>(pages.v) + page + offset * head_dim;
      pages.k_scale[scale] = code_vector(to_k, block_size, k + at, head_dim);
      pages.v_scale[scale] = code_vector(to_v, 1, v + at, head_dim);
    }
  }
}

void kv_write(const KvPages& pages, const float* k, const float* v, int64_t ld, const int32_t* slots,
              Range tokens) {
  switch (pages.type) {
    case DType::f32: return write_pages<float>(pages, k, v, ld, slots, tokens);
    case DType::f16: return write_pages<Half>(pages, k, v, ld, slots, tokens);
    case DType::bf16: return write_pages<Bfloat>(pages, k, v, ld, slots, tokens);
    case DType::i8: return write_codes(pages, k, v, ld, slots, tokens);
    default: return;  // ops/ checks
  }
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
