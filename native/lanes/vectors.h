// vectors.h: memory of vectors, and activations of them.  Part of kernels.cc.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "lane.h"
#include "lanes.h"

namespace thrifty::lanes {
namespace {

// Vectors in memory of their own, zero at first.
class Vectors {
 public:
  Vectors() = default;
  explicit Vectors(std::size_t count) {
    const std::size_t bytes = (std::max<std::size_t>(count, 1) * sizeof(V) + 4095) / 4096 * 4096;
    memory_ = static_cast<V*>(std::aligned_alloc(4096, bytes));
    if (!memory_) throw std::bad_alloc();
    std::memset(static_cast<void*>(memory_), 0, bytes);
  }
  Vectors(Vectors&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
  Vectors& operator=(Vectors&& other) noexcept {
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Vectors() { std::free(memory_); }
  V* get() const { return memory_; }
  V& operator[](std::size_t i) const { return memory_[i]; }

 private:
  V* memory_ = nullptr;
};

// An activation and its slope, of n vectors.
template <class F>
THRIFTY_INLINE void each(std::size_t n, const V* x, V* y, V* slope, F f) {
  for (std::size_t i = 0; i < n; ++i) f(x[i], y[i], slope[i]);
}

void activate(Act act, std::size_t n, const V* x, V* y, V* slope) {
  const V one = splat(1.0f), zero{};
  switch (act) {
    case Act::none:
      return each(n, x, y, slope, [&](V a, V& b, V& d) { b = a, d = one; });
    case Act::relu:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        const M up = less(zero, a), down = less(a, zero);
        b = pick(down, zero, a), d = only(up, one);
      });
    case Act::leaky_relu:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        d = pick(less(zero, a), one, splat(0.01f)), b = a * d;
      });
    case Act::tanh:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        const V t = tangent(a);
        b = t, d = 1.0f - t * t;
      });
    case Act::sigmoid:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        const V s = logistic(a);
        b = s, d = s * (1.0f - s);
      });
    case Act::silu:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        const V s = logistic(a);
        b = a * s, d = s * (1.0f + a * (1.0f - s));
      });
    case Act::gelu:
      return each(n, x, y, slope, [&](V a, V& b, V& d) {
        const V cdf = 0.5f * (1.0f + error_function(a * 0.70710678f));
        b = a * cdf, d = cdf + a * 0.39894228f * exponential(a * a * -0.5f);
      });
  }
}

}  // namespace
}  // namespace thrifty::lanes
