// ranks.h: digits of keys, and the keys inside a bracket. Part of census.cc, which alone includes
// it.

#pragma once

#include "histograms.h"
#include "vectors.h"

namespace thrifty {
namespace {

template <Order order>
inline std::int32_t key_of(std::int32_t bits) {
  const std::int32_t m = bits & 0x7FFFFFFF;
  if (order == Order::keys) return bits;
  return order == Order::value && bits < 0 ? -m : m;
}

template <Order order>
void digits(const std::uint8_t* data, std::size_t count, int level, std::uint32_t prefix,
            std::uint64_t* bins) {
  auto ordered = [data](std::size_t i) {
    return static_cast<std::uint32_t>(key_of<order>(load<std::int32_t>(data + 4 * i))) ^
           0x80000000u;
  };
  if (level == 0) {
    histogram<kDigits>(count, bins, [&](std::size_t i) -> std::size_t { return ordered(i) >> 20; });
    return;
  }
  const int shift = level == 1 ? 8 : 0, above = level == 1 ? 20 : 8;
  const std::uint32_t mask = level == 1 ? 0xFFF : 0xFF;
  std::uint64_t within[kDigits + 1] = {};
  histogram<kDigits + 1>(count, within, [&](std::size_t i) -> std::size_t {
    const std::uint32_t key = ordered(i);
    return key >> above == prefix ? (key >> shift) & mask : kDigits;
  });
  for (std::size_t d = 0; d < kDigits; ++d) bins[d] += within[d];
}

#if defined(__AVX512F__)
constexpr std::size_t kGatherWidth = 64;
#else
constexpr std::size_t kGatherWidth = kWidth;
#endif

template <Order order>
inline std::size_t gather_one(std::int32_t bits, Bracket* bracket, std::int32_t* out, bool room) {
  const std::int32_t key = key_of<order>(bits);
  const std::uint32_t m = static_cast<std::uint32_t>(bits) & 0x7FFFFFFF;
  if (order != Order::keys && m > bracket->largest) bracket->largest = m;
  bracket->below += key < bracket->low;
  if (key < bracket->low || key > bracket->high) return 0;
  ++bracket->inside;
  if (room) *out = key;
  return room;
}

template <Order order>
std::size_t gather(const std::uint8_t* data, std::size_t count, Bracket* bracket, std::int32_t* out,
                   std::size_t room) {
  using Ints = Vector<std::int32_t, kGatherWidth>;
  using Counts = Vector<std::uint32_t, kGatherWidth>;
  constexpr std::size_t lane_count = kGatherWidth / 4;
  std::size_t stored = 0, i = 0;
  const Ints low = Ints{} + bracket->low, high = Ints{} + bracket->high;
  while (count - i >= lane_count) {
    Counts under = {};
    Ints top = {};
    const std::size_t left = (count - i) / lane_count * lane_count;
    const std::size_t end = i + (left < kChunk ? left : kChunk);
    for (; i < end; i += lane_count) {
      const Ints bits = load<Ints>(data + 4 * i);
      Ints m = bits & 0x7FFFFFFF, keys = m;
      if (order == Order::keys) keys = bits;
      if (order == Order::value) {
        const Ints sign = bits >> 31;
        keys = (m ^ sign) - sign;
      }
      if (order != Order::keys) top = m > top ? m : top;
      under -= (Counts)(keys < low);
#if defined(__AVX512F__)
      const __mmask16 inside = _mm512_cmpge_epi32_mask((__m512i)keys, (__m512i)low) &
                               _mm512_cmple_epi32_mask((__m512i)keys, (__m512i)high);
      const auto now = static_cast<unsigned>(__builtin_popcount(inside));
      bracket->inside += now;
      if (stored + kGatherSlack <= room) {
        _mm512_storeu_si512(out + stored, _mm512_maskz_compress_epi32(inside, (__m512i)keys));
        stored += now;
      }
#else
      const Ints inside = (keys >= low) & (keys <= high);
      using Pairs = Vector<std::uint64_t, kGatherWidth>;
      const Pairs pairs = (Pairs)inside;
      std::uint64_t some = 0;
      for (std::size_t j = 0; j < kGatherWidth / 8; ++j) some |= pairs[j];
      if (some == 0) continue;
      const bool fits = stored + kGatherSlack <= room;
      for (std::size_t j = 0; j < lane_count; ++j) {
        if (inside[j] == 0) continue;
        ++bracket->inside;
        if (fits) out[stored++] = keys[j];
      }
#endif
    }
    for (std::size_t j = 0; j < lane_count; ++j) {
      bracket->below += under[j];
      const auto m = static_cast<std::uint32_t>(top[j]);
      if (m > bracket->largest) bracket->largest = m;
    }
  }
  for (; i < count; ++i) {
    stored += gather_one<order>(load<std::int32_t>(data + 4 * i), bracket, out + stored,
                                stored + kGatherSlack <= room);
  }
  return stored;
}

}  // namespace
}  // namespace thrifty
