// net.h: a network as a list of operations, and what runs it.
//
// A Net is built once, operation by operation; weights are copied as they come, the zero ones
// left out where that pays.  `run` may be called from several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "budget.h"
#include "kernels.h"
#include "pool.h"
#include "shared.h"

namespace thrifty::engine {

// Channels x height x width of a value, without the batch; features are n x 1 x 1.
struct Shape {
  int channels = 0, height = 1, width = 1;
  std::size_t size() const { return std::size_t(channels) * height * width; }
};

struct StepSpec {
  Do what;
  float a = 0, b = 0;
  int x = -1, h = -1;  // values
};

enum class Kind {
  conv, linear, pointwise, channel_scale, max_pool, avg_pool, global_pool, channels, rearrange,
  softmax
};

struct OpSpec {
  Kind kind;
  std::string name;
  std::vector<int> inputs;
  int output = -1;
  std::vector<StepSpec> steps;
  // conv, pools: top, left, bottom, right; y, x
  int kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[4] = {0, 0, 0, 0}, dilation[2] = {1, 1};
  int groups = 1;
  bool largest = false;       // global_pool: the largest, not the mean
  bool count_padding = true;  // avg_pool
  double divisor = 0;         // avg_pool; 0: the size of the window
  std::vector<float> scale, shift;  // pointwise: one a channel, empty: 1, 0; conv, linear: shift is the bias
  std::vector<std::int32_t> places;  // channels: value, channel pairs; rearrange: the element of the input, -1: rest
  float rest = 0;
};

// Throws std::invalid_argument with the name of the operation.
[[noreturn]] void refuse(const OpSpec& op, const std::string& why);

// Weights of a convolution or a linear layer as they are kept: the nonzero ones in order, or all.
struct Weights {
  int outputs = 0, inputs = 0, taps = 1;   // inputs of one group
  Table<std::uint32_t> starts;             // of each output
  Table<std::uint32_t> places;             // input * taps + tap
  Table<float> values;
  Table<float> whole;                      // [output][input][tap], where most are not zero
  std::size_t count = 0;                   // that are not zero
  double density() const {
    const double all = double(outputs) * inputs * taps;
    return all > 0 ? count / all : 0.0;
  }
};

// What an operation took, in seconds, and how it was done.
struct Timing {
  int op;  // -1: input, output or a change of layout
  std::string how;
  double seconds;
};

class Plan;

class Net {
 public:
  Net(const Kernels& kernels, std::vector<Shape> values, std::vector<int> inputs,
      std::vector<int> outputs, std::shared_ptr<Budget> budget);
  ~Net();

  // Throws std::invalid_argument where the operation does not fit what is there, TooLarge where
  // the budget does not allow it.  `weight` is [outputs][inputs of a group][taps].
  void add(OpSpec op, const float* weight, std::size_t size);

  // Lays the network out for single images, after which nothing can be added; throws
  // std::invalid_argument where it cannot be, TooLarge where the budget does not allow it.
  void prepare() { plan(1); }

  // Arrays of n x the shape of each input and output; n may be 0.  Throws as `prepare`; a network
  // that was prepared throws nothing but std::bad_alloc.
  void run(const std::vector<const float*>& in, const std::vector<float*>& out, std::size_t n,
           int threads);
  // Times are of whole groups; a rest of images is run all the same.
  std::vector<Timing> profile(const std::vector<const float*>& in, const std::vector<float*>& out,
                              std::size_t n);
  // Images a group, a power of two up to 16, for batches from that size on; 0: measured at the
  // first such batch.  Where the budget does not allow so many, fewer are taken.
  void set_images(int images);
  // Of the arenas, and of all that was taken from the budget.
  std::size_t bytes() const;
  std::size_t taken() const;

  const Kernels& kernels;
  const std::vector<Shape> values;
  const std::vector<int> inputs, outputs;
  const std::shared_ptr<Budget> budget;

  std::vector<OpSpec> ops;
  std::vector<Weights> weights;  // one an op
  mutable Shared shared;         // of the weights and of the plans, under the mutex of these

 private:
  void check(const OpSpec& op) const;
  void check_window(const OpSpec& op) const;
  void check_steps(const OpSpec& op) const;
  void check_places(const OpSpec& op) const;
  template <class T>
  Table<T> keep(std::vector<T> made);
  Weights kept(OpSpec& op, const float* weight, std::size_t size);
  const Plan& plan(int images);
  const Plan* plan_within_budget(int images);
  void run_groups(const Plan& plan, const std::vector<const float*>& in,
                  const std::vector<float*>& out, std::size_t first, std::size_t groups,
                  int threads);
  int images_for(std::size_t n, int threads);

  mutable std::mutex mutex_;
  Taken taken_;
  std::vector<bool> written_;  // of each value, whether there is something to read
  double work_ = 0;            // products an image
  std::unique_ptr<Plan> plans_[5];
  int wide_ = 0;  // images a group that was the fastest
};

}  // namespace thrifty::engine
