// test_lanes.cc: random populations trained and asked under sanitizers, on every target, by several
// threads.  What they compute is checked from Python; here that nothing beyond is read or written,
// and that threads give what one does.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>

#include "lanes.h"

namespace thrifty::lanes {
namespace {

using Engine = std::mt19937;

int pick(Engine& random, int low, int high) {
  return low + static_cast<int>(random() % (high - low + 1));
}

Network drawn(Engine& random) {
  Network net;
  int channels = pick(random, 1, 3), height = pick(random, 5, 14), width = pick(random, 5, 14);
  for (int n = pick(random, 0, 3); n > 0; --n) {
    Layer l;
    l.conv = true, l.inputs = channels, l.outputs = pick(random, 1, 9);
    l.height = height, l.width = width, l.kernel = pick(random, 1, 7), l.stride = pick(random, 1, 2);
    l.padding = pick(random, 0, l.kernel / 2);
    if (l.kernel > height + 2 * l.padding || l.kernel > width + 2 * l.padding) break;
    l.pool = pick(random, 1, 3), l.pool_stride = pick(random, 1, 3);
    if (l.pool > l.out_height() || l.pool > l.out_width()) l.pool = 1;
    if (l.pool == 1) l.pool_stride = 1;
    l.pool_first = random() % 2, l.act = static_cast<Act>(random() % 7);
    l.dropout = random() % 2, l.bias = random() % 4 != 0;
    channels = l.outputs, height = l.pooled_height(), width = l.pooled_width();
    net.layers.push_back(l);
  }
  Layer last;
  last.inputs = channels * height * width, last.outputs = pick(random, 2, 10);
  net.layers.push_back(last);
  return net;
}

struct Arrays {
  std::vector<float> weights, first, second, spread, spread_first, spread_second;
  std::vector<double> loss;
  std::vector<std::int64_t> right;
  std::vector<std::uint8_t> classes;
};

void run(const char* target, unsigned seed) {
  Engine random(seed);
  const Network net = drawn(random);
  check(net);
  const Kernels& kernels = kernels_named(target);
  const std::size_t blocks = pick(random, 1, 3), lanes = blocks * kernels.lanes;
  const std::size_t size = net.parameters() * lanes, count = pick(random, 0, 7);
  std::vector<std::uint8_t> inputs(count * net.inputs()), mask(size);
  std::vector<std::int32_t> labels(count);
  for (auto& each : inputs) each = random() % 256;
  for (auto& each : mask) each = random() % 3 != 0;
  for (auto& each : labels) each = static_cast<std::int32_t>(random() % net.classes());
  const std::vector<float> numbers(lanes, 0.01f), rate(count, 0.5f), mean(8, 0.4f), deviation(8, 0.3f);
  std::vector<std::uint64_t> seeds(lanes);
  for (auto& each : seeds) each = random();
  const bool noisy = random() % 2, masked = random() % 2, shared = random() % 2;
  const auto optimizer = static_cast<Optimizer>(random() % 3);
  const int batch = pick(random, 1, 4);
  const unsigned drawn_from = random();
  Arrays of[2];
  for (int i = 0; i < 2; ++i) {
    Arrays& a = of[i];
    Engine again(drawn_from);
    for (auto* each : {&a.weights, &a.first, &a.second, &a.spread, &a.spread_first, &a.spread_second}) {
      each->resize(size);
    }
    for (auto& each : a.weights) each = (static_cast<float>(again() % 2001) - 1000) / 1000;
    for (auto& each : a.spread) each = -static_cast<float>(again() % 12);
    a.loss.resize(lanes), a.right.resize(lanes), a.classes.resize(lanes * count);
    Job job;
    job.network = &net, job.blocks = blocks, job.threads = i == 0 ? 1 : 3;
    job.weights = a.weights.data(), job.first = a.first.data(), job.second = a.second.data();
    if (noisy) {
      job.spread = a.spread.data(), job.spread_first = a.spread_first.data();
      job.spread_second = a.spread_second.data();
      job.variational.on = true, job.variational.scale = 1e-3f, job.variational.biases = true;
    }
    job.mask = masked ? mask.data() : nullptr;
    job.hyper = {numbers.data(), numbers.data(), numbers.data(), seeds.data()};
    job.samples = {inputs.data(), labels.data(), count, mean.data(), deviation.data()};
    job.optimizer = optimizer, job.shared = shared, job.batch = batch;
    job.rate = count ? rate.data() : nullptr;
    job.loss = a.loss.data(), job.right = a.right.data();
    kernels.train(job);
    job.variational.on = false;
    job.classes = a.classes.data();
    kernels.evaluate(job);
    for (const std::uint8_t each : a.classes) {
      if (each >= net.classes()) throw std::runtime_error("a class that is none");
    }
  }
  if (of[0].weights != of[1].weights || of[0].classes != of[1].classes) {
    throw std::runtime_error("threads changed the result");
  }
}

}  // namespace
}  // namespace thrifty::lanes

int main(int argc, char** argv) {
  const unsigned many = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 20;
  for (int t = 2; t < argc; ++t) {
    const char* target = argv[t];
    for (unsigned seed = 0; seed < many; ++seed) {
      try {
        thrifty::lanes::run(target, seed);
      } catch (const std::invalid_argument& error) {
        if (seed == 0) std::printf("%s: %s\n", target, error.what());
        break;
      } catch (const std::exception& error) {
        std::printf("%s, seed %u: %s\n", target, seed, error.what());
        return 1;
      }
    }
  }
  return 0;
}
