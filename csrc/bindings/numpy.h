// Between numpy arrays and the core. Arrays are checked, and copied or held, while the GIL is held.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "ops/ops.h"

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

// An enumerator as Python writes it.
template <class Value>
struct Named {
  const char* name;
  Value value;
};

template <class Value, size_t kCount>
Value choose(const std::string& text, const char* what, const Named<Value> (&choices)[kCount]) {
  std::string known;
  for (const auto& [name, value] : choices) {
    if (text == name) return value;
    known += (known.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  }
  throw Error(ErrorKind::invalid_parameter, join(what, " must be one of ", known, ", not \"", text, "\""));
}

template <class Value, size_t kCount>
const char* name_of(Value value, const Named<Value> (&names)[kCount]) {
  const auto* const found = std::ranges::find(names, value, &Named<Value>::value);
  TUILI_EXPECT(found != std::end(names), "no name for ", static_cast<int>(value));
  return found->name;
}

inline Format to_format(const std::string& text) {
  for (int i = 0; i < kFormatCount; ++i)
    if (text == kFormatInfo[i].name) return static_cast<Format>(i);
  std::string known;
  for (const FormatInfo& info : kFormatInfo) known += join(known.empty() ? "\"" : ", \"", info.name, "\"");
  throw Error(ErrorKind::invalid_parameter, join("format must be one of ", known, ", not \"", text, "\""));
}

inline ops::Compute to_compute(const std::string& text) {
  return choose<ops::Compute>(
      text, "compute",
      {{"auto", ops::Compute::automatic}, {"int8", ops::Compute::int8}, {"float32", ops::Compute::float32}});
}

inline DType to_kv_type(const std::string& text) {
  return choose<DType>(
      text, "dtype",
      {{"float32", DType::f32}, {"float16", DType::f16}, {"bfloat16", DType::bf16}, {"int8", DType::i8}});
}

// Where a single op runs.
inline DeviceKind to_device(const std::string& text) {
  return choose<DeviceKind>(text, "device", {{"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}});
}

// "cpu", "cuda", which is the first, or "cuda:N".
inline Device device_named(const std::string& text) {
  if (text == "cpu") return {};
  const std::string_view digits = text == "cuda"              ? "0"
                                  : text.starts_with("cuda:") ? std::string_view(text).substr(5)
                                                              : "";
  int ordinal = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), ordinal);
  TUILI_CHECK(error == std::errc() && end == digits.data() + digits.size() && ordinal >= 0,
              "device must be \"cpu\", \"cuda\" or \"cuda:N\", not \"", text, "\"");
  return {DeviceKind::cuda, ordinal};
}

inline std::string name_of(Device device) {
  if (device.kind == DeviceKind::cpu) return "cpu";
  return device.ordinal == 0 ? "cuda" : join("cuda:", device.ordinal);
}

inline constexpr Named<ops::Activation> kActivations[] = {{"silu", ops::Activation::silu},
                                                          {"gelu", ops::Activation::gelu},
                                                          {"gelu_tanh", ops::Activation::gelu_tanh},
                                                          {"relu", ops::Activation::relu},
                                                          {"quick_gelu", ops::Activation::quick_gelu},
                                                          {"relu_squared", ops::Activation::relu_squared},
                                                          {"relu6", ops::Activation::relu6},
                                                          {"leaky_relu", ops::Activation::leaky_relu},
                                                          {"hardswish", ops::Activation::hardswish},
                                                          {"mish", ops::Activation::mish},
                                                          {"sigmoid", ops::Activation::sigmoid},
                                                          {"tanh", ops::Activation::tanh},
                                                          {"identity", ops::Activation::identity}};

inline ops::Activation to_activation(const std::string& text) {
  return choose(text, "activation", kActivations);
}

}  // namespace tuili::bindings
