// plan.h: a network laid out in memory for groups of some number of images, ready to run.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.h"
#include "layout.h"
#include "net.h"

namespace thrifty::engine {

// Where a value lies: vectors (layout.h) or, for features of fewer than 16 images, a row of floats
// an image.
struct Slot {
  bool rows = false;
  Layout layout;
  bool nonnegative = false;  // known of every value
  float outside = 0;         // what its halo and lanes beyond the image hold
  std::size_t place = 0;     // floats from the start of the arena
  std::size_t row() const {  // floats from a row to the next
    return (std::size_t(layout.channels) + kLanes - 1) / kLanes * kLanes;
  }
  std::size_t floats() const { return rows ? row() * layout.grid.images : layout.floats(); }
  HaloPlan halo;
  std::vector<float> valid;
};

// Memory that a run of one group uses.
struct Context {
  Context() = default;
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  float* arena = nullptr;
  std::vector<float*> scratch;  // of each thread
  std::vector<std::atomic<unsigned>> shared;  // what was taken and finished of a run in common
  std::vector<const float*> in;
  std::vector<float*> out;
};

// One of the parts of an operation, which may run at the same time, and which of the threads does it.
struct Part {
  int index = 0, count = 1, worker = 0;
};

// An operation on a group, in parts.  A run allocates nothing and throws nothing, for it may be in
// a thread of the pool.
class Task {
 public:
  virtual ~Task() = default;
  virtual void run(const Context& context, const Part& part) const = 0;
  int op = -1;
  std::string how;
  std::vector<int> reads;
  int writes = -1;
  std::size_t scratch = 0;  // floats a thread
  double cycles = 0;        // that it should take, of one thread
};

// Whether runs are faster shared by several threads, measured run by run.
class Pace {
 public:
  // How to do the next run: now and then the other way, to see whether that has changed.
  bool shares();
  void took(bool shared, float seconds);

 private:
  static constexpr unsigned kTrials = 8, kAgain = 32;
  std::atomic<unsigned> turn_{0};
  std::atomic<float> alone_{0}, together_{0};
};

class Plan {
 public:
  static constexpr int kMostThreads = 64;

  // Throws std::invalid_argument where the network cannot be laid out so, TooLarge where the
  // budget does not allow it.
  Plan(const Net& net, int images);

  // Takes memory for a table from the budget, before it is made.
  void spend(std::size_t bytes) const;
  // Of tables with the same contents one; what was spent on others is given back.
  template <class T>
  Table<T> keep(std::vector<T> made) const {
    bool found = false;
    Table<T> table = net.shared.keep(std::move(made), &found);
    if (found) taken_.less(table.size() * sizeof(T));
    return table;
  }

  // Context for one group at a time, from a pool of them.
  std::unique_ptr<Context> take(int threads) const;
  void give(std::unique_ptr<Context> context) const;

  // All of it, in this thread.
  void run(const Context& context) const;
  // What `worker` of `workers` finds to do of a run that they share.  The one numbered 0 has to
  // come, and when it returns all is done; the others may come late, or not at all.
  void help(const Context& context, int worker, int workers) const;
  // For so many threads.
  Pace& pace(int threads) const { return paces_[threads - 1]; }
  // Before workers share a run.
  void begin(Context& context, int workers) const;
  std::size_t bytes() const { return arena_ * sizeof(float); }
  std::size_t taken() const { return taken_.bytes(); }
  // Bytes that each thread needs beside the arena.
  std::size_t scratch_bytes() const { return scratch_ * sizeof(float); }

  const Net& net;
  const int images;
  std::vector<Slot> slots;
  std::vector<std::unique_ptr<Task>> tasks;

 private:
  friend class Planner;
  std::size_t arena_ = 0, scratch_ = 0;
  mutable Taken taken_;
  mutable std::array<Pace, kMostThreads> paces_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Context>> free_;
};

// Fills the halos of channels [first, last).
void fill_halo(const Kernels& kernels, const Slot& slot, float* arena, int first, int last);

// Channels [first, last) that are `part` of `parts`.
struct Range {
  int first, last;
};
Range share(int count, const Part& part, int multiple = 1);

// Steps with the places of their other values known.
struct BoundSteps {
  struct Bound {
    StepSpec step;
    int x = -1, h = -1;  // slots
  };
  std::vector<Bound> steps;
  // At channel 0 and (row, column) of the parts.
  void at(const Plan& plan, const float* arena, int row, int column, Step* out) const;
};
constexpr int kMostSteps = 16;

// The tasks; each file of tasks makes its own kinds.  Slots must be final.
std::unique_ptr<Task> make_conv(const Plan& plan, int op, int in, int out, BoundSteps steps);
std::unique_ptr<Task> make_linear(const Plan& plan, int op, int in, int out, BoundSteps steps);
std::unique_ptr<Task> make_plane(const Plan& plan, int op, int in, int out, BoundSteps steps);
std::unique_ptr<Task> make_channel_scale(const Plan& plan, int op, int in, int by, int out,
                                         BoundSteps steps);
std::unique_ptr<Task> make_window(const Plan& plan, int op, int in, int out);
std::unique_ptr<Task> make_global_pool(const Plan& plan, int op, int in, int out);
std::unique_ptr<Task> make_softmax(const Plan& plan, int op, int in, int out);
// A slot in another layout; `rest` where there is no pixel.
std::unique_ptr<Task> make_change(const Plan& plan, int in, int out, float rest);
std::unique_ptr<Task> make_input(const Plan& plan, int number, int out);
std::unique_ptr<Task> make_output(const Plan& plan, int number, int in);
// Channels of several slots; pairs of slot and channel.
std::unique_ptr<Task> make_channels(const Plan& plan, int op, std::vector<int> ins, int out,
                                    std::vector<std::int32_t> pairs);
std::unique_ptr<Task> make_rearrange(const Plan& plan, int op, int in, int out);

}  // namespace thrifty::engine
