// planes.cc: what is done channel by channel: scales, activations, sums, pools.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "plan.h"

namespace thrifty::engine {
namespace {

struct alignas(kVector) Lanes {
  float at[kLanes];
};

Lanes all(float x) {
  Lanes made;
  std::fill_n(made.at, kLanes, x);
  return made;
}

class PlaneTask : public Task {
 public:
  PlaneTask(const Plan& plan, int number, int in, int out, BoundSteps steps)
      : plan_(plan), op_(plan.net.ops[number]), in_(in), out_(out), steps_(std::move(steps)) {
    if (steps_.steps.size() > kMostSteps) throw std::invalid_argument("too many steps");
    reads = {in};
    writes = out;
    how = "vectors";
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    if (from.rows) {
      rows(context, part);
      return;
    }
    const Range mine = share(to.layout.channels, part);
    Step steps[kMostSteps], here[kMostSteps];
    const int count = static_cast<int>(steps_.steps.size());
    steps_.at(plan_, context.arena, 0, 0, steps);
    for (int c = mine.first; c < mine.last; ++c) {
      const Lanes scale = scale_of(context, c), shift = shift_of(context, c);
      for (int s = 0; s < count; ++s) {
        here[s] = steps[s];
        if (here[s].x) here[s].x += c * steps[s].x_plane;
        if (here[s].h) here[s].h += c * steps[s].h_plane;
      }
      plan_.net.kernels.plane({at(context, from, c), from.layout.pitch() * kLanes,
                               const_cast<float*>(at(context, to, c)),
                               to.layout.pitch() * kLanes, to.layout.h, to.layout.w, scale.at,
                               shift.at, to.valid.empty() ? nullptr : to.valid.data(), here,
                               count});
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 protected:
  static const float* at(const Context& context, const Slot& slot, int c) {
    return context.arena + slot.place + c * slot.layout.plane() * kLanes + slot.layout.origin();
  }

  virtual Lanes scale_of(const Context&, int c) const {
    return all(op_.scale.empty() ? 1.0f : op_.scale[c]);
  }
  virtual Lanes shift_of(const Context&, int c) const {
    return all(op_.shift.empty() ? 0.0f : op_.shift[c]);
  }

  void rows(const Context& context, const Part& part) const {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Range mine = share(from.layout.channels, part, kLanes);
    if (mine.first >= mine.last) return;
    Step steps[kMostSteps];
    for (int n = 0; n < plan_.images; ++n) {
      const float* in = context.arena + from.place + n * from.row();
      float* out = context.arena + to.place + n * to.row();
      for (int c = mine.first; c < mine.last; ++c) {
        out[c] = in[c] * (op_.scale.empty() ? 1.0f : op_.scale[c]) +
                 (op_.shift.empty() ? 0.0f : op_.shift[c]);
      }
      steps_.at(plan_, context.arena, 0, 0, steps);
      for (std::size_t s = 0; s < steps_.steps.size(); ++s) {
        if (steps[s].x) steps[s].x += n * to.row() + mine.first;
        if (steps[s].h) steps[s].h += n * to.row() + mine.first;
      }
      const std::size_t count = (mine.last - mine.first + kLanes - 1) / kLanes * kLanes;
      plan_.net.kernels.row_steps(out + mine.first, count, steps,
                                  static_cast<int>(steps_.steps.size()));
    }
  }

  const Plan& plan_;
  const OpSpec& op_;
  const int in_, out_;
  const BoundSteps steps_;
};

// Every channel of every image times (or plus) a number of its own.
class ChannelScale : public PlaneTask {
 public:
  ChannelScale(const Plan& plan, int number, int in, int by, int out, BoundSteps steps)
      : PlaneTask(plan, number, in, out, std::move(steps)), by_(by) {
    reads.push_back(by);
  }

 private:
  Lanes numbers(const Context& context, int c) const {
    const Slot& slot = plan_.slots[by_];
    if (slot.layout.channels == 1) c = 0;
    Lanes made;
    if (!slot.rows) {
      std::copy_n(at(context, slot, c), kLanes, made.at);
      return made;
    }
    const int each = kLanes / plan_.images;
    for (int l = 0; l < kLanes; ++l) {
      made.at[l] = context.arena[slot.place + l / each * slot.row() + c];
    }
    return made;
  }
  // `largest` says that they are added.
  Lanes scale_of(const Context& context, int c) const override {
    return op_.largest ? all(1.0f) : numbers(context, c);
  }
  Lanes shift_of(const Context& context, int c) const override {
    return op_.largest ? numbers(context, c) : all(0.0f);
  }

  const int by_;
};

class WindowTask : public Task {
 public:
  WindowTask(const Plan& plan, int number, int in, int out)
      : plan_(plan), op_(plan.net.ops[number]), in_(in), out_(out) {
    reads = {in};
    writes = out;
    how = "vectors";
    const std::size_t pitch = plan.slots[in].layout.pitch();
    const Layout& to = plan.slots[out].layout;
    plan.spend(static_cast<std::size_t>(op_.kernel[0]) * op_.kernel[1] * 4 +
               static_cast<std::size_t>(to.h) * to.w * kVector);
    for (int y = 0; y < op_.kernel[0]; ++y) {
      for (int x = 0; x < op_.kernel[1]; ++x) {
        taps_.push_back(static_cast<std::int32_t>(
            (y * op_.dilation[0] * pitch + x * op_.dilation[1]) * kLanes));
      }
    }
    if (op_.kind == Kind::avg_pool) average();
    cycles = double(to.channels) * to.h * to.w * (taps_.size() + 2.0);
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Layout &fl = from.layout, &tl = to.layout;
    const Range mine = share(tl.channels, part);
    Window job{};
    job.in_row = fl.pitch() * kLanes;
    job.out_row = tl.pitch() * kLanes;
    job.h = tl.h, job.w = tl.w;
    job.stride_y = op_.stride[0], job.stride_x = op_.stride[1];
    job.taps = taps_.data();
    job.tap_count = static_cast<int>(taps_.size());
    job.factors = factors_.empty() ? nullptr : factors_.data()->at;
    job.valid = to.valid.empty() ? nullptr : to.valid.data();
    const long corner = op_.padding[0] * static_cast<long>(fl.pitch()) + op_.padding[1];
    for (int c = mine.first; c < mine.last; ++c) {
      job.in = context.arena + from.place + c * fl.plane() * kLanes + fl.origin() -
               corner * kLanes;
      job.out = context.arena + to.place + c * tl.plane() * kLanes + tl.origin();
      (op_.kind == Kind::max_pool ? plan_.net.kernels.max_window
                                  : plan_.net.kernels.sum_window)(job);
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  // One over what each sum is of; a window counts the padding that it meets only if asked to, and
  // never what lies beyond the padding.
  void average() {
    const Layout &from = plan_.slots[in_].layout, &to = plan_.slots[out_].layout;
    factors_.assign(static_cast<std::size_t>(to.h) * to.w, all(0.0f));
    const auto span = [&](int o, int side, int size) {
      const int start = o * op_.stride[side] - op_.padding[side];
      const int low = op_.count_padding ? -op_.padding[side] : 0;
      const int high = op_.count_padding ? size + op_.padding[side + 2] : size;
      return std::max(0, std::min(start + op_.kernel[side], high) - std::max(start, low));
    };
    for (int y = 0; y < to.height; ++y) {
      for (int x = 0; x < to.width; ++x) {
        const double over = op_.divisor > 0 ? op_.divisor
                                            : double(span(y, 0, from.height)) *
                                                  span(x, 1, from.width);
        for (int n = 0; n < to.grid.images; ++n) {
          const int lane = (n * to.grid.down + y / to.h) * to.grid.across + x / to.w;
          factors_[static_cast<std::size_t>(y % to.h) * to.w + x % to.w].at[lane] =
              over > 0 ? static_cast<float>(1.0 / over) : 0.0f;
        }
      }
    }
  }

  const Plan& plan_;
  const OpSpec& op_;
  const int in_, out_;
  std::vector<std::int32_t> taps_;
  std::vector<Lanes> factors_;
};

class GlobalPool : public Task {
 public:
  GlobalPool(const Plan& plan, int number, int in, int out)
      : plan_(plan), op_(plan.net.ops[number]), in_(in), out_(out) {
    reads = {in};
    writes = out;
    how = "vectors";
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Layout& l = from.layout;
    const Range mine = share(l.channels, part);
    const int each = kLanes / plan_.images;
    const float factor = 1.0f / (static_cast<float>(l.height) * l.width);
    for (int c = mine.first; c < mine.last; ++c) {
      Lanes found;
      plan_.net.kernels.reduce(
          context.arena + from.place + c * l.plane() * kLanes + l.origin(), l.pitch() * kLanes,
          l.h, l.w, from.valid.empty() ? nullptr : from.valid.data(), op_.largest, found.at);
      for (int n = 0; n < plan_.images; ++n) {
        float y = found.at[n * each];
        for (int k = 1; k < each; ++k) {
          const float x = found.at[n * each + k];
          y = !op_.largest ? y + x : (x > y || x != x) ? x : y;
        }
        if (!op_.largest) y *= factor;
        float* out = context.arena + to.place;
        out[to.rows ? n * to.row() + c
                    : c * to.layout.plane() * kLanes + to.layout.at(n, 0, 0)] = y;
      }
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  const Plan& plan_;
  const OpSpec& op_;
  const int in_, out_;
};

}  // namespace

std::unique_ptr<Task> make_plane(const Plan& plan, int op, int in, int out, BoundSteps steps) {
  return std::make_unique<PlaneTask>(plan, op, in, out, std::move(steps));
}

std::unique_ptr<Task> make_channel_scale(const Plan& plan, int op, int in, int by, int out,
                                         BoundSteps steps) {
  return std::make_unique<ChannelScale>(plan, op, in, by, out, std::move(steps));
}

std::unique_ptr<Task> make_window(const Plan& plan, int op, int in, int out) {
  return std::make_unique<WindowTask>(plan, op, in, out);
}

std::unique_ptr<Task> make_global_pool(const Plan& plan, int op, int in, int out) {
  return std::make_unique<GlobalPool>(plan, op, in, out);
}

}  // namespace thrifty::engine
