// engine_bindings.cc: the engine for Python; no other file of it knows Python.
//
// Arrays come as contiguous float32, are not copied, and must stay unchanged during a call; the
// interpreter's lock is released meanwhile.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "net.h"

namespace nb = nanobind;

namespace thrifty::engine {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using StepTuple = std::tuple<int, float, float, int, int>;

constexpr int kSteps = static_cast<int>(Do::blend) + 1;

Kind kind_of(const std::string& name) {
  static const std::map<std::string, Kind> kinds = {
      {"conv", Kind::conv},           {"linear", Kind::linear},
      {"pointwise", Kind::pointwise}, {"channel_scale", Kind::channel_scale},
      {"max_pool", Kind::max_pool},   {"avg_pool", Kind::avg_pool},
      {"global_pool", Kind::global_pool}, {"channels", Kind::channels},
      {"rearrange", Kind::rearrange}, {"softmax", Kind::softmax}};
  const auto found = kinds.find(name);
  if (found == kinds.end()) throw std::invalid_argument("no operation is called " + name);
  return found->second;
}

std::vector<float> copied(const std::optional<Floats>& array) {
  if (!array) return {};
  return {array->data(), array->data() + array->size()};
}

void add(Net& net, const std::string& kind, const std::string& name, std::vector<int> inputs,
         int output, const std::vector<StepTuple>& steps, const std::array<int, 2>& kernel,
         const std::array<int, 2>& stride, const std::array<int, 4>& padding,
         const std::array<int, 2>& dilation, int groups, bool largest, bool count_padding,
         double divisor, const std::optional<Floats>& weight, const std::optional<Floats>& scale,
         const std::optional<Floats>& shift, const std::optional<Numbers>& places, float rest) {
  OpSpec op;
  op.kind = kind_of(kind);
  op.name = name;
  op.inputs = std::move(inputs);
  op.output = output;
  for (const auto& [what, a, b, x, h] : steps) {
    if (what < 0 || what >= kSteps) throw std::invalid_argument(name + ": no such step");
    op.steps.push_back({static_cast<Do>(what), a, b, x, h});
  }
  std::copy(kernel.begin(), kernel.end(), op.kernel);
  std::copy(stride.begin(), stride.end(), op.stride);
  std::copy(padding.begin(), padding.end(), op.padding);
  std::copy(dilation.begin(), dilation.end(), op.dilation);
  op.groups = groups;
  op.largest = largest;
  op.count_padding = count_padding;
  op.divisor = divisor;
  op.scale = copied(scale);
  op.shift = copied(shift);
  if (places) op.places.assign(places->data(), places->data() + places->size());
  op.rest = rest;
  net.add(std::move(op), weight ? weight->data() : nullptr, weight ? weight->size() : 0);
}

// The arrays' memory, after a look at their sizes.
template <class Pointer, class Array>
std::vector<Pointer> memory_of(const Net& net, const std::vector<int>& values,
                               const std::vector<Array>& arrays, std::size_t n) {
  if (arrays.size() != values.size()) throw std::invalid_argument("arrays are missing");
  std::vector<Pointer> made;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (arrays[i].size() != times(n, net.values[values[i]].size())) {
      throw std::invalid_argument("an array has another size than its value");
    }
    made.push_back(arrays[i].data());
  }
  return made;
}

void run(Net& net, const std::vector<Floats>& in, const std::vector<Writable>& out, std::size_t n,
         int threads) {
  const auto from = memory_of<const float*>(net, net.inputs, in, n);
  const auto to = memory_of<float*>(net, net.outputs, out, n);
  const nb::gil_scoped_release release;
  net.run(from, to, n, threads);
}

std::vector<std::tuple<int, std::string, double>> profile(Net& net, const std::vector<Floats>& in,
                                                          const std::vector<Writable>& out,
                                                          std::size_t n) {
  const auto from = memory_of<const float*>(net, net.inputs, in, n);
  const auto to = memory_of<float*>(net, net.outputs, out, n);
  std::vector<std::tuple<int, std::string, double>> made;
  for (const Timing& each : net.profile(from, to, n)) {
    made.emplace_back(each.op, each.how, each.seconds);
  }
  return made;
}

Net* make(const std::string& target, const std::vector<std::array<int, 3>>& shapes,
          std::vector<int> inputs, std::vector<int> outputs,
          std::shared_ptr<Budget> budget) {
  std::vector<Shape> values;
  for (const auto& [c, h, w] : shapes) values.push_back({c, h, w});
  if (!budget) budget = std::make_shared<Budget>(static_cast<std::size_t>(-1));
  return new Net(kernels_named(target.c_str()), std::move(values), std::move(inputs),
                 std::move(outputs), std::move(budget));
}

}  // namespace
}  // namespace thrifty::engine

NB_MODULE(_engine, m) {
  using thrifty::engine::Net;
  m.doc() = "The compiled engine of thrifty.engine.";
  using thrifty::engine::Budget;
  nb::exception<thrifty::engine::TooLarge>(m, "TooLarge", PyExc_MemoryError);
  nb::class_<Budget>(m, "Budget")
      .def(nb::init<std::size_t>(), nb::arg("bytes"))
      .def("take", &Budget::take, nb::arg("bytes"), nb::arg("what"))
      .def("left", &Budget::left);
  nb::class_<Net>(m, "Net")
      .def(nb::new_(&thrifty::engine::make), nb::arg("target"), nb::arg("shapes"),
           nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("budget") = nb::none())
      .def("add", &thrifty::engine::add, nb::arg("kind"), nb::arg("name"), nb::arg("inputs"),
           nb::arg("output"), nb::arg("steps"), nb::kw_only(), nb::arg("kernel"),
           nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"), nb::arg("groups"),
           nb::arg("largest"), nb::arg("count_padding"), nb::arg("divisor"),
           nb::arg("weight").none(), nb::arg("scale").none(), nb::arg("shift").none(),
           nb::arg("places").none(), nb::arg("rest"))
      .def("run", &thrifty::engine::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("n"),
           nb::arg("threads"))
      .def("profile", &thrifty::engine::profile, nb::arg("inputs"), nb::arg("outputs"),
           nb::arg("n"))
      .def("prepare", &Net::prepare, nb::call_guard<nb::gil_scoped_release>())
      .def("set_images", &Net::set_images, nb::arg("images"))
      .def("bytes", &Net::bytes)
      .def("taken", &Net::taken);
}
