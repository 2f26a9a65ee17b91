#include "layout.h"

#include <cstring>
#include <map>
#include <utility>

namespace thrifty::engine {
namespace {

int up(int a, int b) { return (a + b - 1) / b; }

int floor_div(int a, int b) { return a >= 0 ? a / b : -up(-a, b); }

}  // namespace

Layout best_layout(int channels, int height, int width, int images) {
  Layout best;
  int fewest = -1, least_uneven = 0;
  const int parts = kLanes / images;
  for (int down = 1; down <= parts; down *= 2) {
    const int across = parts / down;
    const int h = up(height, down), w = up(width, across);
    const int uneven = down > across ? down / across : across / down;
    if (fewest < 0 || h * w < fewest || (h * w == fewest && uneven < least_uneven)) {
      fewest = h * w, least_uneven = uneven;
      best = Layout{channels, height, width, {images, down, across}, h, w, {}};
    }
  }
  return best;
}

HaloPlan halo_plan(const Layout& layout) {
  HaloPlan plan;
  std::map<std::pair<int, int>, std::int32_t> known;
  const auto& [images, down, across] = layout.grid;
  const auto permutation = [&](int dy, int dx) {
    // Beyond all parts: halos of a thousand parts would make a million of them.
    if (dy <= -down || dy >= down || dx <= -across || dx >= across) return std::int32_t{-1};
    const auto [place, fresh] = known.try_emplace({dy, dx}, -1);
    if (!fresh) return place->second;
    std::int32_t from[kLanes];
    bool any = false;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int x = lane % across + dx, y = lane / across % down + dy, n = lane / across / down;
      const bool inside = x >= 0 && x < across && y >= 0 && y < down;
      from[lane] = inside ? (n * down + y) * across + x : -1;
      any = any || inside;
    }
    if (any) {
      place->second = static_cast<std::int32_t>(plan.lanes.size());
      plan.lanes.insert(plan.lanes.end(), from, from + kLanes);
    }
    return place->second;
  };
  const int pitch = static_cast<int>(layout.pitch());
  const int origin = static_cast<int>(layout.origin()) / kLanes;
  for (int y = -layout.halo.top; y < layout.h + layout.halo.bottom; ++y) {
    for (int x = -layout.halo.left; x < layout.w + layout.halo.right; ++x) {
      const int dy = floor_div(y, layout.h), dx = floor_div(x, layout.w);
      if (dy == 0 && dx == 0) continue;
      const int from = origin + (y - dy * layout.h) * pitch + x - dx * layout.w;
      const int to = origin + y * pitch + x;
      plan.moves.push_back({static_cast<std::uint32_t>(to) * kLanes,
                            static_cast<std::uint32_t>(from) * kLanes, permutation(dy, dx)});
    }
  }
  return plan;
}

std::vector<float> valid_lanes(const Layout& layout) {
  if (!layout.ragged()) return {};
  std::vector<float> masks(static_cast<std::size_t>(layout.h) * layout.w * kLanes);
  const std::uint32_t set = ~std::uint32_t{0}, clear = 0;
  for (int y = 0; y < layout.h; ++y) {
    for (int x = 0; x < layout.w; ++x) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int row = lane / layout.grid.across % layout.grid.down * layout.h + y;
        const int column = lane % layout.grid.across * layout.w + x;
        const bool inside = row < layout.height && column < layout.width;
        std::memcpy(&masks[(static_cast<std::size_t>(y) * layout.w + x) * kLanes + lane],
                    inside ? &set : &clear, sizeof(set));
      }
    }
  }
  return masks;
}

std::vector<std::int32_t> pixels_of(const Layout& layout) {
  std::vector<std::int32_t> places;
  places.reserve(static_cast<std::size_t>(layout.grid.images) * layout.height * layout.width);
  for (int n = 0; n < layout.grid.images; ++n) {
    for (int y = 0; y < layout.height; ++y) {
      for (int x = 0; x < layout.width; ++x) {
        places.push_back(static_cast<std::int32_t>(layout.at(n, y, x)));
      }
    }
  }
  return places;
}

}  // namespace thrifty::engine
