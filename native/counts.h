// counts.h: the kernels of census.h over whole arrays, on several threads.
//
// Results do not depend on the number of threads: counts are added, and the sums of chunks are
// added in the order of the chunks. Arguments are checked here (check.h).

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "census.h"
#include "check.h"

namespace thrifty {

struct Tally {
  std::vector<std::uint64_t> under;
  Found found;
  double total = 0.0;
  double squares = 0.0;
};

struct Place {
  float value;
  std::uint64_t smaller;
  std::uint64_t equal;
};

std::vector<std::uint64_t> count_below(const Kernels& kernels, Type type, Bytes bytes,
                                       const std::vector<std::uint64_t>& limits, int threads);

// Without `sums`, total and squares stay 0.
Tally count_all(const Kernels& kernels, Type type, Bytes bytes,
                const std::vector<std::uint64_t>& limits, bool sums, int threads);

std::vector<std::uint64_t> count_octaves(const Kernels& kernels, Type type, Bytes bytes,
                                         int threads);

std::vector<std::uint64_t> count_patterns(const Kernels& kernels, Bytes bytes, int threads);

// The k-th smallest, from 1, of several arrays of float32 as if they were one; nothing if a
// value is NaN. rank.cc
std::optional<Place> find_place(const Kernels& kernels, const std::vector<Bytes>& arrays,
                                std::uint64_t k, bool magnitude, int threads);

}  // namespace thrifty
