#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <set>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// What the bytes of new memory are.  Nothing may depend on it; tests make it NaN.
#if !defined(THRIFTY_FRESH)
#define THRIFTY_FRESH 0
#endif

namespace thrifty::engine {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

float* allocate(std::size_t floats) {
  const std::size_t bytes = std::max<std::size_t>(floats * sizeof(float), kVector);
  const std::size_t unit = bytes >= kHuge ? kHuge : kVector;
  const std::size_t whole = (bytes + unit - 1) / unit * unit;
  void* memory = std::aligned_alloc(unit, whole);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  if (unit == kHuge) madvise(memory, whole, MADV_HUGEPAGE);
#endif
  std::memset(memory, THRIFTY_FRESH, whole);
  return static_cast<float*>(memory);
}

// Vectors of a channel: offsets of bytes in it fit 32 bits, also those of images beside each other.
constexpr std::size_t kMostPlane = std::size_t{1} << 26;

bool makes_nonnegative(const StepSpec& step) {
  return step.what == Do::relu || step.what == Do::sigmoid || step.what == Do::hardsigmoid ||
         (step.what == Do::clamp && step.a >= 0);
}

}  // namespace

// Decides layouts, inserts changes of layout, then places every value in the arena.
class Planner {
 public:
  explicit Planner(Plan& plan) : plan_(plan), net_(plan.net), images_(plan.images) {}

  void make() {
    place_.assign(net_.values.size(), -1);
    for (std::size_t i = 0; i < net_.inputs.size(); ++i) {
      const int value = net_.inputs[i];
      const Shape& s = net_.values[value];
      place_[value] = slot(s, best_layout(s.channels, s.height, s.width, images_));
      later(-1, {}, place_[value], [this, i, out = place_[value]] {
        return make_input(plan_, static_cast<int>(i), out);
      });
    }
    for (std::size_t i = 0; i < net_.ops.size(); ++i) lay_out(static_cast<int>(i));
    for (std::size_t i = 0; i < net_.outputs.size(); ++i) {
      const int in = place_[net_.outputs[i]];
      later(-1, {in}, -1,
            [this, i, in] { return make_output(plan_, static_cast<int>(i), in); });
    }
    check_sizes();
    arrange();
    plan_.spend(plan_.bytes());
    for (Slot& each : plan_.slots) {
      if (each.rows) continue;
      const Layout& l = each.layout;
      const std::size_t inner = static_cast<std::size_t>(l.h) * l.w;
      plan_.spend((l.plane() - inner) * sizeof(HaloMove) + (l.ragged() ? inner * kVector : 0));
      each.halo = halo_plan(l);
      each.valid = valid_lanes(l);
    }
    for (Later& each : later_) {
      std::unique_ptr<Task> task = each.make();
      task->op = each.op;
      plan_.scratch_ = std::max(plan_.scratch_, task->scratch);
      if (task->cycles == 0 && task->writes >= 0) {
        task->cycles = 3.0 * static_cast<double>(plan_.slots[task->writes].floats()) / kLanes;
      }
      plan_.tasks.push_back(std::move(task));
    }
    plan_.spend(plan_.scratch_bytes());
  }

 private:
  struct Later {
    int op;
    std::vector<int> reads;
    int writes;
    std::function<std::unique_ptr<Task>()> make;
  };

  void later(int op, std::vector<int> reads, int writes,
             std::function<std::unique_ptr<Task>()> make) {
    later_.push_back({op, std::move(reads), writes, std::move(make)});
  }

  int slot(const Shape& shape, Layout layout) {
    Slot made;
    made.layout = layout;
    made.rows = shape.height == 1 && shape.width == 1 && images_ < kLanes;
    if (made.rows) {
      made.layout = Layout{shape.channels, 1, 1, {images_, kLanes / images_, 1}, 1, 1, {}};
    }
    plan_.slots.push_back(std::move(made));
    return static_cast<int>(plan_.slots.size()) - 1;
  }

  // A slot of vectors, even of 1 x 1 pixels.
  int vectors(Layout layout) {
    Slot made;
    made.layout = layout;
    plan_.slots.push_back(std::move(made));
    return static_cast<int>(plan_.slots.size()) - 1;
  }

  // The slot `from` with other parts, or as rows.
  int changed(int from, const Layout& wanted, bool rows, float rest) {
    const Slot& old = plan_.slots[from];
    if (old.rows == rows && (rows || (old.layout.same_parts(wanted) && old.outside == rest))) {
      return from;
    }
    for (const auto& [source, made] : changes_) {
      const Slot& known = plan_.slots[made];
      if (source == from && known.rows == rows && known.outside == rest &&
          (rows || known.layout.same_parts(wanted))) {
        return made;
      }
    }
    Slot made;
    made.rows = rows;
    made.layout = wanted;
    made.layout.halo = {};
    made.outside = rest;
    made.nonnegative = old.nonnegative && rest >= 0;
    plan_.slots.push_back(std::move(made));
    const int to = static_cast<int>(plan_.slots.size()) - 1;
    changes_.push_back({from, to});
    later(-1, {from}, to, [this, from, to, rest] { return make_change(plan_, from, to, rest); });
    return to;
  }

  int as_rows(int from) {
    const Slot& old = plan_.slots[from];
    if (images_ == kLanes || old.rows) return from;
    return changed(from, Layout{old.layout.channels, 1, 1, {images_, kLanes / images_, 1}, 1, 1, {}},
                   true, 0.0f);
  }

  int as_vectors(int from) {
    const Slot& old = plan_.slots[from];
    if (!old.rows) return from;
    const Layout& l = old.layout;
    return changed(from, best_layout(l.channels, l.height, l.width, images_), false, 0.0f);
  }

  // Layouts of a window's input and output that fit each other: a part of the input is `stride`
  // times a part of the output, so that every tap is a whole vector away.
  int windowed(const OpSpec& op, const Shape& out, int& in, float outside) {
    in = as_vectors(in);
    const Layout from = plan_.slots[in].layout;
    Layout best = best_layout(out.channels, out.height, out.width, images_);
    const int reach_y = (out.height - 1) * op.stride[0] + (op.kernel[0] - 1) * op.dilation[0] + 1 -
                        op.padding[0];
    const int reach_x = (out.width - 1) * op.stride[1] + (op.kernel[1] - 1) * op.dilation[1] + 1 -
                        op.padding[1];
    const int need_y = std::min(from.height, reach_y), need_x = std::min(from.width, reach_x);
    Layout to = best;
    if (from.h % op.stride[0] == 0 && from.w % op.stride[1] == 0) {
      Layout kept{out.channels, out.height, out.width, from.grid, from.h / op.stride[0],
                  from.w / op.stride[1], {}};
      const bool covers = kept.grid.down * kept.h >= out.height &&
                          kept.grid.across * kept.w >= out.width;
      if (covers && kept.h * kept.w <= best.h * best.w * 1.3) to = kept;
    }
    while (to.grid.down * to.h * op.stride[0] < need_y) ++to.h;
    while (to.grid.across * to.w * op.stride[1] < need_x) ++to.w;
    Layout wanted{from.channels, from.height, from.width, to.grid, to.h * op.stride[0],
                  to.w * op.stride[1], {}};
    in = changed(in, wanted, false, outside);
    Halo& halo = plan_.slots[in].layout.halo;
    const int below = (op.kernel[0] - 1) * op.dilation[0] - op.padding[0] - (op.stride[0] - 1);
    const int right = (op.kernel[1] - 1) * op.dilation[1] - op.padding[1] - (op.stride[1] - 1);
    halo.top = std::max(halo.top, op.padding[0]);
    halo.left = std::max(halo.left, op.padding[1]);
    halo.bottom = std::max(halo.bottom, below);
    halo.right = std::max(halo.right, right);
    return vectors(to);
  }

  BoundSteps bound(const OpSpec& op, const Slot& like, std::vector<int>& reads) {
    BoundSteps made;
    const auto aligned = [&](int value) {
      if (value < 0) return -1;
      const int found = like.rows ? as_rows(place_[value])
                                  : changed(as_vectors(place_[value]), like.layout, false, 0.0f);
      reads.push_back(found);
      return found;
    };
    for (const StepSpec& step : op.steps) {
      made.steps.push_back({step, aligned(step.x), aligned(step.h)});
    }
    return made;
  }

  void lay_out(int number) {
    const OpSpec& op = net_.ops[number];
    const Shape& shape = net_.values[op.output];
    int in = op.inputs.empty() ? -1 : place_[op.inputs[0]];
    int out = -1;
    std::vector<int> reads;
    std::function<std::unique_ptr<Task>()> make;
    switch (op.kind) {
      case Kind::conv: {
        out = windowed(op, shape, in, 0.0f);
        BoundSteps steps = bound(op, Slot(plan_.slots[out]), reads);
        make = [this, number, in, out, steps] { return make_conv(plan_, number, in, out, steps); };
        break;
      }
      case Kind::linear: {
        in = as_rows(in);
        out = slot(shape, best_layout(shape.channels, 1, 1, images_));
        BoundSteps steps = bound(op, Slot(plan_.slots[out]), reads);
        make = [this, number, in, out, steps] {
          return images_ == kLanes ? make_conv(plan_, number, in, out, steps)
                                   : make_linear(plan_, number, in, out, steps);
        };
        break;
      }
      case Kind::pointwise: {
        out = like(in);
        BoundSteps steps = bound(op, Slot(plan_.slots[out]), reads);
        make = [this, number, in, out, steps] { return make_plane(plan_, number, in, out, steps); };
        break;
      }
      case Kind::channel_scale: {
        const int by = as_rows(place_[op.inputs[1]]);
        in = as_vectors(in);
        out = like(in);
        reads.push_back(by);
        BoundSteps steps = bound(op, Slot(plan_.slots[out]), reads);
        make = [this, number, in, by, out, steps] {
          return make_channel_scale(plan_, number, in, by, out, steps);
        };
        break;
      }
      case Kind::max_pool:
      case Kind::avg_pool: {
        const bool padded = op.padding[0] || op.padding[1] || op.padding[2] || op.padding[3];
        const bool lowest =
            op.kind == Kind::max_pool && (padded || plan_.slots[in].layout.ragged()) &&
            !plan_.slots[in].nonnegative;
        out = windowed(op, shape, in, lowest ? -kInfinity : 0.0f);
        plan_.slots[out].nonnegative = plan_.slots[in].nonnegative;
        make = [this, number, in, out] { return make_window(plan_, number, in, out); };
        break;
      }
      case Kind::global_pool:
        in = as_vectors(in);
        out = slot(shape, best_layout(shape.channels, 1, 1, images_));
        plan_.slots[out].nonnegative = plan_.slots[in].nonnegative;
        make = [this, number, in, out] { return make_global_pool(plan_, number, in, out); };
        break;
      case Kind::softmax:
        in = as_rows(in);
        out = like(in);
        make = [this, number, in, out] { return make_softmax(plan_, number, in, out); };
        break;
      case Kind::channels: {
        out = like(in, shape.channels);
        std::vector<int> ins;
        bool nonnegative = true;
        for (const int value : op.inputs) {
          const Slot& first = plan_.slots[out];
          ins.push_back(first.rows ? as_rows(place_[value])
                                   : changed(as_vectors(place_[value]), Layout(first.layout), false,
                                             0.0f));
          nonnegative = nonnegative && plan_.slots[ins.back()].nonnegative;
        }
        plan_.slots[out].nonnegative = nonnegative;
        reads = ins;
        make = [this, number, ins, out, pairs = op.places] {
          return make_channels(plan_, number, ins, out, pairs);
        };
        break;
      }
      case Kind::rearrange:
        out = slot(shape, best_layout(shape.channels, shape.height, shape.width, images_));
        plan_.slots[out].nonnegative = plan_.slots[in].nonnegative && op.rest >= 0;
        make = [this, number, in, out] { return make_rearrange(plan_, number, in, out); };
        break;
    }
    if (!op.steps.empty()) plan_.slots[out].nonnegative = makes_nonnegative(op.steps.back());
    reads.push_back(in);
    later(number, reads, out, make);
    place_[op.output] = out;
  }

  // A new slot of the same parts.
  int like(int in, int channels = -1) {
    Slot made;
    made.rows = plan_.slots[in].rows;
    made.layout = plan_.slots[in].layout;
    made.layout.halo = {};
    if (channels >= 0) made.layout.channels = channels;
    plan_.slots.push_back(std::move(made));
    return static_cast<int>(plan_.slots.size()) - 1;
  }

  // Before anything is made of the sizes: kernels and paddings may have made them huge.
  void check_sizes() const {
    for (const Slot& each : plan_.slots) {
      const Layout& l = each.layout;
      const std::size_t rows = static_cast<std::size_t>(l.h) + l.halo.top + l.halo.bottom;
      if (times(rows, l.pitch()) >= kMostPlane) {
        throw std::invalid_argument("a value with its padding is too large for this engine");
      }
      if (each.floats() >= std::size_t{1} << 40) {
        throw TooLarge("a value needs over 4096 GiB of memory");
      }
    }
  }

  // Places in the arena: values that are needed at the same time do not overlap.
  void arrange() {
    const int count = static_cast<int>(plan_.slots.size());
    std::vector<int> born(count, -1), dies(count, -1);
    for (int t = 0; t < static_cast<int>(later_.size()); ++t) {
      if (later_[t].writes >= 0) born[later_[t].writes] = dies[later_[t].writes] = t;
      for (const int each : later_[t].reads) dies[each] = t;
    }
    std::vector<int> order;
    for (int s = 0; s < count; ++s) {
      if (born[s] >= 0) order.push_back(s);
    }
    const auto size = [&](int s) {
      return (plan_.slots[s].floats() + kLanes - 1) / kLanes * kLanes;
    };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return size(a) > size(b); });
    std::vector<int> placed;
    for (const int s : order) {
      std::vector<std::pair<std::size_t, std::size_t>> taken;
      for (const int other : placed) {
        if (born[other] <= dies[s] && born[s] <= dies[other]) {
          taken.push_back({plan_.slots[other].place, plan_.slots[other].place + size(other)});
        }
      }
      std::sort(taken.begin(), taken.end());
      std::size_t at = 0;
      for (const auto& [from, to] : taken) {
        if (at + size(s) <= from) break;
        at = std::max(at, to);
      }
      plan_.slots[s].place = at;
      plan_.arena_ = std::max(plan_.arena_, at + size(s));
      placed.push_back(s);
    }
  }

  static constexpr float kInfinity = __builtin_inff();

  Plan& plan_;
  const Net& net_;
  const int images_;
  std::vector<int> place_;                    // slot of a value
  std::vector<std::pair<int, int>> changes_;  // from, to
  std::vector<Later> later_;
};

Context::~Context() {
  std::free(arena);
  for (float* each : scratch) std::free(each);
}

Plan::Plan(const Net& network, int count)
    : net(network), images(count), taken_(*network.budget) {
  Planner(*this).make();
}

void Plan::spend(std::size_t bytes) const {
  taken_.more(bytes, "the network, laid out for groups of " + std::to_string(images) +
                         (images == 1 ? " image," : " images,"));
}

std::unique_ptr<Context> Plan::take(int threads) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto each = free_.begin(); each != free_.end(); ++each) {
      if (static_cast<int>((*each)->scratch.size()) >= threads) {
        std::unique_ptr<Context> found = std::move(*each);
        free_.erase(each);
        return found;
      }
    }
  }
  auto made = std::make_unique<Context>();
  made->in.resize(net.inputs.size());
  made->out.resize(net.outputs.size());
  made->arena = allocate(arena_);
  made->scratch.reserve(threads);
  for (int i = 0; i < threads; ++i) made->scratch.push_back(allocate(scratch_));
  return made;
}

void Plan::give(std::unique_ptr<Context> context) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(std::move(context));
}

void Plan::run(const Context& context) const {
  for (const auto& task : tasks) task->run(context, {});
}

void fill_halo(const Kernels& kernels, const Slot& slot, float* arena, int first, int last) {
  if (slot.rows || slot.halo.moves.empty()) return;
  const std::size_t plane = slot.layout.plane() * kLanes;
  for (int c = first; c < last; ++c) {
    kernels.halo(arena + slot.place + c * plane, slot.halo.moves.data(), slot.halo.moves.size(),
                 slot.halo.lanes.data(), slot.outside);
  }
}

Range share(int count, const Part& part, int multiple) {
  const int units = (count + multiple - 1) / multiple;
  const auto bound = [&](int p) {
    const long long before = static_cast<long long>(units) * p / part.count;
    return std::min(count, static_cast<int>(before) * multiple);
  };
  return {bound(part.index), bound(part.index + 1)};
}

void BoundSteps::at(const Plan& plan, const float* arena, int row, int column, Step* out) const {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Bound& each = steps[i];
    Step made{each.step.what, each.step.a, each.step.b, nullptr, nullptr, 0, 0, 0, 0};
    const auto place = [&](int index, const float*& at, std::size_t& plane, std::size_t& pitch) {
      if (index < 0) return;
      const Slot& slot = plan.slots[index];
      if (slot.rows) {
        at = arena + slot.place;
        return;
      }
      pitch = slot.layout.pitch() * kLanes;
      plane = slot.layout.plane() * kLanes;
      at = arena + slot.place + slot.layout.origin() + row * pitch + column * kLanes;
    };
    place(each.x, made.x, made.x_plane, made.x_row);
    place(each.h, made.h, made.h_plane, made.h_row);
    out[i] = made;
  }
}

}  // namespace thrifty::engine
