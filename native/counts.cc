#include "counts.h"

#include <algorithm>

#include "parallel.h"

namespace thrifty {
namespace {

constexpr std::size_t kTask = 2 * kChunk;  // elements that a thread takes at a time

// Runs work(thread, first, count) on ranges of whole chunks.
template <class Work>
void over_chunks(std::size_t count, std::size_t threads, const Work& work) {
  const std::size_t task_size = threads > 1 ? kTask : std::max<std::size_t>(count, 1);
  share_out((count + task_size - 1) / task_size, threads,
            [&](std::size_t thread, std::size_t task) {
              const std::size_t first = task * task_size;
              work(thread, first, std::min(task_size, count - first));
            });
}

// The sum of what every thread counted into its own `size` counters.
template <class Work>
std::vector<std::uint64_t> counted(std::size_t size, std::size_t count, std::size_t threads,
                                   const Work& work) {
  std::vector<std::vector<std::uint64_t>> each(threads, std::vector<std::uint64_t>(size));
  over_chunks(count, threads, [&](std::size_t thread, std::size_t first, std::size_t length) {
    work(first, length, each[thread].data());
  });
  for (std::size_t thread = 1; thread < threads; ++thread) {
    for (std::size_t i = 0; i < size; ++i) each[0][i] += each[thread][i];
  }
  return each[0];
}

}  // namespace

std::vector<std::uint64_t> count_below(const Kernels& kernels, Type type, Bytes bytes,
                                       const std::vector<std::uint64_t>& limits, int threads) {
  const std::size_t size = size_of(type), count = check_count(bytes, size);
  check_limits(limits, type);
  const std::size_t useful = useful_threads(bytes.size, check_threads(threads));
  const auto below = kernels.below[static_cast<int>(type)];
  return counted(limits.size(), count, useful,
                 [&](std::size_t first, std::size_t length, std::uint64_t* out) {
                   below(bytes.data + first * size, length, limits.data(), limits.size(), out);
                 });
}

Tally count_all(const Kernels& kernels, Type type, Bytes bytes,
                const std::vector<std::uint64_t>& limits, bool sums, int threads) {
  const std::size_t size = size_of(type), count = check_count(bytes, size);
  check_limits(limits, type);
  const std::size_t useful = useful_threads(bytes.size, check_threads(threads));
  const std::size_t chunks = sums ? (count + kChunk - 1) / kChunk : 0;
  std::vector<double> totals(chunks), squares(chunks);
  std::vector<Found> found(useful);
  const auto tally = kernels.tally[static_cast<int>(type)];
  auto work = [&](std::size_t thread, std::size_t first, std::size_t length, std::uint64_t* under) {
    for (std::size_t i = 0; i < length; i += kChunk) {
      const std::size_t chunk = (first + i) / kChunk;
      tally(bytes.data + (first + i) * size, std::min(kChunk, length - i), limits.data(),
            limits.size(), under, &found[thread], sums ? &totals[chunk] : nullptr,
            sums ? &squares[chunk] : nullptr);
    }
  };
  std::vector<std::vector<std::uint64_t>> under(useful, std::vector<std::uint64_t>(limits.size()));
  over_chunks(count, useful, [&](std::size_t thread, std::size_t first, std::size_t length) {
    work(thread, first, length, under[thread].data());
  });
  Tally all;
  all.under.resize(limits.size());
  for (std::size_t thread = 0; thread < useful; ++thread) {
    for (std::size_t j = 0; j < limits.size(); ++j) all.under[j] += under[thread][j];
    all.found.zeros += found[thread].zeros;
    all.found.negative_zeros += found[thread].negative_zeros;
    all.found.infinite += found[thread].infinite;
    all.found.nan += found[thread].nan;
    all.found.largest = std::max(all.found.largest, found[thread].largest);
  }
  for (const double each : totals) all.total += each;
  for (const double each : squares) all.squares += each;
  return all;
}

std::vector<std::uint64_t> count_octaves(const Kernels& kernels, Type type, Bytes bytes,
                                         int threads) {
  const std::size_t size = size_of(type), count = check_count(bytes, size);
  const std::size_t useful = useful_threads(bytes.size, check_threads(threads));
  const auto octaves = kernels.octaves[static_cast<int>(type)];
  return counted(kOctaves, count, useful,
                 [&](std::size_t first, std::size_t length, std::uint64_t* out) {
                   octaves(bytes.data + first * size, length, out);
                 });
}

std::vector<std::uint64_t> count_patterns(const Kernels& kernels, Bytes bytes, int threads) {
  const std::size_t useful = useful_threads(bytes.size, check_threads(threads));
  return counted(256, bytes.size, useful,
                 [&](std::size_t first, std::size_t length, std::uint64_t* out) {
                   kernels.patterns(bytes.data + first, length, out);
                 });
}

}  // namespace thrifty
