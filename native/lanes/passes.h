// passes.h: a sample of every lane forwards through a network, and its gradient backwards.  Part of
// kernels.cc.
#pragma once

#include <vector>

#include "layers.h"
#include "vectors.h"

namespace thrifty::lanes {
namespace {

constexpr float kTiny = 1e-15f;

// What one layer keeps of a sample between forward and backward.
struct Kept {
  const Layer* layer = nullptr;
  std::size_t at = 0;       // of its weights among the parameters
  std::size_t places = 0;   // of a channel, before pooling
  std::size_t results = 0;  // after pooling
  bool masks = false;       // the largest of 2 x 2 were found with the sums
  bool late = false;        // pooled after the activation
  Vectors in, squares;      // the input in padded planes
  Vectors full, spread;     // before pooling: results, and what noise did to them
  Vectors result, slope;    // after pooling; of late ones the slope is of `full`
  Vectors dropped;          // by dropout, times what is left
  Vectors which;            // masks
  std::vector<std::int32_t> index;  // of the largest, in its window, by lane
};

// The layers of a block of models with one sample in them.
class Passes {
 protected:
  explicit Passes(const Job& job) : job_(job), net_(*job.network), variational_(job.variational.on) {
    std::size_t at = 0, most_full = 0, most_in = 0;
    for (const Layer& l : net_.layers) {
      Kept k;
      k.layer = &l;
      k.at = at;
      k.places = std::size_t(l.out_height()) * l.out_width();
      k.results = l.results();
      k.masks = !variational_ && pools_in_registers(l);
      k.late = l.pool > 1 && !k.masks && !l.pool_first;
      const std::size_t full = k.places * l.outputs, inside = padded(l) * l.inputs;
      k.in = Vectors(inside);
      if (variational_) k.squares = Vectors(inside), k.spread = Vectors(full);
      k.full = Vectors(k.masks ? 0 : full);
      k.result = Vectors(k.results);
      k.slope = Vectors(k.late ? full : k.results);
      if (l.dropout) k.dropped = Vectors(k.results);
      if (k.masks) k.which = Vectors((4 * k.results * sizeof(M) + sizeof(V) - 1) / sizeof(V));
      if (l.pool > 1 && !k.masks) k.index.resize(k.results * kLanes);
      at += l.parameters();
      most_full = std::max(most_full, full);
      most_in = std::max(most_in, inside);
      kept_.push_back(std::move(k));
    }
    count_ = at;
    weights_ = Vectors(count_), gradient_ = Vectors(count_);
    back_ = Vectors(most_in);
    ahead_ = Vectors(std::max<std::size_t>(most_in, net_.classes()));
    wide_ = Vectors(most_full);
    if (variational_) {
      wide_spread_ = Vectors(most_full), back_spread_ = Vectors(most_in);
      variance_ = Vectors(count_), spread_gradient_ = Vectors(count_);
    }
    logits_ = Vectors(net_.classes());
    bytes_.resize(net_.inputs() * kLanes);
  }

  static M* masks_of(const Kept& k) { return reinterpret_cast<M*>(k.which.get()); }
  static std::size_t padded(const Layer& l) {
    return std::size_t(l.height + 2 * l.padding) * (l.width + 2 * l.padding);
  }
  std::size_t noisy_of(const Kept& k) const {
    const bool biases = job_.variational.biases && k.layer->conv && k.layer->bias;
    return k.layer->weights() + (biases ? k.layer->outputs : 0);
  }
  const V* bias_of(const Kept& k, const V* from) const {
    return k.layer->bias ? from + k.at + k.layer->weights() : nullptr;
  }

  // The samples that were picked, as vectors in the padded planes of the first layer.
  void fill(bool same) {
    const std::size_t size = net_.inputs();
    for (int l = 0; l < kLanes; ++l) labels_[l] = job_.samples.labels[picked_[l]];
    if (!same) {
      for (int l = 0; l < kLanes; ++l) {
        const std::uint8_t* from = job_.samples.inputs + picked_[l] * size;
        for (std::size_t i = 0; i < size; ++i) bytes_[i * kLanes + l] = from[i];
      }
    }
    const std::uint8_t* one = job_.samples.inputs + picked_[0] * size;
    Kept& k = kept_[0];
    const Layer& l = *k.layer;
    const std::size_t plane = std::size_t(l.height) * l.width;
    std::size_t i = 0;
    for (int c = 0; c < (l.conv ? l.inputs : 1); ++c) {
      const std::size_t places = l.conv ? plane : std::size_t(l.inputs);
      for (std::size_t n = 0; n < places; ++n, ++i) {
        const int channel = l.conv ? c : 0;
        const float scale = 1.0f / (255.0f * job_.samples.deviation[channel]);
        const float shift = -job_.samples.mean[channel] / job_.samples.deviation[channel];
        V x;
        if (same) {
          x = splat(one[i]);
        } else {
          typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
          Bytes b;
          std::memcpy(&b, &bytes_[i * kLanes], kLanes);
          x = __builtin_convertvector(b, V);
        }
        k.in[inside(l, c, n)] = x * scale + shift;
      }
    }
    if (variational_) square(k);
  }

  // Where place n of channel c lies in the padded planes of a layer's input.
  static std::size_t inside(const Layer& l, std::size_t c, std::size_t n) {
    if (!l.conv) return c + n;
    const std::size_t y = n / l.width, x = n % l.width;
    return c * padded(l) + (y + l.padding) * (l.width + 2 * l.padding) + x + l.padding;
  }

  static void square(Kept& k) {
    const std::size_t count = padded(*k.layer) * k.layer->inputs;
    for (std::size_t i = 0; i < count; ++i) k.squares[i] = k.in[i] * k.in[i];
  }

  void forward(bool training) {
    for (std::size_t n = 0; n < kept_.size(); ++n) {
      Kept& k = kept_[n];
      const Layer& l = *k.layer;
      const V* w = weights_.get() + k.at;
      const bool noise = training && variational_;
      V* sums = k.masks ? k.result.get() : l.pool > 1 ? k.full.get() : k.result.get();
      products(k, k.in.get(), w, bias_of(k, weights_.get()), sums, k.masks ? masks_of(k) : nullptr);
      if (noise) {
        products(k, k.squares.get(), variance_.get() + k.at, bias_of(k, variance_.get()),
                 k.spread.get(), nullptr);
        disturb(k.places * l.outputs, sums, k.spread.get());
      }
      finish(k, training);
      hand_on(n);
    }
  }

  void products(const Kept& k, const V* x, const V* w, const V* bias, V* out, M* which) {
    const Layer& l = *k.layer;
    if (l.conv) {
      with_side(l.kernel, Forward{Grid(l), x, w, bias, out, which});
    } else {
      linear(l, x, w, bias, out);
    }
  }

  // Adds noise of variance `spread`, which becomes what a unit of variance does to the result.
  void disturb(std::size_t count, V* sums, V* spread) {
    for (std::size_t i = 0; i < count; i += 2) {
      V a, b;
      random_.normal(a, b);
      const V one = root(spread[i] + kTiny);
      sums[i] += one * a;
      spread[i] = 0.5f * a / one;
      if (i + 1 == count) break;
      const V two = root(spread[i + 1] + kTiny);
      sums[i + 1] += two * b;
      spread[i + 1] = 0.5f * b / two;
    }
  }

  // Pooling, activation and dropout, in the layer's order.
  void finish(Kept& k, bool training) {
    const Layer& l = *k.layer;
    if (k.late) {
      activate(l.act, k.places * l.outputs, k.full.get(), k.full.get(), k.slope.get());
      pool(k);
    } else {
      if (l.pool > 1 && !k.masks) pool(k);
      activate(l.act, k.results, k.result.get(), k.result.get(), k.slope.get());
    }
    if (l.dropout && training) {
      for (std::size_t i = 0; i < k.results; ++i) {
        k.dropped[i] = only(less(random_.uniform(), keep_), left_);
        k.result[i] *= k.dropped[i];
      }
    }
  }

  void pool(Kept& k) {
    const Layer& l = *k.layer;
    const int ph = l.pooled_height(), pw = l.pooled_width(), ow = l.out_width();
    std::size_t n = 0;
    for (int c = 0; c < l.outputs; ++c) {
      for (int y = 0; y < ph; ++y) {
        for (int x = 0; x < pw; ++x, ++n) {
          const V* from = k.full.get() + c * k.places + std::size_t(y * l.pool_stride) * ow +
                          x * l.pool_stride;
          V best = from[0], which{};
          for (int q = 1; q < l.pool * l.pool; ++q) {
            const V v = from[q / l.pool * ow + q % l.pool];
            const M larger = less(best, v);
            best = pick(larger, v, best);
            which = pick(larger, splat(static_cast<float>(q)), which);
          }
          k.result[n] = best;
          const I index = __builtin_convertvector(which, I);
          std::memcpy(&k.index[n * kLanes], &index, kBytes);
        }
      }
    }
  }

  // The result of layer n is the input of the next.
  void hand_on(std::size_t n) {
    const Kept& k = kept_[n];
    if (n + 1 == kept_.size()) {
      std::memcpy(static_cast<void*>(logits_.get()), k.result.get(), k.results * sizeof(V));
      return;
    }
    Kept& to = kept_[n + 1];
    const Layer& l = *to.layer;
    if (!l.conv || l.padding == 0) {
      std::memcpy(static_cast<void*>(to.in.get()), k.result.get(), k.results * sizeof(V));
    } else {
      const std::size_t row = l.width;
      for (int c = 0; c < l.inputs; ++c) {
        for (int y = 0; y < l.height; ++y) {
          std::memcpy(static_cast<void*>(&to.in[inside(l, c, y * row)]),
                      &k.result[(c * std::size_t(l.height) + y) * row], row * sizeof(V));
        }
      }
    }
    if (variational_) square(to);
  }

  // Adds to loss and hits; the gradient of the loss, times `share`, takes the place of logits.
  I judge(float share) {
    const int classes = net_.classes();
    V best = logits_[0], chosen{};
    for (int i = 1; i < classes; ++i) {
      const M larger = less(best, logits_[i]);
      best = pick(larger, logits_[i], best);
      chosen = pick(larger, splat(static_cast<float>(i)), chosen);
    }
    const V wanted = __builtin_convertvector(labels_, V);
    V sum{}, hit{};
    for (int i = 0; i < classes; ++i) {
      hit = pick(equal(wanted, splat(static_cast<float>(i))), logits_[i], hit);
      logits_[i] = exponential(logits_[i] - best);
      sum += logits_[i];
    }
    const V lost = logarithm(sum) + best - hit, scale = share / sum;
    const I found = __builtin_convertvector(chosen, I);
    for (int i = 0; i < classes; ++i) {
      const V here = only(equal(wanted, splat(static_cast<float>(i))), splat(share));
      logits_[i] = logits_[i] * scale - here;
    }
    for (int l = 0; l < kLanes; ++l) {
      loss_[l] += lost[l];
      right_[l] += found[l] == labels_[l];
    }
    return found;
  }

  void backward() {
    // ahead_ holds the gradient of a layer's result, without padding.
    V* result = ahead_.get();
    const std::size_t classes = net_.classes();
    std::memcpy(static_cast<void*>(result), logits_.get(), classes * sizeof(V));
    for (std::size_t n = kept_.size(); n-- > 0;) {
      Kept& k = kept_[n];
      const Layer& l = *k.layer;
      if (l.dropout) {
        for (std::size_t i = 0; i < k.results; ++i) result[i] *= k.dropped[i];
      }
      if (!k.late) {
        for (std::size_t i = 0; i < k.results; ++i) result[i] *= k.slope[i];
      }
      V* of_weights = gradient_.get() + k.at;
      V* of_bias = l.bias ? of_weights + l.weights() : nullptr;
      const V* full = result;
      if (k.masks) {
        with_side(l.kernel, ToWeights{Grid(l), k.in.get(), result, masks_of(k), of_weights});
        if (of_bias) add_biases(l.outputs, k.results / l.outputs, result, of_bias);
        if (n > 0) full = spread_masks(k, result);
      } else {
        if (l.pool > 1) full = spread_index(k, result);
        if (k.late) {
          for (std::size_t i = 0; i < k.places * l.outputs; ++i) wide_[i] *= k.slope[i];
        }
        to_weights(k, k.in.get(), full, of_weights);
        if (of_bias) add_biases(l.outputs, k.places, full, of_bias);
      }
      if (variational_) {
        for (std::size_t i = 0; i < k.places * l.outputs; ++i) {
          wide_spread_[i] = full[i] * k.spread[i];
        }
        V* to = spread_gradient_.get() + k.at;
        to_weights(k, k.squares.get(), wide_spread_.get(), to);
        if (l.bias) add_biases(l.outputs, k.places, wide_spread_.get(), to + l.weights());
      }
      if (n == 0) break;
      to_inputs(k, full, weights_.get() + k.at, back_.get());
      if (variational_) {
        to_inputs(k, wide_spread_.get(), variance_.get() + k.at, back_spread_.get());
        for (std::size_t i = 0; i < padded(l) * l.inputs; ++i) {
          back_[i] += 2.0f * k.in[i] * back_spread_[i];
        }
      }
      strip(l);
    }
  }

  void to_weights(const Kept& k, const V* x, const V* from, V* to) {
    const Layer& l = *k.layer;
    if (l.conv) {
      with_side(l.kernel, ToWeights{Grid(l), x, from, nullptr, to});
    } else {
      linear_to_weights(l, x, from, to);
    }
  }

  void to_inputs(const Kept& k, const V* from, const V* w, V* to) {
    const Layer& l = *k.layer;
    std::memset(static_cast<void*>(to), 0, padded(l) * l.inputs * sizeof(V));
    if (l.conv) {
      with_side(l.kernel, ToInputs{Grid(l), from, w, to});
    } else {
      linear_to_inputs(l, from, w, to);
    }
  }

  // From padded planes to the gradient of the layer before.
  void strip(const Layer& l) {
    const std::size_t row = l.conv ? l.width : l.inputs, rows = l.conv ? l.height : 1;
    for (int c = 0; c < (l.conv ? l.inputs : 1); ++c) {
      for (std::size_t y = 0; y < rows; ++y) {
        std::memcpy(static_cast<void*>(&ahead_[(c * rows + y) * row]),
                    &back_[l.conv ? inside(l, c, y * row) : 0], row * sizeof(V));
      }
    }
  }

  const V* spread_masks(const Kept& k, const V* from) {
    const Layer& l = *k.layer;
    const int ph = l.pooled_height(), pw = l.pooled_width(), ow = l.out_width();
    if (l.out_height() % 2 || ow % 2) {
      std::memset(static_cast<void*>(wide_.get()), 0, k.places * l.outputs * sizeof(V));
    }
    const M* which = masks_of(k);
    std::size_t n = 0;
    for (int c = 0; c < l.outputs; ++c) {
      for (int y = 0; y < ph; ++y) {
        V* to = wide_.get() + c * k.places + std::size_t(2 * y) * ow;
        for (int x = 0; x < pw; ++x, ++n, to += 2) {
          to[0] = only(which[4 * n], from[n]);
          to[1] = only(which[4 * n + 1], from[n]);
          to[ow] = only(which[4 * n + 2], from[n]);
          to[ow + 1] = only(which[4 * n + 3], from[n]);
        }
      }
    }
    return wide_.get();
  }

  const V* spread_index(const Kept& k, const V* from) {
    const Layer& l = *k.layer;
    const int ph = l.pooled_height(), pw = l.pooled_width(), ow = l.out_width();
    std::memset(static_cast<void*>(wide_.get()), 0, k.places * l.outputs * sizeof(V));
    std::size_t n = 0;
    for (int c = 0; c < l.outputs; ++c) {
      for (int y = 0; y < ph; ++y) {
        for (int x = 0; x < pw; ++x, ++n) {
          I index;
          std::memcpy(&index, &k.index[n * kLanes], kBytes);
          V* to = wide_.get() + c * k.places + std::size_t(y * l.pool_stride) * ow +
                  x * l.pool_stride;
          for (int q = 0; q < l.pool * l.pool; ++q) {
            to[q / l.pool * ow + q % l.pool] += only(same(index, q), from[n]);
          }
        }
      }
    }
    return wide_.get();
  }

  const Job& job_;
  const Network& net_;
  const bool variational_;
  std::vector<Kept> kept_;
  std::size_t count_ = 0;  // parameters
  Vectors weights_, gradient_;
  Vectors variance_, spread_gradient_;  // of every weight under noise
  V keep_{}, left_{};                   // what dropout keeps, and one over it
  Random random_{};
  std::int32_t picked_[kLanes] = {};  // the sample of each lane
  double loss_[kLanes] = {};
  std::int64_t right_[kLanes] = {};

 private:
  Vectors back_, back_spread_, ahead_, wide_, wide_spread_, logits_;
  I labels_{};
  std::vector<std::uint8_t> bytes_;
};

}  // namespace
}  // namespace thrifty::lanes
