// rows.cc: layers of features where a group has fewer than 16 images: a row an image.
#include <algorithm>
#include <stdexcept>

#include "plan.h"

namespace thrifty::engine {
namespace {

std::size_t whole(std::size_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

class Linear : public Task {
 public:
  Linear(const Plan& plan, int number, int in, int out, BoundSteps steps)
      : plan_(plan), op_(plan.net.ops[number]), weights_(plan.net.weights[number]), in_(in),
        out_(out), steps_(std::move(steps)), narrow_(weights_.inputs <= 65536) {
    if (steps_.steps.size() > kMostSteps) throw std::invalid_argument("too many steps");
    reads = {in};
    writes = out;
    if (!weights_.whole.empty() || weights_.density() > worth_leaving_out()) {
      how = "dense rows";
      cycles = double(plan.images) * weights_.outputs * weights_.inputs / 8;
      const std::size_t width = whole(weights_.inputs);
      // Aligned by hand: vectors of floats are aligned to 16 bytes only.
      plan.spend((width * weights_.outputs + kLanes) * sizeof(float));
      packed_.assign(width * weights_.outputs + kLanes, 0.0f);
      for (int o = 0; o < weights_.outputs; ++o) {
        float* row = aligned() + o * width;
        if (!weights_.whole.empty()) {
          std::copy_n(weights_.whole.data() + static_cast<std::size_t>(o) * weights_.inputs,
                      weights_.inputs, row);
          continue;
        }
        for (std::uint32_t k = weights_.starts[o]; k < weights_.starts[o + 1]; ++k) {
          row[weights_.places[k]] = weights_.values[k];
        }
      }
    } else {
      how = "sparse rows";
      cycles = double(plan.images) * weights_.count;
      plan.spend(narrow_ ? weights_.count * 2 : 0);
      if (narrow_) places_.assign(weights_.places.begin(), weights_.places.end());
    }
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Range mine = share(weights_.outputs, part, kLanes);
    Step steps[kMostSteps];
    for (int n = 0; n < plan_.images; ++n) {
      const float* in = context.arena + from.place + n * from.row();
      float* out = context.arena + to.place + n * to.row();
      if (packed_.empty()) {
        plan_.net.kernels.sparse_rows(
            {in, weights_.starts.data(), narrow_ ? places_.data() : nullptr,
             weights_.places.data(), weights_.values.data(), op_.shift.data(), out, mine.first,
             mine.last});
      } else {
        plan_.net.kernels.dense_rows({in, aligned(), op_.shift.data(), out, weights_.inputs,
                                      mine.first, mine.last});
      }
      if (steps_.steps.empty() || mine.first >= mine.last) continue;
      steps_.at(plan_, context.arena, 0, 0, steps);
      for (std::size_t s = 0; s < steps_.steps.size(); ++s) {
        if (steps[s].x) steps[s].x += n * to.row() + mine.first;
        if (steps[s].h) steps[s].h += n * to.row() + mine.first;
      }
      plan_.net.kernels.row_steps(out + mine.first, whole(mine.last - mine.first), steps,
                                  static_cast<int>(steps_.steps.size()));
    }
  }

 private:
  // The share of nonzero weights from which on all are multiplied: numbers picked one by one cost
  // six of those read in a row, as long as those do not come from far away.
  double worth_leaving_out() const {
    const double bytes = 4.0 * weights_.inputs * weights_.outputs;
    return bytes > (1 << 20) ? 0.4 : 0.17;
  }

  float* aligned() const {
    const auto at = reinterpret_cast<std::uintptr_t>(packed_.data());
    return const_cast<float*>(packed_.data()) + (whole(at / 4) - at / 4);
  }

  const Plan& plan_;
  const OpSpec& op_;
  const Weights& weights_;
  const int in_, out_;
  const BoundSteps steps_;
  const bool narrow_;
  std::vector<float> packed_;
  std::vector<std::uint16_t> places_;
};

class Softmax : public Task {
 public:
  Softmax(const Plan& plan, int in, int out) : plan_(plan), in_(in), out_(out) {
    reads = {in};
    writes = out;
    how = "softmax";
    if (!plan.slots[in].rows) scratch = plan.slots[in].layout.channels;
  }

  void run(const Context& context, const Part& part) const override {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const std::size_t count = from.layout.channels;
    if (from.rows) {
      const Range mine = share(plan_.images, part);
      for (int n = mine.first; n < mine.last; ++n) {
        float* out = context.arena + to.place + n * to.row();
        std::copy_n(context.arena + from.place + n * from.row(), count, out);
        plan_.net.kernels.softmax(out, count);
      }
      return;
    }
    if (part.index != 0) return;
    float* row = context.scratch[part.worker];
    const std::size_t in_plane = from.layout.plane() * kLanes;
    const std::size_t out_plane = to.layout.plane() * kLanes;
    for (int n = 0; n < kLanes; ++n) {
      const std::size_t in_at = from.layout.at(n, 0, 0), out_at = to.layout.at(n, 0, 0);
      const float* in = context.arena + from.place + in_at;
      for (std::size_t c = 0; c < count; ++c) row[c] = in[c * in_plane];
      plan_.net.kernels.softmax(row, count);
      float* out = context.arena + to.place + out_at;
      for (std::size_t c = 0; c < count; ++c) out[c * out_plane] = row[c];
    }
    fill_halo(plan_.net.kernels, to, context.arena, 0, to.layout.channels);
  }

 private:
  const Plan& plan_;
  const int in_, out_;
};

}  // namespace

std::unique_ptr<Task> make_linear(const Plan& plan, int op, int in, int out, BoundSteps steps) {
  return std::make_unique<Linear>(plan, op, in, out, std::move(steps));
}

std::unique_ptr<Task> make_softmax(const Plan& plan, int, int in, int out) {
  return std::make_unique<Softmax>(plan, in, out);
}

}  // namespace thrifty::engine
