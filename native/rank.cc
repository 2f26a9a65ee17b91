// rank.cc: the exact k-th smallest of float32, in one pass as a rule and constant memory.
//
// Keys at regular distances give a bracket in which the wanted one lies almost surely. One pass
// counts what lies under the bracket and gathers what lies inside, which is little. Where the
// sample misled, or equal values crowd the bracket, the key is found digit by digit instead: at
// most three passes, each of which counts the 4096 values of a digit. The answer is exact either
// way, for any input.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "counts.h"
#include "parallel.h"

namespace thrifty {
namespace {

constexpr std::size_t kRoom = std::size_t{1} << 22;  // keys gathered by one thread: 16 MiB
constexpr double kDeviations = 4.0;                  // of the sample, either side
constexpr std::size_t kLeastSample = 1 << 13, kMostSample = 1 << 20;
constexpr std::uint32_t kInfinity = 0x7F800000;

struct Arrays {
  std::vector<Bytes> parts;
  Order order;
  std::uint64_t count;  // values in all
};

constexpr std::uint64_t kTask = std::uint64_t{1} << 19;  // values that a thread takes at a time

// Runs work(thread, data, count) on shares of all values, which lie in several parts.
template <class Work>
void over_shares(const Arrays& arrays, std::size_t threads, const Work& work) {
  const std::uint64_t task_size = threads > 1 ? kTask : std::max<std::uint64_t>(arrays.count, 1);
  const auto tasks = static_cast<std::size_t>((arrays.count + task_size - 1) / task_size);
  share_out(tasks, threads, [&](std::size_t thread, std::size_t task) {
    std::uint64_t start = task * task_size, before = 0;
    const std::uint64_t end = std::min(arrays.count, start + task_size);
    for (const Bytes& part : arrays.parts) {
      const std::uint64_t length = part.size / 4;
      const std::uint64_t stop = std::min(end, before + length);
      if (start < stop) {
        work(thread, part.data + 4 * (start - before), static_cast<std::size_t>(stop - start));
        start = stop;
      }
      before += length;
    }
  });
}

std::int32_t key_of(std::int32_t bits, Order order) {
  const std::int32_t magnitude = bits & 0x7FFFFFFF;
  if (order == Order::keys) return bits;
  return order == Order::value && bits < 0 ? -magnitude : magnitude;
}

float value_of(std::int32_t key) {
  const std::uint32_t bits =
      key < 0 ? 0x80000000u | static_cast<std::uint32_t>(-key) : static_cast<std::uint32_t>(key);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Ranked {
  std::int32_t key;
  std::uint64_t smaller;
  std::uint64_t equal;
};

Ranked by_digits(const Kernels& kernels, const Arrays& arrays, std::uint64_t k,
                 std::size_t threads) {
  const auto count_digits = kernels.digits[static_cast<int>(arrays.order)];
  std::uint32_t prefix = 0;
  std::uint64_t smaller = 0, equal = 0;
  for (int level = 0; level < 3; ++level) {
    std::vector<std::vector<std::uint64_t>> bins(threads, std::vector<std::uint64_t>(kDigits));
    over_shares(arrays, threads,
                [&](std::size_t thread, const std::uint8_t* data, std::size_t count) {
                  count_digits(data, count, level, prefix, bins[thread].data());
                });
    std::uint32_t digit = 0;
    for (;; ++digit, smaller += equal) {
      equal = 0;
      for (const auto& each : bins) equal += each[digit];
      if (smaller + equal >= k || digit + 1 == kDigits) break;
    }
    prefix = (prefix << (level == 2 ? 8 : 12)) | digit;
  }
  return {static_cast<std::int32_t>(prefix ^ 0x80000000u), smaller, equal};
}

// Every so many values, as keys.
std::vector<std::int32_t> sampled(const Arrays& arrays) {
  const auto wanted = static_cast<std::uint64_t>(std::pow(double(arrays.count), 2.0 / 3.0));
  const std::uint64_t size = std::clamp<std::uint64_t>(wanted, kLeastSample, kMostSample);
  const std::uint64_t stride = std::max<std::uint64_t>(1, arrays.count / size);
  std::vector<std::int32_t> keys;
  keys.reserve(static_cast<std::size_t>(arrays.count / stride + 1));
  std::uint64_t next = stride / 2, before = 0;
  for (const Bytes& part : arrays.parts) {
    const std::uint64_t length = part.size / 4;
    for (; next < before + length; next += stride) {
      std::int32_t bits;
      std::memcpy(&bits, part.data + 4 * (next - before), sizeof(bits));
      keys.push_back(key_of(bits, arrays.order));
    }
    before += length;
  }
  return keys;
}

Bracket guess(const Arrays& arrays, std::uint64_t k) {
  std::vector<std::int32_t> keys = sampled(arrays);
  const double share = (double(k) - 0.5) / double(arrays.count), size = double(keys.size());
  const double reach = kDeviations * std::sqrt(size * share * (1.0 - share)) + 2.0;
  const double most = size - 1.0;
  const auto low = static_cast<std::size_t>(std::clamp(size * share - reach, 0.0, most));
  const auto high = static_cast<std::size_t>(std::clamp(size * share + reach, 0.0, most));
  const auto at = [&](std::size_t i) { return keys.begin() + static_cast<std::ptrdiff_t>(i); };
  std::nth_element(keys.begin(), at(low), keys.end());
  if (high > low) std::nth_element(at(low) + 1, at(high), keys.end());
  return {keys[low], keys[high]};
}

}  // namespace

std::optional<Place> find_place(const Kernels& kernels, const std::vector<Bytes>& parts,
                                std::uint64_t k, bool magnitude, int threads) {
  Arrays arrays{parts, magnitude ? Order::magnitude : Order::value, 0};
  for (const Bytes& part : parts) arrays.count += check_count(part, 4);
  require(1 <= k && k <= arrays.count, "there is no value of that rank");
  const std::size_t useful = useful_threads(4 * arrays.count, check_threads(threads));

  const Bracket bracket = guess(arrays, k);
  // Twice its share for each thread, since one may do more than others; 32 MiB in all at most.
  const std::uint64_t most = std::min<std::uint64_t>(2 * kRoom / (useful + 1), arrays.count);
  const std::size_t room =
      bracket.low == bracket.high ? 0 : static_cast<std::size_t>(most) + kGatherSlack;
  std::vector<Bracket> found(useful, bracket);
  std::vector<std::unique_ptr<std::int32_t[]>> keys(useful);
  for (auto& each : keys) each.reset(new std::int32_t[room]);  // pages come as they are written
  std::vector<std::size_t> stored(useful);
  over_shares(arrays, useful, [&](std::size_t thread, const std::uint8_t* data, std::size_t count) {
    stored[thread] += kernels.gather[static_cast<int>(arrays.order)](
        data, count, &found[thread], keys[thread].get() + stored[thread], room - stored[thread]);
  });
  Bracket all = bracket;
  Arrays gathered{{}, Order::keys, 0};
  for (std::size_t thread = 0; thread < useful; ++thread) {
    all.below += found[thread].below;
    all.inside += found[thread].inside;
    all.largest = std::max(all.largest, found[thread].largest);
    gathered.count += stored[thread];
    gathered.parts.push_back(
        {reinterpret_cast<const std::uint8_t*>(keys[thread].get()), 4 * stored[thread]});
  }
  if (all.largest > kInfinity) return std::nullopt;

  Ranked ranked;
  if (k <= all.below || k > all.below + all.inside) {
    ranked = by_digits(kernels, arrays, k, useful);
  } else if (all.low == all.high) {
    ranked = {all.low, all.below, all.inside};
  } else if (gathered.count == all.inside) {
    ranked = by_digits(kernels, gathered, k - all.below, 1);
    ranked.smaller += all.below;
  } else {
    ranked = by_digits(kernels, arrays, k, useful);
  }
  return Place{value_of(ranked.key), ranked.smaller, ranked.equal};
}

}  // namespace thrifty
