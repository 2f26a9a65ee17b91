#include "unpack.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

namespace thrifty {
namespace {

constexpr std::size_t kBlock = 4096;  // elements or gaps at a time, so that values stay in L1
constexpr std::size_t kWord = 64;
constexpr std::uint8_t kEscape = 255;

std::uint64_t word_at(Bytes mask, std::size_t word) {
  std::uint64_t bits = 0;
  const std::size_t begin = word * sizeof bits;
  std::memcpy(&bits, mask.data + begin, std::min(sizeof bits, mask.size - begin));
  return bits;
}

std::size_t ones(std::uint64_t bits) {
  return static_cast<std::size_t>(__builtin_popcountll(bits));
}

std::size_t count_mask(Bytes mask, std::size_t count) {
  require(mask.size == count / 8 + (count % 8 != 0), "the bitmask is not of one bit an element");
  if (count % 8 != 0) {
    require(mask.data[mask.size - 1] >> (count % 8) == 0, "the bitmask has bits beyond the shape");
  }
  std::size_t found = 0;
  for (std::size_t word = 0; word * sizeof(std::uint64_t) < mask.size; ++word) {
    found += ones(word_at(mask, word));
  }
  return found;
}

std::size_t count_gaps(Bytes gaps, std::size_t count) {
  require(gaps.size == 0 || gaps.data[gaps.size - 1] != kEscape, "the gaps end in an escape");
  std::uint64_t reached = 0;
  std::size_t values = 0;
  for (std::size_t i = 0; i < gaps.size; ++i) {
    reached += gaps.data[i];
    values += gaps.data[i] != kEscape;
  }
  require(reached <= count && values <= count - reached, "the gaps reach beyond the shape");
  return values;
}

template <class T>
void join(const Planes& planes, std::size_t begin, std::size_t end, T* out) {
  constexpr std::size_t size = sizeof(T);
  std::array<const std::uint8_t*, size> from;
  for (std::size_t b = 0; b < size; ++b) from[b] = planes.data[b] + begin;
  const std::size_t values = end - begin;
  for (std::size_t i = 0; i < values; ++i) {
    T value = 0;
    for (std::size_t b = 0; b < size; ++b) {
      value = static_cast<T>(value | static_cast<T>(static_cast<T>(from[b][i]) << (8 * b)));
    }
    out[i] = value;
  }
  if (!planes.rotated) return;
  for (std::size_t i = 0; i < values; ++i) {
    out[i] = static_cast<T>(static_cast<T>(out[i] >> 1) |
                            static_cast<T>(out[i] << (8 * size - 1)));
  }
}

template <class T>
void put(std::uint8_t* out, std::size_t at, T value) {
  std::memcpy(out + at * sizeof(T), &value, sizeof(T));
}

template <class T>
void unpack_raw(const Planes& planes, std::size_t count, std::uint8_t* out) {
  std::array<T, kBlock> values;
  for (std::size_t at = 0; at < count; at += kBlock) {
    const std::size_t some = std::min(kBlock, count - at);
    join(planes, at, at + some, values.data());
    std::memcpy(out + at * sizeof(T), values.data(), some * sizeof(T));
  }
}

// In the order of the elements. Where many have a value, every element is written, without a
// branch; `values` can be read one further than it has values.
template <class T>
const T* expand(std::uint64_t bits, std::size_t elements, const T* values, std::size_t at,
                std::uint8_t* out) {
  if (ones(bits) > kWord / 4) {
    for (std::size_t i = 0; i < elements; ++i) {
      const T bit = static_cast<T>(bits >> i & 1);
      put(out, at + i, static_cast<T>(*values & static_cast<T>(-bit)));
      values += bit;
    }
    return values;
  }
  for (; bits != 0; bits &= bits - 1) {
    put(out, at + static_cast<std::size_t>(__builtin_ctzll(bits)), *values++);
  }
  return values;
}

template <class T>
void unpack_mask(Bytes mask, const Planes& planes, std::size_t count, std::uint8_t* out) {
  std::array<T, kBlock + 1> values{};
  std::size_t taken = 0;
  for (std::size_t at = 0; at < count; at += kBlock) {
    const std::size_t stop = std::min(count, at + kBlock);
    std::size_t some = 0;
    for (std::size_t i = at; i < stop; i += kWord) some += ones(word_at(mask, i / kWord));
    join(planes, taken, taken + some, values.data());
    taken += some;
    const T* next = values.data();
    for (std::size_t i = at; i < stop; i += kWord) {
      next = expand(word_at(mask, i / kWord), std::min(kWord, stop - i), next, i, out);
    }
  }
}

template <class T>
void unpack_gaps(Bytes gaps, const Planes& planes, std::uint8_t* out) {
  std::array<T, kBlock> values;
  std::size_t taken = 0, at = 0;
  for (std::size_t begin = 0; begin < gaps.size; begin += kBlock) {
    const std::size_t end = std::min(gaps.size, begin + kBlock);
    std::size_t some = 0;
    for (std::size_t i = begin; i < end; ++i) some += gaps.data[i] != kEscape;
    join(planes, taken, taken + some, values.data());
    taken += some;
    const T* next = values.data();
    for (std::size_t i = begin; i < end; ++i) {
      at += gaps.data[i];
      if (gaps.data[i] != kEscape) put(out, at++, *next++);
    }
  }
}

template <class T>
void unpack_as(Encoding encoding, Bytes positions, const Planes& planes, std::size_t count,
               std::uint8_t* out) {
  switch (encoding) {
    case Encoding::raw:
      return unpack_raw<T>(planes, count, out);
    case Encoding::bitmask:
      return unpack_mask<T>(positions, planes, count, out);
    case Encoding::gap8:
      return unpack_gaps<T>(positions, planes, out);
  }
}

void check_values(Encoding encoding, Bytes positions, std::size_t count, std::size_t values) {
  require(count_positions(encoding, positions, count) == values,
          "there are more or fewer values than positions");
}

}  // namespace

Encoding encoding_of(std::string_view name) {
  if (name == "raw") return Encoding::raw;
  if (name == "bitmask") return Encoding::bitmask;
  if (name == "gap8") return Encoding::gap8;
  throw std::invalid_argument("no encoding is called " + std::string(name));
}

std::size_t count_positions(Encoding encoding, Bytes positions, std::size_t count) {
  if (encoding == Encoding::bitmask) return count_mask(positions, count);
  if (encoding == Encoding::gap8) return count_gaps(positions, count);
  require(positions.size == 0, "raw has no positions");
  return count;
}

void unpack_dense(Encoding encoding, Bytes positions, const Planes& planes, std::size_t count,
                  std::uint8_t* out) {
  check_values(encoding, positions, count, planes.values);
  switch (planes.planes) {
    case 1:
      return unpack_as<std::uint8_t>(encoding, positions, planes, count, out);
    case 2:
      return unpack_as<std::uint16_t>(encoding, positions, planes, count, out);
    case 4:
      return unpack_as<std::uint32_t>(encoding, positions, planes, count, out);
    case 8:
      return unpack_as<std::uint64_t>(encoding, positions, planes, count, out);
    default:
      throw std::invalid_argument("a value has 1, 2, 4 or 8 planes");
  }
}

void unpack_indices(Encoding encoding, Bytes positions, std::size_t count, std::size_t values,
                    std::int64_t* out) {
  require(count <= static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max()),
          "there are too many elements");
  check_values(encoding, positions, count, values);
  if (encoding == Encoding::raw) {
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<std::int64_t>(i);
  } else if (encoding == Encoding::bitmask) {
    for (std::size_t word = 0; word * kWord < count; ++word) {
      for (std::uint64_t bits = word_at(positions, word); bits != 0; bits &= bits - 1) {
        *out++ = static_cast<std::int64_t>(word * kWord) + __builtin_ctzll(bits);
      }
    }
  } else {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < positions.size; ++i) {
      at += positions.data[i];
      if (positions.data[i] != kEscape) *out++ = at++;
    }
  }
}

}  // namespace thrifty
