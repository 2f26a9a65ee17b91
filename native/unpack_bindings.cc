// unpack_bindings.cc: unpack.h for Python; see bindings.cc for what arrays are.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "unpack.h"

namespace nb = nanobind;

namespace thrifty {
namespace {

using Array = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Planes planes_of(const std::vector<Array>& arrays, bool rotated) {
  require(!arrays.empty() && arrays.size() <= kMostPlanes, "a value has 1, 2, 4 or 8 planes");
  Planes planes{{}, arrays.size(), arrays[0].size(), rotated};
  for (std::size_t b = 0; b < arrays.size(); ++b) {
    require(arrays[b].size() == planes.values, "the planes are of different lengths");
    planes.data[b] = arrays[b].data();
  }
  return planes;
}

std::size_t count_values(const std::string& encoding, const Array& positions, std::size_t count) {
  const nb::gil_scoped_release release;
  return count_positions(encoding_of(encoding), {positions.data(), positions.size()}, count);
}

void dense(const std::string& encoding, const Array& positions, const std::vector<Array>& planes,
           bool rotated, const Writable& out) {
  const nb::gil_scoped_release release;
  const Planes values = planes_of(planes, rotated);
  const std::size_t count = check_count({out.data(), out.size()}, values.planes);
  unpack_dense(encoding_of(encoding), {positions.data(), positions.size()}, values, count,
               out.data());
}

void indices(const std::string& encoding, const Array& positions, std::size_t count,
             const Integers& out) {
  const nb::gil_scoped_release release;
  unpack_indices(encoding_of(encoding), {positions.data(), positions.size()}, count, out.size(),
                 out.data());
}

}  // namespace

void bind_unpack(nb::module_& m) {
  m.def("unpack_count", &count_values, nb::arg("encoding"), nb::arg("positions").noconvert(),
        nb::arg("count"));
  m.def("unpack_dense", &dense, nb::arg("encoding"), nb::arg("positions").noconvert(),
        nb::arg("planes").noconvert(), nb::arg("rotated"), nb::arg("out").noconvert());
  m.def("unpack_indices", &indices, nb::arg("encoding"), nb::arg("positions").noconvert(),
        nb::arg("count"), nb::arg("out").noconvert());
}

}  // namespace thrifty
