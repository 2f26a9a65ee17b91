// pool.h: threads that wait, spinning for a while, for work of a few microseconds.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace thrifty::engine {

inline void breathe() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins, then gives the processor to others: with fewer cores than threads spinning would stall.
template <class Done>
void wait_until(Done done) {
  for (int i = 0; !done(); ++i) {
    if (i < 4000) {
      breathe();
    } else {
      std::this_thread::yield();
    }
  }
}

class Pool {
 public:
  // The one pool of the process; a process that was forked makes its own.
  static Pool& shared();
  ~Pool();

  // work(0) in this thread and, as far as other threads are at hand before it is done, work(1) ..
  // work(parts - 1) in those; it must not throw.  Where another thread uses the pool already, or
  // there are no threads to be had, false, and nothing was done.
  bool run(int parts, const std::function<void(int)>& work);

 private:
  static constexpr unsigned kClosed = 1u << 31;

  Pool() = default;
  void serve(int part, unsigned seen);

  std::mutex busy_, mutex_;
  std::condition_variable called_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int parts_ = 0;
  std::atomic<unsigned> round_{0};
  std::atomic<unsigned> inside_{kClosed};  // threads at work, and whether others may not begin
  std::atomic<bool> ended_{false};
};

}  // namespace thrifty::engine
