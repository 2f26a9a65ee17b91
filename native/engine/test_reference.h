// test_reference.h: what each operation of the engine is, in plain loops over doubles.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "net.h"

namespace thrifty::engine {

// Numbers of n images of a value, image by image, channel by channel.
using Values = std::vector<double>;

struct Reference {
  const std::vector<Shape>& shapes;
  std::size_t n;
  std::vector<Values> values;  // by number

  double at(int value, std::size_t image, int c, int y, int x) const {
    const Shape& s = shapes[value];
    if (y < 0 || y >= s.height || x < 0 || x >= s.width) return 0;
    return values[value][((image * s.channels + c) * s.height + y) * s.width + x];
  }

  void run(const OpSpec& op, const std::vector<float>& weight) {
    const Shape& out = shapes[op.output];
    Values made;
    for (std::size_t image = 0; image < n; ++image) {
      const double total = op.kind == Kind::softmax ? exponentials(op, image) : 0;
      for (int c = 0; c < out.channels; ++c) {
        for (int y = 0; y < out.height; ++y) {
          for (int x = 0; x < out.width; ++x) {
            double found = one(op, weight, image, c, y, x, total);
            for (const StepSpec& step : op.steps) found = stepped(found, step, image, c, y, x);
            made.push_back(found);
          }
        }
      }
    }
    values[op.output] = std::move(made);
  }

 private:
  double one(const OpSpec& op, const std::vector<float>& weight, std::size_t image, int c, int y,
             int x, double total) const {
    const int in = op.inputs[0];
    switch (op.kind) {
      case Kind::conv:
      case Kind::linear:
        return convolved(op, weight, image, c, y, x);
      case Kind::pointwise:
        return at(in, image, c, y, x) * (op.scale.empty() ? 1.0 : op.scale[c]) +
               (op.shift.empty() ? 0.0 : op.shift[c]);
      case Kind::channel_scale: {
        const int by = op.inputs[1];
        const double number = at(by, image, shapes[by].channels == 1 ? 0 : c, 0, 0);
        const double old = at(in, image, c, y, x);
        return op.largest ? old + number : old * number;
      }
      case Kind::max_pool:
      case Kind::avg_pool:
        return pooled(op, image, c, y, x);
      case Kind::global_pool:
        return pooled_whole(op, image, c);
      case Kind::channels:
        return at(op.inputs[op.places[2 * c]], image, op.places[2 * c + 1], y, x);
      case Kind::rearrange: {
        const Shape &s = shapes[in], &out = shapes[op.output];
        const std::int32_t place = op.places[(std::size_t(c) * out.height + y) * out.width + x];
        return place < 0 ? op.rest : values[in][image * s.size() + place];
      }
      case Kind::softmax:
        return std::exp(at(in, image, c, 0, 0)) / total;
    }
    return 0;
  }

  double exponentials(const OpSpec& op, std::size_t image) const {
    double sum = 0;
    for (int c = 0; c < shapes[op.output].channels; ++c) {
      sum += std::exp(at(op.inputs[0], image, c, 0, 0));
    }
    return sum;
  }

  double convolved(const OpSpec& op, const std::vector<float>& weight, std::size_t image, int c,
                   int y, int x) const {
    const int each = shapes[op.inputs[0]].channels / op.groups;
    const int first = c / (shapes[op.output].channels / op.groups) * each;
    double sum = op.shift.empty() ? 0.0 : op.shift[c];
    std::size_t place = std::size_t(c) * each * op.kernel[0] * op.kernel[1];
    for (int i = 0; i < each; ++i) {
      for (int ky = 0; ky < op.kernel[0]; ++ky) {
        for (int kx = 0; kx < op.kernel[1]; ++kx) {
          sum += weight[place++] * at(op.inputs[0], image, first + i,
                                      y * op.stride[0] + ky * op.dilation[0] - op.padding[0],
                                      x * op.stride[1] + kx * op.dilation[1] - op.padding[1]);
        }
      }
    }
    return sum;
  }

  double pooled(const OpSpec& op, std::size_t image, int c, int y, int x) const {
    const Shape& s = shapes[op.inputs[0]];
    double sum = 0, largest = -std::numeric_limits<double>::infinity();
    int inside = 0, padded = 0;
    for (int ky = 0; ky < op.kernel[0]; ++ky) {
      for (int kx = 0; kx < op.kernel[1]; ++kx) {
        const int row = y * op.stride[0] + ky * op.dilation[0] - op.padding[0];
        const int column = x * op.stride[1] + kx * op.dilation[1] - op.padding[1];
        padded += row < s.height + op.padding[2] && column < s.width + op.padding[3];
        if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
        ++inside;
        sum += at(op.inputs[0], image, c, row, column);
        largest = std::max(largest, at(op.inputs[0], image, c, row, column));
      }
    }
    if (op.kind == Kind::max_pool) return largest;
    return sum / (op.divisor > 0 ? op.divisor : op.count_padding ? padded : inside);
  }

  double pooled_whole(const OpSpec& op, std::size_t image, int c) const {
    const Shape& s = shapes[op.inputs[0]];
    double sum = 0, largest = -std::numeric_limits<double>::infinity();
    for (int y = 0; y < s.height; ++y) {
      for (int x = 0; x < s.width; ++x) {
        sum += at(op.inputs[0], image, c, y, x);
        largest = std::max(largest, at(op.inputs[0], image, c, y, x));
      }
    }
    return op.largest ? largest : sum / s.height / s.width;
  }

  double stepped(double v, const StepSpec& step, std::size_t image, int c, int y, int x) const {
    const auto clamped = [](double u, double low, double high) {
      return std::min(std::max(u, low), high);
    };
    const double other = step.x < 0 ? 0 : at(step.x, image, c, y, x);
    switch (step.what) {
      case Do::relu: return std::max(v, 0.0);
      case Do::clamp: return clamped(v, step.a, step.b);
      case Do::silu: return v / (1 + std::exp(-v));
      case Do::hardswish: return v * clamped(v + 3, 0, 6) / 6;
      case Do::sigmoid: return 1 / (1 + std::exp(-v));
      case Do::hardsigmoid: return clamped(v + 3, 0, 6) / 6;
      case Do::tanh: return std::tanh(v);
      case Do::gelu: return v * 0.5 * (1 + std::erf(v * std::sqrt(0.5)));
      case Do::gelu_tanh:
        return v * 0.5 * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      case Do::leaky_relu: return v < 0 ? v * step.a : v;
      case Do::elu: return v > 0 ? v : step.a * std::expm1(v);
      case Do::scale: return v * step.a;
      case Do::shift: return v + step.a;
      case Do::add: return v + step.a * other;
      case Do::mul: return v * other;
      case Do::blend: return other + v * (at(step.h, image, c, y, x) - other);
    }
    return v;
  }
};

}  // namespace thrifty::engine
