// budget.h: the memory that networks may take, counted before it is allocated.
//
// A file says how large its values are, so it could ask for any amount.  Whatever grows with a
// network (weights, tables, the arena) is taken from a budget first; several networks may share
// one.  Counts are in bytes.
#pragma once

#include <cstddef>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <string>

namespace thrifty::engine {

class TooLarge : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Budget {
 public:
  explicit Budget(std::size_t bytes) : all_(bytes), left_(bytes) {}

  // Throws TooLarge, with nothing taken, where less is left.
  void take(std::size_t bytes, const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > left_) {
      throw TooLarge(what + " needs " + said(bytes) + " of memory, and of " + said(all_) + " " +
                     said(left_) + " are left");
    }
    left_ -= bytes;
  }
  void give(std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    left_ += bytes;
  }
  std::size_t left() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return left_;
  }

 private:
  static std::string said(std::size_t bytes) {
    char text[32];
    const double count = static_cast<double>(bytes);
    std::snprintf(text, sizeof(text), count < 1 << 30 ? "%.1f MiB" : "%.1f GiB",
                  count < 1 << 30 ? count / (1 << 20) : count / (1 << 30));
    return text;
  }

  const std::size_t all_;
  std::size_t left_;
  mutable std::mutex mutex_;
};

// A sum of bytes that stays at the largest number instead of starting anew.
inline std::size_t plus(std::size_t a, std::size_t b) {
  std::size_t sum;
  return __builtin_add_overflow(a, b, &sum) ? static_cast<std::size_t>(-1) : sum;
}

inline std::size_t times(std::size_t a, std::size_t b) {
  std::size_t product;
  return __builtin_mul_overflow(a, b, &product) ? static_cast<std::size_t>(-1) : product;
}

// What is taken from a budget until the end of this object.
class Taken {
 public:
  explicit Taken(Budget& budget) : budget_(budget) {}
  ~Taken() { budget_.give(bytes_); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  void more(std::size_t bytes, const std::string& what) {
    budget_.take(bytes, what);
    bytes_ += bytes;
  }
  // Gives some of it back.
  void less(std::size_t bytes) {
    budget_.give(bytes);
    bytes_ -= bytes;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  Budget& budget_;
  std::size_t bytes_ = 0;
};

}  // namespace thrifty::engine
