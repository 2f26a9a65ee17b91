// checks.cc: what an operation must be, before anything is made of it.
//
// Plans and tasks rely on these rules and do not look again.
#include <stdexcept>
#include <utility>

#include "net.h"
#include "plan.h"

namespace thrifty::engine {
namespace {

constexpr int kMostSide = 4096;  // of kernels, strides, ...

bool alike(const Shape& a, const Shape& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

bool takes_steps(Kind kind) {
  return kind == Kind::conv || kind == Kind::linear || kind == Kind::pointwise ||
         kind == Kind::channel_scale;
}

// Positions of a window along a side.
long positions(int side, int kernel, int stride, int before, int after, int dilation) {
  const long room = long{side} + before + after - long{dilation} * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

}  // namespace

void refuse(const OpSpec& op, const std::string& why) {
  throw std::invalid_argument(op.name + ": " + why);
}

void Net::check(const OpSpec& op) const {
  const auto readable = [&](int value) {
    return value >= 0 && value < static_cast<int>(values.size()) && written_[value];
  };
  if (op.inputs.empty()) refuse(op, "its inputs are missing");
  if (op.output < 0 || op.output >= static_cast<int>(values.size())) {
    refuse(op, "its output is no value");
  }
  for (const int each : op.inputs) {
    if (!readable(each)) refuse(op, "an input is no value that is written before");
  }
  check_steps(op);
  const Shape &in = values[op.inputs[0]], &out = values[op.output];
  switch (op.kind) {
    case Kind::linear:
      if (in.height * in.width != 1 || out.height * out.width != 1 ||
          op.kernel[0] * op.kernel[1] != 1 || op.groups != 1) {
        refuse(op, "a linear layer takes features, and gives features");
      }
      [[fallthrough]];
    case Kind::conv:
    case Kind::max_pool:
    case Kind::avg_pool:
      check_window(op);
      break;
    case Kind::channel_scale: {
      if (op.inputs.size() != 2) refuse(op, "two inputs are needed");
      const Shape& by = values[op.inputs[1]];
      if (by.height * by.width != 1 || (by.channels != 1 && by.channels != in.channels)) {
        refuse(op, "the second input has no number a channel");
      }
      [[fallthrough]];
    }
    case Kind::pointwise:
      for (const auto* each : {&op.scale, &op.shift}) {
        if (!each->empty() && each->size() != std::size_t(in.channels)) {
          refuse(op, "scale or shift does not fit the channels");
        }
      }
      if (!alike(in, out)) refuse(op, "the output has another shape than the input");
      break;
    case Kind::softmax:
      if (in.height * in.width != 1 || !alike(in, out)) {
        refuse(op, "a softmax takes features, and gives as many");
      }
      break;
    case Kind::global_pool:
      if (out.height * out.width != 1 || in.channels != out.channels) {
        refuse(op, "the output is not a number a channel");
      }
      break;
    case Kind::channels:
    case Kind::rearrange:
      check_places(op);
      break;
  }
}

void Net::check_steps(const OpSpec& op) const {
  if (op.steps.empty()) return;
  if (!takes_steps(op.kind)) refuse(op, "its kind takes no steps");
  if (op.steps.size() > kMostSteps) refuse(op, "too many steps");
  for (const StepSpec& step : op.steps) {
    const bool blends = step.what == Do::blend;
    const bool needs = blends || step.what == Do::add || step.what == Do::mul;
    for (const auto& [value, wanted] : {std::pair{step.x, needs}, std::pair{step.h, blends}}) {
      if (value == -1 && !wanted) continue;
      if (value < 0 || value >= static_cast<int>(values.size()) || !written_[value]) {
        refuse(op, "a step lacks its other value");
      }
      if (!alike(values[value], values[op.output])) {
        refuse(op, "a step's other value has another shape");
      }
    }
  }
}

void Net::check_window(const OpSpec& op) const {
  const Shape &in = values[op.inputs[0]], &out = values[op.output];
  const int sides[2] = {in.height, in.width}, given[2] = {out.height, out.width};
  for (const int i : {0, 1}) {
    for (const int each : {op.kernel[i], op.stride[i], op.dilation[i]}) {
      if (each < 1 || each > kMostSide) refuse(op, "a kernel, stride or dilation is out of range");
    }
    for (const int each : {op.padding[i], op.padding[i + 2]}) {
      if (each < 0 || each > kMostSide) refuse(op, "a padding is out of range");
    }
    if (positions(sides[i], op.kernel[i], op.stride[i], op.padding[i], op.padding[i + 2],
                  op.dilation[i]) != given[i]) {
      refuse(op, "the output is not what the window gives");
    }
  }
  if (op.kind == Kind::max_pool || op.kind == Kind::avg_pool) {
    if (in.channels != out.channels) refuse(op, "a pool gives as many channels as it takes");
  } else if (op.groups < 1 || in.channels % op.groups || out.channels % op.groups) {
    refuse(op, "groups do not divide the channels");
  }
}

void Net::check_places(const OpSpec& op) const {
  const Shape &in = values[op.inputs[0]], &out = values[op.output];
  if (op.kind == Kind::rearrange) {
    if (op.places.size() != out.size()) refuse(op, "a place is needed for each element");
    for (const std::int32_t each : op.places) {
      if (each < -1 || each >= static_cast<std::int64_t>(in.size())) {
        refuse(op, "a place is outside of the value");
      }
    }
    return;
  }
  if (op.places.size() != std::size_t(out.channels) * 2) {
    refuse(op, "channels are pairs of value and channel");
  }
  for (const int each : op.inputs) {
    if (values[each].height != out.height || values[each].width != out.width) {
      refuse(op, "the inputs and the output differ in height or width");
    }
  }
  for (std::size_t i = 0; i < op.places.size(); i += 2) {
    const int value = op.places[i], channel = op.places[i + 1];
    if (value < 0 || value >= static_cast<int>(op.inputs.size()) || channel < 0 ||
        channel >= values[op.inputs[value]].channels) {
      refuse(op, "a channel is none of its value");
    }
  }
}

}  // namespace thrifty::engine
