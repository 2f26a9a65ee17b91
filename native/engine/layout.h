// layout.h: how a value of a network lies in memory while the engine runs.
//
// A vector has 16 lanes.  The lanes are a grid of images x rows x columns: every image of a group
// is cut into `down` x `across` equal parts, and lane l of a vector holds the same place of part
// l.  With one image of 32 x 32 and a grid of 4 x 4 a channel is 8 x 8 vectors; with 16 images and
// a grid of 1 x 1 it is 32 x 32 vectors.  A convolution then reads whole, aligned vectors whatever
// its kernel, stride or dilation: a neighbouring pixel is a neighbouring vector.  Around each part
// lies a halo that holds what the parts beside it hold (their lanes shifted), or zero outside of
// the image; whoever writes a value fills its halo.  Lanes beyond the image hold zero, always.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thrifty::engine {

constexpr int kLanes = 16;
constexpr std::size_t kVector = 64;  // bytes

// Lanes: images x down x across == 16.
struct Grid {
  int images = 1, down = 4, across = 4;
  bool operator==(const Grid& o) const {
    return images == o.images && down == o.down && across == o.across;
  }
};

struct Halo {
  int top = 0, left = 0, bottom = 0, right = 0;
  bool any() const { return top || left || bottom || right; }
};

// A value of `channels` x `height` x `width`; `h` x `w` is a part, in vectors.
struct Layout {
  int channels = 0, height = 1, width = 1;
  Grid grid;
  int h = 1, w = 1;
  Halo halo;

  // Vectors from a row to the next, and from a channel to the next.  An odd distance between
  // channels spreads them over the sets of the cache.
  std::size_t pitch() const { return static_cast<std::size_t>(w) + halo.left + halo.right; }
  std::size_t plane() const {
    const std::size_t exact = (static_cast<std::size_t>(h) + halo.top + halo.bottom) * pitch();
    return exact == 1 ? 1 : exact | 1;
  }
  // Floats from the start of a channel to its first pixel.
  std::size_t origin() const { return (halo.top * pitch() + halo.left) * kLanes; }
  std::size_t floats() const { return plane() * channels * kLanes; }
  bool ragged() const { return grid.down * h != height || grid.across * w != width; }
  bool same_parts(const Layout& o) const { return grid == o.grid && h == o.h && w == o.w; }

  // The float of a pixel, from the start of its channel; `image` is one of the group.
  std::size_t at(int image, int y, int x) const {
    const int lane = (image * grid.down + y / h) * grid.across + x / w;
    return origin() + ((y % h) * pitch() + x % w) * kLanes + lane;
  }
};

// The parts of an image that need the fewest vectors; of two as good the more square.
Layout best_layout(int channels, int height, int width, int images);

// A vector of the halo: where it lies, where its values come from, and through which lanes.
struct HaloMove {
  std::uint32_t to, from;  // floats from the start of the channel
  std::int32_t lanes;      // into HaloPlan::lanes; -1: zeros
};
struct HaloPlan {
  std::vector<HaloMove> moves;
  std::vector<std::int32_t> lanes;  // 16 for each permutation; -1: zero
};
HaloPlan halo_plan(const Layout& layout);

// 16 floats for each vector of a part, row by row: all bits set in lanes inside the image.  Empty
// when all are.
std::vector<float> valid_lanes(const Layout& layout);

// For every pixel of the images of a group, in the order image, y, x: its float.
std::vector<std::int32_t> pixels_of(const Layout& layout);

}  // namespace thrifty::engine
