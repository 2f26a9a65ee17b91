// parallel.h: tasks on several threads that end with the call.
//
// Threads take the next task when they have done one, so that a busy core does not hold up the
// others.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace thrifty {

constexpr std::size_t kBytesAThread = std::size_t{1} << 20;  // less does not repay a thread
constexpr std::size_t kMostThreads = 256;

// How many threads `bytes` of work are worth, `asked` at most.
inline std::size_t useful_threads(std::size_t bytes, std::size_t asked) {
  return std::clamp<std::size_t>(bytes / kBytesAThread, 1, std::min(asked, kMostThreads));
}

// Calls work(thread, task) for every task, on so many threads or as many as the system gives.
// `work` must not throw.
template <class Work>
void share_out(std::size_t tasks, std::size_t thread_count, const Work& work) {
  std::atomic<std::size_t> next{0};
  auto run = [&](std::size_t thread) {
    for (std::size_t task = next++; task < tasks; task = next++) work(thread, task);
  };
  std::vector<std::thread> threads;
  threads.reserve(thread_count);
  try {
    for (std::size_t thread = 1; thread < thread_count; ++thread) threads.emplace_back(run, thread);
  } catch (const std::exception&) {  // no more threads to be had: those there are do it all
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace thrifty
