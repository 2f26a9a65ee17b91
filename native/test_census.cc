// test_census.cc: every kernel of a target against its definition, in plain loops over doubles.
//
// Run with the names of targets; without, all that this processor runs. tests/native builds it
// with the sanitizers and runs it; it prints what differs and exits with 1.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "counts.h"
#include "targets.h"

namespace thrifty {
namespace {

int failures = 0;

template <class... Values>
void expect(bool holds, const char* what, const Kernels& kernels, Values... values) {
  if (holds) return;
  if (++failures > 20) return;
  std::printf("%s: %s:", kernels.name, what);
  for (const double value : {static_cast<double>(values)...}) std::printf(" %.17g", value);
  std::printf("\n");
}

constexpr Type kEveryType[] = {Type::f64, Type::f32, Type::f16, Type::bf16};

// Elements behind `offset` bytes, in memory of exactly that size, so that a sanitizer sees every
// byte that is read beyond.
struct Memory {
  std::unique_ptr<std::uint8_t[]> bytes;
  std::size_t offset, count, size;

  Memory(const std::vector<std::uint64_t>& patterns, std::size_t size, std::size_t offset)
      : bytes(new std::uint8_t[offset + patterns.size() * size]),
        offset(offset),
        count(patterns.size()),
        size(size) {
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(bytes.get() + offset + i * size, &patterns[i], size);
    }
  }
  const std::uint8_t* data() const { return bytes.get() + offset; }
  Bytes view() const { return {data(), count * size}; }
};

std::uint64_t magnitude_of(Type type, std::uint64_t pattern) {
  const int bits = static_cast<int>(8 * size_of(type));
  return pattern & ((std::uint64_t{1} << (bits - 1)) - 1);
}

// What a magnitude stands for, by the definition of the format.
double decoded(Type type, std::uint64_t magnitude) {
  const int fraction_bits = type == Type::f64   ? 52
                            : type == Type::f32 ? 23
                            : type == Type::f16 ? 10
                                                : 7;
  const int bias = type == Type::f64 ? 1023 : type == Type::f16 ? 15 : 127;
  const std::uint64_t fraction = magnitude & ((std::uint64_t{1} << fraction_bits) - 1);
  const int exponent = static_cast<int>(magnitude >> fraction_bits);
  if (magnitude > infinity_of(type)) return std::numeric_limits<double>::quiet_NaN();
  if (magnitude == infinity_of(type)) return std::numeric_limits<double>::infinity();
  if (exponent == 0) return std::ldexp(static_cast<double>(fraction), 1 - bias - fraction_bits);
  const std::uint64_t whole = fraction | (std::uint64_t{1} << fraction_bits);
  return std::ldexp(static_cast<double>(whole), exponent - bias - fraction_bits);
}

double value_of(Type type, std::uint64_t pattern) {
  const std::uint64_t magnitude = magnitude_of(type, pattern);
  return pattern == magnitude ? decoded(type, magnitude) : -decoded(type, magnitude);
}

std::uint64_t sign_of(Type type) { return std::uint64_t{1} << (8 * size_of(type) - 1); }

// Ordinary weights, and of everything special a little.
std::vector<std::uint64_t> numbers(Type type, std::size_t count, bool special,
                                   std::mt19937_64& random) {
  const std::uint64_t infinity = infinity_of(type), sign = sign_of(type);
  const std::uint64_t least_normal = type == Type::f64   ? std::uint64_t{1} << 52
                                     : type == Type::f32 ? std::uint64_t{1} << 23
                                     : type == Type::f16 ? std::uint64_t{1} << 10
                                                         : std::uint64_t{1} << 7;
  const std::uint64_t odd[] = {0,
                               sign,
                               1,
                               sign | 1,
                               least_normal,
                               least_normal - 1,
                               infinity,
                               sign | infinity,
                               infinity - 1,
                               infinity + 1,
                               sign | (infinity + 1),
                               sign - 1,
                               infinity / 2,
                               sign | (infinity / 2)};
  std::vector<std::uint64_t> patterns(count);
  for (auto& each : patterns) {
    const std::uint64_t magnitude = infinity / 8 * 3 + random() % (infinity / 8);
    each = random() % 2 ? magnitude : sign | magnitude;
    if (special && random() % 4 == 0) each = odd[random() % std::size(odd)];
    if (special && random() % 8 == 0) each = random() & (sign | (sign - 1));
  }
  return patterns;
}

void sums_by_definition(Type type, const std::vector<std::uint64_t>& patterns, double* total,
                        double* squares) {
  double chunk[2] = {0, 0};
  for (std::size_t start = 0; start < patterns.size(); start += kBlock) {
    double lanes[2][kLanes] = {};
    for (std::size_t i = start; i < std::min(patterns.size(), start + kBlock); ++i) {
      const double x = value_of(type, patterns[i]);
      if (!std::isfinite(x)) continue;
      volatile double square = x * x;  // rounded before it is added
      lanes[0][(i - start) % kLanes] += x;
      lanes[1][(i - start) % kLanes] += square;
    }
    for (int s = 0; s < 2; ++s) {
      for (std::size_t apart = kLanes / 2; apart > 0; apart /= 2) {
        for (std::size_t j = 0; j < apart; ++j) lanes[s][j] += lanes[s][j + apart];
      }
      chunk[s] += lanes[s][0];
    }
    if ((start + kBlock) % kChunk == 0 || start + kBlock >= patterns.size()) {
      *total += chunk[0];
      *squares += chunk[1];
      chunk[0] = chunk[1] = 0;
    }
  }
}

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

std::size_t octave_of(double magnitude) {
  if (std::isnan(magnitude)) return kNanOctave;
  if (std::isinf(magnitude)) return kInfiniteOctave;
  if (magnitude > std::numeric_limits<float>::max()) return kInfiniteOctave - 1;
  float single = static_cast<float>(magnitude);
  if (static_cast<double>(single) > magnitude) single = std::nextafter(single, 0.0f);
  std::uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  return bits >> 19;
}

void test_counts(const Kernels& kernels, Type type, std::size_t count, std::size_t offset,
                 bool special, std::size_t limit_count, int threads, std::mt19937_64& random) {
  const auto patterns = numbers(type, count, special, random);
  const Memory memory(patterns, size_of(type), offset);
  std::vector<std::uint64_t> limits = {0, 1, infinity_of(type)};
  while (limits.size() < limit_count) {  // equal to a number that is there, or next to it
    const std::uint64_t near = count ? magnitude_of(type, patterns[random() % count]) : random();
    limits.push_back(std::min(near + random() % 2, infinity_of(type)));
  }
  limits.resize(limit_count);

  Tally right;
  right.under.resize(limits.size());
  std::vector<std::uint64_t> octaves(kOctaves);
  for (const std::uint64_t pattern : patterns) {
    const std::uint64_t magnitude = magnitude_of(type, pattern);
    const double w = decoded(type, magnitude);
    for (std::size_t j = 0; j < limits.size(); ++j) right.under[j] += w < decoded(type, limits[j]);
    right.found.zeros += w == 0;
    right.found.negative_zeros += pattern == sign_of(type);
    right.found.infinite += std::isinf(w);
    right.found.nan += std::isnan(w);
    if (std::isfinite(w)) right.found.largest = std::max(right.found.largest, magnitude);
    ++octaves[octave_of(w)];
  }
  sums_by_definition(type, patterns, &right.total, &right.squares);

  const auto t = static_cast<int>(type);
  const auto below = count_below(kernels, type, memory.view(), limits, threads);
  expect(below == right.under, "below", kernels, t, count, offset, special, limit_count);
  for (const bool sums : {true, false}) {
    const Tally all = count_all(kernels, type, memory.view(), limits, sums, threads);
    expect(all.under == right.under, "under", kernels, t, count, offset, special, limit_count);
    expect(all.found.zeros == right.found.zeros, "zeros", kernels, t, count, offset);
    expect(all.found.negative_zeros == right.found.negative_zeros, "-0", kernels, t, count, offset);
    expect(all.found.infinite == right.found.infinite, "infinite", kernels, t, count, offset);
    expect(all.found.nan == right.found.nan, "nan", kernels, t, count, offset);
    expect(all.found.largest == right.found.largest, "largest", kernels, t, count, offset);
    const double total = sums ? right.total : 0.0, squares = sums ? right.squares : 0.0;
    expect(same(all.total, total), "total", kernels, t, count, all.total, total);
    expect(same(all.squares, squares), "squares", kernels, t, count, all.squares, squares);
  }
  expect(count_octaves(kernels, type, memory.view(), threads) == octaves, "octaves", kernels, t,
         count, offset);
}

void test_patterns(const Kernels& kernels, std::size_t count, std::mt19937_64& random) {
  std::vector<std::uint64_t> patterns(count), bins(256);
  for (auto& each : patterns) ++bins[each = random() % 256];
  const Memory memory(patterns, 1, 0);
  expect(count_patterns(kernels, memory.view(), 2) == bins, "patterns", kernels, count);
}

// values: 0 few of them, 1 all equal, 2 ordinary, 3 everything but NaN
void test_ranks(const Kernels& kernels, std::size_t count, int kind, bool magnitude, int threads,
                std::mt19937_64& random) {
  std::vector<float> values(count);
  for (auto& each : values) {
    auto bits = static_cast<std::uint32_t>(random());
    if (kind == 3 && (bits & 0x7FFFFFFF) <= 0x7F800000) std::memcpy(&each, &bits, 4);
    if (kind == 0)
      each = static_cast<float>(static_cast<int>(bits % 7) - 3) * (bits & 64 ? 1 : -0.0f);
    if (kind == 1) each = -0.5f;
    if (kind == 2) each = static_cast<float>(static_cast<std::int32_t>(bits)) * 1e-9f;
  }
  std::vector<Memory> memories;
  std::vector<Bytes> arrays;
  for (std::size_t start = 0; start < count;) {
    const std::size_t length = std::min(count - start, 1 + random() % (2 * count / 3 + 1));
    std::vector<std::uint64_t> patterns(length);
    for (std::size_t i = 0; i < length; ++i) std::memcpy(&patterns[i], &values[start + i], 4);
    memories.emplace_back(patterns, 4, random() % 5);
    start += length;
  }
  for (const Memory& memory : memories) arrays.push_back(memory.view());
  std::vector<float> sorted = values;
  if (magnitude)
    for (float& each : sorted) each = std::fabs(each);
  std::sort(sorted.begin(), sorted.end());
  for (const std::size_t k : {std::size_t{1}, count / 3 + 1, count * 4 / 5 + 1, count}) {
    if (k > count) continue;
    const float right = sorted[k - 1];
    const auto place = find_place(kernels, arrays, k, magnitude, threads);
    const auto range = std::equal_range(sorted.begin(), sorted.end(), right);
    expect(place && place->value == right && !std::signbit(place->value - right), "rank", kernels,
           count, kind, k, place ? place->value : -1, right);
    if (!place) continue;
    expect(place->smaller == static_cast<std::uint64_t>(range.first - sorted.begin()), "smaller",
           kernels, count, kind, k);
    expect(place->equal == static_cast<std::uint64_t>(range.second - range.first), "equal", kernels,
           count, kind, k);
  }
  std::vector<std::uint64_t> nan(count, 0);
  nan[random() % count] = random() % 2 ? 0x7F800001 : 0xFFFFFFFF;
  const Memory with_nan(nan, 4, 1);
  arrays.push_back(with_nan.view());
  expect(!find_place(kernels, arrays, 1, magnitude, threads), "NaN found", kernels, count, kind);
}

void test(const Kernels& kernels) {
  std::mt19937_64 random(1);
  for (const Type type : kEveryType) {
    for (std::size_t count = 0; count <= 130; ++count) {  // every tail, up to two steps of 64
      test_counts(kernels, type, count, count % (2 * size_of(type)), count % 2, count % 12, 1,
                  random);
    }
    for (std::size_t offset = 0; offset < 2 * size_of(type); ++offset) {
      test_counts(kernels, type, 200, offset, true, 8, 1, random);
    }
    for (const std::size_t limits : {0, 1, 9, 10, 11, 18, 19, 32}) {
      test_counts(kernels, type, 2 * kBlock + 5, 3, true, limits, 1, random);
    }
    for (const std::size_t count : {kBlock - 1, kBlock, kBlock + 1, 2 * kBlock}) {
      test_counts(kernels, type, count, 1, false, 8, 1, random);
    }
    test_counts(kernels, type, kChunk + 1, 0, false, 3, 2, random);
    test_counts(kernels, type, 2 * kChunk + kBlock + 77, 1, true, 10, 4, random);
  }
  for (const std::size_t count : {0, 1, 3, 4, 5, 1000, 3 << 20})
    test_patterns(kernels, count, random);
  for (const bool magnitude : {false, true}) {
    for (int kind = 0; kind < 4; ++kind) {
      for (std::size_t count = 1; count <= 66; ++count) {
        test_ranks(kernels, count, kind, magnitude, 1, random);
      }
      test_ranks(kernels, 30011, kind, magnitude, 1, random);
      test_ranks(kernels, 600011, kind, magnitude, 3, random);
    }
  }
}

}  // namespace
}  // namespace thrifty

int main(int count, char** names) {
  std::vector<std::string> asked(names + 1, names + count);
  if (asked.empty()) {
    for (const auto* each : thrifty::available()) asked.emplace_back(each->name);
  }
  for (const std::string& name : asked) {
    thrifty::test(thrifty::kernels(name));
    std::printf("%s: %d failures\n", name.c_str(), thrifty::failures);
  }
  return thrifty::failures > 0;
}
