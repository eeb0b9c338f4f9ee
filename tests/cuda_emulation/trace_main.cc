// Runs the tests of a trace build. Usage: PROGRAM [--counts FILE] [--stop] [--only NAME]...
//   --stop    at the first failure
//   --only    the tests of these names, in this order
//   --counts  writes a line per test and kernel with what its launches asked of memory, as JSON: the test;
//             entered: addresses in the first functions of the launch, one of which is the kernel;
//             sites: [address, space, requests, served, least]; and the members of Launches
#include <cstdio>
#include <exception>
#include <fstream>
#include <string_view>

#include "requests.h"
#include "testing.h"

namespace {

using namespace tuili::emulation;  // NOLINT: a program

void write(std::ostream& out, const std::string& test, const std::vector<uint32_t>& entered,
           const Launches& kernel) {
  const char* separator = "";
  out << "{\"test\": \"" << test << "\", \"entered\": [";
  for (const uint32_t instruction : entered) {
    out << separator << linked_address(instruction);
    separator = ", ";
  }
  out << "], \"sites\": [";
  separator = "";
  for (const auto& [site, traffic] : kernel.sites) {
    out << separator << "[" << linked_address(site.first) << ", \""
        << (site.second == Space::shared ? "shared" : "global") << "\", " << traffic.n_requests << ", "
        << traffic.served << ", " << traffic.least << "]";
    separator = ", ";
  }
  out << "], \"launches\": " << kernel.n << ", \"read_bytes\": " << kernel.read_bytes
      << ", \"written_bytes\": " << kernel.written_bytes << ", \"macs\": " << kernel.n_macs
      << ", \"threads\": " << kernel.n_threads << ", \"shared_bytes\": " << kernel.shared_bytes
      << ", \"blocks\": " << kernel.n_blocks << ", \"in_flight_bytes\": " << kernel.in_flight_bytes << "}\n";
}

}  // namespace

int main(int n_arguments, char** arguments) {
  std::ofstream counts_file;
  bool stop = false;
  std::vector<tuili::testing::Test> chosen;
  for (int i = 1; i < n_arguments; ++i) {
    const std::string_view option = arguments[i];
    if (option == "--stop") stop = true;
    if (option == "--counts" && i + 1 < n_arguments) counts_file.open(arguments[++i]);
    if (option != "--only" || i + 1 >= n_arguments) continue;
    const std::string_view name = arguments[++i];
    for (const tuili::testing::Test& test : tuili::testing::tests()) {
      if (test.name == name) chosen.push_back(test);
    }
  }
  if (chosen.empty()) chosen = tuili::testing::tests();
  int n_failed = 0;
  for (const tuili::testing::Test& test : chosen) {
    if (stop && n_failed > 0) break;
    try {
      take_counts();
      test.run();
      std::printf("PASS %s\n", test.name);
      if (!counts_file.is_open()) continue;
      for (const auto& [entered, kernel] : take_counts().launches)
        write(counts_file, test.name, entered, kernel);
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", test.name, error.what());
      ++n_failed;
    }
    std::fflush(stdout);
  }
  if (counts_file.is_open()) counts_file.close();
  return n_failed == 0 && !counts_file.fail() ? 0 : 1;
}
