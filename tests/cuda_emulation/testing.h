// A test is a function; main runs all and prints "PASS name" or "FAIL name: why" per line.
#pragma once

#include <sstream>
#include <stdexcept>
#include <vector>

namespace tuili::testing {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

template <typename... Parts>
void require(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream out;
  (out << ... << parts);
  throw std::runtime_error(out.str());
}

}  // namespace tuili::testing

#define TUILI_TEST(name)                                                     \
  static void name();                                                        \
  static const ::tuili::testing::Registration register_##name(#name, &name); \
  static void name()
