// check.h: arguments from Python, checked before a kernel sees them.
//
// Python gives views of bytes, so that any alignment and read-only memory will do. A wrong
// argument is a std::invalid_argument, which nanobind turns into a ValueError.

#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "census.h"

namespace thrifty {

struct Bytes {
  const std::uint8_t* data;
  std::size_t size;
};

inline void require(bool holds, const char* otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}

inline Type type_of(std::string_view dtype) {
  if (dtype == "F64") return Type::f64;
  if (dtype == "F32") return Type::f32;
  if (dtype == "F16") return Type::f16;
  if (dtype == "BF16") return Type::bf16;
  throw std::invalid_argument("the kernels do not compare " + std::string(dtype));
}

inline std::size_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

inline std::uint64_t infinity_of(Type type) {
  switch (type) {
    case Type::f64:
      return std::uint64_t{0x7FF} << 52;
    case Type::f32:
      return 0x7F800000;
    case Type::f16:
      return 0x7C00;
    default:
      return 0x7F80;
  }
}

// How many elements of that size the bytes are.
inline std::size_t check_count(Bytes bytes, std::size_t size) {
  require(bytes.size % size == 0, "the bytes are not a whole number of elements");
  return bytes.size / size;
}

inline void check_limits(const std::vector<std::uint64_t>& limits, Type type) {
  require(limits.size() <= kMostLimits, "too many limits");
  for (const std::uint64_t limit : limits) {
    require(limit <= infinity_of(type), "a limit lies over the infinity");
  }
}

inline std::size_t check_threads(int threads) {
  require(threads >= 1, "threads must be 1 or more");
  return static_cast<std::size_t>(threads);
}

}  // namespace thrifty
