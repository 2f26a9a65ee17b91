// bindings.cc: the lanes for Python; no other file of them knows Python.
//
// Arrays are contiguous, are not copied, and must stay unchanged by others during a call; the
// interpreter's lock is released meanwhile.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "lanes.h"

namespace nb = nanobind;

namespace thrifty::lanes {
namespace {

template <class T, int dims>
using Array = nb::ndarray<T, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;
using State = Array<float, 3>;
template <class T>
using Given = std::optional<T>;

Act act_of(const std::string& name) {
  static const std::map<std::string, Act> acts = {
      {"none", Act::none}, {"relu", Act::relu}, {"tanh", Act::tanh}, {"sigmoid", Act::sigmoid},
      {"gelu", Act::gelu}, {"leaky_relu", Act::leaky_relu}, {"silu", Act::silu}};
  const auto found = acts.find(name);
  if (found == acts.end()) throw std::invalid_argument("no activation is called " + name);
  return found->second;
}

Optimizer optimizer_of(const std::string& name) {
  if (name == "sgd") return Optimizer::sgd;
  if (name == "adam") return Optimizer::adam;
  if (name == "adamw") return Optimizer::adamw;
  throw std::invalid_argument("no optimizer is called " + name);
}

// A network, the blocks of models that have it, and the kernels that run them.
class Lanes {
 public:
  explicit Lanes(const std::string& target) : kernels_(kernels_named(target)) {}

  void add(bool conv, int inputs, int outputs, int height, int width, int kernel, int stride,
           int padding, int pool, int pool_stride, bool pool_first, const std::string& act,
           bool dropout, bool bias) {
    Layer l;
    l.conv = conv, l.inputs = inputs, l.outputs = outputs, l.height = height, l.width = width;
    l.kernel = kernel, l.stride = stride, l.padding = padding;
    l.pool = pool, l.pool_stride = pool_stride, l.pool_first = pool_first;
    l.act = act_of(act), l.dropout = dropout, l.bias = bias;
    network_.layers.push_back(l);
  }

  void run(bool training, State weights, Given<State> first, Given<State> second,
           Given<Array<const std::uint8_t, 3>> mask, Array<const float, 2> lr,
           Array<const float, 2> weight_decay, Array<const float, 2> dropout,
           Array<const std::uint64_t, 2> seed, Array<const std::uint8_t, 2> inputs,
           Array<const std::int32_t, 1> labels, Array<const float, 1> mean,
           Array<const float, 1> deviation, const std::string& optimizer, float momentum,
           float beta2, float epsilon, bool nesterov, bool shared, int batch,
           Given<Array<const float, 1>> rate, std::uint64_t epoch, std::uint64_t step,
           Given<State> spread, Given<State> spread_first, Given<State> spread_second,
           float divergence, float clip_conv, float clip_linear, float cut, bool noisy_biases,
           bool decayed, int threads, Array<double, 2> loss, Array<std::int64_t, 2> right,
           Given<Array<std::uint8_t, 3>> classes, Given<State> gradient,
           Given<State> spread_gradient) const {
    check(network_);
    Job job;
    job.network = &network_;
    job.blocks = weights.shape(0);
    const auto state = [&](const Given<State>& array, const char* name) -> float* {
      if (!array) return nullptr;
      sized(array->shape(0), array->shape(1), array->shape(2), job.blocks,
            network_.parameters(), name);
      return array->data();
    };
    job.weights = state(weights, "weights");
    job.first = state(first, "first"), job.second = state(second, "second");
    job.spread = state(spread, "spread");
    job.spread_first = state(spread_first, "spread_first");
    job.spread_second = state(spread_second, "spread_second");
    job.gradient = state(gradient, "gradient");
    job.spread_gradient = state(spread_gradient, "spread_gradient");
    if (mask) {
      sized(mask->shape(0), mask->shape(1), mask->shape(2), job.blocks, network_.parameters(),
            "mask");
      job.mask = mask->data();
    }
    const auto lanes = [&](const auto& array, const char* name) {
      sized(array.shape(0), 1, array.shape(1), job.blocks, 1, name);
      return array.data();
    };
    job.hyper = {lanes(lr, "lr"), lanes(weight_decay, "weight_decay"), lanes(dropout, "dropout"),
                 lanes(seed, "seed")};
    job.loss = lanes(loss, "loss");
    job.right = lanes(right, "right");
    const std::size_t count = inputs.shape(0);
    if (inputs.shape(1) != network_.inputs() || labels.shape(0) != count ||
        count > std::size_t(1) << 30) {
      throw std::invalid_argument("inputs and labels do not fit the network or each other");
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (labels.data()[i] < 0 || labels.data()[i] >= network_.classes()) {
        throw std::invalid_argument("a label is no class of the network");
      }
    }
    const std::size_t channels = network_.layers[0].conv ? network_.channels() : 1;
    if (mean.shape(0) != channels || deviation.shape(0) != channels) {
      throw std::invalid_argument("mean and deviation have a number a channel");
    }
    job.samples = {inputs.data(), labels.data(), count, mean.data(), deviation.data()};
    job.optimizer = optimizer_of(optimizer);
    job.momentum = momentum, job.beta2 = beta2, job.epsilon = epsilon;
    job.nesterov = nesterov, job.shared = shared, job.batch = batch;
    if (batch < 1) throw std::invalid_argument("a batch has one sample at least");
    if (rate) {
      const std::size_t each = std::min<std::size_t>(batch, count);
      if (each && rate->shape(0) < count / each) {
        throw std::invalid_argument("rate has a number a step");
      }
      job.rate = rate->data();
    }
    job.epoch = epoch, job.step = step;
    job.variational = {training && spread.has_value(), divergence, clip_conv, clip_linear, cut,
                       noisy_biases, decayed};
    job.threads = std::max(1, std::min(threads, 256));
    if (training && !gradient) {
      const bool adam = job.optimizer != Optimizer::sgd, moments = adam || momentum != 0;
      const bool lacks = (moments && !first) || (adam && !second) ||
                         (spread && ((moments && !spread_first) || (adam && !spread_second)));
      if (lacks) throw std::invalid_argument("the optimizer's moments are missing");
    }
    if (classes) {
      sized(classes->shape(0), classes->shape(1), classes->shape(2), job.blocks, count, "classes");
      job.classes = classes->data();
    }
    const nb::gil_scoped_release released;
    if (training) {
      kernels_.train(job);
    } else {
      kernels_.evaluate(job);
    }
  }

  std::size_t parameters() const {
    check(network_);
    return network_.parameters();
  }
  int lanes() const { return kernels_.lanes; }
  double peak(double seconds) const {
    const nb::gil_scoped_release released;
    return kernels_.peak(seconds);
  }

 private:
  void sized(std::size_t a, std::size_t b, std::size_t c, std::size_t blocks, std::size_t numbers,
             const char* name) const {
    if (a != blocks || b != numbers || c != static_cast<std::size_t>(kernels_.lanes)) {
      throw std::invalid_argument(std::string(name) + " has another size than blocks, numbers and "
                                                      "lanes");
    }
  }

  const Kernels& kernels_;
  Network network_;
};

nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>> order(std::uint64_t seed, std::uint64_t epoch, std::size_t count) {
  if (count > std::size_t(1) << 30) throw std::invalid_argument("that is too many samples");
  auto made = std::make_unique<std::int32_t[]>(count);
  shuffled(seed, epoch, count, made.get());
  std::int32_t* at = made.release();
  nb::capsule owner(at, [](void* p) noexcept { delete[] static_cast<std::int32_t*>(p); });
  return {at, {count}, owner};
}

}  // namespace

NB_MODULE(_lanes, m) {
  nb::class_<Lanes>(m, "Lanes")
      .def(nb::init<const std::string&>())
      .def("add", &Lanes::add, nb::kw_only(), nb::arg("conv"), nb::arg("inputs"),
           nb::arg("outputs"), nb::arg("height"), nb::arg("width"), nb::arg("kernel"),
           nb::arg("stride"), nb::arg("padding"), nb::arg("pool"), nb::arg("pool_stride"),
           nb::arg("pool_first"), nb::arg("act"), nb::arg("dropout"), nb::arg("bias"))
      .def("run", &Lanes::run, nb::kw_only(), nb::arg("training"), nb::arg("weights"),
           nb::arg("first").none(), nb::arg("second").none(), nb::arg("mask").none(),
           nb::arg("lr"), nb::arg("weight_decay"), nb::arg("dropout"), nb::arg("seed"),
           nb::arg("inputs"), nb::arg("labels"), nb::arg("mean"), nb::arg("deviation"),
           nb::arg("optimizer"), nb::arg("momentum"), nb::arg("beta2"), nb::arg("epsilon"),
           nb::arg("nesterov"), nb::arg("shared"), nb::arg("batch"), nb::arg("rate").none(),
           nb::arg("epoch"), nb::arg("step"), nb::arg("spread").none(),
           nb::arg("spread_first").none(), nb::arg("spread_second").none(),
           nb::arg("divergence"), nb::arg("clip_conv"), nb::arg("clip_linear"), nb::arg("cut"),
           nb::arg("noisy_biases"), nb::arg("decayed"), nb::arg("threads"), nb::arg("loss"),
           nb::arg("right"), nb::arg("classes").none(), nb::arg("gradient").none(),
           nb::arg("spread_gradient").none())
      .def("parameters", &Lanes::parameters)
      .def("lanes", &Lanes::lanes)
      .def("peak", &Lanes::peak, nb::arg("seconds"));
  m.def("order", &order, nb::arg("seed"), nb::arg("epoch"), nb::arg("count"));
}

}  // namespace thrifty::lanes
