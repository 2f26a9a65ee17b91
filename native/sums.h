// sums.h: sums in the order that census.h defines. Part of census.cc, which alone includes it.

#pragma once

#include "vectors.h"

namespace thrifty {
namespace {

using Doubles = Vector<double>;
constexpr std::size_t kDoubles = kWidth / sizeof(double);

using Floats = Vector<float, kWidth / 2>;
using Words = Vector<std::uint32_t, kWidth / 2>;
using Halves = Vector<std::uint16_t, kWidth / 4>;

// Conversions of kDoubles elements. GCC 12 makes three to five instructions of each
// __builtin_convertvector; with the one that the processor has, tally of bf16 is 1.5 times as fast.
#if defined(__AVX2__)
inline Doubles to_doubles(Floats from) { return (Doubles)_mm256_cvtps_pd((__m128)from); }
inline __m128i to_register(Halves from) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&from));
}
inline Words to_words(Halves from) { return (Words)_mm_cvtepu16_epi32(to_register(from)); }
inline Floats f16_to_floats(Halves from) { return (Floats)_mm_cvtph_ps(to_register(from)); }
#else
inline Doubles to_doubles(Floats from) { return __builtin_convertvector(from, Doubles); }
inline Words to_words(Halves from) { return __builtin_convertvector(from, Words); }
// Exponents differ by 112 once the fraction is in place; multiplying mends subnormals too. What
// is not finite comes out wrong, and is not asked for.
inline Floats f16_to_floats(Halves from) {
  const Words wide = to_words(from);
  const Floats scaled = (Floats)((wide & 0x7FFF) << 13) * 0x1p112f;
  return (Floats)((Words)scaled | ((wide & 0x8000) << 16));
}
#endif

// A vector of doubles from as many elements; with `masked`, what is not finite becomes 0.0.
template <Type type, bool masked>
inline Doubles numbers(const std::uint8_t* from) {
  using Bits = typename Format<type>::Bits;
  using Stored = Vector<Bits, kDoubles * sizeof(Bits)>;
  Stored stored = load<Stored>(from);
  if (masked) {
    const Stored magnitude = stored & Format<type>::kMagnitude;
    stored &= (Stored)(magnitude < Format<type>::kInfinity);
  }
  if constexpr (type == Type::f64) return (Doubles)stored;
  if constexpr (type == Type::f32) return to_doubles((Floats)stored);
  if constexpr (type == Type::f16) return to_doubles(f16_to_floats((Halves)stored));
  if constexpr (type == Type::bf16) {
    return to_doubles((Floats)(to_words((Halves)stored) << 16));
  }
}

// sum + x * x. The square of what is stored in fewer bits than half of a double's fraction is
// exact, so that rounding once or twice is the same.
template <Type type>
inline Doubles plus_square(Doubles sum, Doubles x) {
#if defined(__FMA__)
  if constexpr (type != Type::f64) {
    return (Doubles)_mm256_fmadd_pd((__m256d)x, (__m256d)x, (__m256d)sum);
  }
#endif
  return sum + x * x;
}

// Adds the sums of one block; count is a multiple of kStep. Asks for the block after it, which
// the processor does not do by itself while it reads this one a second time.
template <Type type, bool masked>
void sum(const std::uint8_t* data, std::size_t count, const std::uint8_t* next, double* total,
         double* squares) {
  constexpr std::size_t size = sizeof(typename Format<type>::Bits);
  constexpr std::size_t parts = kLanes / kDoubles;
  Doubles sums[parts] = {}, products[parts] = {};
  for (std::size_t i = 0; i < count; i += kLanes) {
    __builtin_prefetch(next + i * size);
#pragma GCC unroll 8
    for (std::size_t j = 0; j < parts; ++j) {
      const Doubles x = numbers<type, masked>(data + (i + j * kDoubles) * size);
      sums[j] += x;
      products[j] = plus_square<type>(products[j], x);
    }
  }
  double lanes[2][kLanes];
  std::memcpy(lanes[0], sums, sizeof(sums));
  std::memcpy(lanes[1], products, sizeof(products));
#pragma GCC unroll 4
  for (std::size_t apart = kLanes / 2; apart > 0; apart /= 2) {
#pragma GCC unroll 8
    for (std::size_t j = 0; j < apart; ++j) {
      lanes[0][j] += lanes[0][j + apart];
      lanes[1][j] += lanes[1][j + apart];
    }
  }
  *total += lanes[0][0];
  *squares += lanes[1][0];
}

// Conversions must see subnormal numbers, even where a library has told the processor to take
// them for zero.
class PlainFloats {
 public:
#if defined(__x86_64__)
  PlainFloats() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~PlainFloats() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

}  // namespace
}  // namespace thrifty
