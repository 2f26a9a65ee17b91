// moves.cc: values in other layouts: inputs, outputs, joins, reshapes.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "plan.h"

namespace thrifty::engine {
namespace {

// A table that says, for every lane of a part's vectors, which float of a source it takes.  Pixels
// that no window reaches may have no place.
template <class Source>
std::vector<std::int32_t> table_of(const Layout& to, Source source) {
  std::vector<std::int32_t> table(static_cast<std::size_t>(to.h) * to.w * kLanes, -1);
  for (int n = 0; n < to.grid.images; ++n) {
    for (int y = 0; y < std::min(to.height, to.grid.down * to.h); ++y) {
      for (int x = 0; x < std::min(to.width, to.grid.across * to.w); ++x) {
        const int lane = (n * to.grid.down + y / to.h) * to.grid.across + x / to.w;
        table[(static_cast<std::size_t>(y % to.h) * to.w + x % to.w) * kLanes + lane] =
            static_cast<std::int32_t>(source(n, y, x));
      }
    }
  }
  return table;
}

std::size_t table_bytes(const Layout& to) {
  return static_cast<std::size_t>(to.h) * to.w * kLanes * sizeof(std::int32_t);
}

// Rows of vectors of one channel, taken from somewhere by a table.
void take(const Kernels& kernels, const float* from, const std::vector<std::int32_t>& table,
          float rest, const Slot& to, int channel, float* arena) {
  const Layout& l = to.layout;
  float* out = arena + to.place + channel * l.plane() * kLanes + l.origin();
  const std::size_t row = static_cast<std::size_t>(l.w) * kLanes;
  for (int y = 0; y < l.h; ++y) {
    kernels.gather(from, table.data() + y * row, row, rest, out + y * l.pitch() * kLanes);
  }
}

class Input : public Task {
 public:
  Input(const Plan& plan, int number, int out)
      : plan_(plan), number_(number), out_(out) {
    writes = out;
    how = "input";
    const Slot& to = plan.slots[out];
    const Layout& l = to.layout;
    size_ = plan.net.values[plan.net.inputs[number]].size();
    if (size_ * plan.images > std::size_t{1} << 31) throw std::invalid_argument("too large");
    if (!to.rows) {
      plan.spend(table_bytes(l));
      table_ = table_of(l, [&](int n, int y, int x) { return n * size_ + y * l.width + x; });
    }
  }

  void run(const Context& context, const Part& part) const override {
    const Slot& to = plan_.slots[out_];
    const float* from = context.in[number_];
    const Range mine = share(to.layout.channels, part);
    if (to.rows) {
      for (int n = 0; n < plan_.images; ++n) {
        std::copy(from + n * size_ + mine.first, from + n * size_ + mine.last,
                  context.arena + to.place + n * to.row() + mine.first);
      }
      return;
    }
    const std::size_t plane = static_cast<std::size_t>(to.layout.height) * to.layout.width;
    for (int c = mine.first; c < mine.last; ++c) {
      take(plan_.net.kernels, from + c * plane, table_, 0.0f, to, c, context.arena);
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  const Plan& plan_;
  const int number_, out_;
  std::size_t size_;
  std::vector<std::int32_t> table_;
};

class Output : public Task {
 public:
  Output(const Plan& plan, int number, int in)
      : plan_(plan), number_(number), in_(in) {
    reads = {in};
    how = "output";
    const Slot& from = plan.slots[in];
    if (from.rows) return;
    const Layout& l = from.layout;
    plan.spend(static_cast<std::size_t>(plan.images) * l.height * l.width * 4);
    places_ = pixels_of(l);
  }

  void run(const Context& context, const Part& part) const override {
    const Slot& from = plan_.slots[in_];
    const Layout& l = from.layout;
    float* out = context.out[number_];
    const std::size_t plane = static_cast<std::size_t>(l.height) * l.width;
    const std::size_t size = plane * l.channels;
    const Range mine = share(l.channels, part);
    for (int n = 0; n < plan_.images; ++n) {
      if (from.rows) {
        const float* row = context.arena + from.place + n * from.row();
        std::copy(row + mine.first, row + mine.last, out + n * size + mine.first);
        continue;
      }
      for (int c = mine.first; c < mine.last; ++c) {
        plan_.net.kernels.gather(context.arena + from.place + c * l.plane() * kLanes,
                                 places_.data() + n * plane, plane, 0.0f,
                                 out + n * size + c * plane);
      }
    }
  }

 private:
  const Plan& plan_;
  const int number_, in_;
  std::vector<std::int32_t> places_;
};

class Change : public Task {
 public:
  Change(const Plan& plan, int in, int out, float rest)
      : plan_(plan), in_(in), out_(out), rest_(rest) {
    reads = {in};
    writes = out;
    how = "change of layout";
    const Slot &from = plan.slots[in], &to = plan.slots[out];
    if (to.rows || from.rows) return;
    plan.spend(table_bytes(to.layout));
    table_ = table_of(to.layout, [&](int n, int y, int x) { return from.layout.at(n, y, x); });
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Range mine = share(to.layout.channels, part);
    if (from.rows || to.rows) {
      // Of 1 x 1 pixels: a number an image and channel, and nothing in the other lanes.
      if (!to.rows) {
        for (int c = mine.first; c < mine.last; ++c) clear(context, to, c);
      }
      for (int n = 0; n < plan_.images; ++n) {
        for (int c = mine.first; c < mine.last; ++c) at(context, to, n, c) = at(context, from, n, c);
      }
    } else {
      for (int c = mine.first; c < mine.last; ++c) {
        take(plan_.net.kernels,
             context.arena + from.place + c * from.layout.plane() * kLanes, table_, rest_, to, c,
             context.arena);
      }
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  static float& at(const Context& context, const Slot& slot, int n, int c) {
    return context.arena[slot.place + (slot.rows ? n * slot.row() + c
                                                 : c * slot.layout.plane() * kLanes +
                                                       slot.layout.at(n, 0, 0))];
  }

  void clear(const Context& context, const Slot& to, int c) const {
    const Layout& l = to.layout;
    float* out = context.arena + to.place + c * l.plane() * kLanes + l.origin();
    for (int y = 0; y < l.h; ++y) std::fill_n(out + y * l.pitch() * kLanes, l.w * kLanes, rest_);
  }

  const Plan& plan_;
  const int in_, out_;
  const float rest_;
  std::vector<std::int32_t> table_;
};

class Channels : public Task {
 public:
  Channels(const Plan& plan, std::vector<int> ins, int out, std::vector<std::int32_t> pairs)
      : plan_(plan), ins_(std::move(ins)), out_(out), pairs_(std::move(pairs)) {
    reads = ins_;
    writes = out;
    how = "copy";
  }

  void run(const Context& context, const Part& part) const override {
    const Slot& to = plan_.slots[out_];
    const Range mine = share(to.layout.channels, part);
    for (int c = mine.first; c < mine.last; ++c) {
      const Slot& from = plan_.slots[ins_[pairs_[2 * c]]];
      const int channel = pairs_[2 * c + 1];
      if (to.rows) {
        for (int n = 0; n < plan_.images; ++n) {
          context.arena[to.place + n * to.row() + c] =
              context.arena[from.place + n * from.row() + channel];
        }
        continue;
      }
      const Layout &fl = from.layout, &tl = to.layout;
      const float* in = context.arena + from.place + channel * fl.plane() * kLanes + fl.origin();
      float* out = context.arena + to.place + c * tl.plane() * kLanes + tl.origin();
      for (int y = 0; y < tl.h; ++y) {
        std::memcpy(out + y * tl.pitch() * kLanes, in + y * fl.pitch() * kLanes,
                    static_cast<std::size_t>(tl.w) * kVector);
      }
    }
    fill_halo(plan_.net.kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  const Plan& plan_;
  const std::vector<int> ins_;
  const int out_;
  const std::vector<std::int32_t> pairs_;
};

// Every element of the result is some element of the value, or a constant.
class Rearrange : public Task {
 public:
  Rearrange(const Plan& plan, int number, int in, int out)
      : plan_(plan), op_(plan.net.ops[number]), in_(in), out_(out) {
    reads = {in};
    writes = out;
    how = "copy";
    const Slot &from = plan.slots[in], &to = plan.slots[out];
    if (from.floats() >= std::size_t{1} << 31) throw std::invalid_argument("too large");
    const Shape& source = plan.net.values[op_.inputs[0]];
    const Shape& shape = plan.net.values[op_.output];
    const std::size_t plane = static_cast<std::size_t>(source.height) * source.width;
    const auto place = [&](int n, std::int32_t element) -> std::int32_t {
      if (element < 0) return -1;
      const int c = static_cast<int>(element / plane), pixel = static_cast<int>(element % plane);
      if (from.rows) return static_cast<std::int32_t>(n * from.row() + c);
      return static_cast<std::int32_t>(
          c * from.layout.plane() * kLanes +
          from.layout.at(n, pixel / source.width, pixel % source.width));
    };
    const std::size_t wide = static_cast<std::size_t>(shape.height) * shape.width;
    plan.spend(to.rows ? shape.size() * plan.images * 4
                       : table_bytes(to.layout) * (shape.channels + std::size_t{1}));
    if (to.rows) {
      table_.resize(shape.size() * plan.images);
      for (int n = 0; n < plan.images; ++n) {
        for (std::size_t i = 0; i < shape.size(); ++i) {
          table_[n * shape.size() + i] = place(n, op_.places[i]);
        }
      }
      return;
    }
    each_ = static_cast<std::size_t>(to.layout.h) * to.layout.w * kLanes;
    table_.reserve(each_ * shape.channels);
    for (int c = 0; c < shape.channels; ++c) {
      const auto one = table_of(to.layout, [&](int n, int y, int x) {
        return place(n, op_.places[c * wide + static_cast<std::size_t>(y) * shape.width + x]);
      });
      table_.insert(table_.end(), one.begin(), one.end());
    }
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Kernels& kernels = plan_.net.kernels;
    const float* in = context.arena + from.place;
    const Range mine = share(to.layout.channels, part);
    if (to.rows) {
      const std::size_t size = to.layout.channels;
      for (int n = 0; n < plan_.images; ++n) {
        kernels.gather(in, table_.data() + n * size + mine.first, mine.last - mine.first, op_.rest,
                       context.arena + to.place + n * to.row() + mine.first);
      }
      return;
    }
    const Layout& l = to.layout;
    const std::size_t row = static_cast<std::size_t>(l.w) * kLanes;
    for (int c = mine.first; c < mine.last; ++c) {
      float* out = context.arena + to.place + c * l.plane() * kLanes + l.origin();
      for (int y = 0; y < l.h; ++y) {
        float* here = out + y * l.pitch() * kLanes;
        kernels.gather(in, table_.data() + c * each_ + y * row, row, op_.rest, here);
        if (op_.rest != 0 && !to.valid.empty()) clear(here, to.valid.data() + y * row, row);
      }
    }
    fill_halo(kernels, to, context.arena, mine.first, mine.last);
  }

 private:
  // Lanes beyond the image hold zero, whatever the constant.
  static void clear(float* out, const float* valid, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t mask;
      std::memcpy(&mask, valid + i, sizeof(mask));
      if (!mask) out[i] = 0;
    }
  }

  const Plan& plan_;
  const OpSpec& op_;
  const int in_, out_;
  std::size_t each_ = 0;
  std::vector<std::int32_t> table_;
};

}  // namespace

std::unique_ptr<Task> make_input(const Plan& plan, int number, int out) {
  return std::make_unique<Input>(plan, number, out);
}

std::unique_ptr<Task> make_output(const Plan& plan, int number, int in) {
  return std::make_unique<Output>(plan, number, in);
}

std::unique_ptr<Task> make_change(const Plan& plan, int in, int out, float rest) {
  return std::make_unique<Change>(plan, in, out, rest);
}

std::unique_ptr<Task> make_channels(const Plan& plan, int, std::vector<int> ins, int out,
                                    std::vector<std::int32_t> pairs) {
  return std::make_unique<Channels>(plan, std::move(ins), out, std::move(pairs));
}

std::unique_ptr<Task> make_rearrange(const Plan& plan, int op, int in, int out) {
  return std::make_unique<Rearrange>(plan, op, in, out);
}

}  // namespace thrifty::engine
