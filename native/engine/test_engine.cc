// test_engine.cc: random networks against the definitions in test_reference.h, and wrong ones.
//
// Run with the names of targets; without, all that this processor runs.  A number among them is
// how many networks are drawn for each target.  tests/engine builds it with the sanitizers and
// runs it; it prints what differs and exits with 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "net.h"
#include "test_networks.h"
#include "test_reference.h"

namespace thrifty::engine {
namespace {

int failures = 0;

void fail(const char* target, unsigned seed, const std::string& what) {
  if (++failures <= 20) std::printf("%s, network %u: %s\n", target, seed, what.c_str());
}

// Arrays of exactly the size that is needed, so that a sanitizer sees every number beyond.
struct Arrays {
  std::vector<std::unique_ptr<float[]>> in, out;
  std::vector<std::size_t> out_sizes;

  Arrays(const Network& net, const Reference& wanted) {
    for (const int each : net.inputs) {
      const Values& from = wanted.values[each];
      in.emplace_back(new float[from.size()]);
      for (std::size_t i = 0; i < from.size(); ++i) in.back()[i] = static_cast<float>(from[i]);
    }
    for (const int each : net.outputs) {
      out_sizes.push_back(wanted.values[each].size());
      out.emplace_back(new float[out_sizes.back()]);
      std::fill_n(out.back().get(), out_sizes.back(), std::nanf(""));
    }
  }
  std::vector<const float*> from() const {
    std::vector<const float*> made;
    for (const auto& each : in) made.push_back(each.get());
    return made;
  }
  std::vector<float*> to() const {
    std::vector<float*> made;
    for (const auto& each : out) made.push_back(each.get());
    return made;
  }
};

Reference wanted_of(Random& random, const Network& net, std::size_t n) {
  Reference wanted{net.shapes, n, std::vector<Values>(net.shapes.size())};
  for (const int each : net.inputs) {
    wanted.values[each].resize(n * net.shapes[each].size());
    for (double& number : wanted.values[each]) number = normal(random);
  }
  for (const Drawn& each : net.ops) wanted.run(each.op, each.weight);
  return wanted;
}

// Says where an output differs by more than float32 explains.
std::string difference(const Network& net, const Reference& wanted, const Arrays& arrays) {
  double largest = 1;
  for (const Values& each : wanted.values) {
    for (const double number : each) largest = std::max(largest, std::fabs(number));
  }
  for (std::size_t o = 0; o < net.outputs.size(); ++o) {
    const Values& right = wanted.values[net.outputs[o]];
    for (std::size_t i = 0; i < arrays.out_sizes[o]; ++i) {
      if (std::fabs(arrays.out[o][i] - right[i]) <= 1e-4 * largest) continue;
      return "output " + std::to_string(o) + " has " + std::to_string(arrays.out[o][i]) + " at " +
             std::to_string(i) + ", not " + std::to_string(right[i]);
    }
  }
  return "";
}

constexpr std::size_t kRoom = std::size_t{1} << 32;
constexpr int kBatches[] = {0, 1, 1, 2, 3, 4, 5, 7, 16, 19, 37};

void test_random(const char* target, unsigned seed) {
  Random random(seed);
  const Network net = draw(random);
  const std::unique_ptr<Net> built = net.built(target, kRoom);
  for (int repeat = 0; repeat < 3; ++repeat) {
    const std::size_t n = kBatches[random() % (sizeof(kBatches) / sizeof(int))];
    const int images = (int[]){0, 1, 2, 4, 8, 16}[random() % 6], threads = pick(random, 1, 3);
    const Reference wanted = wanted_of(random, net, n);
    const Arrays arrays(net, wanted);
    built->set_images(images);
    if (repeat == 2) {
      built->profile(arrays.from(), arrays.to(), n);
    } else {
      built->run(arrays.from(), arrays.to(), n, threads);
    }
    const std::string found = difference(net, wanted, arrays);
    if (!found.empty()) {
      fail(target, seed, found + ", " + std::to_string(n) + " images in groups of " +
                             std::to_string(images) + ", " + std::to_string(threads) + " threads");
    }
  }
}


// Several threads call one network that nobody prepared for groups.
void test_together(const char* target, unsigned seed) {
  Random random(seed);
  const Network net = draw(random);
  const std::unique_ptr<Net> built = net.built(target, kRoom);
  std::vector<std::string> found(4);
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&, t] {
      Random own(seed * 4 + t);
      const Reference wanted = wanted_of(own, net, pick(own, 1, 20));
      const Arrays arrays(net, wanted);
      for (int repeat = 0; repeat < 3 && found[t].empty(); ++repeat) {
        built->run(arrays.from(), arrays.to(), wanted.n, 1 + t % 3);
        found[t] = difference(net, wanted, arrays);
        if (built->bytes() > built->taken()) found[t] = "more memory than was taken";
      }
    });
  }
  for (std::thread& each : callers) each.join();
  for (const std::string& each : found) {
    if (!each.empty()) fail(target, seed, "together: " + each);
  }
}

// A network with one field of one operation spoilt is refused, or runs without harm.
void test_spoilt(const char* target, unsigned seed) {
  Random random(seed);
  Network net = draw(random);
  const auto any = [&] {
    const int odd[] = {-1, 0, 1, 2, 7, 64, 4096, 4097, 1 << 20, 1 << 30, -(1 << 30), 2147483647};
    return odd[random() % (sizeof(odd) / sizeof(int))];
  };
  Drawn& drawn = net.ops[random() % net.ops.size()];
  OpSpec& op = drawn.op;
  switch (random() % 14) {
    case 0: op.kind = static_cast<Kind>(random() % 10); break;
    case 1: op.inputs[random() % op.inputs.size()] = any(); break;
    case 2: op.output = any(); break;
    case 3: op.kernel[random() % 2] = any(); break;
    case 4: op.stride[random() % 2] = any(); break;
    case 5: op.padding[random() % 4] = any(); break;
    case 6: op.dilation[random() % 2] = any(); break;
    case 7: op.groups = any(); break;
    case 8: op.inputs.clear(); break;
    case 9: op.places.push_back(any()); break;
    case 10: if (!op.places.empty()) op.places[random() % op.places.size()] = any(); break;
    case 11: op.steps.push_back({static_cast<Do>(random() % 16), 1, 2, any(), any()}); break;
    case 12: drawn.weight.resize(drawn.weight.size() / 2 + random() % 2); break;
    default: net.shapes[random() % net.shapes.size()] = {any(), any(), any()};
  }
  try {
    const std::unique_ptr<Net> built = net.built(target, std::size_t{1} << 28);
    const Reference wanted{net.shapes, 2, std::vector<Values>(net.shapes.size())};
    Reference zeros = wanted;
    for (std::size_t v = 0; v < net.shapes.size(); ++v) {
      zeros.values[v].resize(2 * net.shapes[v].size());
    }
    const Arrays arrays(net, zeros);
    built->run(arrays.from(), arrays.to(), 2, 2);
  } catch (const std::invalid_argument&) {
  } catch (const TooLarge&) {
  }
}

// Sizes that a file may state are refused before memory is taken for them.
void test_huge(const char* target) {
  const auto refused = [&](Shape in, Shape out, int kernel, int stride, int padding,
                           std::size_t bytes) {
    Network net;
    net.shapes = {in, out};
    net.inputs = {0};
    net.outputs = {1};
    Drawn drawn;
    drawn.op.kind = Kind::max_pool;
    drawn.op.inputs = {0};
    drawn.op.output = 1;
    std::fill_n(drawn.op.kernel, 2, kernel);
    std::fill_n(drawn.op.stride, 2, stride);
    std::fill_n(drawn.op.padding, 2, padding);
    net.ops.push_back(std::move(drawn));
    try {
      net.built(target, bytes);
    } catch (const std::invalid_argument&) {
      return true;
    } catch (const TooLarge&) {
      return true;
    }
    return false;
  };
  const Shape large{1 << 20, 8, 8}, half{1 << 20, 4, 4};
  if (!refused(large, half, 2, 2, 0, std::size_t{1} << 28)) fail(target, 0, "a large value");
  if (!refused({1 << 30, 1 << 30, 1 << 30}, half, 2, 2, 0, kRoom)) fail(target, 0, "an overflow");
  const Shape tall{1, 1 << 27, 1};
  if (!refused(tall, {1, (1 << 27) + 1, 2}, 4096, 1, 4095, kRoom)) fail(target, 0, "a halo");
}

void test(const char* target, unsigned count) {
  const int before = failures;
  for (unsigned seed = 0; seed < count; ++seed) {
    try {
      test_random(target, seed);
      if (seed % 4 == 0) test_together(target, seed);
    } catch (const std::exception& error) {
      fail(target, seed, error.what());
    }
    for (unsigned i = 0; i < 4; ++i) test_spoilt(target, 4 * seed + i);
  }
  test_huge(target);
  std::printf("%s: %u networks, %d failures\n", target, count, failures - before);
  std::fflush(stdout);
}

}  // namespace
}  // namespace thrifty::engine

int main(int count, char** given) {
  unsigned networks = 100;
  std::vector<std::string> targets;
  for (int i = 1; i < count; ++i) {
    if (std::atoi(given[i]) > 0) {
      networks = static_cast<unsigned>(std::atoi(given[i]));
    } else {
      targets.push_back(given[i]);
    }
  }
  if (targets.empty()) {
    for (const char* each : {"avx512", "avx2", "baseline"}) {
      try {
        thrifty::engine::kernels_named(each);
        targets.push_back(each);
      } catch (const std::invalid_argument&) {
      }
    }
  }
  for (const std::string& each : targets) thrifty::engine::test(each.c_str(), networks);
  return thrifty::engine::failures ? 1 : 0;
}
