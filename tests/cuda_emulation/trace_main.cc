// Runs the tests of a trace build. Usage: PROGRAM [--counts FILE] [--stop] [--only TEXT]
//   --stop  at the first failure        --only  tests whose names contain TEXT
//   --counts  writes a line per test with what its launches asked of memory, as JSON:
//   test; sites: [address, space, requests, served, least]; launches: [an address in the kernel, how many,
//   bytes read, bytes written, multiply-adds of tensor cores]
#include <cstdio>
#include <exception>
#include <fstream>
#include <string_view>

#include "requests.h"
#include "testing.h"

namespace {

using namespace tuili::emulation;  // NOLINT: a program

void write(std::ostream& out, const char* test, const Counts& counts) {
  const char* separator = "";
  out << "{\"test\": \"" << test << "\", \"sites\": [";
  for (const auto& [site, traffic] : counts.sites) {
    out << separator << "[" << linked_address(site.first) << ", \""
        << (site.second == Space::shared ? "shared" : "global") << "\", " << traffic.n_requests << ", "
        << traffic.served << ", " << traffic.least << "]";
    separator = ", ";
  }
  out << "], \"launches\": [";
  separator = "";
  for (const auto& [instruction, launches] : counts.launches) {
    out << separator << "[" << linked_address(instruction) << ", " << launches.n << ", "
        << launches.read_bytes << ", " << launches.written_bytes << ", " << launches.n_macs << ", "
        << launches.n_threads << ", " << launches.shared_bytes << "]";
    separator = ", ";
  }
  out << "]}\n";
}

}  // namespace

int main(int n_arguments, char** arguments) {
  std::ofstream counts_file;
  bool stop = false;
  std::string_view only;
  for (int i = 1; i < n_arguments; ++i) {
    const std::string_view option = arguments[i];
    if (option == "--stop") stop = true;
    if (option == "--counts" && i + 1 < n_arguments) counts_file.open(arguments[++i]);
    if (option == "--only" && i + 1 < n_arguments) only = arguments[++i];
  }
  int n_failed = 0;
  for (const tuili::testing::Test& test : tuili::testing::tests()) {
    if (std::string_view(test.name).find(only) == std::string_view::npos) continue;
    if (stop && n_failed > 0) break;
    try {
      take_counts();
      test.run();
      std::printf("PASS %s\n", test.name);
      if (counts_file.is_open()) write(counts_file, test.name, take_counts());
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", test.name, error.what());
      ++n_failed;
    }
    std::fflush(stdout);
  }
  if (counts_file.is_open()) counts_file.close();
  return n_failed == 0 && !counts_file.fail() ? 0 : 1;
}
