// bindings.cc: the counts of counts.h for Python; no other file knows Python.
//
// Arrays come as one-dimensional contiguous views of bytes, are not copied, and must stay
// unchanged during a call; the interpreter's lock is released meanwhile.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"
#include "counts.h"
#include "targets.h"

namespace nb = nanobind;

namespace thrifty {

void bind_unpack(nb::module_& m);  // unpack_bindings.cc

namespace {

using Array = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = std::vector<std::uint64_t>;

Bytes bytes_of(const Array& array) { return {array.data(), array.size()}; }

std::vector<std::string> names() {
  std::vector<std::string> found;
  for (const Kernels* each : available()) found.emplace_back(each->name);
  return found;
}

Counts below(const std::string& target, const std::string& dtype, const Array& data,
             const Counts& limits, int threads) {
  const nb::gil_scoped_release release;
  return count_below(kernels(target), type_of(dtype), bytes_of(data), limits, threads);
}

std::tuple<Counts, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
           double, double>
tally(const std::string& target, const std::string& dtype, const Array& data, const Counts& limits,
      bool sums, int threads) {
  const nb::gil_scoped_release release;
  const Tally all =
      count_all(kernels(target), type_of(dtype), bytes_of(data), limits, sums, threads);
  return {all.under,          all.found.zeros, all.found.negative_zeros,
          all.found.infinite, all.found.nan,   all.found.largest,
          all.total,          all.squares};
}

Counts octaves(const std::string& target, const std::string& dtype, const Array& data,
               int threads) {
  const nb::gil_scoped_release release;
  return count_octaves(kernels(target), type_of(dtype), bytes_of(data), threads);
}

Counts patterns(const std::string& target, const Array& data, int threads) {
  const nb::gil_scoped_release release;
  return count_patterns(kernels(target), bytes_of(data), threads);
}

std::optional<std::tuple<double, std::uint64_t, std::uint64_t>> place(
    const std::string& target, const std::vector<Array>& arrays, std::uint64_t k, bool magnitude,
    int threads) {
  const nb::gil_scoped_release release;
  std::vector<Bytes> parts;
  for (const Array& array : arrays) parts.push_back(bytes_of(array));
  const auto found = find_place(kernels(target), parts, k, magnitude, threads);
  if (!found) return std::nullopt;
  return std::tuple(double{found->value}, found->smaller, found->equal);
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "The compiled kernels of thrifty.native.";
  m.def("available", &names);
  m.def("below", &below, nb::arg("target"), nb::arg("dtype"), nb::arg("data").noconvert(),
        nb::arg("limits"), nb::arg("threads"));
  m.def("tally", &tally, nb::arg("target"), nb::arg("dtype"), nb::arg("data").noconvert(),
        nb::arg("limits"), nb::arg("sums"), nb::arg("threads"));
  m.def("octaves", &octaves, nb::arg("target"), nb::arg("dtype"), nb::arg("data").noconvert(),
        nb::arg("threads"));
  m.def("patterns", &patterns, nb::arg("target"), nb::arg("data").noconvert(), nb::arg("threads"));
  m.def("place", &place, nb::arg("target"), nb::arg("arrays").noconvert(), nb::arg("k"),
        nb::arg("magnitude"), nb::arg("threads"));
  bind_unpack(m);
}

}  // namespace thrifty
