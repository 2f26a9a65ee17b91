// fuzz_unpack.cc: unpack.h on arbitrary bytes, against its definition in plain loops.
//
// Built with -fsanitize=fuzzer it is a libFuzzer target. Built without (-DTHRIFTY_FUZZ_MAIN) it
// draws inputs itself: `fuzz_unpack COUNT [SEED]`; tests/native builds that with the sanitizers.
// It aborts when an answer differs, or when what the definition refuses is not refused.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "unpack.h"

namespace thrifty {
namespace {

using Memory = std::vector<std::uint8_t>;

// Which elements have a value; false if the positions do not hold.
bool defined(Encoding encoding, const Memory& positions, std::size_t count,
             std::vector<std::size_t>* places) {
  if (encoding == Encoding::raw) {
    for (std::size_t i = 0; i < count; ++i) places->push_back(i);
    return positions.empty();
  }
  if (encoding == Encoding::bitmask) {
    if (positions.size() != (count + 7) / 8) return false;
    for (std::size_t i = 0; i < 8 * positions.size(); ++i) {
      if ((positions[i / 8] >> (i % 8) & 1) == 0) continue;
      if (i >= count) return false;
      places->push_back(i);
    }
    return true;
  }
  std::size_t at = 0;
  for (const std::uint8_t gap : positions) {
    at += gap;
    if (gap == 255) continue;
    if (at >= count) return false;
    places->push_back(at++);
  }
  return positions.empty() || positions.back() != 255;
}

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "unpack.h and its definition differ: %s\n", what);
  std::abort();
}

// Memory of exactly that size, so that a sanitizer sees every byte beyond.
std::unique_ptr<std::uint8_t[]> exact(const Memory& bytes) {
  std::unique_ptr<std::uint8_t[]> copy(new std::uint8_t[bytes.size()]);
  if (!bytes.empty()) std::memcpy(copy.get(), bytes.data(), bytes.size());
  return copy;
}

void check(Encoding encoding, const Memory& positions, const Memory& values, std::size_t size,
           bool rotated, std::size_t count) {
  std::vector<std::size_t> places;
  const bool valid = defined(encoding, positions, count, &places);
  const auto position_bytes = exact(positions), value_bytes = exact(values);
  const Bytes where{position_bytes.get(), positions.size()};
  Planes planes{{}, size, values.size() / size, rotated};
  for (std::size_t b = 0; b < size; ++b) planes.data[b] = value_bytes.get() + b * planes.values;
  const bool fits = valid && places.size() == planes.values;

  const std::unique_ptr<std::uint8_t[]> out(new std::uint8_t[count * size]());
  bool refused = false;
  try {
    unpack_dense(encoding, where, planes, count, out.get());
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  expect(refused != fits, "dense refuses what holds, or takes what does not");
  Memory wanted(count * size);
  if (fits) {
    for (std::size_t k = 0; k < places.size(); ++k) {
      std::uint64_t value = 0;
      for (std::size_t b = 0; b < size; ++b) value |= std::uint64_t{planes.data[b][k]} << (8 * b);
      if (rotated) value = value >> 1 | (value & 1) << (8 * size - 1);
      std::memcpy(wanted.data() + places[k] * size, &value, size);
    }
  }
  expect(count == 0 || std::memcmp(wanted.data(), out.get(), count * size) == 0, "dense elements");

  const std::unique_ptr<std::int64_t[]> found(new std::int64_t[places.size()]);
  refused = false;
  try {
    unpack_indices(encoding, where, count, places.size(), found.get());
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  expect(refused != valid, "indices refuse what holds, or take what does not");
  for (std::size_t k = 0; valid && k < places.size(); ++k) {
    expect(found[k] == static_cast<std::int64_t>(places[k]), "indices");
  }
}

// Bytes of an input: encoding and rotation, size of a value, count, how much of the rest is
// positions and how long they are; a bit says whether values are as many as the positions ask for.
void run(const std::uint8_t* data, std::size_t size) {
  if (size < 6) return;
  const Encoding encoding = static_cast<Encoding>(data[0] % 3);
  const std::size_t value_bytes = std::size_t{1} << (data[1] & 3);
  const std::size_t count = data[2] | std::size_t{data[3]} << 8;
  std::size_t wanted = data[4] | std::size_t{data[5]} << 8;
  if (encoding == Encoding::raw) wanted &= data[1] & 0x10 ? 1 : 0;
  if (encoding == Encoding::bitmask && (data[1] & 0x20) == 0) wanted = (count + 7) / 8;
  const bool rotated = (data[1] & 8) != 0;
  data += 6, size -= 6;
  Memory positions(wanted), values;
  for (std::size_t i = 0; i < wanted; ++i) positions[i] = size == 0 ? 0 : data[i % size];
  std::vector<std::size_t> places;
  std::size_t many = size == 0 ? 0 : data[size - 1];
  if (defined(encoding, positions, count, &places) && many != 77) many = places.size();
  values.resize(many * value_bytes);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<std::uint8_t>(size == 0 ? i : data[(7 * i + 3) % size] + i);
  }
  check(encoding, positions, values, value_bytes, rotated, count);
}

}  // namespace
}  // namespace thrifty

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thrifty::run(data, size);
  return 0;
}

#ifdef THRIFTY_FUZZ_MAIN
namespace {

// Few bytes or many, drawn evenly, small, or mostly escapes.
std::vector<std::uint8_t> drawn(std::mt19937_64& random) {
  std::vector<std::uint8_t> input(6 + random() % (random() % 16 == 0 ? 3000 : 60));
  const std::uint64_t kind = random() % 4;
  for (std::uint8_t& byte : input) {
    byte = static_cast<std::uint8_t>(random());
    if (kind == 1) byte = static_cast<std::uint8_t>(byte % 4);
    if (kind == 2 && random() % 3 != 0) byte = 255;
    if (kind == 3 && random() % 2 != 0) byte = 0;
  }
  input[0] = static_cast<std::uint8_t>(random());
  input[1] = static_cast<std::uint8_t>(random());
  const std::size_t most = random() % 16 == 0 ? 20000 : 600;
  const std::size_t count = random() % most, wanted = random() % (random() % 4 == 0 ? most : 40);
  input[2] = static_cast<std::uint8_t>(count), input[3] = static_cast<std::uint8_t>(count >> 8);
  input[4] = static_cast<std::uint8_t>(wanted), input[5] = static_cast<std::uint8_t>(wanted >> 8);
  return input;
}

}  // namespace

int main(int argc, char** argv) {
  const long long count = argc > 1 ? std::atoll(argv[1]) : 100000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  for (long long i = 0; i < count; ++i) {
    const std::vector<std::uint8_t> input = drawn(random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%lld inputs, all as defined\n", count);
  return 0;
}
#endif
