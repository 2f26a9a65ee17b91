// Several threads on one run.  Every operation is cut into parts, and a thread takes first those
// that fall to it, whose weights its cache may still have from the last run, then what others have
// not begun.  So a thread that comes late, or that the system keeps from its processor, costs the
// others no more than the part it was in.  Where even that is too much, because others use the
// processor, runs are not shared: which is the faster is measured as they go.

#include <algorithm>

#include "plan.h"

// A part takes at least so long, in cycles: handing one over costs a few hundred.  Tests make it
// nothing, so that small networks are shared too.
#if !defined(THRIFTY_PART_CYCLES)
#define THRIFTY_PART_CYCLES 8000
#endif
// They share every run, too.
#if !defined(THRIFTY_SHARE_ALL)
#define THRIFTY_SHARE_ALL false
#endif

namespace thrifty::engine {
namespace {

constexpr int kEach = 4;       // parts a thread, for large operations
constexpr int kMostParts = 64;  // of an operation

constexpr int kLine = 16;  // counters in a line of a cache

int parts_of(const Task& task, int workers) {
  const double worth = std::min(task.cycles / THRIFTY_PART_CYCLES, double(kEach) * workers);
  return std::clamp(static_cast<int>(worth), 1, kMostParts);
}

// Counters of an operation: of the parts taken of each thread's, then of those finished.
int counters(int workers) { return (workers + 1 + kLine - 1) / kLine * kLine; }

}  // namespace

void Plan::begin(Context& context, int workers) const {
  const std::size_t count = tasks.size() * counters(workers);
  if (context.shared.size() < count) context.shared = std::vector<std::atomic<unsigned>>(count);
  for (auto& each : context.shared) each.store(0, std::memory_order_relaxed);
}

void Plan::help(const Context& context, int worker, int workers) const {
  const int step = counters(workers);
  auto* counter = const_cast<std::atomic<unsigned>*>(context.shared.data());
  for (const auto& task : tasks) {
    const int parts = parts_of(*task, workers);
    std::atomic<unsigned>& finished = counter[workers];
    const auto bound = [&](int w) { return (w * parts + workers - 1) / workers; };
    // What is not worth a part is done by the thread that waits for the result.
    const bool mine = parts > 1 || worker == 0;
    for (int turn = 0; mine && turn < workers; ++turn) {
      const int whose = (worker + turn) % workers;
      const int count = bound(whose + 1) - bound(whose);
      while (counter[whose].load(std::memory_order_relaxed) < static_cast<unsigned>(count)) {
        const int taken = static_cast<int>(counter[whose].fetch_add(1, std::memory_order_relaxed));
        if (taken >= count) break;
        task->run(context, {bound(whose) + taken, parts, worker});
        finished.fetch_add(1, std::memory_order_release);
      }
    }
    wait_until([&] {
      return finished.load(std::memory_order_acquire) == static_cast<unsigned>(parts);
    });
    counter += step;
  }
}

bool Pace::shares() {
  const unsigned turn = turn_.fetch_add(1, std::memory_order_relaxed);
  if (THRIFTY_SHARE_ALL) return true;
  if (turn < kTrials) return turn % 2 == 1;
  const bool faster =
      together_.load(std::memory_order_relaxed) < alone_.load(std::memory_order_relaxed);
  return turn % kAgain == 0 ? !faster : faster;
}

void Pace::took(bool shared, float seconds) {
  std::atomic<float>& mean = shared ? together_ : alone_;
  const float before = mean.load(std::memory_order_relaxed);
  // At first the least counts, for memory and caches are new; then a mean that forgets.
  const bool trying = turn_.load(std::memory_order_relaxed) <= kTrials;
  const float now = before == 0 ? seconds
                    : trying    ? std::min(before, seconds)
                                : before + (seconds - before) / 4;
  mean.store(now, std::memory_order_relaxed);
}

}  // namespace thrifty::engine
