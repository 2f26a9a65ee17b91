#include "net.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "plan.h"

namespace thrifty::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int slot_of(int images) {
  int slot = 0;
  while ((1 << slot) < images) ++slot;
  return slot;
}

[[noreturn]] void refuse(const OpSpec& op, const std::string& why) {
  throw std::invalid_argument(op.name + ": " + why);
}

// From this share of nonzero weights on all of them are multiplied: sharing what is loaded
// between output channels then wins over leaving some out.
constexpr double kDense = 0.75;

Weights kept(const OpSpec& op, const float* weight, int outputs, int inputs, int taps) {
  Weights made;
  made.outputs = outputs, made.inputs = inputs, made.taps = taps;
  const std::size_t row = static_cast<std::size_t>(inputs) * taps;
  const std::size_t all = row * outputs;
  if (all > std::numeric_limits<std::int32_t>::max() || row > 0xFFFFFFFFu) {
    refuse(op, "too many weights for one layer");
  }
  for (std::size_t i = 0; i < all; ++i) made.count += weight[i] != 0;
  // A few taps a channel, as in depthwise convolutions, share nothing.
  const bool shares = outputs / op.groups >= 4 || inputs * taps <= 1;
  if (made.density() >= kDense && shares) {
    made.whole.assign(weight, weight + all);
    return made;
  }
  made.starts.reserve(outputs + 1);
  made.places.reserve(made.count);
  made.values.reserve(made.count);
  for (int o = 0; o < outputs; ++o) {
    made.starts.push_back(static_cast<std::uint32_t>(made.places.size()));
    for (std::size_t i = 0; i < row; ++i) {
      const float w = weight[o * row + i];
      if (w == 0) continue;
      made.places.push_back(static_cast<std::uint32_t>(i));
      made.values.push_back(w);
    }
  }
  made.starts.push_back(static_cast<std::uint32_t>(made.places.size()));
  return made;
}

}  // namespace

Net::Net(const Kernels& table, std::vector<Shape> shapes, std::vector<int> ins,
         std::vector<int> outs)
    : kernels(table), values(std::move(shapes)), inputs(std::move(ins)), outputs(std::move(outs)) {
  for (const Shape& s : values) {
    if (s.channels < 1 || s.height < 1 || s.width < 1 ||
        s.size() > std::size_t{1} << 27) {
      throw std::invalid_argument("a value has a side under 1, or more than 2^27 numbers");
    }
  }
  for (const auto& list : {inputs, outputs}) {
    for (const int each : list) {
      if (each < 0 || each >= static_cast<int>(values.size())) {
        throw std::invalid_argument("an input or output is no value");
      }
    }
  }
}

Net::~Net() = default;

void Net::add(OpSpec op, const float* weight, std::size_t size) {
  const int count = static_cast<int>(values.size());
  const auto known = [&](int value) { return value >= 0 && value < count; };
  if (op.inputs.empty() || !known(op.output)) refuse(op, "inputs or output are missing");
  for (const int each : op.inputs) {
    if (!known(each)) refuse(op, "an input is no value");
  }
  for (const StepSpec& step : op.steps) {
    const bool needs_x = step.what == Do::add || step.what == Do::mul || step.what == Do::blend;
    if (needs_x && !known(step.x)) refuse(op, "a step lacks its other value");
    if (step.what == Do::blend && !known(step.h)) refuse(op, "a step lacks its other value");
    for (const int each : {step.x, step.h}) {
      if (each < 0) continue;
      const Shape &a = values[each], &b = values[op.output];
      if (a.channels != b.channels || a.height != b.height || a.width != b.width) {
        refuse(op, "a step's other value has another shape");
      }
    }
  }
  const Shape &in = values[op.inputs[0]], &out = values[op.output];
  for (const int i : {0, 1}) {
    if (op.kernel[i] < 1 || op.stride[i] < 1 || op.dilation[i] < 1 || op.padding[i] < 0 ||
        op.padding[i + 2] < 0 || op.kernel[i] > 4096 || op.stride[i] > 4096 ||
        op.dilation[i] > 4096 || op.padding[i] > 4096 || op.padding[i + 2] > 4096) {
      refuse(op, "a kernel, stride, padding or dilation is out of range");
    }
  }
  Weights made;
  if (op.kind == Kind::conv || op.kind == Kind::linear) {
    const int taps = op.kernel[0] * op.kernel[1];
    if (op.groups < 1 || in.channels % op.groups || out.channels % op.groups) {
      refuse(op, "groups do not divide the channels");
    }
    const int each = in.channels / op.groups;
    if (op.kind == Kind::linear && (in.height * in.width != 1 || taps != 1)) {
      refuse(op, "a linear layer takes features");
    }
    if (size != static_cast<std::size_t>(out.channels) * each * taps) {
      refuse(op, "the weights are not outputs x inputs x taps");
    }
    if (op.shift.empty()) op.shift.assign(out.channels, 0.0f);
    if (static_cast<int>(op.shift.size()) != out.channels) refuse(op, "the bias does not fit");
    made = kept(op, weight, out.channels, each, taps);
  } else if (op.kind == Kind::pointwise) {
    for (const auto* each : {&op.scale, &op.shift}) {
      if (!each->empty() && static_cast<int>(each->size()) != in.channels) {
        refuse(op, "scale or shift does not fit the channels");
      }
    }
  } else if (op.kind == Kind::channels) {
    if (op.places.size() != static_cast<std::size_t>(out.channels) * 2) {
      refuse(op, "channels are pairs of value and channel");
    }
    for (std::size_t i = 0; i < op.places.size(); i += 2) {
      const int value = op.places[i], channel = op.places[i + 1];
      if (value < 0 || value >= static_cast<int>(op.inputs.size()) || channel < 0 ||
          channel >= values[op.inputs[value]].channels) {
        refuse(op, "a channel is none of its value");
      }
    }
  } else if (op.kind == Kind::rearrange) {
    if (op.places.size() != out.size()) refuse(op, "a place is needed for each element");
    for (const std::int32_t each : op.places) {
      if (each < -1 || each >= static_cast<std::int64_t>(in.size())) {
        refuse(op, "a place is outside of the value");
      }
    }
  } else if (op.kind == Kind::channel_scale && op.inputs.size() != 2) {
    refuse(op, "two inputs are needed");
  }
  ops.push_back(std::move(op));
  weights.push_back(std::move(made));
}

const Plan& Net::plan(int images) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto& place = plans_[slot_of(images)];
  if (!place) place = std::make_unique<Plan>(*this, images);
  return *place;
}

void Net::set_images(int images) {
  const std::lock_guard<std::mutex> lock(mutex_);
  wide_ = images;
}

std::size_t Net::bytes() const {
  std::size_t sum = 0;
  for (const auto& each : plans_) sum += each ? each->bytes() : 0;
  return sum;
}

void Net::run_groups(const Plan& plan, const std::vector<const float*>& in,
                     const std::vector<float*>& out, std::size_t first, std::size_t groups,
                     int threads) {
  const auto aim = [&](Context& context, std::size_t group) {
    const std::size_t image = first + group * plan.images;
    for (std::size_t i = 0; i < in.size(); ++i) {
      context.in[i] = in[i] + image * values[inputs[i]].size();
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      context.out[i] = out[i] + image * values[outputs[i]].size();
    }
  };
  std::size_t done = 0;
  if (threads > 1 && groups >= static_cast<std::size_t>(threads)) {
    // A group a thread: nobody waits for anybody.
    const std::size_t each = groups / threads;
    std::vector<std::unique_ptr<Context>> contexts;
    for (int t = 0; t < threads; ++t) contexts.push_back(plan.take(1));
    const bool ran = Pool::shared().run(threads, [&](int part) {
      for (std::size_t g = part * each; g < (part + 1) * each; ++g) {
        aim(*contexts[part], g);
        plan.run(*contexts[part], 0, 1, nullptr);
      }
    });
    for (auto& context : contexts) plan.give(std::move(context));
    if (ran) done = each * threads;
  }
  if (done == groups) return;
  std::unique_ptr<Context> context = plan.take(threads);
  for (; done < groups; ++done) {
    aim(*context, done);
    bool ran = false;
    if (threads > 1) {
      Barrier barrier(threads);
      ran = Pool::shared().run(
          threads, [&](int part) { plan.run(*context, part, threads, &barrier); });
    }
    if (!ran) plan.run(*context, 0, 1, nullptr);
  }
  plan.give(std::move(context));
}

int Net::images_for(std::size_t n, int threads) {
  if (n < 4) return 1;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (wide_) return wide_;
  }
  // Which grouping is the fastest is measured once, on numbers that do not matter.
  const std::size_t tried = n < 16 ? 4 : 16;
  std::vector<std::vector<float>> ins, outs;
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const int each : inputs) {
    ins.emplace_back(values[each].size() * tried, 0.5f);
    in.push_back(ins.back().data());
  }
  for (const int each : outputs) {
    outs.emplace_back(values[each].size() * tried);
    out.push_back(outs.back().data());
  }
  static_cast<void>(threads);
  double least = std::numeric_limits<double>::infinity();
  int best = 1;
  for (const int images : {1, 4, 16}) {
    if (static_cast<std::size_t>(images) > tried) continue;
    const Plan* made;
    try {
      made = &plan(images);
    } catch (const std::invalid_argument&) {
      continue;  // too large for so many images at once
    }
    double shortest = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto start = Clock::now();
      run_groups(*made, in, out, 0, tried / images, 1);
      shortest = std::min(shortest, seconds_since(start));
    }
    if (shortest < least) least = shortest, best = images;
  }
  if (tried == 16) set_images(best);
  return best;
}

void Net::run(const std::vector<const float*>& in, const std::vector<float*>& out, std::size_t n,
              int threads) {
  if (in.size() != inputs.size() || out.size() != outputs.size()) {
    throw std::invalid_argument("inputs or outputs are missing");
  }
  threads = std::max(1, std::min(threads, 64));
  std::size_t done = 0;
  int images = images_for(n, threads);
  while (done < n) {
    while (static_cast<std::size_t>(images) > n - done) images = images > 4 ? 4 : 1;
    const std::size_t groups = (n - done) / images;
    run_groups(plan(images), in, out, done, groups, threads);
    done += groups * images;
  }
}

std::vector<Timing> Net::profile(const std::vector<const float*>& in,
                                 const std::vector<float*>& out, std::size_t n) {
  if (n == 0) return {};
  int images = images_for(n, 1);
  while (static_cast<std::size_t>(images) > n) images = images > 4 ? 4 : 1;
  const Plan& made = plan(images);
  std::unique_ptr<Context> context = made.take(1);
  std::vector<Timing> found;
  for (const auto& task : made.tasks) found.push_back({task->op, task->how, 0.0});
  for (std::size_t g = 0; g < n / images; ++g) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      context->in[i] = in[i] + g * images * values[inputs[i]].size();
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      context->out[i] = out[i] + g * images * values[outputs[i]].size();
    }
    for (std::size_t t = 0; t < made.tasks.size(); ++t) {
      const auto start = Clock::now();
      made.tasks[t]->run(*context, 0, 1);
      found[t].seconds += seconds_since(start);
    }
  }
  made.give(std::move(context));
  return found;
}

}  // namespace thrifty::engine
