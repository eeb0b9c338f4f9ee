#include <cstdio>
#include <exception>

#include "testing.h"

int main() {
  int n_failed = 0;
  for (const tuili::testing::Test& test : tuili::testing::tests()) {
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
