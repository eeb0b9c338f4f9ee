// Derived words of the vocabulary, and exp, tanh and erf from + - × / and fma alone, so that every table
// gives the same bits. Polynomials: weighted minimax fits (Lawson's iteration), coefficients rounded to
// float32.

namespace tuili::cpu::TUILI_ISA {
namespace {

struct Bfloat {
  uint16_t bits;
};

// An element of an i8 page.
struct Code {
  int8_t value;
};
template <class T>
constexpr bool kCoded = __is_same(T, Code);

TUILI_INLINE Floats load(const Bfloat* p) {
  return as_floats(shl<16>(load_u16(reinterpret_cast<const uint16_t*>(p))));
}
TUILI_INLINE Floats load(const Code* p) { return to_float(load_i8(reinterpret_cast<const uint8_t*>(p))); }

// The first n (1 to 16) of p, zeros after; nothing past them is read.
template <class T>
TUILI_INLINE Floats load_first(const T* p, int64_t n) {
  T copy[16] = {};
  for (int64_t i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}

template <class I>
TUILI_INLINE void store_i8(int8_t* p, I a, I b) {
  store_i8(p, a);
  store_i8(p + 16, b);
}
template <class I>
TUILI_INLINE void sums(int32_t (&of)[2], I a, I b) {
  of[0] = sum(a);
  of[1] = sum(b);
}

TUILI_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TUILI_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Calls step(i, count) for i = begin, begin + 16, …; count is 16 but for the last.
template <class Step>
TUILI_INLINE void for_each_16(Range range, const Step& step) {
  for (int64_t i = range.begin; i < range.end; i += 16) step(i, smaller(16, range.end - i));
}
TUILI_INLINE Floats load_up_to(const float* p, int64_t count) {
  return count == 16 ? load(p) : load_first(p, count);
}
TUILI_INLINE void store_up_to(float* p, Floats a, int64_t count) {
  if (count == 16) return store(p, a);
  store_first(p, a, count);
}

// Rounds to nearest even; a NaN stays one.
TUILI_INLINE void store(Bfloat* p, Floats a) {
  const Ints bits = as_ints(a);
  const Ints number = shr<31>((bits & splat_int(0x7fffffff)) - splat_int(0x7f800001));  // -1, or 0 for NaN
  const Ints odd = shr<16>(bits) & splat_int(1);
  const Ints rounded = shr<16>(bits + ((odd + splat_int(0x7fff)) & number));
  const Ints quiet = shl<6>(number + splat_int(1));
  store_u16(reinterpret_cast<uint16_t*>(p), (rounded | quiet) & splat_int(0xffff));
}

// The first `count` of 16 elements.
template <class T>
TUILI_INLINE void store_up_to(T* p, Floats a, int64_t count) {
  if (count == 16) return store(p, a);
  T copy[16];
  store(copy, a);
  for (int64_t i = 0; i < count; ++i) p[i] = copy[i];
}

// Horner's rule, the highest power first.
template <int kTerms>
TUILI_INLINE Floats polynomial(const float (&c)[kTerms], Floats x) {
  Floats value = splat(c[0]);
#pragma GCC unroll 16
  for (int i = 1; i < kTerms; ++i) value = fma(value, x, splat(c[i]));
  return value;
}

TUILI_INLINE Floats absolute(Floats x) { return as_floats(as_ints(x) & splat_int(0x7fffffff)); }
TUILI_INLINE Floats negate(Floats x) { return as_floats(as_ints(x) + splat_int(int32_t(0x80000000))); }
// The magnitude of a value >= 0 with the sign of another.
TUILI_INLINE Floats with_sign_of(Floats magnitude, Floats sign) {
  return as_floats(as_ints(magnitude) | (as_ints(sign) & splat_int(int32_t(0x80000000))));
}

// Added to a float below 2^22 in magnitude, it rounds to the nearest even integer, left in the low bits.
constexpr float kRounder = 0x1.8p23f;
constexpr int32_t kRounderBits = 0x4b400000;

// a · 2^n, n in [-150, 128] and given as n + kRounder: in two factors, because neither end is a float.
template <class F>
TUILI_INLINE F scaled(F a, F shifted) {
  const Ints exponent = as_ints(shifted), half = shr<1>(exponent);  // the rounder is shifted out below
  const Ints one = splat_int(127 << 23);
  return a * as_floats(shl<23>(half) + one) * as_floats(shl<23>(exponent - half) + one);
}

// 2^n · e^r with n = round(x / ln 2), |r| <= ln 2 / 2. At most 1.04 ulp off; -Inf gives 0, x > 88.73 Inf, NaN
// NaN.
TUILI_INLINE Floats exp(Floats x) {
  constexpr float kPowers[] = {0x1.6db42ap-10f, 0x1.123b56p-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0.5f};
  x = max(splat(-104), min(splat(89), x));
  const Floats shifted = fma(x, splat(0x1.715476p0f), splat(kRounder));
  const Floats n = shifted - splat(kRounder);
  // ln 2 in two parts; the first has few enough bits for n · part to be exact.
  const Floats r = fma(n, splat(-0x1.7f7d1cp-20f), fma(n, splat(-0x1.62e4p-1f), x));
  const Floats e = fma(r * r, polynomial(kPowers, r), r) + splat(1);
  return scaled(e, shifted);
}

TUILI_INLINE float exp_scalar(float x) { return first_lane(exp(splat(x))); }

// Below 0.55 x + x³·P(x²), above 1 - 2 / (e^2x + 1). At most 1.5 ulp off.
TUILI_INLINE Floats tanh(Floats x) {
  constexpr float kPowers[] = {-0.0062742396f, 0.02107168f, -0.05385231f, 0.13332586f, -0.33333316f};
  const Floats a = absolute(x);
  const Floats square = a * a;
  const Floats near = fma(a * square, polynomial(kPowers, square), a);
  const Floats far = splat(1) - splat(2) / (exp(a + a) + splat(1));
  return with_sign_of(select(less(a, splat(0.55f)), near, far), x);
}

// Below 1 x + x·P(x²), above 1 - e^Q(x) where Q fits log(erfc(x)) up to 4. At most 2 ulp off.
TUILI_INLINE Floats erf(Floats x) {
  constexpr float kNear[] = {7.889123e-05f, -0.0008020842f, 0.0051895357f, -0.026854444f,
                             0.112836f,     -0.37612626f,   0.12837917f};
  constexpr float kFar[] = {-2.1696593e-05f, 0.00044146067f, -0.004205226f, 0.025210181f,
                            -0.10842185f,    -0.6332166f,    -1.1295801f,   0.00018844267f};
  const Floats a = absolute(x);
  const Floats near = fma(a, polynomial(kNear, a * a), a);
  const Floats far = splat(1) - exp(polynomial(kFar, min(splat(4), a)));
  return with_sign_of(select(less(a, splat(1)), near, far), x);
}

}  // namespace
}  // namespace tuili::cpu::TUILI_ISA
