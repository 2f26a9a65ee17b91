// lanes.h: a population of small networks of one architecture, a model in each lane of a vector.
//
// Every number of the network is a vector that holds it for as many models as the processor has
// lanes, so that no layer is too small for the registers.  State lies as [block][parameter][lane].
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace thrifty::lanes {

enum class Act { none, relu, tanh, sigmoid, gelu, leaky_relu, silu };
enum class Optimizer { sgd, adam, adamw };

// A convolution (square kernel) or a linear layer, and what follows it.
struct Layer {
  bool conv = false;
  int inputs = 0, outputs = 0;  // channels, or features
  int height = 1, width = 1;    // of the input
  int kernel = 1, stride = 1, padding = 0;
  int pool = 1, pool_stride = 1;  // maximum, no padding; 1: none
  bool pool_first = true;         // before the activation
  Act act = Act::none;
  bool dropout = false;           // after both, at each lane's rate
  bool bias = true;

  int taps() const { return conv ? kernel * kernel : 1; }
  int out_height() const { return conv ? (height + 2 * padding - kernel) / stride + 1 : 1; }
  int out_width() const { return conv ? (width + 2 * padding - kernel) / stride + 1 : 1; }
  int pooled_height() const { return pool > 1 ? (out_height() - pool) / pool_stride + 1 : out_height(); }
  int pooled_width() const { return pool > 1 ? (out_width() - pool) / pool_stride + 1 : out_width(); }
  std::size_t weights() const { return std::size_t(outputs) * inputs * taps(); }
  std::size_t parameters() const { return weights() + (bias ? outputs : 0); }
  std::size_t results() const { return std::size_t(outputs) * pooled_height() * pooled_width(); }
};

struct Network {
  std::vector<Layer> layers;
  std::size_t parameters() const;
  std::size_t inputs() const;   // numbers of a sample
  int channels() const { return layers[0].inputs; }
  int classes() const { return layers.back().outputs; }
};

// Throws std::invalid_argument, naming the layer, where layers do not fit each other or sizes are
// none.
void check(const Network& network);

// Numbers of a lane; the arrays of a job have one for every lane of every block.
struct Hyper {
  const float *lr, *weight_decay, *dropout;
  const std::uint64_t* seed;
};

// Samples as bytes, scaled to (x - mean) / deviation of their channel.
struct Samples {
  const std::uint8_t* inputs = nullptr;
  const std::int32_t* labels = nullptr;
  std::size_t count = 0;
  const float *mean = nullptr, *deviation = nullptr;  // a number a channel, of x / 255
};

struct Variational {
  bool on = false;
  float scale = 0;         // of the divergence, beside the mean loss
  float clip_conv = 8, clip_linear = 8;  // of log alpha
  float cut = 3;           // log alpha from which a weight is zero in evaluation
  bool biases = false;     // noise on the biases of convolutions too
  bool decayed = false;    // weight decay pulls log sigma^2 too
};

// A job on some blocks.  The pointers of the state are to [blocks][parameters][lanes].
struct Job {
  const Network* network = nullptr;
  std::size_t blocks = 0;
  float *weights = nullptr, *first = nullptr, *second = nullptr;  // and the optimizer's moments
  // log sigma^2 of every parameter with its moments, for variational dropout
  float *spread = nullptr, *spread_first = nullptr, *spread_second = nullptr;
  const std::uint8_t* mask = nullptr;  // [blocks][parameters][lanes]: 0 stays zero
  Hyper hyper{};
  Samples samples;
  Optimizer optimizer = Optimizer::sgd;
  float momentum = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
  bool nesterov = false;
  bool shared = false;  // one order of samples for all lanes: that of the first
  int batch = 1;
  const float* rate = nullptr;   // share of the learning rate at each step of the epoch, or null
  std::uint64_t epoch = 0;       // decides, with a lane's seed, order and noise
  std::uint64_t step = 0;        // optimizer steps before this epoch
  Variational variational;
  int threads = 1;
  // Of each lane over the epoch: the summed loss and how many were right.
  double* loss = nullptr;
  std::int64_t* right = nullptr;
  // Evaluation: the class of each sample [blocks][samples][lanes], or null.
  std::uint8_t* classes = nullptr;
  // For tests: the gradient of the first batch, [blocks][parameters][lanes], instead of a step.
  float *gradient = nullptr, *spread_gradient = nullptr;
};

// The order in which a lane sees the samples in an epoch.
void shuffled(std::uint64_t seed, std::uint64_t epoch, std::size_t count, std::int32_t* order);
// A number that is decided by three.
std::uint64_t mixed(std::uint64_t a, std::uint64_t b, std::uint64_t c);

// One width of vectors.
struct Kernels {
  const char* name;
  int lanes;
  void (*train)(const Job&);     // an epoch
  void (*evaluate)(const Job&);
  double (*peak)(double seconds);  // products and sums a second of one core, measured
};

extern const Kernels kBaselineLanes, kAvx2Lanes, kAvx512Lanes;
// Throws std::invalid_argument where the processor has not what it takes.
const Kernels& kernels_named(const std::string& name);

}  // namespace thrifty::lanes
