// lane.h: vectors whose lanes are models, and functions of them.  Part of kernels.cc, which alone
// includes it, once for every width of registers.
//
// A mask is what the processor compares to: bits in a register of their own on AVX-512, else a
// vector of ones and zeros.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define THRIFTY_INLINE inline __attribute__((always_inline))
#define THRIFTY_INLINE_LAMBDA __attribute__((always_inline))
#define THRIFTY_UNROLL _Pragma("GCC unroll 32")

namespace thrifty::lanes {
namespace {

constexpr int kLanes = THRIFTY_LANES;
constexpr int kBytes = kLanes * 4;

typedef float V __attribute__((vector_size(kBytes), may_alias));
typedef std::int32_t I __attribute__((vector_size(kBytes), may_alias));
typedef std::uint32_t U __attribute__((vector_size(kBytes), may_alias));

THRIFTY_INLINE V splat(float x) { return V{} + x; }
THRIFTY_INLINE V floats(U x) { return reinterpret_cast<V>(x); }
THRIFTY_INLINE U bits(V x) { return reinterpret_cast<U>(x); }

#if defined(__AVX512F__)
typedef std::uint16_t M;
THRIFTY_INLINE M equal(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
THRIFTY_INLINE M less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
THRIFTY_INLINE M same(I a, int b) {
  return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), _mm512_set1_epi32(b));
}
THRIFTY_INLINE M without(M a, M b) { return a & static_cast<M>(~b); }
THRIFTY_INLINE M either(M a, M b) { return a | b; }
// Where the mask is set the first, else the second, or zero.
THRIFTY_INLINE V pick(M m, V a, V b) { return _mm512_mask_mov_ps(b, m, a); }
THRIFTY_INLINE V only(M m, V a) { return _mm512_maskz_mov_ps(m, a); }
THRIFTY_INLINE void add_where(M m, V& sum, V a, V b) { sum = _mm512_mask3_fmadd_ps(a, b, sum, m); }
THRIFTY_INLINE M every() { return 0xffff; }
THRIFTY_INLINE V root(V x) { return _mm512_sqrt_ps(x); }
#else
typedef I M;
THRIFTY_INLINE M equal(V a, V b) { return a == b; }
THRIFTY_INLINE M less(V a, V b) { return a < b; }
THRIFTY_INLINE M same(I a, int b) { return a == (I{} + b); }
THRIFTY_INLINE M without(M a, M b) { return a & ~b; }
THRIFTY_INLINE M either(M a, M b) { return a | b; }
THRIFTY_INLINE V pick(M m, V a, V b) { return m ? a : b; }
THRIFTY_INLINE V only(M m, V a) { return reinterpret_cast<V>(m & reinterpret_cast<I>(a)); }
THRIFTY_INLINE void add_where(M m, V& sum, V a, V b) { sum += only(m, a) * b; }
THRIFTY_INLINE M every() { return ~I{}; }
THRIFTY_INLINE V root(V x) {
#if defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  V y;
  for (int i = 0; i < kLanes; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}
#endif

// NaN stays NaN.
THRIFTY_INLINE V at_least(V x, float low) { return pick(less(x, splat(low)), splat(low), x); }
THRIFTY_INLINE V at_most(V x, float high) { return pick(less(splat(high), x), splat(high), x); }
THRIFTY_INLINE V absolute(V x) { return floats(bits(x) & 0x7fffffffu); }

// e^x, within 2 units in the last place.
inline V exponential(V x) {
  const V bounded = at_most(at_least(x, -87.3f), 88.7f);
  const V shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const V whole = (bounded * 1.44269504f + shifter) - shifter;
  const V rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
  V sum = splat(1.9875691500e-4f);
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  const V power = sum * rest * rest + rest + 1.0f;
  const V known = pick(equal(whole, whole), whole, V{});
  const I scale = (__builtin_convertvector(known, I) + 127) << 23;
  return power * reinterpret_cast<V>(scale);
}

// ln(x) of normal x > 0, within 2 units in the last place.
inline V logarithm(V x) {
  const U from = bits(x);
  I exponent = reinterpret_cast<I>(from >> 23) - 126;
  V m = floats((from & 0x007fffffu) | 0x3f000000u);  // 0.5 to 1
  const M small = less(m, splat(0.707106781f));
  V e = __builtin_convertvector(exponent, V);
  e = pick(small, e - 1.0f, e);
  m = pick(small, m + m, m) - 1.0f;
  const V s = m * m;
  V sum = splat(7.0376836292e-2f);
  sum = sum * m + -1.1514610310e-1f;
  sum = sum * m + 1.1676998740e-1f;
  sum = sum * m + -1.2420140846e-1f;
  sum = sum * m + 1.4249322787e-1f;
  sum = sum * m + -1.6668057665e-1f;
  sum = sum * m + 2.0000714765e-1f;
  sum = sum * m + -2.4999993993e-1f;
  sum = sum * m + 3.3333331174e-1f;
  return m + (sum * m * s - 0.5f * s + e * -2.12194440e-4f) + e * 0.693359375f;
}

inline V logistic(V x) { return 1.0f / (1.0f + exponential(-x)); }

inline V tangent(V x) {
  const V magnitude = absolute(x);
  const V e = exponential(magnitude * 2.0f);
  const V large = 1.0f - 2.0f / (e + 1.0f);
  const V square = x * x;  // the difference above loses what is small
  const V small =
      magnitude * (1.0f + square * (-0.333333333f + square * (0.133333333f - 0.0539682540f * square)));
  const V y = pick(less(magnitude, splat(0.15f)), small, large);
  return floats(bits(y) | (bits(x) & 0x80000000u));
}

// The error function as a ratio of polynomials on [-4, 4], beyond which it is 1 to the last bit.
inline V error_function(V x) {
  const V b = at_most(at_least(x, -4.0f), 4.0f);
  const V s = b * b;
  V top = splat(-2.72614225801306e-10f);
  top = top * s + 2.77068142495902e-08f;
  top = top * s + -2.10102402082508e-06f;
  top = top * s + -5.69250639462346e-05f;
  top = top * s + -7.34990630326855e-04f;
  top = top * s + -2.95459980854025e-03f;
  top = top * s + -1.60960333262415e-02f;
  V bottom = splat(-1.45660718464996e-05f);
  bottom = bottom * s + -2.13374055278905e-04f;
  bottom = bottom * s + -1.68282697438203e-03f;
  bottom = bottom * s + -7.37332916720468e-03f;
  bottom = bottom * s + -1.42647390514189e-02f;
  return b * top / bottom;
}

// sin and cos of 2 pi u, for u from 0 to 1.
inline void turn(V u, V& sine, V& cosine) {
  const V shifter = splat(12582912.0f);
  const V quarter = (u * 4.0f + shifter) - shifter;
  const V a = (u - quarter * 0.25f) * 6.28318531f;  // -pi/4 to pi/4
  const V s = a * a;
  const V p = a * (1.0f + s * (-1.6666654611e-1f + s * (8.3321608736e-3f + s * -1.9515295891e-4f)));
  const V q = 1.0f - 0.5f * s +
              s * s * (4.166664568298827e-2f + s * (-1.388731625493765e-3f + s * 2.443315711809948e-5f));
  const I k = __builtin_convertvector(quarter, I) & 3;
  const M odd = either(same(k, 1), same(k, 3)), low = either(same(k, 2), same(k, 3));
  const V y = pick(odd, q, p), x = pick(odd, p, q);
  sine = pick(low, -y, y);
  cosine = pick(either(same(k, 1), same(k, 2)), -x, x);
}

// Random numbers, a stream a lane.
struct Random {
  U state;

  U next() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
  }
  // 0 <= u < 1, 24 bits of it.
  V uniform() { return __builtin_convertvector(reinterpret_cast<I>(next() >> 8), V) * 5.9604645e-8f; }
  // Two of the standard normal distribution, by Box and Muller.
  void normal(V& a, V& b) {
    const V radius = root(-2.0f * logarithm(1.0f - uniform()));
    V sine, cosine;
    turn(uniform(), sine, cosine);
    a = radius * cosine;
    b = radius * sine;
  }
};

}  // namespace
}  // namespace thrifty::lanes
