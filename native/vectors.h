// vectors.h: vectors, unaligned loads and the layout of floats. Part of census.cc, which alone
// includes it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "census.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace thrifty {
namespace {

// Bytes of a vector. 32 with AVX-512 too: comparing 32 bytes gives a vector to subtract, comparing
// 64 a mask to add under, which is 26 against 21 GB/s for 8 limits on Zen 4; and GCC 12 converts
// 64 bytes by halves.
constexpr std::size_t kWidth = THRIFTY_WIDTH;
constexpr std::size_t kStep = 64;     // elements: whole vectors, and whole rows of partial sums
constexpr std::size_t kTogether = 9;  // limits compared in one sweep, a register each

template <class T, std::size_t bytes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(bytes)));
};
template <class T, std::size_t bytes = kWidth>
using Vector = typename VectorOf<T, bytes>::Type;

template <class T>
inline T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class SignedBits, class UnsignedBits, UnsignedBits infinity>
struct FloatFormat {
  using Bits = SignedBits;
  using Unsigned = UnsignedBits;
  static constexpr Bits kInfinity = static_cast<Bits>(infinity);
  static constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Unsigned>(~Unsigned{0}) >> 1);
};
template <Type type>
struct Format;
template <>
struct Format<Type::f64> : FloatFormat<std::int64_t, std::uint64_t, 0x7FF0000000000000> {};
template <>
struct Format<Type::f32> : FloatFormat<std::int32_t, std::uint32_t, 0x7F800000> {};
template <>
struct Format<Type::f16> : FloatFormat<std::int16_t, std::uint16_t, 0x7C00> {};
template <>
struct Format<Type::bf16> : FloatFormat<std::int16_t, std::uint16_t, 0x7F80> {};

template <Type type>
inline auto magnitude_at(const std::uint8_t* data, std::size_t i) {
  using Bits = typename Format<type>::Bits;
  return static_cast<Bits>(load<Bits>(data + i * sizeof(Bits)) & Format<type>::kMagnitude);
}

}  // namespace
}  // namespace thrifty
