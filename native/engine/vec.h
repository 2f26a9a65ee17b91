// vec.h: vectors of 16 floats and functions of them. Part of kernels.cc, which alone includes it.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define THRIFTY_INLINE inline __attribute__((always_inline))

namespace thrifty::engine {
namespace {

// 16 lanes on every processor; the compiler makes two or four registers of one where it must.
typedef float V __attribute__((vector_size(64), may_alias));
typedef std::int32_t I __attribute__((vector_size(64), may_alias));
typedef std::int32_t UnalignedInts __attribute__((vector_size(64), aligned(4), may_alias));

THRIFTY_INLINE V splat(float x) { return V{} + x; }
THRIFTY_INLINE V load(const float* p) { return *reinterpret_cast<const V*>(p); }
THRIFTY_INLINE void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
THRIFTY_INLINE I mask_at(const float* p) { return *reinterpret_cast<const UnalignedInts*>(p); }
THRIFTY_INLINE V keep(V x, const float* mask) {
  return reinterpret_cast<V>(reinterpret_cast<I>(x) & mask_at(mask));
}
// NaN stays NaN in all of these.
THRIFTY_INLINE V at_least(V x, V low) { return low > x ? low : x; }
THRIFTY_INLINE V at_most(V x, V high) { return high < x ? high : x; }
THRIFTY_INLINE V larger(V a, V b) { return (a > b) | (a != a) ? a : b; }

// e^x, within 2 units in the last place.
inline V exponential(V x) {
  const V bounded = at_most(at_least(x, splat(-87.3f)), splat(88.7f));
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
  const V known = whole == whole ? whole : V{};
  const I bits = (__builtin_convertvector(known, I) + 127) << 23;
  return power * reinterpret_cast<V>(bits);
}

inline V logistic(V x) { return 1.0f / (1.0f + exponential(-x)); }

inline V tangent(V x) {
  const V magnitude = x < V{} ? -x : x;
  const V e = exponential(magnitude * 2.0f);
  const V large = 1.0f - 2.0f / (e + 1.0f);
  const V square = x * x;  // the difference above loses what is small
  const V small =
      magnitude * (1.0f + square * (-0.333333333f + square * (0.133333333f - 0.0539682540f * square)));
  const V y = magnitude < 0.15f ? small : large;
  return x < V{} ? -y : y;
}

// The error function as a ratio of polynomials on [-4, 4], beyond which it is 1 to the last bit.
inline V error_function(V x) {
  const V b = at_most(at_least(x, splat(-4.0f)), splat(4.0f));
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

// One step on one vector; `at` is where the other values lie, from the start of the step's.
inline V stepped(V y, const Step& step, std::size_t x_at, std::size_t h_at) {
  const V zero{};
  switch (step.what) {
    case Do::relu: return at_least(y, zero);
    case Do::clamp: return at_most(at_least(y, splat(step.a)), splat(step.b));
    case Do::silu: return y * logistic(y);
    case Do::hardswish: return y * (at_most(at_least(y + 3.0f, zero), splat(6.0f)) / 6.0f);
    case Do::sigmoid: return logistic(y);
    case Do::hardsigmoid: return at_most(at_least(y + 3.0f, zero), splat(6.0f)) / 6.0f;
    case Do::tanh: return tangent(y);
    case Do::gelu: return y * 0.5f * (1.0f + error_function(y * 0.70710678f));
    case Do::gelu_tanh:
      return y * 0.5f * (1.0f + tangent(0.79788456f * (y + 0.044715f * y * y * y)));
    case Do::leaky_relu: return y < zero ? y * step.a : y;
    case Do::elu: return y > zero ? y : (y != y ? y : step.a * (exponential(at_most(y, zero)) - 1.0f));
    case Do::scale: return y * step.a;
    case Do::shift: return y + step.a;
    case Do::add: return y + load(step.x + x_at) * step.a;
    case Do::mul: return y * load(step.x + x_at);
    case Do::blend: {
      const V x = load(step.x + x_at);
      return x + y * (load(step.h + h_at) - x);
    }
  }
  return y;
}

}  // namespace
}  // namespace thrifty::engine
