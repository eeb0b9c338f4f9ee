// What Python calls the core's enumerators, formats and devices.
#pragma once

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/device.h"
#include "ops/ops.h"

namespace tuili::bindings {

// An instruction set's name; None: this CPU's best. The core takes null for that.
using Isa = std::optional<std::string>;
inline const char* name_or_null(const Isa& isa) { return isa ? isa->c_str() : nullptr; }

// An enumerator, and what Python calls it.
template <class Value>
struct Named {
  const char* name;
  Value value;
};

// The one of that name. Throws invalid_parameter, which lists them all; `what` is the argument's name.
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

// One that is no CPU, for what `call` does.
inline Device cuda_named(const std::string& text, const char* call) {
  const Device device = device_named(text);
  TUILI_CHECK(device.kind == DeviceKind::cuda, call, ": device is \"", text, "\"");
  return device;
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
