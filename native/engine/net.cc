#include "net.h"

#include <algorithm>
#include <atomic>
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

// From this share of nonzero weights on all of them are multiplied: sharing what is loaded
// between output channels then wins over leaving some out.
constexpr double kDense = 0.75;

constexpr std::size_t kMostNumbers = std::size_t{1} << 27;  // of a value
// Products an image: a day of one core.  Nobody waits longer on purpose, and a call cannot be
// interrupted.
constexpr double kMostWork = 1e15;

// Whether a value is of a size that is allowed.
bool fits(const Shape& s) {
  if (s.channels < 1 || s.height < 1 || s.width < 1) return false;
  const std::size_t plane = std::size_t(s.height) * s.width;
  return plane <= kMostNumbers && plane * s.channels <= kMostNumbers;
}

}  // namespace

Net::Net(const Kernels& table, std::vector<Shape> shapes, std::vector<int> ins,
         std::vector<int> outs, std::shared_ptr<Budget> given)
    : kernels(table), values(std::move(shapes)), inputs(std::move(ins)), outputs(std::move(outs)),
      budget(std::move(given)), taken_(*budget), written_(values.size(), false) {
  for (const Shape& s : values) {
    if (!fits(s)) {
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
  for (const int each : inputs) written_[each] = true;
}

Net::~Net() = default;

void Net::add(OpSpec op, const float* weight, std::size_t size) {
  for (const auto& plan : plans_) {
    if (plan) refuse(op, "the network is laid out already");
  }
  check(op);
  const Shape& in = values[op.inputs[0]];
  const Shape& out = values[op.output];
  double products = static_cast<double>(out.size());
  Weights made;
  if (op.kind == Kind::conv || op.kind == Kind::linear) {
    made = kept(op, weight, size);
    products = double(made.count) * out.height * out.width;
  } else if (op.kind == Kind::max_pool || op.kind == Kind::avg_pool) {
    products *= double(op.kernel[0]) * op.kernel[1];
  } else if (op.kind == Kind::global_pool) {
    products = static_cast<double>(in.size());
  }
  work_ += products;
  if (work_ > kMostWork) refuse(op, "the network takes over 10^15 products an image");
  taken_.more(sizeof(OpSpec) + op.name.size() + 4 * (op.scale.size() + op.shift.size()) +
                  4 * (op.places.size() + op.inputs.size()) + op.steps.size() * sizeof(StepSpec),
              op.name);
  written_[op.output] = true;
  ops.push_back(std::move(op));
  weights.push_back(std::move(made));
}

// Of equal tables one, whose memory is taken once; it has been taken for `made`.
template <class T>
Table<T> Net::keep(std::vector<T> made) {
  bool found = false;
  Table<T> table = shared.keep(std::move(made), &found);
  if (found) taken_.less(table.size() * sizeof(T));
  return table;
}

// The weights that are not zero, or all where that is faster; the bias is filled up.
Weights Net::kept(OpSpec& op, const float* weight, std::size_t size) {
  Weights made;
  made.outputs = values[op.output].channels;
  made.inputs = values[op.inputs[0]].channels / op.groups;
  made.taps = op.kernel[0] * op.kernel[1];
  const std::size_t row = times(made.inputs, made.taps), all = times(row, made.outputs);
  if (size != all) refuse(op, "the weights are not outputs x inputs x taps");
  if (all > std::numeric_limits<std::int32_t>::max()) refuse(op, "too many weights for one layer");
  if (op.shift.empty()) op.shift.assign(made.outputs, 0.0f);
  if (op.shift.size() != std::size_t(made.outputs)) refuse(op, "the bias does not fit");
  for (std::size_t i = 0; i < all; ++i) made.count += weight[i] != 0;
  // A few taps a channel, as in depthwise convolutions, share nothing.
  const bool shares = made.outputs / op.groups >= 4 || row <= 1;
  if (made.density() >= kDense && shares) {
    taken_.more(all * sizeof(float), op.name);
    made.whole = keep(std::vector<float>(weight, weight + all));
    return made;
  }
  taken_.more(made.count * 8 + (std::size_t(made.outputs) + 1) * 4, op.name);
  std::vector<std::uint32_t> starts, places;
  std::vector<float> values;
  starts.reserve(made.outputs + std::size_t{1});
  places.reserve(made.count);
  values.reserve(made.count);
  for (int o = 0; o < made.outputs; ++o) {
    starts.push_back(static_cast<std::uint32_t>(places.size()));
    for (std::size_t i = 0; i < row; ++i) {
      const float w = weight[o * row + i];
      if (w == 0) continue;
      places.push_back(static_cast<std::uint32_t>(i));
      values.push_back(w);
    }
  }
  starts.push_back(static_cast<std::uint32_t>(places.size()));
  made.starts = keep(std::move(starts));
  made.places = keep(std::move(places));
  made.values = keep(std::move(values));
  return made;
}

const Plan& Net::plan(int images) {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto& place = plans_[slot_of(images)];
  for (const int each : outputs) {
    if (!written_[each]) throw std::invalid_argument("an output is a value that nothing writes");
  }
  if (!place) place = std::make_unique<Plan>(*this, images);
  return *place;
}

const Plan* Net::plan_within_budget(int images) {
  try {
    return &plan(images);
  } catch (const std::invalid_argument&) {
    return nullptr;  // too large for so many images at once
  } catch (const TooLarge&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void Net::set_images(int images) {
  if (images < 0 || images > kLanes || (images & (images - 1)) != 0) {
    throw std::invalid_argument("images of a group are a power of two up to 16, or 0");
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  wide_ = images;
}

std::size_t Net::taken() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t sum = taken_.bytes();
  for (const auto& each : plans_) sum += each ? each->taken() : 0;
  return sum;
}

std::size_t Net::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
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
  if (times(plan.scratch_bytes(), threads) > plan.scratch_bytes() + budget->left()) threads = 1;
  const bool room = times(plan.bytes(), threads) <= plan.bytes() + budget->left();
  if (threads > 1 && groups >= static_cast<std::size_t>(threads) && room) {
    // A group a thread: nobody waits for anybody but at the end.
    std::vector<std::unique_ptr<Context>> contexts;
    for (int t = 0; t < threads; ++t) contexts.push_back(plan.take(1));
    std::atomic<std::size_t> next{0};
    const bool ran = Pool::shared().run(threads, [&](int worker) {
      for (std::size_t g; (g = next.fetch_add(1, std::memory_order_relaxed)) < groups;) {
        aim(*contexts[worker], g);
        plan.run(*contexts[worker]);
      }
    });
    for (auto& context : contexts) plan.give(std::move(context));
    if (ran) done = groups;
  }
  if (done == groups) return;
  std::unique_ptr<Context> context = plan.take(threads);
  for (; done < groups; ++done) {
    aim(*context, done);
    bool ran = false;
    const bool choice = threads > 1;
    const bool shared = choice && plan.pace(threads).shares();
    const auto start = choice ? Clock::now() : Clock::time_point();
    if (shared) {
      plan.begin(*context, threads);
      ran = Pool::shared().run(
          threads, [&](int worker) { plan.help(*context, worker, threads); });
    }
    if (!ran) plan.run(*context);
    // A shared run that another caller had no threads left for says nothing.
    if (choice && ran == shared) {
      plan.pace(threads).took(shared, static_cast<float>(seconds_since(start)));
    }
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
  std::size_t each_image = 0;
  for (const auto* list : {&inputs, &outputs}) {
    for (const int each : *list) each_image += values[each].size() * sizeof(float);
  }
  if (times(each_image, tried) > budget->left()) return 1;
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
    const Plan* made = plan_within_budget(images);
    if (!made) continue;
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
  threads = std::max(1, std::min(threads, Plan::kMostThreads));
  std::size_t done = 0;
  int images = images_for(n, threads);
  while (done < n) {
    while (static_cast<std::size_t>(images) > n - done) images = images > 4 ? 4 : 1;
    const Plan* made = images > 1 ? plan_within_budget(images) : &plan(1);
    if (!made) {
      images = images > 4 ? 4 : 1;
      continue;
    }
    const std::size_t groups = (n - done) / images;
    run_groups(*made, in, out, done, groups, threads);
    done += groups * images;
  }
}

std::vector<Timing> Net::profile(const std::vector<const float*>& in,
                                 const std::vector<float*>& out, std::size_t n) {
  if (in.size() != inputs.size() || out.size() != outputs.size()) {
    throw std::invalid_argument("inputs or outputs are missing");
  }
  if (n == 0) return {};
  int images = images_for(n, 1);
  while (static_cast<std::size_t>(images) > n) images = images > 4 ? 4 : 1;
  while (images > 1 && !plan_within_budget(images)) images = images > 4 ? 4 : 1;
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
      made.tasks[t]->run(*context, {});
      found[t].seconds += seconds_since(start);
    }
  }
  made.give(std::move(context));
  if (const std::size_t done = n / images * images; done < n) {
    std::vector<const float*> rest_in = in;
    std::vector<float*> rest_out = out;
    for (std::size_t i = 0; i < in.size(); ++i) rest_in[i] += done * values[inputs[i]].size();
    for (std::size_t i = 0; i < out.size(); ++i) rest_out[i] += done * values[outputs[i]].size();
    run(rest_in, rest_out, n - done, 1);
  }
  return found;
}

}  // namespace thrifty::engine
