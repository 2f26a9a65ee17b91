// network.cc: what a network is asked before it runs, and the random numbers that order samples.
#include <stdexcept>
#include <utility>

#include "lanes.h"

namespace thrifty::lanes {
namespace {

constexpr std::size_t kMostNumbers = std::size_t{1} << 24;  // of a value or of the parameters

[[noreturn]] void refuse(std::size_t number, const std::string& why) {
  throw std::invalid_argument("layer " + std::to_string(number) + ": " + why);
}

void check_sizes(std::size_t n, const Layer& l) {
  const int least[] = {l.inputs, l.outputs, l.height, l.width, l.kernel, l.stride, l.pool,
                       l.pool_stride};
  for (const int each : least) {
    if (each < 1 || each > (1 << 16)) refuse(n, "a size is not from 1 to 65536");
  }
  if (l.padding < 0 || l.padding > l.kernel) refuse(n, "the padding is not from 0 to the kernel");
  if (!l.conv) {
    if (l.height != 1 || l.width != 1 || l.kernel != 1 || l.pool != 1 || l.padding != 0) {
      refuse(n, "a linear layer has no picture");
    }
    return;
  }
  if (l.kernel > 15) refuse(n, "the kernel is wider than 15");
  if (l.kernel > l.height + 2 * l.padding || l.kernel > l.width + 2 * l.padding) {
    refuse(n, "the kernel is larger than the picture");
  }
  if (l.pool > l.out_height() || l.pool > l.out_width()) {
    refuse(n, "the pooling is larger than the picture");
  }
}

}  // namespace

std::size_t Network::parameters() const {
  std::size_t sum = 0;
  for (const Layer& each : layers) sum += each.parameters();
  return sum;
}

std::size_t Network::inputs() const {
  return std::size_t(layers[0].inputs) * layers[0].height * layers[0].width;
}

void check(const Network& network) {
  if (network.layers.empty()) throw std::invalid_argument("a network has a layer at least");
  std::size_t before = 0, parameters = 0;
  for (std::size_t n = 0; n < network.layers.size(); ++n) {
    const Layer& l = network.layers[n];
    check_sizes(n, l);
    const std::size_t takes = std::size_t(l.inputs) * l.height * l.width;
    if (n > 0 && takes != before) {
      refuse(n, "it takes " + std::to_string(takes) + " numbers and is given " +
                    std::to_string(before));
    }
    before = l.results();
    parameters += l.parameters();
    const std::size_t padded =
        std::size_t(l.height + 2 * l.padding) * (l.width + 2 * l.padding) * l.inputs;
    const std::size_t full = std::size_t(l.out_height()) * l.out_width() * l.outputs;
    if (padded > kMostNumbers || full > kMostNumbers || parameters > kMostNumbers) {
      refuse(n, "it has more than 2^24 numbers a model");
    }
  }
  const Layer& last = network.layers.back();
  if (last.results() != std::size_t(last.outputs) || last.outputs > 256) {
    throw std::invalid_argument("the last layer gives one number for each of up to 256 classes");
  }
}

std::uint64_t mixed(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  // SplitMix64 (Steele et al., 2014) over the three.
  std::uint64_t x = 0;
  for (const std::uint64_t each : {a, b, c}) {
    x = (x ^ each) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
  }
  return x;
}

void shuffled(std::uint64_t seed, std::uint64_t epoch, std::size_t count, std::int32_t* order) {
  for (std::size_t i = 0; i < count; ++i) order[i] = static_cast<std::int32_t>(i);
  std::uint64_t state = mixed(seed, epoch, 0);
  for (std::size_t i = count; i > 1; --i) {
    state += 0x9e3779b97f4a7c15u;
    std::uint64_t x = state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    // The high half of a product is spread evenly over 0 .. i - 1.
    const std::size_t j = static_cast<std::size_t>(((x >> 32) * i) >> 32);
    std::swap(order[i - 1], order[j]);
  }
}

const Kernels& kernels_named(const std::string& wanted) {
#if defined(__x86_64__) && !defined(THRIFTY_BASELINE_ONLY)  // one of the tests has no others
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wanted == "avx512" && avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return kAvx512Lanes;
  }
  if (wanted == "avx2" && avx2) return kAvx2Lanes;
#endif
  if (wanted == "baseline") return kBaselineLanes;
  throw std::invalid_argument("no lanes of the target " + wanted + " run on this processor");
}

}  // namespace thrifty::lanes
