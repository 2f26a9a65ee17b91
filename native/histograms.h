// histograms.h: octaves and patterns. Part of census.cc, which alone includes it.
//
// Several tables, since adding to a counter waits for the addition before it.

#pragma once

#include "sweep.h"
#include "vectors.h"

namespace thrifty {
namespace {

constexpr std::size_t kTables = 4;
constexpr std::size_t kRound = std::size_t{1} << 30;  // elements that a 32-bit counter holds

template <std::size_t bin_count, class BinOf>
inline void histogram(std::size_t count, std::uint64_t* bins, const BinOf& bin_of) {
  alignas(64) std::uint32_t tables[kTables][bin_count];
  for (std::size_t start = 0; start < count; start += kRound) {
    const std::size_t end = count - start < kRound ? count : start + kRound;
    std::memset(tables, 0, sizeof(tables));
    std::size_t i = start;
    for (; i + kTables <= end; i += kTables) {
      for (std::size_t t = 0; t < kTables; ++t) ++tables[t][bin_of(i + t)];
    }
    for (; i < end; ++i) ++tables[0][bin_of(i)];
    for (std::size_t b = 0; b < bin_count; ++b) {
      for (std::size_t t = 0; t < kTables; ++t) bins[b] += tables[t][b];
    }
  }
}

// NaN shares bins with the infinity until they are told apart.
template <Type type>
void part_special(const std::uint8_t* data, std::size_t count, std::uint64_t* bins) {
  std::uint64_t special = 0;
  for (std::size_t b = kInfiniteOctave; b < kOctaves; ++b) special += bins[b];
  if (special == 0) return;
  Found found;
  find_special<type>(data, count, &found);
  for (std::size_t b = kInfiniteOctave; b < kOctaves; ++b) bins[b] = 0;
  bins[kInfiniteOctave] = found.infinite;
  bins[kNanOctave] = found.nan;
}

inline std::size_t octave_of_f64(const std::uint8_t* data, std::size_t i) {
  const std::int64_t upper = magnitude_at<Type::f64>(data, i) >> 48;  // exponent, 4 of fraction
  const std::int64_t octave = upper - (896 << 4);                     // biases 1023 and 127
  if (__builtin_expect(octave >= 16 && octave < 4080, 1)) return static_cast<std::size_t>(octave);
  if (upper >= 0x7FF0) return kInfiniteOctave;
  if (octave >= 4080) return kInfiniteOctave - 1;
  const std::int64_t down = 897 - (upper >> 4);  // a subnormal float32 loses as many bits
  return down > 4 ? 0 : static_cast<std::size_t>(((upper & 15) | 16) >> down);
}

inline std::size_t octave_of_f16(std::uint32_t magnitude) {
  if (magnitude >= 0x7C00) return kInfiniteOctave;
  if (magnitude >= 0x400) return (magnitude >> 6) + (112 << 4);
  if (magnitude == 0) return 0;
  const std::uint32_t leading = 31 - static_cast<std::uint32_t>(__builtin_clz(magnitude));
  return ((103 + leading) << 4) + (((magnitude << 4) >> leading) & 15);
}

// Subnormal numbers each have a bin at first: telling them apart one by one would take a branch.
inline void octaves_of_f16(const std::uint8_t* data, std::size_t count, std::uint64_t* bins) {
  constexpr std::size_t kSubnormal = 0x400;
  std::uint64_t fine[kSubnormal + (0x8000 >> 6)] = {};
  histogram<sizeof(fine) / sizeof(fine[0])>(count, fine, [data](std::size_t i) -> std::size_t {
    const auto m = static_cast<std::size_t>(magnitude_at<Type::f16>(data, i));
    return m < kSubnormal ? m : kSubnormal + (m >> 6);
  });
  for (std::uint32_t m = 0; m < kSubnormal; ++m) bins[octave_of_f16(m)] += fine[m];
  for (std::uint32_t upper = kSubnormal >> 6; upper < (0x8000 >> 6); ++upper) {
    bins[octave_of_f16(upper << 6)] += fine[kSubnormal + upper];
  }
}

template <Type type>
void octaves(const std::uint8_t* data, std::size_t count, std::uint64_t* out) {
  std::uint64_t bins[kOctaves] = {};
  if constexpr (type == Type::f16) {
    octaves_of_f16(data, count, bins);
  } else {
    histogram<kOctaves>(count, bins, [data](std::size_t i) -> std::size_t {
      if constexpr (type == Type::f64) return octave_of_f64(data, i);
      if constexpr (type == Type::f32) return (load<std::uint32_t>(data + 4 * i) >> 19) & 0xFFF;
      return static_cast<std::size_t>(load<std::uint16_t>(data + 2 * i) >> 3) & 0xFFF;
    });
  }
  part_special<type>(data, count, bins);
  for (std::size_t b = 0; b < kOctaves; ++b) out[b] += bins[b];
}

void patterns(const std::uint8_t* data, std::size_t count, std::uint64_t* bins) {
  histogram<256>(count, bins, [data](std::size_t i) -> std::size_t { return data[i]; });
}

}  // namespace
}  // namespace thrifty
