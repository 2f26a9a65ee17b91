// layers.h: forwards and backwards of convolutions and linear layers, a model a lane.  Part of
// kernels.cc.
//
// The sizes of layers are known at run time only; the sides of kernels up to 3, and 5, are also
// known to the compiler, which keeps as many sums in registers as there are.
#pragma once

#include <algorithm>
#include <cstring>

#include "lane.h"
#include "lanes.h"

namespace thrifty::lanes {
namespace {

#if defined(__AVX512F__)
constexpr int kSums = 28;  // of 32 registers
#else
constexpr int kSums = 12;  // of 16
#endif

// Where the numbers of a convolution lie: planes with their padding.
struct Grid {
  int k, stride, channels, outputs;
  int iw;                // of the padded input
  std::ptrdiff_t plane;  // of the padded input
  int oh, ow;            // before pooling
  explicit Grid(const Layer& l)
      : k(l.kernel), stride(l.stride), channels(l.inputs), outputs(l.outputs),
        iw(l.width + 2 * l.padding),
        plane(std::ptrdiff_t(l.height + 2 * l.padding) * (l.width + 2 * l.padding)),
        oh(l.out_height()), ow(l.out_width()) {}
  std::ptrdiff_t row() const { return std::ptrdiff_t(channels) * k * k; }
};

// Sums of `outs` output channels at four places, `at` from x; K is the side of the kernel, 0: g.k.
template <int K, int outs>
THRIFTY_INLINE void four_sums(const Grid& g, const V* x, const std::ptrdiff_t* at, const V* w,
                              const V* bias, V (&sum)[outs][4]) {
  const int k = K ? K : g.k;
  THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
    THRIFTY_UNROLL for (int q = 0; q < 4; ++q) sum[i][q] = bias ? bias[i] : V{};
  }
  const std::ptrdiff_t row = g.row(), a0 = at[0], a1 = at[1], a2 = at[2], a3 = at[3];
  for (int c = 0; c < g.channels; ++c) {
    for (int y = 0; y < k; ++y) {
      const V* r = x + c * g.plane + y * g.iw;
      const V* ww = w + (c * k + y) * k;
      const auto tap = [&](int j) THRIFTY_INLINE_LAMBDA {
        const V v[4] = {r[a0 + j], r[a1 + j], r[a2 + j], r[a3 + j]};
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          const V weight = ww[i * row + j];
          THRIFTY_UNROLL for (int q = 0; q < 4; ++q) sum[i][q] += weight * v[q];
        }
      };
      if (K) {
        THRIFTY_UNROLL for (int j = 0; j < K; ++j) tap(j);
      } else {
        for (int j = 0; j < k; ++j) tap(j);
      }
    }
  }
}

// Calls f.template operator()<outs>(first) for blocks of output channels, as equal as can be.
template <int most, class F>
THRIFTY_INLINE void in_blocks(int count, F f) {
  const int blocks = (count + most - 1) / most;
  for (int b = 0, first = 0; b < blocks; ++b) {
    const int size = (count - first + blocks - b - 1) / (blocks - b);
    switch (size) {
      case 1: f.template operator()<1>(first); break;
      case 2: if constexpr (most >= 2) f.template operator()<2>(first); break;
      case 3: if constexpr (most >= 3) f.template operator()<3>(first); break;
      case 4: if constexpr (most >= 4) f.template operator()<4>(first); break;
      case 5: if constexpr (most >= 5) f.template operator()<5>(first); break;
      case 6: if constexpr (most >= 6) f.template operator()<6>(first); break;
      case 7: if constexpr (most >= 7) f.template operator()<7>(first); break;
      default: if constexpr (most >= 8) f.template operator()<8>(first); break;
    }
    first += size;
  }
}

// Every place of the result: out is [outputs][oh][ow].
template <int K>
struct Everywhere {
  const Grid& g;
  const V *x, *w, *bias;
  V* out;
  template <int outs>
  void operator()(int first) const {
    for (int y = 0; y < g.oh; ++y) {
      for (int left = 0; left < g.ow; left += 4) {
        const int count = std::min(4, g.ow - left);
        std::ptrdiff_t at[4];
        for (int q = 0; q < 4; ++q) at[q] = std::ptrdiff_t(q < count ? q : 0) * g.stride;
        V sum[outs][4];
        four_sums<K, outs>(g, x + std::ptrdiff_t(y) * g.stride * g.iw + left * g.stride, at,
                           w + first * g.row(), bias ? bias + first : nullptr, sum);
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          V* o = out + (std::ptrdiff_t(first + i) * g.oh + y) * g.ow + left;
          THRIFTY_UNROLL for (int q = 0; q < 4; ++q) {
            if (q < count) o[q] = sum[i][q];
          }
        }
      }
    }
  }
};

// The largest of every 2 x 2 places, and which it was, the first of equals: four masks a result.
template <int K>
struct Largest {
  const Grid& g;
  const V *x, *w, *bias;
  V* out;
  M* which;
  template <int outs>
  void operator()(int first) const {
    const int ph = g.oh / 2, pw = g.ow / 2;
    const std::ptrdiff_t at[4] = {0, g.stride, std::ptrdiff_t(g.stride) * g.iw,
                                  std::ptrdiff_t(g.stride) * (g.iw + 1)};
    for (int y = 0; y < ph; ++y) {
      for (int left = 0; left < pw; ++left) {
        V sum[outs][4];
        four_sums<K, outs>(
            g, x + std::ptrdiff_t(2 * y) * g.stride * g.iw + 2 * left * g.stride, at,
            w + first * g.row(), bias ? bias + first : nullptr, sum);
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          const std::ptrdiff_t n = (std::ptrdiff_t(first + i) * ph + y) * pw + left;
          V best = sum[i][0];
          M second = less(best, sum[i][1]);
          best = pick(second, sum[i][1], best);
          const M third = less(best, sum[i][2]);
          best = pick(third, sum[i][2], best);
          const M fourth = less(best, sum[i][3]);
          out[n] = pick(fourth, sum[i][3], best);
          which[4 * n + 3] = fourth;
          which[4 * n + 2] = without(third, fourth);
          which[4 * n + 1] = without(without(second, third), fourth);
          which[4 * n] = without(without(without(every(), second), third), fourth);
        }
      }
    }
  }
};

// Adds to the gradient of the weights what gradients of the result, [outputs][oh][ow], make.
template <int K>
struct OfWeights {
  const Grid& g;
  const V *x, *from;
  V* to;
  template <int outs>
  void operator()(int first) const {
    const std::ptrdiff_t size = std::ptrdiff_t(g.oh) * g.ow;
    for (int c = 0; c < g.channels; ++c) {
      for (int y = 0; y < K; ++y) {
        V sum[outs][K];
        V* d = to + first * g.row() + (c * K + y) * K;
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          THRIFTY_UNROLL for (int j = 0; j < K; ++j) sum[i][j] = d[i * g.row() + j];
        }
        const V* gradient = from + first * size;
        for (int oy = 0; oy < g.oh; ++oy) {
          const V* r = x + c * g.plane + std::ptrdiff_t(oy * g.stride + y) * g.iw;
          for (int ox = 0; ox < g.ow; ++ox, ++gradient, r += g.stride) {
            THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
              const V v = gradient[i * size];
              THRIFTY_UNROLL for (int j = 0; j < K; ++j) sum[i][j] += v * r[j];
            }
          }
        }
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          THRIFTY_UNROLL for (int j = 0; j < K; ++j) d[i * g.row() + j] = sum[i][j];
        }
      }
    }
  }
};

// The same of gradients of the largest of 2 x 2 places.
template <int K>
struct OfWeightsPooled {
  const Grid& g;
  const V *x, *from;
  const M* which;
  V* to;
  template <int outs>
  void operator()(int first) const {
    const int ph = g.oh / 2, pw = g.ow / 2;
    const std::ptrdiff_t size = std::ptrdiff_t(ph) * pw;
    for (int c = 0; c < g.channels; ++c) {
      for (int y = 0; y < K; ++y) {
        V sum[outs][K];
        V* d = to + first * g.row() + (c * K + y) * K;
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          THRIFTY_UNROLL for (int j = 0; j < K; ++j) sum[i][j] = d[i * g.row() + j];
        }
        const V* gradient = from + first * size;
        const M* chosen = which + 4 * first * size;
        for (int py = 0; py < ph; ++py) {
          const V* r = x + c * g.plane + std::ptrdiff_t(2 * py * g.stride + y) * g.iw;
          for (int px = 0; px < pw; ++px, ++gradient, chosen += 4, r += 2 * g.stride) {
            THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
              const V v = gradient[i * size];
              THRIFTY_UNROLL for (int q = 0; q < 4; ++q) {
                const V* rr = r + (q >> 1) * g.stride * g.iw + (q & 1) * g.stride;
                const M m = chosen[4 * i * size + q];
                THRIFTY_UNROLL for (int j = 0; j < K; ++j) add_where(m, sum[i][j], v, rr[j]);
              }
            }
          }
        }
        THRIFTY_UNROLL for (int i = 0; i < outs; ++i) {
          THRIFTY_UNROLL for (int j = 0; j < K; ++j) d[i * g.row() + j] = sum[i][j];
        }
      }
    }
  }
};

// Adds to the gradient of the input, in its padded planes, for `wide` places of a row.
template <int K, int wide>
THRIFTY_INLINE void row_of_inputs(const Grid& g, const V* from, const V* w, V* to, int c, int y,
                                  int left) {
  const std::ptrdiff_t size = std::ptrdiff_t(g.oh) * g.ow;
  for (int ky = 0; ky < K; ++ky) {
    V sum[wide + K - 1];
    V* d = to + c * g.plane + std::ptrdiff_t(y + ky) * g.iw + left;
    THRIFTY_UNROLL for (int j = 0; j < wide + K - 1; ++j) sum[j] = d[j];
    const V* gradient = from + std::ptrdiff_t(y) * g.ow + left;
    const V* ww = w + (c * K + ky) * K;
    for (int o = 0; o < g.outputs; ++o, gradient += size, ww += g.row()) {
      V v[wide];
      THRIFTY_UNROLL for (int j = 0; j < wide; ++j) v[j] = gradient[j];
      THRIFTY_UNROLL for (int kx = 0; kx < K; ++kx) {
        const V weight = ww[kx];
        THRIFTY_UNROLL for (int j = 0; j < wide; ++j) sum[j + kx] += v[j] * weight;
      }
    }
    THRIFTY_UNROLL for (int j = 0; j < wide + K - 1; ++j) d[j] = sum[j];
  }
}

// Any kernel and stride, one product at a time.
void of_weights_plain(const Grid& g, const V* x, const V* from, V* to) {
  const std::ptrdiff_t size = std::ptrdiff_t(g.oh) * g.ow;
  for (int o = 0; o < g.outputs; ++o) {
    for (int c = 0; c < g.channels; ++c) {
      for (int y = 0; y < g.k; ++y) {
        for (int j = 0; j < g.k; ++j) {
          V sum{};
          for (int oy = 0; oy < g.oh; ++oy) {
            const V* r = x + c * g.plane + std::ptrdiff_t(oy * g.stride + y) * g.iw + j;
            const V* gradient = from + o * size + std::ptrdiff_t(oy) * g.ow;
            for (int ox = 0; ox < g.ow; ++ox) sum += gradient[ox] * r[ox * g.stride];
          }
          to[o * g.row() + (c * g.k + y) * g.k + j] += sum;
        }
      }
    }
  }
}

void of_inputs_plain(const Grid& g, const V* from, const V* w, V* to) {
  const std::ptrdiff_t size = std::ptrdiff_t(g.oh) * g.ow;
  for (int o = 0; o < g.outputs; ++o) {
    for (int c = 0; c < g.channels; ++c) {
      for (int oy = 0; oy < g.oh; ++oy) {
        for (int ox = 0; ox < g.ow; ++ox) {
          const V v = from[o * size + std::ptrdiff_t(oy) * g.ow + ox];
          for (int y = 0; y < g.k; ++y) {
            V* d = to + c * g.plane + std::ptrdiff_t(oy * g.stride + y) * g.iw + ox * g.stride;
            const V* ww = w + o * g.row() + (c * g.k + y) * g.k;
            for (int j = 0; j < g.k; ++j) d[j] += v * ww[j];
          }
        }
      }
    }
  }
}

constexpr int most_of(int each) { return std::max(1, std::min(8, kSums / each)); }
constexpr int kOuts = std::max(1, std::min(6, (kSums - 4) / 4));

// f.template operator()<K>() with the side of the kernel, 0 where it has no code of its own.
template <class F>
THRIFTY_INLINE void with_side(int k, F f) {
  switch (k) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 5: return f.template operator()<5>();
    default: return f.template operator()<0>();
  }
}

struct Forward {
  const Grid& g;
  const V *x, *w, *bias;
  V* out;
  M* which;  // null: every place
  template <int K>
  void operator()() const {
    if (which) {
      in_blocks<kOuts>(g.outputs, Largest<K>{g, x, w, bias, out, which});
    } else {
      in_blocks<kOuts>(g.outputs, Everywhere<K>{g, x, w, bias, out});
    }
  }
};

struct ToWeights {
  const Grid& g;
  const V *x, *from;
  const M* which;
  V* to;
  template <int K>
  void operator()() const {
    if constexpr (K == 0) {
      of_weights_plain(g, x, from, to);
    } else if (which) {
      in_blocks<most_of(K)>(g.outputs, OfWeightsPooled<K>{g, x, from, which, to});
    } else {
      in_blocks<most_of(K)>(g.outputs, OfWeights<K>{g, x, from, to});
    }
  }
};

struct ToInputs {
  const Grid& g;
  const V *from, *w;
  V* to;
  template <int K>
  void operator()() const {
    if constexpr (K == 0) {
      of_inputs_plain(g, from, w, to);
    } else {
      if (g.stride != 1) return of_inputs_plain(g, from, w, to);
      for (int c = 0; c < g.channels; ++c) {
        for (int y = 0; y < g.oh; ++y) {
          int left = 0;
          for (; left + 4 <= g.ow; left += 4) row_of_inputs<K, 4>(g, from, w, to, c, y, left);
          for (; left < g.ow; ++left) row_of_inputs<K, 1>(g, from, w, to, c, y, left);
        }
      }
    }
  }
};

// Whether gradients of the largest of 2 x 2 go to the weights without being spread out.
bool pools_in_registers(const Layer& l) {
  return l.conv && l.pool == 2 && l.pool_stride == 2 && (l.kernel <= 3 || l.kernel == 5) &&
         (l.pool_first || (l.act != Act::gelu && l.act != Act::silu));
}

void linear(const Layer& l, const V* x, const V* w, const V* bias, V* out) {
  constexpr int together = 6;
  for (int o = 0; o < l.outputs; o += together) {
    const int count = std::min(together, l.outputs - o);
    V sum[together];
    for (int i = 0; i < together; ++i) sum[i] = bias && i < count ? bias[o + i] : V{};
    const V* row[together];
    for (int i = 0; i < together; ++i) row[i] = w + std::ptrdiff_t(i < count ? o + i : o) * l.inputs;
    for (int j = 0; j < l.inputs; ++j) {
      const V v = x[j];
      THRIFTY_UNROLL for (int i = 0; i < together; ++i) sum[i] += row[i][j] * v;
    }
    for (int i = 0; i < count; ++i) out[o + i] = sum[i];
  }
}

void linear_to_weights(const Layer& l, const V* x, const V* from, V* to) {
  for (int o = 0; o < l.outputs; ++o) {
    const V v = from[o];
    V* d = to + std::ptrdiff_t(o) * l.inputs;
    for (int j = 0; j < l.inputs; ++j) d[j] += v * x[j];
  }
}

void linear_to_inputs(const Layer& l, const V* from, const V* w, V* to) {
  constexpr int wide = 6;
  for (int j = 0; j < l.inputs; j += wide) {
    const int count = std::min(wide, l.inputs - j);
    V sum[wide] = {};
    if (count == wide) {
      for (int o = 0; o < l.outputs; ++o) {
        const V v = from[o];
        const V* row = w + std::ptrdiff_t(o) * l.inputs + j;
        THRIFTY_UNROLL for (int i = 0; i < wide; ++i) sum[i] += v * row[i];
      }
    } else {
      for (int o = 0; o < l.outputs; ++o) {
        const V* row = w + std::ptrdiff_t(o) * l.inputs + j;
        for (int i = 0; i < count; ++i) sum[i] += from[o] * row[i];
      }
    }
    for (int i = 0; i < count; ++i) to[j + i] += sum[i];
  }
}

void add_biases(int outputs, std::ptrdiff_t places, const V* from, V* to) {
  for (int o = 0; o < outputs; ++o) {
    V sum{};
    for (std::ptrdiff_t n = 0; n < places; ++n) sum += from[o * places + n];
    to[o] += sum;
  }
}

}  // namespace
}  // namespace thrifty::lanes
