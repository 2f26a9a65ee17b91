// conv.cc: convolutions, sparse or dense, by tiles of vectors that fit the registers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#if defined(__unix__)
#include <unistd.h>
#endif

#include "plan.h"

namespace thrifty::engine {
namespace {

// Below this share of nonzero weights a sparse convolution is the faster one anywhere.
constexpr double kFew = 0.3;

std::size_t first_cache() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const long known = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (known >= 16 << 10) return static_cast<std::size_t>(known);
#endif
  return 32 << 10;
}

// A side cut into equal pieces, of which some are one longer.
std::vector<std::pair<int, int>> pieces(int length, int most) {
  const int count = (length + most - 1) / most;
  std::vector<std::pair<int, int>> made;
  for (int i = 0, at = 0; i < count; ++i) {
    const int size = length / count + (i < length % count);
    made.push_back({at, size});
    at += size;
  }
  return made;
}

// Sizes of those pieces, and how many there are of each.
std::vector<std::pair<int, int>> sizes_of(int length, int most) {
  const int count = (length + most - 1) / most, longer = length % count;
  if (longer == 0) return {{length / count, count}};
  return {{length / count, count - longer}, {length / count + 1, longer}};
}

struct Place {
  int y, x, rows, columns;
};

std::vector<Place> tiles_of(int h, int w, int rows, int columns) {
  std::vector<Place> made;
  for (const auto& [y, tall] : pieces(h, rows)) {
    for (const auto& [x, wide] : pieces(w, columns)) made.push_back({y, x, tall, wide});
  }
  return made;
}

// What both kinds share: where things lie.
class ConvTask : public Task {
 public:
  ConvTask(const Plan& plan, int number, int in, int out, BoundSteps steps)
      : plan_(plan), op_(plan.net.ops[number]), weights_(plan.net.weights[number]), in_(in),
        out_(out), steps_(std::move(steps)) {
    const Layout &from = plan.slots[in].layout, &to = plan.slots[out].layout;
    if (steps_.steps.size() > kMostSteps) throw std::invalid_argument("too many steps");
    // A tap that meets nothing but padding is left out.
    plan.spend(static_cast<std::size_t>(op_.kernel[0]) * op_.kernel[1] * sizeof(Tap) +
               static_cast<std::size_t>(to.h) * to.w * (sizeof(Place) + sizeof(SparseKernel)));
    taps_.reserve(static_cast<std::size_t>(op_.kernel[0]) * op_.kernel[1]);
    for (int y = 0; y < op_.kernel[0]; ++y) {
      for (int x = 0; x < op_.kernel[1]; ++x) {
        const bool meets = touches(y, 0, to.height, from.height) &&
                           touches(x, 1, to.width, from.width);
        const long at = (y * op_.dilation[0] - op_.padding[0]) * static_cast<long>(from.pitch()) +
                        x * op_.dilation[1] - op_.padding[1];
        taps_.push_back({meets, at});
      }
    }
    // Relative to the tap (0, 0), in vectors.
    corner_ = -(op_.padding[0] * static_cast<long>(from.pitch()) + op_.padding[1]);
    flat_ = op_.kernel[0] == 1 && op_.kernel[1] == 1 && op_.stride[0] == 1 && op_.stride[1] == 1 &&
            !op_.padding[0] && !op_.padding[1] && solid(in) && solid(out);
    for (const auto& each : steps_.steps) {
      flat_ = flat_ && (each.x < 0 || solid(each.x)) && (each.h < 0 || solid(each.h));
    }
    h_ = flat_ ? 1 : to.h;
    w_ = flat_ ? to.h * to.w : to.w;
  }

 protected:
  bool touches(int tap, int side, int out, int in) const {
    // The first position whose tap is not before the image; those after it are further on.
    const long before = op_.padding[side] - long{tap} * op_.dilation[side];
    const long first = before <= 0 ? 0 : (before + op_.stride[side] - 1) / op_.stride[side];
    return first < out && first * op_.stride[side] - before < in;
  }

  bool solid(int slot) const {
    const Layout& l = plan_.slots[slot].layout;
    return l.pitch() == static_cast<std::size_t>(l.w);
  }

  template <class Job>
  void aim(Job& job, const Context& context, const Place& tile, Step* steps) const {
    const Slot &from = plan_.slots[in_], &to = plan_.slots[out_];
    const Layout &fl = from.layout, &tl = to.layout;
    job.in = context.arena + from.place + fl.origin() +
             ((tile.y * op_.stride[0]) * static_cast<long>(fl.pitch()) +
              tile.x * op_.stride[1] + corner_) * kLanes;
    job.in_row = fl.pitch() * op_.stride[0] * kVector;
    job.out = context.arena + to.place + tl.origin() + (tile.y * tl.pitch() + tile.x) * kLanes;
    job.out_plane = tl.plane() * kLanes;
    job.out_row = tl.pitch() * kLanes;
    job.valid = to.valid.empty() ? nullptr : to.valid.data() + (tile.y * w_ + tile.x) * kLanes;
    job.valid_row = static_cast<std::size_t>(w_) * kLanes;
    steps_.at(plan_, context.arena, tile.y, tile.x, steps);
    job.steps = steps;
    job.step_count = static_cast<int>(steps_.steps.size());
  }


  struct Tap {
    bool meets;
    long at;
  };

  const Plan& plan_;
  const OpSpec& op_;
  const Weights& weights_;
  const int in_, out_;
  const BoundSteps steps_;
  std::vector<Tap> taps_;
  long corner_ = 0;
  bool flat_ = false;
  int h_ = 1, w_ = 1;
};

class SparseConv : public ConvTask {
 public:
  SparseConv(const Plan& plan, int number, int in, int out, BoundSteps given)
      : ConvTask(plan, number, in, out, std::move(given)) {
    choose();
    collect();
    how = "sparse " + std::to_string(rows_) + "x" + std::to_string(columns_) + ", " +
          std::to_string(blocks_.size()) + (blocks_.size() == 1 ? " block" : " blocks");
    reads = {in};
    writes = out;
    if (blocks_.size() > 1) {
      scratch = static_cast<std::size_t>(weights_.outputs) * rows_ * columns_ * kLanes;
    }
  }

  void run(const Context& context, const Part& part) const override {
    Step steps[kMostSteps];
    SparseTile job{};
    const auto& bound = part_bounds(part.count);
    job.first = bound[part.index], job.last = bound[part.index + 1];
    if (job.first < job.last) {
      job.blocks = blocks_.data();
      job.count = static_cast<int>(blocks_.size());
      job.channels = weights_.outputs;
      job.group_starts = group_starts_.empty() ? nullptr : group_starts_.data();
      job.starts = starts_.data();
      job.offsets = offsets_.data();
      job.weights = values_.data();
      job.bias = op_.shift.data();
      job.scratch = context.scratch[part.worker];
      for (std::size_t i = 0; i < tiles_.size(); ++i) {
        aim(job, context, tiles_[i], steps);
        kernels_[i](job);
      }
    }
    fill_halo(plan_.net.kernels, plan_.slots[out_], context.arena, job.first, job.last);
  }

 private:
  // Rows and columns of tiles, and input channels of a block, that should take the least time, in
  // cycles of a processor that does a multiply-add of 16 numbers in one.
  void choose() {
    const Kernels& kernels = plan_.net.kernels;
    const int inputs = std::max(1, weights_.inputs);
    const int most = std::min(inputs, most_inputs(plan_.slots[in_].layout));
    double least = std::numeric_limits<double>::infinity();
    for (int rows = 1; rows <= std::min(8, h_); ++rows) {
      for (int columns = 1; columns <= std::min(16, w_); ++columns) {
        if (rows * columns > kernels.widest) break;
        if (!kernels.sparse(rows, columns, op_.stride[1])) continue;
        const auto tall = sizes_of(h_, rows), wide = sizes_of(w_, columns);
        for (int blocks = (inputs + most - 1) / most; blocks <= inputs; blocks += 1 + blocks / 4) {
          const int block = (inputs + blocks - 1) / blocks;
          double sum = 0;
          for (const auto& [down, many] : tall) {
            for (const auto& [across, more] : wide) {
              sum += double(many) * more * cost({0, 0, down, across}, block);
            }
          }
          if (sum < least) least = sum, rows_ = rows, columns_ = columns, block_ = block;
        }
      }
    }
    cycles = least * weights_.outputs;
    if (rows_ == 0) throw std::invalid_argument("no tile fits");
    tiles_ = tiles_of(h_, w_, rows_, columns_);
    for (const Place& tile : tiles_) {
      kernels_.push_back(kernels.sparse(tile.rows, tile.columns, op_.stride[1]));
      if (!kernels_.back()) throw std::invalid_argument("no kernel for a tile");
    }
  }

  // Cycles of a tile, for one output channel.
  double cost(const Place& tile, int block) const {
    const double each = weights_.outputs ? double(weights_.count) / weights_.outputs : 0;
    const int vectors = tile.rows * tile.columns;
    const int blocks = (weights_.inputs + block - 1) / block;
    const double tall = (tile.rows - 1) * op_.stride[0] + (op_.kernel[0] - 1) * op_.dilation[0] + 1;
    const double wide =
        (tile.columns - 1) * op_.stride[1] + (op_.kernel[1] - 1) * op_.dilation[1] + 1;
    const double lines = tall * wide;  // of an input channel
    const double held = lines * block * kVector, room = first_cache() * 0.75;
    // What the first cache does not hold comes from the second at half the speed, and every line
    // comes from there once.
    const double slow = held > room ? 1 + 0.5 * (1 - room / held) : 1;
    const double met = weights_.outputs ? lines * weights_.inputs * 1.5 / weights_.outputs : 0;
    return each * (vectors * slow + 1.5) + 24 + 3.0 * vectors + (blocks - 1) * (2.0 * vectors + 12) +
           met;
  }

  // Input channels whose vectors a 16-bit offset reaches.
  int most_inputs(const Layout& from) const {
    const std::size_t reach = (op_.kernel[0] - 1) * op_.dilation[0] * from.pitch() +
                              (op_.kernel[1] - 1) * op_.dilation[1];
    if (reach > 65535) throw std::invalid_argument("a kernel reaches too far for this engine");
    return static_cast<int>((65535 - reach) / from.plane()) + 1;
  }

  void collect() {
    const Layout& from = plan_.slots[in_].layout;
    const int inputs = weights_.inputs, taps = weights_.taps, outputs = weights_.outputs;
    const int blocks = std::max(1, (inputs + block_ - 1) / block_);
    for (int b = 0; b < blocks; ++b) {
      blocks_.push_back(static_cast<std::size_t>(b) * block_ * from.plane() * kLanes);
    }
    plan_.spend(weights_.count * 6 + times(blocks + std::size_t{3}, outputs) * 4 +
                blocks * sizeof(std::size_t));
    std::vector<std::int32_t> begins;
    std::vector<std::uint16_t> offsets;
    std::vector<float> values;
    offsets.reserve(weights_.count);
    values.reserve(weights_.count);
    std::vector<std::uint32_t> next(weights_.starts.begin(), weights_.starts.end() - 1);
    for (int b = 0; b < blocks; ++b) {
      const std::uint32_t limit =
          static_cast<std::uint32_t>(std::min(inputs, (b + 1) * block_)) * taps;
      for (int o = 0; o < outputs; ++o) {
        begins.push_back(static_cast<std::int32_t>(offsets.size()));
        std::uint32_t& k = next[o];
        for (; k < weights_.starts[o + 1] && weights_.places[k] < limit; ++k) {
          const int input = weights_.places[k] / taps - b * block_;
          const Tap& tap = taps_[weights_.places[k] % taps];
          if (!tap.meets) continue;
          offsets.push_back(
              static_cast<std::uint16_t>(input * from.plane() + (tap.at - corner_)));
          values.push_back(weights_.values[k]);
        }
      }
    }
    begins.push_back(static_cast<std::int32_t>(offsets.size()));
    starts_ = plan_.keep(std::move(begins));
    offsets_ = plan_.keep(std::move(offsets));
    values_ = plan_.keep(std::move(values));
    if (op_.groups > 1) {
      const int together = outputs / op_.groups;
      for (int o = 0; o < outputs; ++o) {
        group_starts_.push_back(static_cast<std::size_t>(o / together) * inputs * from.plane() *
                                kVector);
      }
    }
    for (int parts = 1; parts <= kMostParts; ++parts) bounds_.push_back(balanced(parts));
  }

  // Channels for each of so many threads, about as many weights each.
  std::vector<int> balanced(int parts) const {
    std::vector<int> made(parts + 1, weights_.outputs);
    made[0] = 0;
    const double fixed = 4;
    const double all = weights_.count + fixed * weights_.outputs;
    int o = 0;
    double seen = 0;
    for (int p = 1; p < parts; ++p) {
      while (o < weights_.outputs && seen < all * p / parts) {
        seen += weights_.starts[o + 1] - weights_.starts[o] + fixed;
        ++o;
      }
      made[p] = o;
    }
    return made;
  }

  const std::vector<int>& part_bounds(int parts) const { return bounds_[parts - 1]; }

  static constexpr int kMostParts = 64;
  int rows_ = 0, columns_ = 0, block_ = 1;
  std::vector<Place> tiles_;
  std::vector<SparseKernel> kernels_;
  std::vector<std::size_t> blocks_, group_starts_;
  Table<std::int32_t> starts_;
  Table<std::uint16_t> offsets_;
  Table<float> values_;
  std::vector<std::vector<int>> bounds_;
};

class DenseConv : public ConvTask {
 public:
  DenseConv(const Plan& plan, int number, int in, int out, BoundSteps given)
      : ConvTask(plan, number, in, out, std::move(given)) {
    choose();
    collect();
    how = "dense " + std::to_string(rows_) + "x" + std::to_string(columns_) + ", " +
          std::to_string(block_) + " channels";
    reads = {in};
    writes = out;
  }

  void run(const Context& context, const Part& part) const override {
    Step steps[kMostSteps];
    const Layout& from = plan_.slots[in_].layout;
    const int together = weights_.outputs / op_.groups;
    const int padded = (together + block_ - 1) / block_ * block_;
    const Range mine = share(padded * op_.groups, part, block_);
    DenseTile job{};
    job.in_plane = from.plane() * kVector;
    job.inputs = weights_.inputs;
    job.taps = static_cast<int>(offsets_.size());
    job.offsets = offsets_.data();
    job.channels = together;
    for (int g = mine.first / padded; g * padded < mine.last; ++g) {
      job.first = std::max(0, mine.first - g * padded);
      job.last = std::min(together, mine.last - g * padded);
      if (job.first >= job.last) continue;
      job.weights = packed_.data() + static_cast<std::size_t>(g) * padded * job.inputs * job.taps;
      job.bias = op_.shift.data() + g * together;
      for (std::size_t i = 0; i < tiles_.size(); ++i) {
        aim(job, context, tiles_[i], steps);
        job.in += static_cast<std::size_t>(g) * weights_.inputs * from.plane() * kLanes;
        job.out += g * together * job.out_plane;
        for (int s = 0; s < job.step_count; ++s) {
          if (steps[s].x) steps[s].x += g * together * steps[s].x_plane;
          if (steps[s].h) steps[s].h += g * together * steps[s].h_plane;
        }
        kernel_(job);
      }
      fill_halo(plan_.net.kernels, plan_.slots[out_], context.arena, g * together + job.first,
                g * together + job.last);
    }
  }

 private:
  void choose() {
    const Kernels& kernels = plan_.net.kernels;
    double least = std::numeric_limits<double>::infinity();
    for (int rows = 1; rows <= std::min(8, h_); ++rows) {
      for (int columns = 1; columns <= std::min(16, w_); ++columns) {
        for (const bool even : {false, true}) {
          DenseKernel kernel = kernels.dense(rows, columns, op_.stride[1], even);
          if (!kernel) continue;
          const int vectors = rows * columns, block = kernels.dense_block(vectors, even);
          const double tiles = double((h_ + rows - 1) / rows) * ((w_ + columns - 1) / columns);
          const double sum = tiles *
                             (block * vectors + 0.15 * (vectors + block)) *
                                std::ceil(double(weights_.outputs / op_.groups) / block);
          if (sum < least) {
            least = sum, rows_ = rows, columns_ = columns, block_ = block, kernel_ = kernel;
          }
        }
      }
    }
    cycles = least * op_.groups * weights_.inputs * weights_.taps;
    if (rows_ == 0) throw std::invalid_argument("no tile fits");
  }

  void collect() {
    tiles_ = even_tiles(rows_, columns_);
    std::vector<int> used;
    for (int t = 0; t < weights_.taps; ++t) {
      if (!taps_[t].meets) continue;
      used.push_back(t);
      offsets_.push_back(static_cast<std::uint32_t>((taps_[t].at - corner_) * kVector));
    }
    const int together = weights_.outputs / op_.groups;
    const int padded = (together + block_ - 1) / block_ * block_;
    if (long{padded} * op_.groups > std::numeric_limits<std::int32_t>::max()) {
      throw std::invalid_argument("too many groups for this engine");
    }
    const std::size_t all =
        static_cast<std::size_t>(padded) * op_.groups * weights_.inputs * used.size();
    plan_.spend(all * sizeof(float));
    std::vector<float> packed(all, 0.0f);
    for (int o = 0; o < weights_.outputs; ++o) {
      const int group = o / together, place = o % together;
      float* panel = packed.data() +
                     (static_cast<std::size_t>(group) * padded + place / block_ * block_) *
                         weights_.inputs * used.size() + place % block_;
      const auto put = [&](int input, int tap, float value) {
        const auto at = std::lower_bound(used.begin(), used.end(), tap);
        if (at == used.end() || *at != tap) return;
        panel[(static_cast<std::size_t>(input) * used.size() + (at - used.begin())) * block_] =
            value;
      };
      if (!weights_.whole.empty()) {
        const float* row = weights_.whole.data() +
                           static_cast<std::size_t>(o) * weights_.inputs * weights_.taps;
        for (int i = 0; i < weights_.inputs; ++i) {
          for (const int t : used) put(i, t, row[i * weights_.taps + t]);
        }
      } else {
        for (std::uint32_t k = weights_.starts[o]; k < weights_.starts[o + 1]; ++k) {
          put(weights_.places[k] / weights_.taps, weights_.places[k] % weights_.taps,
              weights_.values[k]);
        }
      }
    }
    packed_ = plan_.keep(std::move(packed));
  }

  // Tiles of one size; the last of a row or column overlaps the one before and does part of its
  // work again, which gives the same.
  std::vector<Place> even_tiles(int rows, int columns) const {
    std::vector<Place> made;
    for (int y = 0; y < h_; y += rows) {
      for (int x = 0; x < w_; x += columns) {
        made.push_back({std::min(y, h_ - rows), std::min(x, w_ - columns), rows, columns});
      }
    }
    return made;
  }

  int rows_ = 0, columns_ = 0, block_ = 1;
  std::vector<Place> tiles_;
  DenseKernel kernel_ = nullptr;
  std::vector<std::uint32_t> offsets_;
  Table<float> packed_;
};

}  // namespace

std::unique_ptr<Task> make_conv(const Plan& plan, int op, int in, int out, BoundSteps steps) {
  const Weights& weights = plan.net.weights[op];
  if (!weights.whole.empty()) {
    return std::make_unique<DenseConv>(plan, op, in, out, std::move(steps));
  }
  auto sparse = std::make_unique<SparseConv>(plan, op, in, out, steps);
  // A dense convolution wastes no cycle on what it leaves out; few zeros are not worth it.
  const bool shares = weights.outputs / plan.net.ops[op].groups >= 4;
  if (weights.density() < kFew || !shares) return sparse;
  auto dense = std::make_unique<DenseConv>(plan, op, in, out, std::move(steps));
  if (dense->cycles < sparse->cycles) return dense;
  return sparse;
}

}  // namespace thrifty::engine
