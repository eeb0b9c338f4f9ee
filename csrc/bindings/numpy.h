// Between numpy arrays and the core. Arrays are checked, and copied or held, while the GIL is held.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <vector>

#include "base/check.h"
#include "base/tensor.h"

namespace tuili::bindings {

namespace py = pybind11;
using pybind11::literals::operator""_a;  // "name"_a

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;
using MaskArray = py::array_t<uint32_t, py::array::c_style>;
using HalfArray = py::array_t<uint16_t, py::array::c_style>;

// Token ids or indices: a list or an integer array of any layout, copied. Each must fit int32 and be >= 0.
inline std::vector<int32_t> to_ids(const py::object& object, const char* name) {
  const py::array array = py::array::ensure(object);
  TUILI_CHECK(array && array.ndim() == 1, name, " must be one-dimensional and hold integers");
  if (array.size() == 0) return {};
  const char kind = array.dtype().kind();
  TUILI_CHECK_KIND(ErrorKind::token_id, kind == 'i' || kind == 'u', name, " must hold integers");
  const auto wide = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
  std::vector<int32_t> ids(static_cast<size_t>(wide.size()));
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = wide.data()[i];
    TUILI_CHECK_KIND(ErrorKind::token_id, id >= 0 && id <= std::numeric_limits<int32_t>::max(), name, ": ",
                     id, " is no token id");
    ids[i] = static_cast<int32_t>(id);
  }
  return ids;
}

// A view of an array of float32 as a tensor; the array must outlive it.
inline TensorView view_of(const FloatArray& array) {
  TensorView view;
  TUILI_CHECK(array.ndim() >= 1 && array.ndim() <= kMaxDims, "an array of ", array.ndim(), " dimensions");
  view.data = const_cast<float*>(array.data());
  view.n_dims = static_cast<int>(array.ndim());
  view.row_stride = 1;
  for (int i = 0; i < view.n_dims; ++i) {
    view.shape[i] = array.shape(i);
    if (i > 0) view.row_stride *= array.shape(i);
  }
  return view;
}

inline void check_dims(const py::array& array, const char* name, py::ssize_t n_dims) {
  TUILI_CHECK(array.ndim() == n_dims, name, " must have ", n_dims, " dimensions, not ", array.ndim());
}

inline void check_length(const py::array& array, const char* name, int64_t length) {
  TUILI_CHECK(array.ndim() == 1 && array.shape(0) == length, name, " must have shape [", length, "], not ",
              array.ndim(), " dimensions and ", array.size(), " elements");
}

}  // namespace tuili::bindings
