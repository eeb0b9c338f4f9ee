// Errors of the core. User mistakes and faults are exceptions of one type; programmer errors are asserts.
#pragma once

#include <exception>
#include <sstream>
#include <string>
#include <utility>

namespace tuili {

// Classes of python/tuili/errors.py that the core raises; bindings/module.cc translates.
enum class ErrorKind {
  invalid_parameter,
  model_format,
  model_unsupported,
  token_id,
  out_of_memory,
  engine_forked,
  device_lost,
  internal,
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorKind kind_;
  std::string message_;
};

// join("rows ", 3, " of ", x): whatever operator<< prints, in one string.
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace tuili

// The message is built only on failure.
#define TUILI_CHECK_KIND(kind, condition, ...)                  \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      throw ::tuili::Error((kind), ::tuili::join(__VA_ARGS__)); \
  } while (false)

#define TUILI_CHECK(condition, ...) \
  TUILI_CHECK_KIND(::tuili::ErrorKind::invalid_parameter, condition, __VA_ARGS__)

// A failure is a fault of the core's own, never of a file or a request: those were checked where they came
// in.
#define TUILI_EXPECT(condition, ...) TUILI_CHECK_KIND(::tuili::ErrorKind::internal, condition, __VA_ARGS__)
