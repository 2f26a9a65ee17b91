// census.h: counts over stored numbers, on one CPU core.
//
// A float is a sign and a magnitude; the bits of magnitudes, read as integers, order like the
// numbers. So |w| < t is `magnitude < limit`, where limit is the least magnitude whose value is
// not under t, and NaN, which lies beyond the infinity, is under nothing.
//
// Sums. A block is 2048 elements, a chunk 128 blocks. In a block, element i is added to partial
// sum i mod 16, in order of i; partial sums are added 8 apart, then 4, 2 and 1; the sums of the
// blocks of a chunk are added in order. All in double, from 0.0, no product contracted with a
// sum; NaN and infinities count as 0.0. Hence the same bits on every target, and in numpy.
//
// Contract. The caller has validated the arguments (check.h) and owns all memory; nothing here
// allocates, throws, prints, or starts threads. `data` may have any alignment and is not written
// to; results are added to what is there.
//
// Dispatch. census.cc is compiled once for each target; targets.h chooses at run time.
// test_census.cc compares every target with the definitions, in plain loops.

#pragma once

#include <cstddef>
#include <cstdint>

namespace thrifty {

constexpr std::size_t kBlock = 2048;
constexpr std::size_t kLanes = 16;
constexpr std::size_t kChunk = 128 * kBlock;
constexpr std::size_t kOctaves = 4096;  // 8 bits of the exponent of float32, 4 of the fraction
constexpr std::size_t kInfiniteOctave = 4080;
constexpr std::size_t kNanOctave = 4095;
constexpr std::size_t kMostLimits = 32;
constexpr std::size_t kDigits = 4096;  // values of a digit of a key, 12 bits

enum class Type { f64, f32, f16, bf16 };
constexpr int kTypes = 4;

struct Found {              // beside the counts under limits
  std::uint64_t zeros = 0;  // of either sign
  std::uint64_t negative_zeros = 0;
  std::uint64_t infinite = 0;
  std::uint64_t nan = 0;
  std::uint64_t largest = 0;  // magnitude of the largest finite number
};

// How float32 are ranked. The key of a value is its magnitude with the sign of the value, so
// that -0.0 and 0.0 have the key 0; `magnitude` leaves the sign out; `keys` are keys already.
enum class Order { magnitude, value, keys };
constexpr int kOrders = 3;

struct Bracket {  // what lies under, in and over [low, high], both keys
  std::int32_t low, high;
  std::uint64_t below = 0;
  std::uint64_t inside = 0;
  std::uint32_t largest = 0;  // magnitude; over the infinity if there is a NaN
};

struct Kernels {
  const char* name;

  // below[j] += number of magnitudes under limits[j]; by type, of which only the width matters.
  void (*below[kTypes])(const std::uint8_t* data, std::size_t count, const std::uint64_t* limits,
                        std::size_t limit_count, std::uint64_t* below);

  // The same, and Found, and the two sums of one chunk unless they are null: count <= kChunk.
  void (*tally[kTypes])(const std::uint8_t* data, std::size_t count, const std::uint64_t* limits,
                        std::size_t limit_count, std::uint64_t* below, Found* found, double* total,
                        double* squares);

  // bins[b] += number of magnitudes whose float32, rounded towards zero, has the upper bits b.
  void (*octaves[kTypes])(const std::uint8_t* data, std::size_t count, std::uint64_t* bins);

  // bins[b] += number of bytes b.
  void (*patterns)(const std::uint8_t* data, std::size_t count, std::uint64_t* bins);

  // bins[d] += number of keys that have the digits `prefix` and then d. A key, plus 2^31, has
  // digits of 12, 12 and 8 bits; `level` is the number of digits that the prefix has.
  void (*digits[kOrders])(const std::uint8_t* data, std::size_t count, int level,
                          std::uint32_t prefix, std::uint64_t* bins);

  // Counts into *bracket, and writes the keys inside to `out`, as long as `room` is left, which
  // must be 0 or at least kGatherSlack. Returns how many it wrote.
  std::size_t (*gather[kOrders])(const std::uint8_t* data, std::size_t count, Bracket* bracket,
                                 std::int32_t* out, std::size_t room);
};

constexpr std::size_t kGatherSlack = 16;  // what gather may write beyond the last key it counts

extern const Kernels kBaseline;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace thrifty
