// test_networks.h: random networks, for test_engine.cc, which alone includes it.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "net.h"

namespace thrifty::engine {
namespace {

using Random = std::mt19937;

int pick(Random& random, int low, int high) {
  return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
}

float normal(Random& random) { return std::normal_distribution<float>(0, 1)(random); }

struct Drawn {
  OpSpec op;
  std::vector<float> weight;
};

// A network of operations on a few values; values are added as operations write them.
struct Network {
  std::vector<Shape> shapes;
  std::vector<int> inputs, outputs;
  std::vector<Drawn> ops;

  std::unique_ptr<Net> built(const char* target, std::size_t bytes) const {
    auto net = std::make_unique<Net>(kernels_named(target), shapes, inputs, outputs,
                                     std::make_shared<Budget>(bytes));
    for (const Drawn& each : ops) net->add(each.op, each.weight.data(), each.weight.size());
    net->prepare();
    return net;
  }
};

constexpr Kind kKinds[] = {Kind::conv,        Kind::conv,     Kind::conv,     Kind::linear,
                           Kind::pointwise,   Kind::max_pool, Kind::avg_pool, Kind::global_pool,
                           Kind::channels,    Kind::softmax,  Kind::rearrange,
                           Kind::channel_scale};

bool features(const Shape& s) { return s.height == 1 && s.width == 1; }

std::vector<int> alike(const Network& net, const Shape& shape) {
  std::vector<int> found;
  for (std::size_t i = 0; i < net.shapes.size(); ++i) {
    const Shape& s = net.shapes[i];
    if (s.channels == shape.channels && s.height == shape.height && s.width == shape.width) {
      found.push_back(static_cast<int>(i));
    }
  }
  return found;
}

void draw_steps(Random& random, const Network& net, const Shape& shape, OpSpec& op) {
  const std::vector<int> others = alike(net, shape);
  for (int i = pick(random, 0, 3); i > 0; --i) {
    StepSpec step{static_cast<Do>(pick(random, 0, static_cast<int>(Do::blend))), 0, 0};
    if (step.what >= Do::add) {
      if (others.empty()) continue;
      step.x = others[random() % others.size()];
      if (step.what == Do::blend) step.h = others[random() % others.size()];
    }
    step.a = step.what == Do::clamp ? -1.0f : 0.5f;
    step.b = 2.0f;
    op.steps.push_back(step);
  }
}

// One side of a window: false where it has no position, or one without a pixel that a pool needs.
bool draw_side(Random& random, int side, int i, bool pool, OpSpec& op, int& out) {
  op.kernel[i] = pick(random, 1, random() % 8 ? 5 : 11);
  op.stride[i] = pick(random, 1, random() % 4 ? 2 : 5);
  op.dilation[i] = op.kind != Kind::avg_pool && random() % 3 == 0 ? pick(random, 1, 4) : 1;
  const int reach = (op.kernel[i] - 1) * op.dilation[i];
  op.padding[i] = pick(random, 0, pool ? reach : reach + 6);
  op.padding[i + 2] = pick(random, 0, reach + 6);
  const int room = side + op.padding[i] + op.padding[i + 2] - reach - 1;
  if (room < 0) return false;
  out = room / op.stride[i] + 1;
  const int last = (out - 1) * op.stride[i] - op.padding[i];
  const bool empty = last >= side || (op.dilation[i] > side && op.kernel[i] > 1);
  return out <= 48 && !(pool && empty);
}

// Fills `op` and its weights; false if the kind does not suit the value.
bool draw_op(Random& random, const Network& net, Drawn& drawn, Shape& out) {
  OpSpec& op = drawn.op;
  const Shape in = net.shapes[op.inputs[0]];
  out = in;
  switch (op.kind) {
    case Kind::conv:
    case Kind::linear: {
      if (op.kind == Kind::linear && !features(in)) return false;
      out.channels = pick(random, 1, 20);
      if (op.kind == Kind::conv) {
        if (!draw_side(random, in.height, 0, false, op, out.height)) return false;
        if (!draw_side(random, in.width, 1, false, op, out.width)) return false;
        if (random() % 3 == 0) op.groups = random() % 2 ? in.channels : pick(random, 1, 3);
        if (in.channels % op.groups) return false;
        out.channels = op.groups * pick(random, 1, 5);
      }
      const int fan = in.channels / op.groups * op.kernel[0] * op.kernel[1];
      const unsigned density = (unsigned[]){0, 10, 40, 100}[random() % 4];
      for (int i = 0; i < out.channels * fan; ++i) {
        const bool kept = random() % 100 < density;
        drawn.weight.push_back(kept ? normal(random) / std::sqrt(float(fan)) : 0.0f);
      }
      for (int c = 0; c < out.channels; ++c) op.shift.push_back(normal(random));
      break;
    }
    case Kind::pointwise:
      for (int c = 0; c < in.channels && random() % 8; ++c) op.scale.push_back(normal(random));
      if (int(op.scale.size()) != in.channels) op.scale.clear();
      for (int c = 0; c < in.channels; ++c) op.shift.push_back(normal(random));
      break;
    case Kind::channel_scale: {
      std::vector<int> by;
      for (std::size_t i = 0; i < net.shapes.size(); ++i) {
        const Shape& s = net.shapes[i];
        if (features(s) && (s.channels == 1 || s.channels == in.channels)) by.push_back(int(i));
      }
      if (by.empty()) return false;
      op.inputs.push_back(by[random() % by.size()]);
      op.largest = random() % 2;
      break;
    }
    case Kind::max_pool:
    case Kind::avg_pool:
      if (!draw_side(random, in.height, 0, true, op, out.height)) return false;
      if (!draw_side(random, in.width, 1, true, op, out.width)) return false;
      op.count_padding = random() % 2;
      if (random() % 4 == 0) op.divisor = 3;
      return true;
    case Kind::global_pool:
      op.largest = random() % 2;
      out.height = out.width = 1;
      return true;
    case Kind::channels: {
      for (std::size_t i = 0; i < net.shapes.size(); ++i) {
        const Shape& s = net.shapes[i];
        if (s.height == in.height && s.width == in.width) op.inputs.push_back(int(i));
      }
      out.channels = pick(random, 1, 24);
      for (int c = 0; c < out.channels; ++c) {
        const int value = pick(random, 0, int(op.inputs.size()) - 1);
        const int all = net.shapes[op.inputs[value]].channels;
        op.places.push_back(value);
        op.places.push_back(pick(random, 0, all - 1));
      }
      return true;
    }
    case Kind::rearrange:
      out = random() % 2 ? Shape{pick(random, 1, 40), 1, 1}
                         : Shape{pick(random, 1, 6), pick(random, 1, 9), pick(random, 1, 9)};
      op.rest = random() % 2 ? 0.0f : -0.5f;
      for (std::size_t i = 0; i < out.size(); ++i) {
        op.places.push_back(pick(random, random() % 8 ? 0 : -1, int(in.size()) - 1));
      }
      return true;
    case Kind::softmax:
      return features(in);
  }
  draw_steps(random, net, out, op);
  return true;
}

Network draw(Random& random) {
  Network net;
  for (int i = pick(random, 1, 3); i > 0; --i) {
    const bool flat = random() % 4 == 0;
    net.inputs.push_back(int(net.shapes.size()));
    net.shapes.push_back({pick(random, 1, 9), flat ? 1 : pick(random, 1, 23),
                          flat ? 1 : pick(random, 1, 23)});
  }
  for (int wanted = pick(random, 1, 7), tries = 0; wanted > 0 && tries < 100; ++tries) {
    Drawn drawn;
    drawn.op.kind = kKinds[random() % (sizeof(kKinds) / sizeof(Kind))];
    drawn.op.name = "op" + std::to_string(net.ops.size());
    // Mostly the newest value, so that networks are deep.
    const int count = int(net.shapes.size());
    drawn.op.inputs = {random() % 3 ? count - 1 : pick(random, 0, count - 1)};
    Shape out;
    if (!draw_op(random, net, drawn, out)) continue;
    drawn.op.output = count;
    net.shapes.push_back(out);
    net.ops.push_back(std::move(drawn));
    --wanted;
  }
  net.outputs.push_back(int(net.shapes.size()) - 1);
  for (int i = pick(random, 0, 2); i > 0; --i) {  // also inputs, and one value twice
    net.outputs.push_back(pick(random, 0, int(net.shapes.size()) - 1));
  }
  return net;
}

}  // namespace
}  // namespace thrifty::engine
