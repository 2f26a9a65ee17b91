// pool.h: threads that wait, spinning for a while, for work of a few microseconds.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace thrifty::engine {

// Everyone arrives before anyone leaves.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();

 private:
  const int count_;
  std::atomic<int> here_{0}, round_{0};
};

class Pool {
 public:
  // The one pool of the process; a process that was forked makes its own.
  static Pool& shared();
  ~Pool();

  // work(0) .. work(parts - 1), each in a thread of its own, work(0) in this one; it must not
  // throw.  Where another thread uses the pool already, or there are no threads to be had, false,
  // and nothing was done.
  bool run(int parts, const std::function<void(int)>& work);

 private:
  Pool() = default;
  void serve(int part, unsigned seen);

  std::mutex busy_, mutex_;
  std::condition_variable called_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  int parts_ = 0;
  std::atomic<unsigned> round_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> ended_{false};
};

}  // namespace thrifty::engine
