// Runs all tests of a program. Usage: PROGRAM [--stop]
//   --stop    at the first failure
#include <cstdio>
#include <exception>
#include <string_view>

#include "testing.h"

int main(int n_arguments, char** arguments) {
  const bool stop = n_arguments > 1 && std::string_view(arguments[1]) == "--stop";
  int n_failed = 0;
  for (const tuili::testing::Test& test : tuili::testing::tests()) {
    if (stop && n_failed > 0) break;
    try {
      test.run();
      std::printf("PASS %s\n", test.name);
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", test.name, error.what());
      ++n_failed;
    }
    std::fflush(stdout);
  }
  return n_failed == 0 ? 0 : 1;
}
