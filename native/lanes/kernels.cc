// kernels.cc: training and evaluation of blocks of models, compiled once for every width.
//
// A sample at a time goes through a block, so that all there is of 16 models and one sample stays
// in the second cache.  All randomness comes from the seed of a lane and the number of the epoch.
#include <array>
#include <atomic>
#include <chrono>
#include <system_error>
#include <thread>

#include "passes.h"

namespace thrifty::lanes {
namespace {

// Of the divergence of variational dropout, as Molchanov et al. fit it (2017, equation 14).
constexpr float kOne = 0.63576f, kTwo = 1.87320f, kThree = 1.48695f;

struct Adam {
  V rate, bias, one, two;
};
// A block of models at work; one a thread.
class Block : Passes {
 public:
  explicit Block(const Job& job) : Passes(job) {
    first_ = Vectors(count_), second_ = Vectors(count_);
    if (job.spread) {
      for (auto* each : {&spread_, &spread_first_, &spread_second_}) *each = Vectors(count_);
    }
  }

  void train(std::size_t block) {
    aim(block);
    const std::size_t batch = std::min<std::size_t>(job_.batch, job_.samples.count);
    const std::size_t steps = batch ? job_.samples.count / batch : 0;
    order(block);
    for (std::size_t s = 0; s < steps; ++s) {
      std::memset(static_cast<void*>(gradient_.get()), 0, count_ * sizeof(V));
      if (variational_) {
        std::memset(static_cast<void*>(spread_gradient_.get()), 0, count_ * sizeof(V));
        widen();
      }
      for (std::size_t i = 0; i < batch; ++i) {
        take(s * batch + i);
        forward(true);
        judge(1.0f / static_cast<float>(batch));
        backward();
      }
      if (variational_) narrow();
      if (job_.gradient) {
        give(gradient_.get(), job_.gradient, block);
        if (job_.spread_gradient) give(spread_gradient_.get(), job_.spread_gradient, block);
        return;
      }
      step(s);
    }
    put_back(block);
    report(block);
  }

  void evaluate(std::size_t block) {
    aim(block);
    if (job_.spread) {
      for (const Kept& k : kept_) {
        const std::size_t noisy = noisy_of(k);
        for (std::size_t i = k.at; i < k.at + noisy; ++i) {
          const V size = absolute(weights_[i]) + kTiny;
          const V alpha = spread_[i] - 2.0f * logarithm(size);
          weights_[i] = only(less(alpha, splat(job_.variational.cut)), weights_[i]);
        }
      }
    }
    for (std::size_t i = 0; i < job_.samples.count; ++i) {
      for (int l = 0; l < kLanes; ++l) picked_[l] = static_cast<std::int32_t>(i);
      fill(true);
      forward(false);
      const I found = judge(0.0f);
      if (job_.classes) {
        std::uint8_t* to = job_.classes + (block * job_.samples.count + i) * kLanes;
        for (int l = 0; l < kLanes; ++l) to[l] = static_cast<std::uint8_t>(found[l]);
      }
    }
    report(block);
  }

 private:
  void aim(std::size_t block) {
    const std::size_t state = block * count_ * kLanes;
    for (const auto& [array, own] : states()) {
      if (array) std::memcpy(static_cast<void*>(own->get()), array + state, count_ * sizeof(V));
    }
    mask_ = job_.mask ? job_.mask + state : nullptr;
    std::memcpy(&lr_, job_.hyper.lr + block * kLanes, kBytes);
    std::memcpy(&decay_, job_.hyper.weight_decay + block * kLanes, kBytes);
    V rate;
    std::memcpy(&rate, job_.hyper.dropout + block * kLanes, kBytes);
    keep_ = 1.0f - rate, left_ = 1.0f / keep_;
    for (int l = 0; l < kLanes; ++l) {
      const std::uint64_t seed = job_.hyper.seed[block * kLanes + l];
      random_.state[l] = static_cast<std::uint32_t>(mixed(seed, job_.epoch, 1)) | 1u;
      loss_[l] = 0, right_[l] = 0;
    }
  }

  // Arrays of a job, whose memory is aligned to nothing, and the copies that are worked on.
  struct Copied {
    float* array;
    const Vectors* own;
  };
  std::array<Copied, 6> states() const {
    return {{{job_.weights, &weights_},
             {job_.first, &first_},
             {job_.second, &second_},
             {job_.spread, &spread_},
             {job_.spread_first, &spread_first_},
             {job_.spread_second, &spread_second_}}};
  }

  void put_back(std::size_t block) const {
    for (const auto& [array, own] : states()) {
      if (array) std::memcpy(array + block * count_ * kLanes, own->get(), count_ * sizeof(V));
    }
  }

  void order(std::size_t block) {
    const std::size_t count = job_.samples.count;
    const int lanes = job_.shared ? 1 : kLanes;
    order_.resize(count * lanes);
    for (int l = 0; l < lanes; ++l) {
      const std::size_t lane = job_.shared ? 0 : block * kLanes + l;
      shuffled(job_.hyper.seed[lane], job_.epoch, count, order_.data() + l * count);
    }
  }

  void take(std::size_t n) {
    for (int l = 0; l < kLanes; ++l) {
      picked_[l] = order_[(job_.shared ? 0 : l) * job_.samples.count + n];
    }
    fill(job_.shared);
  }
  // The variance of every weight: sigma^2, held where log alpha would leave its bounds.
  void widen() {
    std::memset(static_cast<void*>(variance_.get()), 0, count_ * sizeof(V));
    for (const Kept& k : kept_) {
      const float clip = clip_of(k);
      const V most = splat(std::exp(clip)), least = splat(std::exp(-clip));
      for (std::size_t i = k.at; i < k.at + noisy_of(k); ++i) {
        const V w = weights_[i], alpha = log_alpha(i);
        V v = exponential(spread_[i]);
        v = pick(less(splat(clip), alpha), most * w * w, v);
        variance_[i] = pick(less(alpha, splat(-clip)), least * w * w, v);
      }
    }
  }

  V log_alpha(std::size_t i) const {
    return spread_[i] - 2.0f * logarithm(absolute(weights_[i]) + kTiny);
  }
  float clip_of(const Kept& k) const {
    return k.layer->conv ? job_.variational.clip_conv : job_.variational.clip_linear;
  }

  // From gradients of the variances to those of weights and log sigma^2, and the divergence's.
  void narrow() {
    const float scale = job_.variational.scale;
    for (const Kept& k : kept_) {
      const float clip = clip_of(k);
      const std::size_t end = k.at + noisy_of(k);
      for (std::size_t i = end; i < k.at + k.layer->parameters(); ++i) spread_gradient_[i] = V{};
      for (std::size_t i = k.at; i < end; ++i) {
        const V w = weights_[i], alpha = log_alpha(i), g = spread_gradient_[i];
        const M above = less(splat(clip), alpha), below = less(alpha, splat(-clip));
        const M held = either(above, below);
        const V s = logistic(kTwo + kThree * alpha);
        const V pull = -scale * (kOne * kThree * s * (1.0f - s) + 0.5f * logistic(-alpha));
        const V bound = splat(2.0f) * w * pick(above, splat(std::exp(clip)), splat(std::exp(-clip)));
        const V sign = pick(less(w, V{}), splat(-1.0f), splat(1.0f));
        gradient_[i] += pick(held, g * bound, pull * -2.0f * sign / (absolute(w) + kTiny));
        spread_gradient_[i] = pick(held, V{}, g * variance_[i] + pull);
      }
    }
  }

  void give(const V* from, float* to, std::size_t block) const {
    std::memcpy(to + block * count_ * kLanes, from, count_ * sizeof(V));
  }

  void step(std::size_t s) {
    const V rate = lr_ * (job_.rate ? job_.rate[s] : 1.0f);
    const double number = static_cast<double>(job_.step + s + 1);
    const V bias = splat(static_cast<float>(1.0 / (1.0 - std::pow(double(job_.momentum), number))));
    const V root2 = splat(
        static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(double(job_.beta2), number))));
    const Adam adam{rate, rate * bias, splat(job_.momentum), root2};
    for (std::size_t i = 0; i < count_; ++i) {
      move(i, weights_.get(), gradient_.get(), first_.get(), second_.get(), adam, decay_);
    }
    if (!variational_) return;
    const V decay = job_.variational.decayed ? decay_ : V{};
    for (std::size_t i = 0; i < count_; ++i) {
      move(i, spread_.get(), spread_gradient_.get(), spread_first_.get(), spread_second_.get(), adam,
           decay);
    }
  }

  THRIFTY_INLINE void move(std::size_t i, V* values, const V* gradient, V* first, V* second,
                           const Adam& adam, V decay) {
    V p = values[i], g = gradient[i];
    M alive = every();
    if (mask_ && values == weights_.get()) {
      typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
      Bytes b;
      std::memcpy(&b, mask_ + i * kLanes, kLanes);
      const I whole = __builtin_convertvector(b, I);
      alive = without(every(), same(whole, 0));
      g = only(alive, g);  // by bits, for zero times NaN is NaN
      p = only(alive, p);
    }
    const float momentum = job_.momentum, beta2 = job_.beta2;
    if (job_.optimizer == Optimizer::sgd) {
      g += decay * p;
      if (momentum != 0) {
        const V m = momentum * first[i] + g;
        first[i] = m;
        g = job_.nesterov ? g + momentum * m : m;
      }
      values[i] = only(alive, p - adam.rate * g);
      return;
    }
    if (job_.optimizer == Optimizer::adam) {
      g += decay * p;
    } else {
      p -= adam.rate * decay * p;
    }
    const V m = momentum * first[i] + (1.0f - momentum) * g;
    const V v = beta2 * second[i] + (1.0f - beta2) * g * g;
    first[i] = m, second[i] = v;
    values[i] = only(alive, p - adam.bias * m / (root(v) * adam.two + job_.epsilon));
  }

  void report(std::size_t block) const {
    for (int l = 0; l < kLanes; ++l) {
      if (job_.loss) job_.loss[block * kLanes + l] = loss_[l];
      if (job_.right) job_.right[block * kLanes + l] = right_[l];
    }
  }
  Vectors first_, second_, spread_, spread_first_, spread_second_;
  const std::uint8_t* mask_ = nullptr;
  V lr_{}, decay_{};
  std::vector<std::int32_t> order_;
};

// Blocks are taken by threads in turn; an error of one is thrown again at the end.
template <class F>
void in_threads(const Job& job, F f) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> short_of_memory{false};
  const auto work = [&] {
    try {
      Block block(job);
      for (std::size_t b; (b = next.fetch_add(1)) < job.blocks;) f(block, b);
    } catch (const std::bad_alloc&) {
      short_of_memory = true;
    }
  };
  std::vector<std::thread> threads;
  const std::size_t most = std::min<std::size_t>(job.threads, job.blocks);
  try {
    for (std::size_t i = 1; i < most; ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {  // the system gives no more threads
  }
  work();
  for (std::thread& each : threads) each.join();
  if (short_of_memory) throw std::bad_alloc();
}

void train(const Job& job) {
  in_threads(job, [](Block& block, std::size_t b) { block.train(b); });
}
void evaluate(const Job& job) {
  in_threads(job, [](Block& block, std::size_t b) { block.evaluate(b); });
}

double peak(double seconds) {
  using Clock = std::chrono::steady_clock;
  V sum[16];
  for (int i = 0; i < 16; ++i) sum[i] = splat(0.1f * static_cast<float>(i));
  const V by = splat(0.999f), more = splat(1e-3f);
  double best = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    const auto start = Clock::now();
    for (int n = 0; n < 100000; ++n) {
      THRIFTY_UNROLL for (int i = 0; i < 16; ++i) sum[i] = sum[i] * by + more;
    }
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 100000.0 * 16 * kLanes / took);
  }
  V all{};
  for (const V& each : sum) all += each;
  volatile float sink = all[0];
  static_cast<void>(sink);
  return best;
}

}  // namespace

const Kernels THRIFTY_TABLE{THRIFTY_NAME, kLanes, train, evaluate, peak};

}  // namespace thrifty::lanes
