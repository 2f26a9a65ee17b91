#include "pool.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

namespace thrifty::engine {
namespace {

constexpr int kPatience = 20000;  // rounds of spinning before a waiting thread sleeps

std::atomic<Pool*> the_pool{nullptr};
std::mutex making;

}  // namespace

Pool& Pool::shared() {
  Pool* pool = the_pool.load(std::memory_order_acquire);
  if (pool) return *pool;
  const std::lock_guard<std::mutex> lock(making);
  pool = the_pool.load(std::memory_order_acquire);
  if (!pool) {
    pool = new Pool;  // never deleted: its threads may outlive main's statics
    the_pool.store(pool, std::memory_order_release);
#if defined(__unix__) || defined(__APPLE__)
    // The child of a fork has none of the threads; it leaves the old pool alone and makes another.
    // Meanwhile nobody makes one, or the child would wait for them.
    static const int once = pthread_atfork([] { making.lock(); }, [] { making.unlock(); }, [] {
      the_pool.store(nullptr);
      making.unlock();
    });
    static_cast<void>(once);
#endif
  }
  return *pool;
}

Pool::~Pool() {
  ended_ = true;
  round_.fetch_add(1);
  called_.notify_all();
  for (std::thread& each : threads_) each.join();
}

bool Pool::run(int parts, const std::function<void(int)>& work) {
  const std::unique_lock<std::mutex> turn(busy_, std::try_to_lock);
  if (!turn.owns_lock()) return false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (static_cast<int>(threads_.size()) < parts - 1) {
      const int part = static_cast<int>(threads_.size()) + 1;
      const unsigned seen = round_.load();
      try {
        threads_.emplace_back([this, part, seen] { serve(part, seen); });
      } catch (const std::exception&) {
        return false;  // the system gives no more threads, or no memory for one
      }
    }
    work_ = &work;
    parts_ = parts;
    inside_.fetch_and(~kClosed, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_release);
  }
  called_.notify_all();
  work(0);
  inside_.fetch_or(kClosed, std::memory_order_acq_rel);
  wait_until([&] { return inside_.load(std::memory_order_acquire) == kClosed; });
  return true;
}

void Pool::serve(int part, unsigned seen) {
  for (;;) {
    for (int i = 0; i < kPatience && round_.load(std::memory_order_acquire) == seen; ++i) breathe();
    if (round_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      called_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
    }
    seen = round_.load(std::memory_order_acquire);
    if (ended_) return;
    if (!(inside_.fetch_add(1, std::memory_order_acq_rel) & kClosed) && part < parts_) {
      (*work_)(part);
    }
    inside_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace thrifty::engine
