// Runs the tests of a trace build. Usage: PROGRAM [FILE]
// Writes to FILE a line per test with what its launches asked of memory, as JSON:
//   test; sites: [address, space, requests, served, least]; launches: [an address in the kernel, how many,
//   bytes read, bytes written, multiply-adds of tensor cores]
#include <cstdio>
#include <exception>
#include <fstream>

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
        << launches.read_bytes << ", " << launches.written_bytes << ", " << launches.n_macs << "]";
    separator = ", ";
  }
  out << "]}\n";
}

}  // namespace

int main(int n_arguments, char** arguments) {
  std::ofstream counts_file;
  if (n_arguments > 1) counts_file.open(arguments[1]);
  int n_failed = 0;
  for (const tuili::testing::Test& test : tuili::testing::tests()) {
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
