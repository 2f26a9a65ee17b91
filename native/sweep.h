// sweep.h: counts under limits, by counting what is not under them. Part of census.cc, which alone
// includes it.

#pragma once

#include "vectors.h"

namespace thrifty {
namespace {

// Lanes count up to kChunk / (lanes of the narrowest vector) = 2^15, which 16 bits hold.
template <Type type>
struct Sweep {
  using Bits = typename Format<type>::Bits;
  using Lanes = Vector<Bits>;
  using Count = Vector<typename Format<type>::Unsigned>;
  static constexpr std::size_t kLaneCount = kWidth / sizeof(Bits);

  Bits bounds[kMostLimits + 1];  // a magnitude is over the bound if it is not under the limit
  Count above[kMostLimits + 1];
  Lanes largest = Lanes{};
  std::size_t limit_count = 0;

  void add(std::uint64_t limit) {
    above[limit_count] = Count{};
    bounds[limit_count++] = static_cast<Bits>(static_cast<Bits>(limit) - 1);
  }

  template <std::size_t together, bool with_largest>
  void compare(const std::uint8_t* data, std::size_t count, std::size_t first) {
    Count counts[together];
    Lanes bound[together], top = largest;
    for (std::size_t j = 0; j < together; ++j) {
      counts[j] = above[first + j];
      bound[j] = Lanes{} + bounds[first + j];
    }
    for (std::size_t i = 0; i < count; i += kLaneCount) {
      const Lanes m = load<Lanes>(data + i * sizeof(Bits)) & Format<type>::kMagnitude;
#pragma GCC unroll 9
      for (std::size_t j = 0; j < together; ++j) counts[j] -= (Count)(m > bound[j]);
      if (with_largest) top = m > top ? m : top;
    }
    for (std::size_t j = 0; j < together; ++j) above[first + j] = counts[j];
    if (with_largest) largest = top;
  }

  template <std::size_t together, bool with_largest>
  void compare_up_to(const std::uint8_t* data, std::size_t count, std::size_t first,
                     std::size_t left) {
    if constexpr (together > 0) {
      if (left == together) return compare<together, with_largest>(data, count, first);
      compare_up_to<together - 1, with_largest>(data, count, first, left);
    }
  }

  // count is a multiple of kStep.
  template <bool with_largest>
  void sweep(const std::uint8_t* data, std::size_t count) {
    for (std::size_t first = 0; first < limit_count; first += kTogether) {
      const std::size_t left = limit_count - first;
      const std::size_t now = left < kTogether ? left : kTogether;
      if (with_largest && first == 0) {
        compare_up_to<kTogether, true>(data, count, first, now);
      } else {
        compare_up_to<kTogether, false>(data, count, first, now);
      }
    }
  }

  std::uint64_t over(std::size_t j) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < kLaneCount; ++i) sum += above[j][i];
    return sum;
  }

  Bits top() const {
    Bits most = 0;
    for (std::size_t i = 0; i < kLaneCount; ++i) most = largest[i] > most ? largest[i] : most;
    return most;
  }
};

// The last elements, followed by zeros up to a multiple of kStep.
template <Type type>
struct Padded {
  using Bits = typename Format<type>::Bits;
  alignas(64) std::uint8_t bytes[kBlock * sizeof(Bits)];

  Padded(const std::uint8_t* data, std::size_t count, std::size_t padded) {
    std::memcpy(bytes, data, count * sizeof(Bits));
    std::memset(bytes + count * sizeof(Bits), 0, (padded - count) * sizeof(Bits));
  }
};

inline std::size_t rounded_up(std::size_t count) { return (count + kStep - 1) / kStep * kStep; }

template <Type type>
void below(const std::uint8_t* data, std::size_t count, const std::uint64_t* limits,
           std::size_t limit_count, std::uint64_t* out) {
  constexpr std::size_t size = sizeof(typename Format<type>::Bits);
  while (count > 0) {
    const std::size_t now = count < kChunk ? count : kChunk;
    Sweep<type> sweep;
    for (std::size_t j = 0; j < limit_count; ++j) sweep.add(limits[j]);
    const std::size_t stride = limit_count > kTogether ? kBlock : kChunk;
    const std::size_t whole = now / kStep * kStep;
    for (std::size_t i = 0; i < whole; i += stride) {
      const std::size_t left = whole - i;
      sweep.template sweep<false>(data + i * size, left < stride ? left : stride);
    }
    const std::size_t padding = rounded_up(now) - now;
    if (padding > 0) {
      const Padded<type> last(data + whole * size, now - whole, kStep);
      sweep.template sweep<false>(last.bytes, kStep);
    }
    for (std::size_t j = 0; j < limit_count; ++j) {
      if (limits[j] > 0) out[j] += now - sweep.over(j);  // padding is under every other limit
    }
    data += now * size;
    count -= now;
  }
}

// ---- What a sweep does not tell apart, element by element.

template <Type type>
void find_special(const std::uint8_t* data, std::size_t count, Found* found) {
  using Bits = typename Format<type>::Bits;
  for (std::size_t i = 0; i < count; ++i) {
    const Bits m = magnitude_at<type>(data, i);
    found->infinite += m == Format<type>::kInfinity;
    found->nan += m > Format<type>::kInfinity;
    const Bits finite = m < Format<type>::kInfinity ? m : Bits{0};
    const auto wide = static_cast<std::uint64_t>(finite);
    found->largest = wide > found->largest ? wide : found->largest;
  }
}

template <Type type>
std::uint64_t count_pattern(const std::uint8_t* data, std::size_t count,
                            typename Format<type>::Unsigned pattern) {
  using Unsigned = typename Format<type>::Unsigned;
  std::uint64_t equal = 0;
  for (std::size_t i = 0; i < count; ++i) {
    equal += load<Unsigned>(data + i * sizeof(Unsigned)) == pattern;
  }
  return equal;
}

}  // namespace
}  // namespace thrifty
