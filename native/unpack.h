// unpack.h: the numbers of a tensor of a `.thrifty` file, from positions and planes of bytes.
//
// Values. Plane b holds byte b, the least significant first, of every stored value; a value of
// `planes` bytes is turned right by one bit if `rotated`, for its sign was put last.
// Positions. Which of `count` elements have a value; the others are zero:
//   raw      all of them; there are no bytes of positions.
//   bitmask  bit i % 8 of byte i / 8 is 1 if element i has one; bits beyond `count` are 0.
//   gap8     one byte a value: how many elements without one come before it, 0 to 254; a byte
//            255 stands for 255 such elements and no value. The last byte is no 255.
//
// Contract. Every byte may lie: what does not hold throws std::invalid_argument before anything
// is written. `out` is zero where the caller gives it and overlaps nothing. The processor is
// little-endian. Nothing here starts threads.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "check.h"

namespace thrifty {

enum class Encoding { raw, bitmask, gap8 };

Encoding encoding_of(std::string_view name);

constexpr std::size_t kMostPlanes = 8;

struct Planes {
  std::array<const std::uint8_t*, kMostPlanes> data;
  std::size_t planes;  // 1, 2, 4 or 8
  std::size_t values;  // bytes of each plane
  bool rotated;
};

// How many values the positions of `count` elements have.
std::size_t count_positions(Encoding encoding, Bytes positions, std::size_t count);

// Writes `count` elements of `planes` bytes to `out`, any alignment.
void unpack_dense(Encoding encoding, Bytes positions, const Planes& planes, std::size_t count,
                  std::uint8_t* out);

// Writes the index of every element that has a value to `out`, `values` of them.
void unpack_indices(Encoding encoding, Bytes positions, std::size_t count, std::size_t values,
                    std::int64_t* out);

}  // namespace thrifty
