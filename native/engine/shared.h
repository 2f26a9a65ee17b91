// shared.h: tables that several operations of a network have in common, kept once.
//
// A convolution that a network uses thirty times is thirty operations with weights of their own,
// as they come and as they are packed for a layout.  Tables of equal contents are one: it takes
// the memory of one, and a cache holds it from one operation to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace thrifty::engine {

// Numbers that nobody changes any more; copies are the same numbers.
template <class T>
class Table {
 public:
  Table() : held_(std::make_shared<const std::vector<T>>()) {}
  explicit Table(std::shared_ptr<const std::vector<T>> held) : held_(std::move(held)) {}

  bool empty() const { return held_->empty(); }
  std::size_t size() const { return held_->size(); }
  const T* data() const { return held_->data(); }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size(); }
  const T& operator[](std::size_t i) const { return (*held_)[i]; }
  const std::shared_ptr<const std::vector<T>>& held() const { return held_; }

 private:
  std::shared_ptr<const std::vector<T>> held_;
};

class Shared {
 public:
  // `made`, or the table that was kept of the same contents; then `found` is set.
  template <class T>
  Table<T> keep(std::vector<T> made, bool* found) {
    *found = false;
    if (made.empty()) return Table<T>();
    const std::size_t bytes = made.size() * sizeof(T);
    const std::uint64_t mark = marked(made.data(), bytes) * 31 + sizeof(T);
    const auto [first, last] = kept_.equal_range(mark);
    for (auto at = first; at != last; ++at) {
      const Kept& each = at->second;
      const std::shared_ptr<const void> owner = each.owner.lock();
      if (owner && each.bytes == bytes && each.item == sizeof(T) &&
          std::memcmp(each.data, made.data(), bytes) == 0) {
        *found = true;
        return Table<T>(std::static_pointer_cast<const std::vector<T>>(owner));
      }
    }
    auto held = std::make_shared<const std::vector<T>>(std::move(made));
    kept_.emplace(mark, Kept{held, held->data(), bytes, sizeof(T)});
    return Table<T>(std::move(held));
  }

 private:
  struct Kept {
    std::weak_ptr<const void> owner;  // gone with the last operation that uses it
    const void* data;
    std::size_t bytes, item;
  };

  // Of up to 256 words spread over all of it: what differs elsewhere only is told by comparing.
  static std::uint64_t marked(const void* data, std::size_t bytes) {
    std::uint64_t mark = 1469598103934665603u ^ bytes;
    const std::size_t words = bytes / 4, step = words / 256 + 1;
    for (std::size_t i = 0; i < words; i += step) {
      std::uint32_t word;
      std::memcpy(&word, static_cast<const char*>(data) + 4 * i, 4);
      mark = (mark ^ word) * 1099511628211u;
    }
    return mark;
  }

  std::unordered_multimap<std::uint64_t, Kept> kept_;
};

}  // namespace thrifty::engine
